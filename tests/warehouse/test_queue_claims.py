"""Claims run out, the next case is given once, cases sleep until their day."""

import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import select

from tests.alerts import DAY, NOON, Clock, changes, new_alert
from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_claims import claim_case, next_case, release_case, snooze_case
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_search import CaseFilter
from warehouse.queue_tables import AUDIT_EVENTS, CASES
from warehouse.suppressions import suppress

ANY = CaseFilter()


@pytest.fixture
def queue(queue):
    """Three cases; the third has most at risk."""
    amounts = (10.0, 20.0, 30.0)
    alerts = [new_alert(n, account=f"a{n}", amount=a) for n, a in enumerate(amounts)]
    queue.enqueue(DAY, "nightly", alerts)
    return queue


def work_changes(queue):
    return [c for c in changes(queue) if c.kind.startswith("case_") and c.kind != "case_opened"]


def ids(queue):
    """The cases' numbers, by account."""
    with queue.database.read() as connection:
        return dict(connection.execute(select(CASES.c.account_id, CASES.c.id)).all())


def test_claim_holds_against_others_until_it_runs_out(queue, clock):
    assert claim_case(queue, 1, "ben", minutes=15) == NOON + timedelta(minutes=15)
    with pytest.raises(ConflictError, match="case 1 is claimed by ben until 12:15 UTC"):
        claim_case(queue, 1, "ana", minutes=15)
    clock.advance(minutes=15)
    assert claim_case(queue, 1, "ana", minutes=5) == NOON + timedelta(minutes=20)
    kinds = [(change.kind, change.actor) for change in work_changes(queue)]
    assert kinds == [("case_claimed", "ben"), ("case_claimed", "ana")]
    assert queue.verify_audit() is None


def test_own_claim_is_prolonged(queue, clock):
    claim_case(queue, 1, "ben", minutes=15)
    clock.advance(minutes=10)
    assert claim_case(queue, 1, "ben", minutes=15) == NOON + timedelta(minutes=25)


def test_claim_of_a_closed_or_unknown_case_is_refused(queue):
    queue.decide(1, "fraud", "ana")
    closed = queue.cases(state="closed")[0].id
    with pytest.raises(ConflictError, match="is closed"):
        claim_case(queue, closed, "ana", minutes=15)
    for number in (99, 2**70):
        with pytest.raises(NotInQueueError, match=str(number)):
            claim_case(queue, number, "ana", minutes=15)


def test_release_of_anothers_claim_needs_force(queue):
    claim_case(queue, 1, "ben", minutes=15)
    with pytest.raises(ConflictError, match="claimed by ben"):
        release_case(queue, 1, "ana")
    release_case(queue, 1, "ana", force=True)
    release_case(queue, 1, "ana")
    claim_case(queue, 1, "ana", minutes=15)
    released = [c for c in work_changes(queue) if c.kind == "case_released"]
    assert [(c.actor, c.details) for c in released] == [("ana", {"claimed_by": "ben"})]


def test_next_case_is_the_foremost_that_is_free(queue, clock):
    number = ids(queue)
    claim_case(queue, number["a2"], "ben", minutes=15)
    assert next_case(queue, "ana", ANY, minutes=15) == number["a1"]
    assert next_case(queue, "eve", ANY, minutes=15) == number["a0"]
    assert next_case(queue, "ana", ANY, minutes=15) is None
    clock.advance(minutes=15)
    assert next_case(queue, "ana", CaseFilter(account="a1"), minutes=15) == number["a1"]
    assert next_case(queue, "ana", ANY, minutes=15) == number["a2"]


def test_next_case_passes_over_sleepers_until_their_day(queue, clock):
    number = ids(queue)
    snooze_case(queue, number["a2"], "ana", date(2026, 3, 5), "waiting for the bank")
    assert next_case(queue, "ana", CaseFilter(state="all"), minutes=15) == number["a1"]
    clock.now = datetime(2026, 3, 5, tzinfo=UTC)
    assert next_case(queue, "ana", ANY, minutes=15) == number["a2"]


def test_next_case_spares_whoever_proposed_all_that_waits(queue):
    number = ids(queue)
    alert = queue.case(number["a2"]).alerts[0].id
    decide_alerts(queue, [Verdict(alert, "fraud")], "ana", second_above=25.0)
    assert next_case(queue, "ana", ANY, minutes=15) == number["a1"]
    assert next_case(queue, "ana", CaseFilter(state="second"), minutes=15) is None
    assert next_case(queue, "ben", CaseFilter(state="second"), minutes=15) == number["a2"]


def test_next_case_by_a_rank_that_is_none_is_refused(queue):
    with pytest.raises(UserError, match="expected rank to be one of priority, expected_loss"):
        next_case(queue, "ana", ANY, rank="luck", minutes=15)


def test_snooze_gives_the_claim_back_and_can_be_undone(queue):
    claim_case(queue, 1, "ana", minutes=15)
    snooze_case(queue, 1, "ana", date(2026, 3, 4))
    summary = queue.case(1).summary
    assert (summary.claimed_by, summary.snoozed_until) == (None, date(2026, 3, 4))
    snooze_case(queue, 1, "ben", None)
    snooze_case(queue, 1, "ben", None)
    assert queue.case(1).summary.snoozed_until is None
    said = [(c.kind, c.actor, c.details) for c in work_changes(queue)][1:]
    assert said == [
        ("case_snoozed", "ana", {"until": "2026-03-04", "note": ""}),
        ("case_released", "ana", {"claimed_by": "ana"}),
        ("case_snoozed", "ben", {"until": None, "note": ""}),
    ]


def test_snooze_of_a_case_whose_claim_ran_out_releases_nothing(queue, clock):
    claim_case(queue, 1, "ben", minutes=15)
    clock.advance(minutes=15)
    snooze_case(queue, 1, "ana", date(2026, 3, 4))
    snooze_case(queue, 1, "ana", date(2026, 3, 5))
    claim_case(queue, 1, "ana", minutes=15)
    snooze_case(queue, 1, "ana", None)  # whoever works on it goes on
    assert queue.case(1).summary.claimed_by == "ana"
    kinds = [change.kind for change in work_changes(queue)]
    assert kinds == [
        "case_claimed",
        *("case_snoozed", "case_snoozed"),
        *("case_claimed", "case_snoozed"),
    ]


def test_new_alerts_wake_their_case_and_the_same_day_again_does_not(queue):
    number = ids(queue)
    for account in ("a1", "a2"):
        snooze_case(queue, number[account], "ana", date(2026, 3, 9))
    later = [new_alert(7, account="a1"), new_alert(8, account="a0")]
    queue.enqueue(DAY + timedelta(1), "nightly", later)
    with queue.database.read() as connection:
        until = dict(connection.execute(select(CASES.c.account_id, CASES.c.snoozed_until)).all())
    assert until == {"a0": None, "a1": None, "a2": date(2026, 3, 9)}
    woken = work_changes(queue)[-1]
    assert (woken.kind, woken.case_id, woken.actor, woken.details) == (
        "case_snoozed",
        number["a1"],
        "nightwarden",
        {"until": None, "note": ""},
    )
    snoozed = select(AUDIT_EVENTS.c.subject, AUDIT_EVENTS.c.actor, AUDIT_EVENTS.c.details)
    with queue.database.read() as connection:
        found = connection.execute(snoozed.where(AUDIT_EVENTS.c.action == "snooze")).all()
    assert tuple(found[-1]) == (f"case {number['a1']}", "nightwarden", woken.details)
    snooze_case(queue, number["a1"], "ana", date(2026, 3, 9))
    assert queue.enqueue(DAY + timedelta(1), "nightly", later).added == 0
    assert queue.case(number["a1"]).summary.snoozed_until == date(2026, 3, 9)
    assert queue.verify_audit() is None


def test_alerts_that_are_suppressed_wake_no_case(queue):
    number = ids(queue)["a1"]
    snooze_case(queue, number, "ana", date(2026, 3, 9))
    suppress(queue, "account", "a1", date(2026, 4, 1), "known", "ana")
    assert queue.enqueue(DAY, "nightly", [new_alert(7, account="a1")]).suppressed == 1
    assert queue.case(number).summary.snoozed_until == date(2026, 3, 9)


@pytest.mark.parametrize("until", [date(2026, 3, 3), date(2020, 1, 1), date(2027, 3, 4)])
def test_snooze_to_a_day_that_is_over_or_far_away_is_refused(queue, until):
    with pytest.raises(UserError, match="expected a day after 2026-03-03"):
        snooze_case(queue, 1, "ana", until)


def test_snooze_of_anothers_case_or_with_an_unreadable_note_is_refused(queue):
    claim_case(queue, 1, "ben", minutes=15)
    with pytest.raises(ConflictError, match="claimed by ben"):
        snooze_case(queue, 1, "ana", date(2026, 3, 9))
    for note in ("zero \0", "half \ud800"):
        with pytest.raises(UserError, match="readable"):
            snooze_case(queue, 1, "ben", date(2026, 3, 9), note)


def take_all(queue, analyst, taken):
    while (number := next_case(queue, analyst, ANY, minutes=15)) is not None:
        taken.append((number, analyst))


def test_twenty_callers_of_next_case_get_each_case_once(queue_url):
    many = 1000 if queue_url.startswith("sqlite") else 200
    with Queue.open(queue_url, create=True, clock=Clock()) as queue:
        queue.enqueue(DAY, "nightly", [new_alert(n, account=f"a{n}") for n in range(many)])
        taken = []
        workers = [
            threading.Thread(target=take_all, args=(queue, f"analyst {n}", taken))
            for n in range(20)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert Counter(number for number, _ in taken) == Counter(range(1, many + 1))
        with queue.database.read() as connection:
            owners = connection.execute(select(CASES.c.id, CASES.c.claimed_by)).all()
        assert sorted(map(tuple, owners)) == sorted(taken)
        assert queue.verify_audit() is None
