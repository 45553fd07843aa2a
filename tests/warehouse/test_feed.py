"""What the feed promises: each change once, in order, also while others write."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.alerts import DAY, new_alert
from warehouse.errors import UserError
from warehouse.feed import newest_change, read_feed
from warehouse.queue_changes import Change, append_changes

WRITERS = 4
WRITES = 20


def read_all(queue, *, limit, cursor=0):
    found, has_more = [], True
    while has_more:
        block = read_feed(queue, cursor=cursor, limit=limit)
        assert len(block.changes) <= limit
        found += block.changes
        cursor, has_more = block.next_cursor, block.has_more
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_blocks_of_any_size_give_the_same_changes(queue, limit):
    queue.enqueue(DAY, "nightly", [new_alert(n, account=f"a{n % 2}") for n in range(5)])
    whole = read_feed(queue, cursor=0, limit=1000).changes
    assert read_all(queue, limit=limit) == list(whole)
    assert [change.kind for change in whole].count("alert_queued") == 5
    assert [change.id for change in whole] == sorted({change.id for change in whole})


def test_a_change_carries_the_facts_of_its_alert(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0, probability=0.25)])
    opened, queued = read_feed(queue, cursor=0, limit=10).changes
    assert (opened.kind, opened.alert) == ("case_opened", None)
    assert queued.kind == "alert_queued"
    assert (queued.alert.id, queued.alert.transaction_id) == (queued.alert_id, "t0")
    assert (queued.alert.account_id, queued.alert.amount, queued.alert.score) == ("a1", 10.0, 3.0)
    assert (queued.alert.probability, queued.alert.reasons) == (0.25, ("amount 10.00 is unusual",))


def test_the_end_keeps_its_cursor_until_there_is_more(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    end = read_feed(queue, cursor=0, limit=10)
    assert (end.next_cursor, end.has_more) == (newest_change(queue), False)
    again = read_feed(queue, cursor=end.next_cursor, limit=10)
    assert (again.changes, again.next_cursor, again.has_more) == ((), end.next_cursor, False)
    queue.enqueue(DAY, "nightly", [new_alert(1)])
    assert len(read_feed(queue, cursor=end.next_cursor, limit=10).changes) == 1


def test_reading_stops_at_the_number_that_was_asked_for(queue):
    queue.enqueue(DAY, "nightly", [new_alert(n) for n in range(6)])
    block = read_feed(queue, cursor=1, limit=2, until=4)
    assert ([change.id for change in block.changes], block.has_more) == ([2, 3], True)
    block = read_feed(queue, cursor=3, limit=2, until=4)
    assert ([change.id for change in block.changes], block.has_more) == ([4], False)


def test_a_cursor_of_another_queue_is_refused(queue):
    assert read_feed(queue, cursor=0, limit=1).changes == ()
    with pytest.raises(UserError, match="at most 0, the newest change, got 7"):
        read_feed(queue, cursor=7, limit=1)


class OnPurposeError(Exception):
    """Rolls a write back."""


def write_slowly(queue, writer):
    """Write changes, a few at a time, with a pause before the commit; every fourth is undone."""
    chance, written = random.Random(writer), []  # noqa: S311 (no secret)
    for number in range(WRITES):
        changes = [
            Change("case_claimed", None, None, {"mark": f"{writer}-{number}-{place}"})
            for place in range(chance.randint(1, 3))
        ]
        try:
            with queue.database.write() as connection:
                append_changes(connection, queue.clock(), "writer", changes)
                time.sleep(chance.random() / 500)
                if number % 4 == 3:
                    raise OnPurposeError
        except OnPurposeError:
            continue
        written += [change.details["mark"] for change in changes]
    return written


def follow(queue, are_done):
    """Read the feed as a program would, from cursor to cursor, until writers are done."""
    found, cursor = [], 0
    while True:
        last_round = are_done.is_set()
        block = read_feed(queue, cursor=cursor, limit=3)
        found += block.changes
        cursor = block.next_cursor
        if last_round and not block.has_more:
            return found


def test_a_reader_misses_nothing_and_gets_nothing_twice_while_others_write(queue):
    are_done = Event()
    with ThreadPoolExecutor(WRITERS + 2) as pool:
        readers = [pool.submit(follow, queue, are_done) for _ in range(2)]
        writers = [pool.submit(write_slowly, queue, writer) for writer in range(WRITERS)]
        try:
            written = [mark for writer in writers for mark in writer.result()]
        finally:
            are_done.set()
        for reader in readers:
            found = reader.result()
            marks = [change.details["mark"] for change in found]
            assert len(marks) == len(set(marks))
            assert set(marks) == set(written)
            assert [change.id for change in found] == sorted(change.id for change in found)
