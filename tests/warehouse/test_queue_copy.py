"""A queue moves from its file into PostgreSQL: every row the same, all of it or nothing."""

from contextlib import closing
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import create_engine, insert, select, text

from flows.commands.warehouse import copy_warehouse
from tests.alerts import DAY, NOON, Clock, new_alert
from warehouse import queue_database
from warehouse.analysts import add_analyst, find_analyst
from warehouse.api_tokens import add_token
from warehouse.audit_trail import check_trail
from warehouse.errors import WarehouseError
from warehouse.feed import newest_change, read_feed
from warehouse.migrations import configuration
from warehouse.queue import Queue
from warehouse.queue_copy import BLOCK, PASSING, QueueCopy
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_retractions import retract_decisions
from warehouse.queue_tables import ACCOUNT_TRANSACTIONS, CASES, HEAD, METADATA, VERSION_TABLE
from warehouse.sessions import SessionLimits, read_csrf_key, start_session
from warehouse.suppressions import suppress

EMPTY = {"webhook_deliveries"}


def past(name):
    """A row of an account's story."""
    facts = {"account_id": "a1", "event_date": DAY, "occurred_at": NOON, "merchant_id": "m1"}
    return {"transaction_id": name, "amount": 0.1, **facts}


@pytest.fixture
def folder_queue(tmp_path):
    """A queue in a file with rows in nearly every table; gives its path."""
    path = tmp_path / "queue.sqlite"
    with Queue.open(path, create=True, clock=Clock()) as queue:
        suppress(queue, "account", "quiet", NOON.date() + timedelta(days=7), "a test card", "lea")
        alerts = [new_alert(n, account=f"a{n % 700}", amount=900.0 * (n % 2)) for n in range(2500)]
        queue.enqueue(DAY, "nightly", [*alerts, new_alert(9999, account="quiet")])
        said = [Verdict(1, "fraud", "größer als sonst 'x' 😀"), Verdict(701, "genuine", "")]
        decide_alerts(queue, said, "ada", second_above=1e9)
        decide_alerts(queue, [Verdict(2, "fraud", "")], "ada", second_above=500.0)
        retract_decisions(queue, [1], "ada")
        add_analyst(queue, "ada", "analyst", "correct horse battery", "root")
        add_token(queue, "feed", "ada", ["read"], days=None, actor="root")
        start_session(
            queue,
            find_analyst(queue, "ada"),
            SessionLimits(timedelta(hours=1), timedelta(hours=8)),
        )
        read_csrf_key(queue)
        with queue.database.write() as connection:  # the newest case was deleted
            connection.execute(text("UPDATE sqlite_sequence SET seq = 5000 WHERE name = 'cases'"))
            connection.execute(insert(ACCOUNT_TRANSACTIONS), [past(name) for name in "bBäa-_é"])
    return path


@pytest.fixture
def target(postgresql):
    """The URL of an empty database."""
    return postgresql.new_database("queue")


def rows(url_or_path):
    """Every row of every table."""
    with (
        closing(queue_database.open_database(url_or_path, create=False)) as database,
        database.read() as connection,
    ):
        return {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in METADATA.tables.items()
        }


def copy(path, url):
    with QueueCopy.begin(path, url) as work:
        return work.run()


def test_every_row_arrives_as_it_was(folder_queue, target):
    with QueueCopy.begin(folder_queue, target) as work:
        planned, found = work.look(), work.run()
    assert {(each.name, each.there) for each in planned} == {(e.name, e.there) for e in found}
    assert not any(each.arrived for each in planned)
    assert all(each.is_whole for each in found)
    mine = rows(folder_queue)
    assert {name for name, content in mine.items() if not content} == EMPTY
    assert {each.name: each.there for each in found} == {n: len(r) for n, r in mine.items()}
    assert len(mine["alerts"]) > BLOCK
    assert rows(target) == mine


def test_the_copy_goes_on_where_the_folder_ended(folder_queue, target):
    with Queue.open(folder_queue, create=False) as queue:
        end, last_hash = newest_change(queue), check_trail(queue).last_hash
    copy(folder_queue, target)
    with Queue.open(target, create=False, clock=Clock()) as queue:
        assert newest_change(queue) == end
        again = queue.enqueue(DAY, "nightly", [new_alert(3), new_alert(77777, account="new")])
        assert (again.added, again.cases_opened) == (1, 1)
        with queue.database.read() as connection:
            assert connection.scalar(select(CASES.c.id).order_by(CASES.c.id.desc())) == 5001
        kinds = [change.kind for change in read_feed(queue, cursor=end, limit=10).changes]
        assert kinds == ["case_opened", "alert_queued"]
        decide_alerts(queue, [Verdict(5, "fraud", "")], "ada", second_above=1e9)
        assert check_trail(queue, last_hash).is_whole


def test_copying_again_changes_nothing_even_after_the_copy_went_on(folder_queue, target):
    copy(folder_queue, target)
    with Queue.open(target, create=False, clock=Clock()) as queue:
        decide_alerts(queue, [Verdict(5, "fraud", "")], "ada", second_above=1e9)
    before = rows(target)
    found = copy(folder_queue, target)
    assert rows(target) == before
    assert all(each.is_whole for each in found)
    assert {each.name for each in found} == set(before) - {table.name for table in PASSING}


def test_an_older_queue_is_brought_up_to_date_even_where_it_is_only_counted(tmp_path, target):
    path = tmp_path / "queue.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "0001")
    with QueueCopy.begin(path, target) as work:
        assert sum(part.there for part in work.look()) == 0
    with engine.connect() as connection:
        found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    engine.dispose()
    assert found == HEAD
    told = " ".join((copy_warehouse.__doc__ or "").split())
    assert "lake and queue are brought up to date first, also by a dry run" in told


def test_another_queue_is_left_alone(folder_queue, target):
    with Queue.open(target, create=True, clock=Clock()) as queue:
        queue.enqueue(DAY, "nightly", [new_alert(1, account="other")])
    before = rows(target)
    with (
        QueueCopy.begin(folder_queue, target) as work,
        pytest.raises(WarehouseError, match="other alerts") as refused,
    ):
        work.run()
    assert rows(target) == before
    assert "planted" not in str(refused.value)


def test_a_folder_that_went_on_is_not_taken_for_its_copy(folder_queue, target):
    copy(folder_queue, target)
    with Queue.open(folder_queue, create=False, clock=Clock()) as queue:
        queue.enqueue(DAY, "nightly", [new_alert(88888)])
    with pytest.raises(WarehouseError, match="other alerts"):
        copy(folder_queue, target)


def test_nobody_decides_while_it_is_copied(folder_queue, target, monkeypatch):
    monkeypatch.setattr(queue_database, "LOCK_SECONDS", 0.2)
    with (
        QueueCopy.begin(folder_queue, target),
        Queue.open(folder_queue, create=False, clock=Clock()) as queue,
        pytest.raises(WarehouseError, match="locked"),
    ):
        queue.decide(5, "fraud", "ada")


def test_a_changed_audit_trail_leaves_nothing_behind(folder_queue, target):
    with Queue.open(folder_queue, create=False) as queue, queue.database.write() as connection:
        connection.execute(text("DROP TRIGGER audit_events_no_update"))
        connection.execute(text("UPDATE audit_events SET actor = 'eve' WHERE sequence = 2"))
    with pytest.raises(WarehouseError, match="audit event 2"):
        copy(folder_queue, target)
    assert not any(rows(target).values())
