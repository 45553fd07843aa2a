"""One writer at a time, whoever it is and however it ends, on one machine and on many."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.services import end_sessions
from warehouse.commit_lock import FolderLock, PostgresqlLock
from warehouse.errors import BusyError

HOLDER = """
import sys, time
from pathlib import Path
from tests.services import end_sessions
from warehouse.commit_lock import FolderLock, PostgresqlLock
kind, place = sys.argv[1:]
lock = FolderLock(Path(place), 5) if kind == "file" else PostgresqlLock(place, "commit", 5)
with lock.held():
    print("held", flush=True)
    time.sleep(600)
"""
BUSY = "another process has held .* for 0.2 s; see which .*, end it, and run this again"


@pytest.fixture(params=["file", "postgresql"])
def place(request, tmp_path):
    """Where a lock of each kind is: kind, and path or address."""
    if request.param == "file":
        return "file", str(tmp_path / "commit.lock")
    return "postgresql", request.getfixturevalue("postgresql").new_database("lock")


@pytest.fixture
def new_lock(place):
    """Make another lock, as another process would, in the same place."""
    kind, where = place

    def make(timeout=0.2):
        if kind == "file":
            return FolderLock(Path(where), timeout)
        return PostgresqlLock(where, "commit", timeout)

    return make


def test_holder_may_take_it_again_and_another_may_not(new_lock):
    mine, other = new_lock(), new_lock()
    with mine.held():
        with mine.held():
            mine.require_held()
        mine.require_held()
        with pytest.raises(BusyError, match=BUSY), other.held():
            pytest.fail("two hold one lock")
    with other.held():
        other.require_held()


def test_another_thread_waits_for_it(new_lock):
    lock, held, found = new_lock(5), threading.Event(), []

    def hold():
        with lock.held():
            held.set()
            time.sleep(0.4)
            found.append("freed")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with lock.held():
        found.append("taken")
    thread.join()
    assert found == ["freed", "taken"]


def test_holder_that_is_killed_frees_it(place, new_lock):
    holder = subprocess.Popen(  # noqa: S603 (our own script)
        [sys.executable, "-c", HOLDER, *place],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=BUSY), new_lock().held():
        pytest.fail("two hold one lock")
    holder.kill()
    holder.communicate()
    with new_lock(10).held():
        pass


@pytest.fixture
def database(postgresql):
    return postgresql.new_database("lock")


def test_lock_whose_session_ended_is_noticed(database):
    mine, other = (PostgresqlLock(database, "commit", 1) for _ in range(2))
    with mine.held():
        end_sessions(database, "nightwarden commit")
        with other.held():  # the server freed it
            with pytest.raises(BusyError, match="nothing was written: run this again") as caught:
                mine.require_held()
            other.require_held()
    assert caught.value.__context__ is None
    with pytest.raises(BusyError, match="must be held"):
        mine.require_held()


def test_locks_of_other_names_and_databases_are_others(database, postgresql):
    locks = [
        PostgresqlLock(database, "commit", 0.2),
        PostgresqlLock(database, "registry", 0.2),
        PostgresqlLock(postgresql.new_database("lock"), "commit", 0.2),
    ]
    with locks[0].held(), locks[1].held(), locks[2].held():
        for lock in locks:
            lock.require_held()


def test_limits_of_the_server_end_neither_wait_nor_holding(database):
    with psycopg.connect(database, autocommit=True) as session:
        for name in ("statement_timeout", "idle_session_timeout", "lock_timeout"):
            session.execute(f"ALTER DATABASE {session.info.dbname} SET {name} = '100ms'")
    first, second = PostgresqlLock(database, "commit", 10), PostgresqlLock(database, "commit", 10)
    done = threading.Event()

    def wait():
        with second.held():
            done.set()

    with first.held():
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.5)
        first.require_held()
        assert not done.is_set()
    waiter.join(10)
    assert done.is_set()


def test_all_versions_mean_the_same_lock(database):
    with PostgresqlLock(database, "commit", 1).held(), psycopg.connect(database) as session:
        key = "(classid::bigint << 32 | objid::bigint)"
        held = session.execute(
            f"SELECT {key} FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        ).fetchall()
    assert held == [(-377132815812819788,)]
