from datetime import UTC, date, datetime, timedelta

import pytest

from warehouse.queue import NewAlert, Queue
from warehouse.queue_batches import read_last_batch, read_waiting
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_retractions import retract_decision

DAY = date(2026, 3, 20)


class Clock:
    """A clock that tests move."""

    now = datetime(2026, 3, 21, 12, tzinfo=UTC)

    def __call__(self):
        """Give the moment."""
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(queue_url, clock):
    with Queue.open(queue_url, create=True, clock=clock) as opened:
        yield opened


def seed(queue, amounts):
    """Queue alerts of the amounts, three to a case."""
    alerts = [
        NewAlert(
            transaction_id=f"t{number}",
            occurred_at=datetime(2026, 3, 20, 9, tzinfo=UTC),
            account_id=f"a{number // 3}",
            merchant_id="m",
            amount=amount,
            score=1.0,
            rank_of_day=number + 1,
            members={},
            reasons=(),
            model_version="1",
        )
        for number, amount in enumerate(amounts)
    ]
    queue.enqueue(DAY, "nightly", alerts)
    return [alert.id for alert in queue.alerts_of_day(DAY)]


def test_waiting_alerts_leave_out_what_is_decided_and_say_what_is_proposed(queue):
    first, second, third, other = seed(queue, [10, 20, 500, 30])
    decide_alerts(
        queue, [Verdict(first, "fraud"), Verdict(third, "fraud")], "ada", second_above=99
    )
    case_ids = sorted({alert.case_id for alert in queue.alerts_of_day(DAY)})
    found = read_waiting(queue, case_ids)
    assert [(each.alert_id, each.is_proposed) for each in found] == [
        (second, False),
        (third, True),
        (other, False),
    ]
    assert [(each.alert_count, each.waiting_count) for each in found] == [(3, 2), (3, 2), (1, 1)]
    assert read_waiting(queue, []) == ()


def test_last_batch_is_what_was_decided_in_one_go(queue, clock):
    first, second, third, _ = seed(queue, [10, 20, 30, 40])
    decide_alerts(queue, [Verdict(first, "genuine")], "ada")
    clock.now += timedelta(seconds=1)
    decide_alerts(queue, [Verdict(second, "fraud"), Verdict(third, "fraud")], "ada")
    batch = read_last_batch(queue, "ada")
    assert {each.alert_id for each in batch} == {second, third}
    assert {each.case_state for each in batch} == {"closed"}
    assert read_last_batch(queue, "ben") == ()
    for each in batch:
        retract_decision(queue, each.id, "ada")
    assert [each.alert_id for each in read_last_batch(queue, "ada")] == [first]


def test_batch_ends_with_the_time_to_take_it_back(queue, clock):
    first, *_ = seed(queue, [10])
    decide_alerts(queue, [Verdict(first, "fraud")], "ada")
    clock.now += timedelta(minutes=5)
    assert read_last_batch(queue, "ada") == ()
