"""Who may tell a webhook of changes, and from where on."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from warehouse.queue import Queue
from warehouse.queue_changes import Change, append_changes
from warehouse.webhook_deliveries import (
    LEASE,
    MOST_CHANGES,
    give_lease_back,
    lease_webhook,
    list_webhooks,
    note_delivered,
    note_failed,
    start_webhooks,
)


def add_changes(queue, count):
    with queue.database.write() as connection:
        changes = [Change("case_claimed", None, None, {})] * count
        append_changes(connection, queue.clock(), "ana", changes)


def test_a_new_webhook_is_told_of_what_happens_from_now_on(queue):
    add_changes(queue, 3)
    start_webhooks(queue, ["cases"])
    assert lease_webhook(queue, "cases") is None
    add_changes(queue, 2)
    assert lease_webhook(queue, "cases").last_change == 3


def test_starting_again_leaves_a_known_webhook_where_it_is(queue):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 2)
    start_webhooks(queue, ["cases", "other"])
    assert [(w.webhook, w.last_change, w.lag) for w in list_webhooks(queue)] == [
        ("cases", 0, 2),
        ("other", 2, 0),
    ]
    assert [w.webhook for w in list_webhooks(queue, ["other", "unknown"])] == ["other"]
    assert list_webhooks(queue, []) == []


def test_lag_counts_from_the_last_change_that_was_taken(queue):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 7)
    assert note_delivered(queue, lease_webhook(queue, "cases"), 5)
    assert [(w.last_change, w.lag) for w in list_webhooks(queue)] == [(5, 2)]


def test_one_of_many_who_ask_at_once_gets_the_lease(queue):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 1)
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: lease_webhook(queue, "cases"), range(8)))
    assert len([lease for lease in leases if lease]) == 1


def test_a_block_that_was_begun_is_repeated_as_it_was(queue, queue_url, clock):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 3)
    dead = lease_webhook(queue, "cases")
    add_changes(queue, MOST_CHANGES)
    clock.now += LEASE
    with Queue.open(queue_url, create=False, clock=queue.clock) as other:
        living = lease_webhook(other, "cases")
        assert living.block_last == dead.block_last == 3
        assert note_delivered(other, living, living.block_last)
        assert lease_webhook(other, "cases").block_last == 3 + MOST_CHANGES


def test_a_lease_runs_out_and_its_old_holder_can_note_nothing(queue, clock):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 5)
    dead = lease_webhook(queue, "cases")
    clock.now += LEASE - timedelta(seconds=1)
    assert lease_webhook(queue, "cases") is None
    clock.advance(seconds=1)
    living = lease_webhook(queue, "cases")
    assert living.last_change == dead.last_change
    assert not note_delivered(queue, dead, 5)
    assert note_delivered(queue, living, 4)
    assert list_webhooks(queue)[0].last_change == 4


def test_a_failure_is_kept_and_the_next_attempt_waits(queue, clock):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 1)
    assert note_failed(
        queue, lease_webhook(queue, "cases"), "got 503 " + "x" * 999, timedelta(seconds=5)
    )
    assert lease_webhook(queue, "cases") is None
    (progress,) = list_webhooks(queue)
    assert (progress.attempts, progress.lag) == (1, 1)
    assert progress.last_error.startswith("got 503")
    assert len(progress.last_error) == 300
    clock.advance(seconds=5)
    lease = lease_webhook(queue, "cases")
    assert lease.attempts == 1
    assert note_delivered(queue, lease, 1)
    (progress,) = list_webhooks(queue)
    assert (progress.attempts, progress.lag, progress.last_error) == (0, 0, None)
    assert progress.delivered_at == clock.now


def test_a_lease_given_back_is_free_at_once(queue):
    start_webhooks(queue, ["cases"])
    add_changes(queue, 1)
    assert give_lease_back(queue, lease_webhook(queue, "cases"))
    assert lease_webhook(queue, "cases").attempts == 0
