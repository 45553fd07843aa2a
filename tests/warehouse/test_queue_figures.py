"""The figures of cases: always what their alerts add up to, and touched only where they change."""

from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from tests.alerts import DAY, NOON, new_alert
from warehouse.queue import Queue
from warehouse.queue_decisions import retract_decision
from warehouse.queue_figures import refresh_cases
from warehouse.queue_records import ConflictError
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, PROPOSALS

RUNS, NAMES = count(), count()


@pytest.fixture
def queue(queue_url):
    moments = (NOON + timedelta(milliseconds=n) for n in count())
    with Queue.open(queue_url, create=True, clock=lambda: next(moments)) as opened:
        yield opened


def check_figures(case):
    """Compare a case's figures with sums made here."""
    summary = case.summary
    waiting = [alert for alert in case.alerts if alert.verdict is None]
    counted = waiting or case.alerts
    losses = [a.probability * a.amount for a in counted if a.probability is not None]
    days = [alert.event_date for alert in case.alerts]
    assert summary.alert_count == len(case.alerts)
    assert summary.waiting_count == len(waiting)
    assert (summary.state == "closed") == (not waiting)
    assert summary.score == max((a.score for a in counted), default=0.0)
    assert summary.amount == pytest.approx(sum(a.amount for a in case.alerts))
    assert summary.amount_at_risk == pytest.approx(sum(a.amount for a in counted))
    assert summary.priority == pytest.approx(sum(a.score * a.amount for a in counted))
    assert summary.expected_loss == (pytest.approx(sum(losses)) if losses else None)
    if days:  # else the last alert has moved to another case
        assert (summary.first_event_date, summary.last_event_date) == (min(days), max(days))
    assert summary.awaits_second is False


NUMBERS = st.floats(0, 1000).map(lambda number: round(number, 2))
ALERTS_GIVEN = st.tuples(
    st.sampled_from("ab"), NUMBERS, NUMBERS, st.none() | st.floats(0, 1), st.integers(-2, 2)
)
STEPS = st.one_of(
    st.lists(ALERTS_GIVEN, min_size=1, max_size=4),
    st.tuples(st.integers(0, 20), st.sampled_from(["fraud", "genuine", "unsure"])),
    st.integers(0, 20),
)


def enqueue(queue, run, alerts):
    for account, score, amount, probability, shift in alerts:
        name = f"{run}{next(NAMES)}"
        numbers = {"score": score, "amount": amount, "probability": probability}
        alert = new_alert(name, account=run + account, **numbers)
        queue.enqueue(DAY + timedelta(shift), "nightly", [alert])


def decide(queue, run, place, verdict):
    alerts = queue.alerts_between(DAY - timedelta(9), DAY + timedelta(9))
    mine = [alert for alert in alerts if alert.account_id.startswith(run)]
    if not mine:
        return []
    queue.decide(mine[place % len(mine)].id, verdict, "ana")
    return [queue.last_decision()]


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=8))
@example(steps=[[("a", 1.0, 0.01, 5e-324, 0)]])
def test_figures_are_what_the_alerts_add_up_to_after_any_work(queue, steps):
    run, said = f"{next(RUNS)} ", []
    for step in steps:
        if isinstance(step, list):
            enqueue(queue, run, step)
        elif isinstance(step, tuple):
            said += decide(queue, run, *step)
        elif said:
            with suppress(ConflictError):  # a later decision on the same alert stands
                retract_decision(queue, said.pop(step % len(said)), "ana")
    cases = [c for s in ("open", "closed") for c in queue.cases(state=s, limit=10_000)]
    for case in cases:
        if case.account_id.startswith(run):
            check_figures(queue.case(case.id))


def test_probability_of_decided_alerts_says_nothing_of_those_that_wait(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1", probability=0.5), new_alert("t2")])
    assert queue.case(1).summary.expected_loss == 5.0
    queue.decide(queue.alerts_of_day(DAY)[0].id, "fraud", "ana")
    assert queue.case(1).summary.expected_loss is None


def test_later_verdict_leaves_a_closed_case_as_it_was(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    queue.decide(1, "genuine", "ana")
    closed = queue.case(1).summary
    queue.decide(1, "fraud", "bob")
    assert queue.case(1).summary == closed


def test_refresh_tells_what_closed_and_ends_its_claim(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1"), new_alert("t2", account="b")])
    with queue.database.write() as connection:
        claim = {"claimed_by": "ana", "claimed_until": NOON, "snoozed_until": DAY}
        connection.execute(update(CASES).values(claim))
        said = {"verdict": "fraud", "analyst": "ana", "note": "", "decided_at": NOON}
        connection.execute(insert(DECISIONS).values(alert_id=2, **said))
        assert refresh_cases(connection, [1, 2], NOON) == (2,)
        assert refresh_cases(connection, [1, 2], NOON) == ()
    first, second = queue.case(1).summary, queue.case(2).summary
    assert (first.claimed_by, first.snoozed_until) == ("ana", DAY)
    assert (second.claimed_by, second.claimed_until, second.snoozed_until) == (None, None, None)


def test_case_that_lost_its_alerts_closes_with_nothing_in_it(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1"), new_alert("t2", account="b")])
    with queue.database.write() as connection:
        connection.execute(update(ALERTS).where(ALERTS.c.id == 2).values(case_id=1))
        assert refresh_cases(connection, [1, 2], NOON) == (2,)
    left, got = queue.case(2).summary, queue.case(1).summary
    assert (left.alert_count, left.score, left.priority, left.amount) == (0, 0.0, 0.0, 0.0)
    assert (left.state, left.first_event_date) == ("closed", DAY)
    assert (got.alert_count, got.amount) == (2, 20.0)


def test_open_proposal_makes_the_case_wait_for_a_second(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1")])
    row = {"alert_id": 1, "verdict": "fraud", "analyst": "ana", "note": "", "proposed_at": NOON}
    with queue.database.write() as connection:
        connection.execute(insert(PROPOSALS).values(row))
        refresh_cases(connection, [1], NOON)
    assert queue.case(1).summary.awaits_second is True
    with queue.database.write() as connection:
        connection.execute(update(PROPOSALS).values(outcome="withdrawn"))
        refresh_cases(connection, [1], NOON)
    assert queue.case(1).summary.awaits_second is False
