"""Opens the queue's database with its schema up to date, and gives transactions on it.

SQLite and PostgreSQL then behave alike: a reader sees one moment, writers go one after another.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.schema import MetaData

from warehouse.errors import WarehouseError
from warehouse.queue_tables import HEAD, VERSION_TABLE

LOCK_SECONDS = 30
ENGINE: dict[str, Any] = {
    # enough for the 40 threads of a web server; made when needed, those used last are used first
    "pool_size": 20,
    "max_overflow": 24,
    "pool_use_lifo": True,
    "hide_parameters": True,  # an error tells the statement, not the accounts in it
}

SQLITE_SETTINGS = (
    "foreign_keys = ON",
    "synchronous = FULL",  # what was acknowledged survives a power cut
    "cache_size = -8000",  # KiB of each connection
    "temp_store = MEMORY",
    "journal_size_limit = 67108864",  # bytes that the log keeps after a large write
)
WRITER_LOCK = (
    0x6E696768747764  # PostgreSQL's advisory locks are numbers; this one spells "nightwd".
)


class Database:
    """The queue's database: an engine and its two kinds of transaction."""

    def __init__(self, url: URL) -> None:
        """Prepare to connect; nothing is opened yet."""
        self.where = url.render_as_string(hide_password=True)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._turn = threading.Lock()
        if self.is_sqlite:
            # Without an isolation level the driver begins no transaction: read and write do.
            arguments = {"timeout": LOCK_SECONDS, "isolation_level": None}
            self.engine = create_engine(url, connect_args=arguments, **ENGINE)
            event.listen(self.engine, "connect", set_up_sqlite)
            self._reader: Engine = self.engine
        else:
            self.engine = create_engine(url, isolation_level="READ COMMITTED", **ENGINE)
            event.listen(self.engine, "connect", set_up_postgresql)
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one moment of the queue, whatever others write meanwhile."""
        with self._explained("read"), self._reader.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give the only connection that may write now; commit, or roll back on an error.

        The threads of a process take turns before they ask the database: SQLite's own waiting is
        by sleeping, and neither fair nor quick.
        """
        with self._explained("written"), self._own_turn(), self.engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(select(func.pg_advisory_xact_lock(WRITER_LOCK)))
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=LOCK_SECONDS):
            raise WarehouseError(
                f"the queue {self.where} must be free within {LOCK_SECONDS} seconds, and another "
                "thread of this program keeps it locked; try again, or start the program anew"
            )
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise WarehouseError(
                f"the queue {self.where} cannot be {verb}: {error.orig}; check that "
                "this user may write it and its folder, that its server runs, and that "
                "no other program keeps it locked"
            ) from error


def set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    """Make a new SQLite connection safe and quick."""
    for setting in SQLITE_SETTINGS:
        connection.execute(f"PRAGMA {setting}").close()


def set_up_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    """Let a new PostgreSQL connection wait for others as long as an SQLite one does."""
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.commit()


def open_database(url_or_path: str | Path, *, create: bool) -> Database:
    """Open the queue's database with its schema at the newest revision.

    Args:
        url_or_path: Path of an SQLite file, or a SQLAlchemy URL.
        create: Whether to make the queue where there is none. An older one is upgraded either way.

    Raises:
        WarehouseError: if it is missing, cannot be written, is no queue, or is too new.
    """
    url = parse(url_or_path)
    database = connectable(url)
    try:
        if database.is_sqlite:
            prepare_file(Path(str(url.database)), create=create)
        prepare_schema(database, url, create=create)
    except (DatabaseError, OSError) as error:
        database.close()
        raise WarehouseError(
            f"the queue must be a database that this user may write; {database.where} is not: "
            f"{getattr(error, 'orig', error)}; name another path in the settings, or mend this one"
        ) from error
    except BaseException:
        database.close()
        raise
    return database


def parse(url_or_path: str | Path) -> URL:
    """Read a URL or a path of an SQLite file; PostgreSQL is spoken to through psycopg.

    Example:
        >>> str(parse("night/queue.sqlite"))
        'sqlite:///night/queue.sqlite'
        >>> str(parse("postgresql://ada@db/queue"))
        'postgresql+psycopg://ada@db/queue'
    """
    text = str(url_or_path)
    if "://" not in text:
        url = URL.create("sqlite", database=text)
    else:
        try:
            url = make_url(text)
        except (ArgumentError, ValueError) as error:
            raise WarehouseError(
                "the queue must be a path or a database URL; the URL given cannot be read; write "
                "it as postgresql://user@host/database"
            ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise WarehouseError(f"the queue must be SQLite or PostgreSQL, got {backend}; choose one")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise WarehouseError("the queue must be a file, got one in memory; name a path")
    return url


def connectable(url: URL) -> Database:
    """Make the database's engine; its driver may be missing."""
    try:
        return Database(url)
    except ArgumentError as error:
        raise WarehouseError(
            f"the queue needs a driver that SQLAlchemy knows, got {url.drivername!r}; write the "
            "URL as postgresql://user@host/database"
        ) from error
    except ModuleNotFoundError as error:
        raise WarehouseError(
            f"the queue needs a driver for {url.drivername}, and {error.name} is not installed; "
            "run: pip install 'psycopg[binary]'"
        ) from error


def prepare_file(path: Path, *, create: bool) -> None:
    """See to it that the SQLite file is there, or can be made."""
    if path.exists():
        return
    if not create:
        raise WarehouseError(
            f"the queue {path} must exist, and does not; check the path, or run the "
            "command that makes it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def prepare_schema(database: Database, url: URL, *, create: bool) -> None:
    """Make or upgrade the schema, once, however many processes come at the same moment."""
    revision = stored_revision(database)
    if revision == HEAD:
        return
    if revision is None and not create:
        raise WarehouseError(
            f"{database.where} must be a review queue, and holds none; check the path, or run the "
            "command that makes it"
        )
    # Alembic is imported only where it is needed, once in the life of a queue.
    from warehouse.migrations import known_revisions, migrate

    if revision is not None and revision not in known_revisions():
        raise WarehouseError(
            f"the queue {database.where} must have schema {HEAD} or older, and has {revision}: "
            "a newer Nightwarden wrote it; install that version"
        )
    with alone(database, url), database.write() as connection:
        migrate(connection)


def stored_revision(database: Database) -> str | None:
    """Give the schema's revision, or None where there is no queue."""
    with database.read() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        table = Table(VERSION_TABLE, MetaData(), autoload_with=connection)
        return connection.scalar(select(table.c.version_num))


@contextmanager
def alone(database: Database, url: URL) -> Iterator[None]:
    """Keep other processes out of an SQLite file while it changes to write-ahead logging."""
    if not database.is_sqlite:
        yield
        return
    try:
        with FileLock(f"{url.database}.lock", timeout=LOCK_SECONDS):
            with database.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL").close()
            yield
    except Timeout as error:
        raise WarehouseError(
            f"the queue {database.where} must be free to be upgraded, and "
            f"{error.lock_file} has been held for {LOCK_SECONDS} seconds; end the program that "
            "holds it, and run this again"
        ) from error
