"""Suppressions: what is logged instead of queued, and what that leaves untouched."""

from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tests.alerts import DAY, NOON, changes, new_alert
from warehouse.errors import UserError
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_tables import METADATA, SUPPRESSED_ALERTS
from warehouse.suppressions import lift_suppression, list_suppressions, suppress

TODAY = NOON.date()
NEXT_WEEK = TODAY + timedelta(days=7)


def contents(queue):
    """Every row of every table."""
    with queue.database.read() as connection:
        return {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in METADATA.tables.items()
        }


@pytest.mark.parametrize(("kind", "value"), [("account", "a1"), ("merchant", "m9")])
def test_suppressed_alerts_are_logged_and_not_queued(queue, kind, value):
    number = suppress(queue, kind, f" {value} ", NEXT_WEEK, "a test card ", "lea")
    alerts = [
        new_alert(0, merchant="m9", probability=0.25, snapshot_id=4),
        new_alert(1, account="a2"),
    ]
    result = queue.enqueue(DAY, "nightly", alerts)
    assert (result.added, result.suppressed, result.cases_opened) == (1, 1, 1)
    assert [a.transaction_id for a in queue.alerts_of_day(DAY)] == ["t1"]
    (found,) = list_suppressions(queue)
    assert (found.id, found.value, found.reason, found.matches) == (
        number,
        value,
        "a test card",
        1,
    )
    assert [c.kind for c in changes(queue)] == [
        "suppression_made",
        "alert_suppressed",
        "case_opened",
        "alert_queued",
    ]
    logged = changes(queue)[1]
    assert (logged.case_id, logged.alert_id) == (None, None)
    assert logged.details["transaction_id"] == "t0"
    assert logged.details["suppression_id"] == number
    with queue.database.read() as connection:
        row = connection.execute(select(SUPPRESSED_ALERTS)).one()
    assert (row.probability, row.snapshot_id, row.members, row.lane) == (
        0.25,
        4,
        {"gaussian": 3.0, "vae": 1.5},
        "nightly",
    )
    assert queue.verify_audit() is None


def test_account_counts_before_merchant(queue):
    suppress(queue, "merchant", "m1", NEXT_WEEK, "why", "lea")
    of_account = suppress(queue, "account", "a1", NEXT_WEEK, "why", "lea")
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    assert {s.id: s.matches for s in list_suppressions(queue)} == {of_account: 1, 1: 0}


def test_audit_sample_is_never_suppressed(queue):
    suppress(queue, "account", "a1", NEXT_WEEK, "why", "lea")
    result = queue.enqueue(DAY, "audit", [new_alert(0)])
    assert (result.added, result.suppressed) == (1, 0)


def test_suppression_ends_on_its_day_or_when_it_is_lifted(queue):
    suppress(queue, "account", "a1", TODAY + timedelta(days=1), "why", "lea")
    lifted = suppress(queue, "account", "a2", NEXT_WEEK, "why", "lea")
    assert [s.value for s in list_suppressions(queue)] == ["a2", "a1"]
    lift_suppression(queue, lifted, "ada")
    queue.clock = lambda: NOON + timedelta(days=1)
    assert list_suppressions(queue) == []
    every = {s.value: s for s in list_suppressions(queue, active_only=False)}
    assert (every["a2"].lifted_by, every["a2"].lifted_at) == ("ada", NOON)
    result = queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1, account="a2")])
    assert (result.added, result.suppressed) == (2, 0)
    for number in (1, lifted):
        with pytest.raises(ConflictError, match="ended"):
            lift_suppression(queue, number, "ada")


def test_suppressed_transaction_stays_out_when_the_suppression_has_ended(queue):
    number = suppress(queue, "account", "a1", NEXT_WEEK, "why", "lea")
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    lift_suppression(queue, number, "lea")
    before = contents(queue)
    again = queue.enqueue(DAY, "nightly", [new_alert(0)])
    assert (again.added, again.already_there, again.suppressed) == (0, 1, 0)
    assert contents(queue) == before


def test_queued_alerts_stay_when_their_account_is_suppressed(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    suppress(queue, "account", "a1", NEXT_WEEK, "why", "lea")
    again = queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1)])
    assert (again.already_there, again.suppressed) == (1, 1)
    assert [a.transaction_id for a in queue.alerts_of_day(DAY)] == ["t0"]


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        (("acount", "a1", NEXT_WEEK, "why"), UserError, "got 'acount'"),
        (("account", " ", NEXT_WEEK, "why"), UserError, "empty"),
        (("account", "a1", NEXT_WEEK, " "), UserError, "reason"),
        (("account", "a\0", NEXT_WEEK, "why"), UserError, "the account's id of readable"),
        (
            ("merchant", "m\ud800", NEXT_WEEK, ""),
            UserError,
            r"readable characters, got 'm\\ud800'",
        ),
        (("account", "a1", NEXT_WEEK, "why \0"), UserError, "a reason of readable"),
        (("account", "a1", NEXT_WEEK, "\udfff"), UserError, "a reason of readable"),
        (("account", "a" * 301, NEXT_WEEK, "why"), UserError, "at most 300 letters, got 301"),
        (("account", "a1", NEXT_WEEK, "w" * 2001), UserError, "at most 2000 letters, got 2001"),
        (("account", "a1", TODAY, "why"), UserError, "after 2026-03-03"),
        (("account", "a1", TODAY + timedelta(366), "why"), UserError, "not after 2027-03-03"),
        (("account", "held", NEXT_WEEK, "why"), ConflictError, "lea has suppressed account held"),
    ],
)
def test_suppression_without_sense_is_refused(queue, wish, error, message):
    suppress(queue, "account", "held", NEXT_WEEK, "why", "lea")
    before = contents(queue)
    with pytest.raises(error, match=message):
        suppress(queue, *wish, "lea")
    assert contents(queue) == before


def test_longest_texts_are_kept_whole(queue):
    suppress(queue, "account", " " + "ä" * 300, NEXT_WEEK, "ö" * 2000 + "\n", "lea")
    (found,) = list_suppressions(queue)
    assert (found.value, found.reason) == ("ä" * 300, "ö" * 2000)


@pytest.mark.parametrize("number", [7, 2**70])
def test_lifting_an_unknown_suppression_says_so(queue, number):
    with pytest.raises(NotInQueueError, match=f"got {number}"):
        lift_suppression(queue, number, "lea")


RUNS = count()


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_enqueuing_a_day_again_changes_nothing_whatever_is_suppressed_between(queue, data):
    run = f"{next(RUNS)} "  # examples share the queue, and nothing else
    alerts = [
        new_alert(f"{run}t{n}", account=f"{run}a{n % 3}", merchant=f"{run}m{n % 2}")
        for n in range(data.draw(st.integers(1, 8)))
    ]
    targets = [("account", "a0"), ("account", "a2"), ("merchant", "m1")]
    active = {}

    def meddle():
        for kind, value in data.draw(st.lists(st.sampled_from(targets), max_size=3)):
            if (kind, value) in active:
                lift_suppression(queue, active.pop((kind, value)), "lea")
            else:
                active[kind, value] = suppress(queue, kind, run + value, NEXT_WEEK, "why", "lea")

    meddle()
    first = queue.enqueue(DAY, "nightly", alerts)
    assert first.added + first.suppressed == len(alerts)
    meddle()
    for case in queue.cases(limit=1)[: data.draw(st.integers(0, 1))]:
        queue.decide(queue.case(case.id).alerts[0].id, "fraud", "ana")
    queue.clock = lambda: NOON + timedelta(hours=1)
    before = contents(queue)
    for lane in ("nightly", "backfill"):
        again = queue.enqueue(DAY, lane, alerts)
        assert (again.added, again.suppressed, again.already_there) == (0, 0, len(alerts))
    assert contents(queue) == before
    queue.clock = lambda: NOON
