"""What the case page is told: the account's transactions, what is usual, and what else there was."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from sqlalchemy import event

from tests.alerts import DAY, NOON
from tests.alerts import new_alert as new_plain_alert
from warehouse.account_transactions import keep_transactions
from warehouse.queue import NotInQueueError, Queue
from warehouse.queue_claims import claim_case
from warehouse.queue_decisions import Verdict, decide_alerts, retract_decision
from warehouse.queue_story import read_story

NAMES = ("transaction_id", "account_id", "event_date", "occurred_at", "merchant_id", "amount")


def at(day, hour):
    return datetime(day.year, day.month, day.day, hour, 30, tzinfo=UTC)


def new_alert(name, *, day=DAY, hour=3, **changes):
    """Make an alert at an hour of its day; by itself it stands out by its amount and merchant."""
    usual = {"account": "a", "merchant": "new shop", "amount": 300.0}
    ends = {"probability": 0.5, "snapshot_id": 42, "occurred_at": at(day, hour)}
    return new_plain_alert(name, **(usual | ends | changes))


def row_of(alert):
    day = alert.occurred_at.date()
    return (
        alert.transaction_id,
        alert.account_id,
        day,
        alert.occurred_at,
        alert.merchant_id,
        alert.amount,
    )


def keep(queue, rows):
    keep_transactions(queue, pl.DataFrame(rows, schema=NAMES, orient="row"))


def usual_rows(count=20, account="a"):
    """One transaction a day before ``DAY``, of 1, 2, 3 … by age, at 9 or 10 o'clock."""
    for back in range(1, count + 1):
        day = DAY - timedelta(days=back)
        hour = 9 + back % 2
        yield (f"u{account}{back}", account, day, at(day, hour), f"s{back % 3}", float(back))


def test_transactions_are_told_oldest_first_with_the_alerts_among_them(queue):
    alert = new_alert("t1")
    keep(queue, [*usual_rows(), row_of(alert), *usual_rows(account="other")])
    queue.enqueue(DAY, "nightly", [alert])
    story = read_story(queue, 1)
    assert len(story.transactions) == 21
    moments = [row.occurred_at for row in story.transactions]
    assert moments == sorted(moments)
    last = story.transactions[-1]
    assert (last.transaction_id, last.alert_id, last.case_id) == ("t1", 1, 1)
    assert (last.hour, last.amount, last.event_date) == (3, 300.0, DAY)
    assert {row.alert_id for row in story.transactions[:-1]} == {None}


def test_alerts_are_told_though_their_transactions_were_not_kept(queue):
    old = DAY - timedelta(days=80)
    queue.enqueue(old, "nightly", [new_alert("t0", day=old)])
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    story = read_story(queue, 1)
    assert [row.transaction_id for row in story.transactions] == ["t0", "t1"]


def test_usual_is_what_had_no_alert(queue):
    keep(queue, [*usual_rows(), row_of(new_alert("t1"))])
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    queue.enqueue(DAY, "backfill", [new_alert("t2", amount=900.0, hour=4)])
    story = read_story(queue, 1)
    assert story.usual_amount == 10.5
    assert story.high_amount == 19.0
    assert {hour: n for hour, n in enumerate(story.usual_hours) if n} == {9: 10, 10: 10}


def test_nothing_is_usual_for_an_account_that_has_alerts_alone(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    story = read_story(queue, 1)
    assert (story.usual_amount, story.high_amount) == (None, None)
    assert story.usual_hours == (0,) * 24
    assert story.new_merchants == ()


def test_merchants_are_new_after_five_transactions_elsewhere(queue):
    later = [
        new_alert("t1", merchant="first"),
        new_alert("t2", merchant="first", hour=4),
        new_alert("t3", merchant="s1", hour=5),
        new_alert("t4", merchant="", hour=6),
        new_alert("t5", merchant="second", hour=7),
    ]
    keep(queue, usual_rows(5))
    queue.enqueue(DAY, "nightly", later)
    story = read_story(queue, 1)
    new = [row.transaction_id for row in story.transactions if row.is_new_merchant]
    assert new == ["t1", "t5"]
    assert story.new_merchants == ("first", "second")


def test_merchants_that_were_new_on_other_days_are_not_named(queue):
    rows = list(usual_rows(9))
    before = DAY - timedelta(days=1)
    rows.append(("x", "a", before, at(before, 23), "found yesterday", 5.0))
    keep(queue, rows)
    queue.enqueue(DAY, "nightly", [new_alert("t1", merchant="found yesterday")])
    assert read_story(queue, 1).new_merchants == ()


def test_too_little_is_known_to_call_a_merchant_new(queue):
    keep(queue, usual_rows(4))
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    assert not any(row.is_new_merchant for row in read_story(queue, 1).transactions)


def test_transactions_after_the_newest_alert_and_long_before_are_not_told(queue):
    after, long_before = DAY + timedelta(days=1), DAY - timedelta(days=61)
    rows = [("x", "a", day, at(day, 5), "s", 1.0) for day in (after,)]
    rows.append(("y", "a", long_before, at(long_before, 2), "s", 1.0))
    keep(queue, [*rows, *usual_rows(3)])
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    told = [row.transaction_id for row in read_story(queue, 1).transactions]
    assert told == ["ua3", "ua2", "ua1", "t1"]


def test_alerts_come_highest_first_with_everything_that_explains_them(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1"), new_alert("t2", score=9.0, hour=5)])
    first, second = read_story(queue, 1).alerts
    assert (first.transaction_id, second.transaction_id) == ("t2", "t1")
    assert first.members == {"gaussian": 9.0, "vae": 1.5}
    assert first.reasons[0].text == "amount 300.00 is unusual"
    assert (first.probability, first.snapshot_id, first.model_version) == (0.5, 42, "7")


def test_decisions_are_all_told_and_proposals_while_they_wait(queue):
    alerts = [new_alert("t1", amount=5.0), new_alert("t2", amount=900.0, hour=5)]
    queue.enqueue(DAY, "nightly", alerts)
    ids = {alert.transaction_id: alert.id for alert in read_story(queue, 1).alerts}
    outcome = decide_alerts(queue, [Verdict(ids["t1"], "fraud")], "ana")
    retract_decision(queue, outcome.decided[0], "ana")
    decide_alerts(queue, [Verdict(ids["t1"], "genuine")], "ana")
    decide_alerts(queue, [Verdict(ids["t2"], "fraud", "sure?")], "ana", second_above=100.0)
    story = read_story(queue, 1)
    assert [(d.verdict, d.is_retracted) for d in story.decisions] == [
        ("fraud", True),
        ("genuine", False),
    ]
    proposal = story.proposals[ids["t2"]]
    assert (proposal.verdict, proposal.analyst, proposal.note) == ("fraud", "ana", "sure?")
    assert set(story.proposals) == {ids["t2"]}
    assert story.summary.awaits_second


def test_earlier_cases_count_the_verdicts_that_stand(queue):
    alerts = [new_alert(f"t{n}", hour=n) for n in range(4)]
    queue.enqueue(DAY, "nightly", alerts)
    queue.enqueue(DAY, "nightly", [new_alert("o1", account="other")])
    said = ("fraud", "genuine", "unsure", "fraud")
    decided = [
        Verdict(alert.id, verdict)
        for alert, verdict in zip(read_story(queue, 1).alerts, said, strict=True)
    ]
    decide_alerts(queue, decided, "ana")
    queue.decide(decided[3].alert_id, "genuine", "ben")
    queue.enqueue(DAY, "nightly", [new_alert("t9", hour=9)])
    queue.enqueue(DAY, "backfill", [new_alert("t8", hour=8)])
    other_lane, closed = read_story(queue, 3).earlier_cases
    assert (closed.id, closed.lane, closed.state, closed.opened_for) == (
        1,
        "nightly",
        "closed",
        DAY,
    )
    assert (closed.alert_count, closed.frauds, closed.genuine, closed.unsure) == (4, 1, 2, 1)
    assert (other_lane.id, other_lane.lane, other_lane.frauds) == (4, "backfill", 0)
    told = {row.transaction_id: row.case_id for row in read_story(queue, 3).transactions}
    assert (told["t0"], told["t8"], told["t9"]) == (1, 4, 3)


def test_case_that_lost_its_alerts_can_be_read(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    outcome = decide_alerts(queue, [Verdict(1, "fraud")], "ana")
    queue.enqueue(DAY, "nightly", [new_alert("t2", hour=5)])
    retract_decision(queue, outcome.decided[0], "ana")
    assert read_story(queue, 1).alerts == ()
    assert [alert.transaction_id for alert in read_story(queue, 2).alerts] == ["t1", "t2"]


def test_claim_that_ran_out_is_none(queue, clock):
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    claim_case(queue, 1, "ana", minutes=10)
    assert read_story(queue, 1).summary.claimed_by == "ana"
    clock.advance(minutes=10)
    assert read_story(queue, 1).summary.claimed_by is None


def test_case_that_is_not_there_is_told(queue):
    for number in (0, 99, -1, 2**63, -(2**70)):
        with pytest.raises(NotInQueueError, match="expected the number of a case"):
            read_story(queue, number)


def test_story_scans_no_table(tmp_path):
    plans = []

    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT"):
            rows = connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in rows)

    with Queue.open(tmp_path / "queue.sqlite", create=True, clock=lambda: NOON) as queue:
        queue.enqueue(DAY, "nightly", [new_alert("t1")])
        queue.enqueue(DAY, "backfill", [new_alert("t2")])
        event.listen(queue.database.engine, "before_cursor_execute", explain)
        read_story(queue, 1)
    tables = ("cases", "alerts", "decisions", "proposals", "account_transactions")
    assert any(step.startswith("SEARCH account_transactions") for step in plans)
    assert not [step for step in plans if step.startswith(tuple(f"SCAN {t}" for t in tables))]
