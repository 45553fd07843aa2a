"""One writer at a time: a lock on a file of one machine, or in a database that several share.

Both kinds are freed when their holder dies, and a thread that holds one may take it again.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock, Timeout

from warehouse.errors import BusyError
from warehouse.postgresql import describe_address, open_session, safe_address

if TYPE_CHECKING:
    from psycopg import Connection

# A role's or a server's own limits must end neither the wait nor the holding.
SESSION_SETTINGS = {"statement_timeout": "0", "idle_session_timeout": "0"}


class CommitLock(Protocol):
    """What a lock of either kind can do."""

    def held(self) -> AbstractContextManager[None]:
        """Hold the lock for a block.

        Raises:
            BusyError: if another holds it for longer than this one waits.
        """

    def require_held(self) -> None:
        """Refuse to go on where the lock was lost while it was held.

        Raises:
            BusyError: if it was lost.
        """


class FolderLock:
    """A lock on a file, between the processes and threads of one machine."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Name the file, and how many seconds to wait for another's work."""
        self._lock = FileLock(path, timeout=timeout)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for a block.

        Raises:
            BusyError: if another holds it for longer than this one waits.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            message = (
                f"another process has held {self._lock.lock_file} for {self._lock.timeout:g} s; "
                "see which (fuser), end it, and run this again"
            )
            raise BusyError(message) from error
        try:
            yield
        finally:
            self._lock.release()

    def require_held(self) -> None:
        """Do nothing: the operating system takes no lock from a process that lives."""


class PostgresqlLock:
    """A lock in a database, between all hosts; freed when its session ends, however that ends."""

    def __init__(self, url: str, name: str, timeout: float) -> None:
        """Name the database and the lock in it, and how many seconds to wait for another's work.

        Raises:
            SettingsError: if the URL cannot be read.
        """
        self._where = describe_address(url)
        self._address = safe_address(url, f"nightwarden {name}", is_watched=True)
        self._name, self._timeout = name, timeout
        digest = hashlib.sha256(f"nightwarden {name}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._mine = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for a block, in a session of its own.

        Raises:
            BusyError: if another holds it for longer than this one waits, or the server is away.
            WarehouseError: if the server does not let this user in.
        """
        if getattr(self._mine, "session", None) is not None:
            yield
            return
        with open_session(self._address) as session:
            self._take(session)
            self._mine.session = session
            try:
                yield
            finally:
                self._mine.session = None

    def require_held(self) -> None:
        """Refuse to go on where the session has ended, and with it the lock.

        Raises:
            BusyError: if it was lost.
        """
        import psycopg

        session = getattr(self._mine, "session", None)
        try:
            if session is not None:
                session.execute("SELECT 1")
                return
        except psycopg.Error:
            pass  # said below, without the driver's words
        message = (
            f"the {self._name} lock in {self._where} must be held until the work is written, and "
            "the server ended its session; nothing was written: run this again"
        )
        raise BusyError(message)

    def _take(self, session: "Connection") -> None:
        import psycopg

        wait = max(1, round(self._timeout * 1000))  # 0 would wait for ever
        settings = {**SESSION_SETTINGS, "lock_timeout": str(wait)}
        try:
            session.execute(
                "SELECT set_config(name, value, false) "
                "FROM unnest(%s::text[], %s::text[]) AS setting (name, value)",
                [list(settings), list(settings.values())],
            )
            session.execute("SELECT pg_advisory_lock(%s)", [self._key])
        except psycopg.errors.LockNotAvailable:
            message = (
                f"another process has held the {self._name} lock in {self._where} for "
                f"{self._timeout:g} s; see which (application_name 'nightwarden {self._name}' in "
                "pg_stat_activity), end it, and run this again"
            )
            raise BusyError(message) from None
        except psycopg.OperationalError:
            message = (
                f"the database {self._where} must answer until the {self._name} lock is taken, "
                "and went away; run this again"
            )
            raise BusyError(message) from None
