"""What the statistics count: alerts by day, verdicts that stand, members, ages and analysts."""

from datetime import UTC, date, datetime, timedelta

import pytest

from tests.alerts import DAY, NOON
from tests.alerts import new_alert as new_plain_alert
from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_claims import snooze_case
from warehouse.queue_decisions import Verdict, decide_alerts, retract_decision
from warehouse.queue_statistics import AgeBand, MemberCount, VerdictCount, read_statistics


def new_alert(name, members=None, **changes):
    """Make an alert with a case of its own, in which the variational autoencoder scored highest."""
    members = members or {"vae": 3.0, "tails": 1.0}
    return new_plain_alert(name, account=f"of {name}", members=members, **changes)


def decide(queue, analyst, **verdicts):
    """Decide alerts by their transactions, all at once; give the decisions' numbers."""
    ids = {a.transaction_id: a.id for a in queue.alerts_between(date.min, date.max)}
    said = [Verdict(ids[name], verdict) for name, verdict in verdicts.items()]
    return decide_alerts(queue, said, analyst).decided


def test_days_count_alerts_and_the_verdicts_on_them(queue):
    second = DAY + timedelta(days=1)
    queue.enqueue(DAY, "nightly", [new_alert(f"t{n}") for n in range(5)])
    queue.enqueue(DAY, "backfill", [new_alert("t5")])
    queue.enqueue(second, "nightly", [new_alert("t6", day=second)])
    queue.enqueue(second + timedelta(days=1), "nightly", [new_alert("t7")])
    decide(queue, "ana", t0="fraud", t1="genuine", t2="genuine", t3="unsure", t5="fraud")
    found = read_statistics(queue, DAY, second)
    first, quiet = found.by_day
    assert (first.day, quiet.day) == (DAY, second)
    assert (first.alerts, first.decided, first.frauds) == (6, 5, 2)
    assert (first.genuine, first.unsure, first.precision) == (2, 1, 0.5)
    assert (quiet.alerts, quiet.decided, quiet.precision) == (1, 0, None)
    assert found.totals == VerdictCount(7, 5, 2, 2, 1, 0.5)


def test_audit_sample_is_counted_apart(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t0")])
    sample = [new_alert(f"s{n}", inclusion_probability=0.1) for n in range(3)]
    queue.enqueue(DAY, "audit", sample)
    decide(queue, "ana", t0="fraud", s0="genuine", s1="fraud")
    found = read_statistics(queue, DAY, DAY)
    assert found.totals == VerdictCount(1, 1, 1, 0, 0, 1.0)
    assert found.audit == VerdictCount(3, 2, 1, 1, 0, 0.5)
    assert sum(member.decided for member in found.by_member) == 1


def test_only_the_newest_verdict_that_stands_counts(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t0"), new_alert("t1"), new_alert("t2")])
    decide(queue, "ana", t0="fraud", t1="fraud")
    queue.decide(1, "genuine", "ben")
    (taken_back,) = decide(queue, "ana", t2="fraud")
    retract_decision(queue, taken_back, "ana")
    found = read_statistics(queue, DAY, NOON.date())
    assert found.totals == VerdictCount(3, 2, 1, 1, 0, 0.5)
    assert found.by_member == (MemberCount("vae", 2, 1, 0.5),)
    assert {count.analyst: count.decisions for count in found.analysts} == {"ana": 2, "ben": 1}


def test_members_are_judged_by_the_alerts_in_which_they_scored_highest(queue):
    alerts = [
        new_alert("t0", {"vae": 9.0, "tails": 10.0}),  # as texts, 9 would be more than 10
        new_alert("t1", {"vae": 4.0, "tails": 0.5}),
        new_alert("t2", {"tails": 2.0}),
        new_alert("t3", {"vae": 1.0, "tails": 1.0}),
        new_alert("t4", {"vae": 1e-7, "tails": -5.0}),
    ]
    queue.enqueue(DAY, "nightly", alerts)
    decide(queue, "ana", t0="fraud", t1="genuine", t2="genuine", t3="unsure")
    assert read_statistics(queue, DAY, DAY).by_member == (
        MemberCount("tails", 3, 1, 0.5),
        MemberCount("vae", 1, 0, 0.0),
    )
    decide(queue, "ana", t4="fraud")
    assert read_statistics(queue, DAY, DAY).by_member[1] == MemberCount("vae", 2, 1, 0.5)


def test_open_cases_are_counted_by_age(queue, clock):
    for days, count in ((0, 1), (1, 1), (2, 1), (3, 2), (7, 1), (8, 3), (400, 1)):
        clock.now = NOON - timedelta(days=days)
        alerts = [new_alert(f"t{days}-{n}") for n in range(count)]
        queue.enqueue(DAY, "nightly", alerts)
    clock.now = NOON
    queue.enqueue(DAY, "nightly", [new_alert("closed")])
    decide(queue, "ana", closed="fraud")
    snooze_case(queue, 1, "ana", NOON.date() + timedelta(days=3))
    assert read_statistics(queue, DAY, DAY).open_ages == (
        AgeBand("today", 1),
        AgeBand("1 to 2 days", 2),
        AgeBand("3 to 7 days", 3),
        AgeBand("over a week", 4),
    )


def test_analysts_are_counted_by_when_they_decided(queue, clock):
    queue.enqueue(DAY, "nightly", [new_alert(f"t{n}") for n in range(9)])
    decide(queue, "ana", t0="fraud", t1="genuine")
    for minutes, name in ((2, "t2"), (6, "t3"), (70, "t4")):
        clock.now = NOON + timedelta(minutes=minutes)
        decide(queue, "ana", **{name: "unsure"})
    decide(queue, "ben", t5="fraud")
    clock.now = NOON + timedelta(days=1)
    decide(queue, "ana", t6="fraud")
    clock.now = NOON + timedelta(days=2)
    decide(queue, "ana", t7="fraud")
    ana, ben = read_statistics(queue, NOON.date(), NOON.date() + timedelta(days=1)).analysts
    assert (ana.analyst, ana.decisions, ana.frauds, ana.genuine, ana.unsure) == ("ana", 6, 2, 1, 3)
    assert ana.median_minutes == 3.0  # 2 and 4 minutes; an hour is a break
    assert ana.per_day == 3.0
    assert (ben.analyst, ben.decisions, ben.median_minutes, ben.per_day) == ("ben", 1, None, 1.0)


def test_days_begin_at_midnight_in_utc(queue, clock):
    queue.enqueue(DAY, "nightly", [new_alert("t0"), new_alert("t1")])
    day = NOON.date()
    clock.now = datetime(2026, 3, 3, 23, 59, 59, 999_999, tzinfo=UTC)
    decide(queue, "ana", t0="fraud")
    clock.advance(microseconds=1)
    decide(queue, "ana", t1="genuine")
    (before,) = read_statistics(queue, day, day).analysts
    (after,) = read_statistics(queue, day + timedelta(days=1), day + timedelta(days=1)).analysts
    assert (before.frauds, before.genuine, after.frauds, after.genuine) == (1, 0, 0, 1)


def test_empty_queue_has_statistics(queue):
    found = read_statistics(queue, DAY, DAY)
    assert (found.by_day, found.by_member, found.analysts) == ((), (), ())
    assert found.totals == found.audit == VerdictCount(0, 0, 0, 0, 0, None)
    assert {band.cases for band in found.open_ages} == {0}


@pytest.mark.parametrize("days", [-1, 366, 3_000])
def test_days_in_no_order_and_too_many_are_refused(tmp_path, days):
    with (
        Queue.open(tmp_path / "queue.sqlite", create=True) as queue,
        pytest.raises(UserError, match="at most 366 days"),
    ):
        read_statistics(queue, DAY, DAY + timedelta(days=days))


def test_last_day_there_is_can_be_asked_for(tmp_path):
    with Queue.open(tmp_path / "queue.sqlite", create=True) as queue:
        assert read_statistics(queue, date.max, date.max).by_day == ()
