"""Open the lake: DuckDB with a DuckLake catalog and Parquet files.

One machine has the catalog in SQLite and the files beside it; several share a catalog in PostgreSQL
and a folder or an object store. DuckLake is optimistic per table, so two writers conflict even on
different days. Therefore work is computed first and committed inside ``Lake.commit``, which holds
one lock for the short commit.
"""

import importlib.util
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from warehouse import schema
from warehouse.commit_lock import CommitLock, FolderLock, PostgresqlLock
from warehouse.errors import BusyError, SettingsError, WarehouseError
from warehouse.object_store import S3, use_object_store
from warehouse.postgresql import describe_address, has_table, safe_address, will_last

LOCK_TIMEOUT_SECONDS = 600
POSTGRESQL_SCHEMES = ("postgresql://", "postgres://")


class WarehouseSettings(BaseModel):
    """Where the lake, the queue and the models live, and what DuckDB may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(Path("warehouse-data"), description="Folder of lake, queue and models.")
    catalog: SecretStr | None = Field(
        None, description="PostgreSQL URL of a catalog that several machines share."
    )
    data: str | None = Field(
        None, description="Folder or s3:// address of a shared lake's Parquet files."
    )
    threads: int = Field(0, ge=0, description="DuckDB threads; 0: one per core.")
    memory_limit: str = Field(
        "2GiB",
        pattern=r"^\d+(\.\d+)? ?([KMGT]i?B|%)$",
        description="DuckDB memory before it spills to disk.",
    )

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if (self.catalog is None) != (self.data is None):
            message = (
                "a shared lake needs both catalog (a PostgreSQL URL) and data (a folder or "
                f"s3://...); {'catalog' if self.catalog is None else 'data'} is not set"
            )
            raise ValueError(message)
        if self.catalog and not self.catalog.get_secret_value().startswith(POSTGRESQL_SCHEMES):
            message = "catalog must be a URL such as postgresql://user@host/database"
            raise ValueError(message)
        return self

    @property
    def lake_folder(self) -> Path:
        """Folder of the catalog and the Parquet files."""
        return self.path / "lake"

    @property
    def queue_path(self) -> Path:
        """SQLite file of the review queue."""
        return self.path / "queue.sqlite"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say what to do where a folder of the warehouse cannot be made or written.

    Raises:
        WarehouseError: if the block meets an OSError.
    """
    try:
        yield
    except OSError as error:
        message = (
            f"the warehouse folder must be writable, but {folder} is not ({error.strerror}); "
            "change its permissions, or path or data under [warehouse] in nightwarden.toml"
        )
        raise WarehouseError(message) from error


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load a DuckDB extension from its wheel, or by name where it was installed otherwise.

    Raises:
        WarehouseError: if neither is there.
    """
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is not None and spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        file = root / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.exists():
            connection.execute(f"LOAD {quote_text(str(file))}")
            return
    try:
        connection.execute(f"LOAD {name}")
    except duckdb.Error as error:
        wheel = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
        message = f"DuckDB extension {name} not found; install it: pip install {wheel}"
        raise WarehouseError(message) from error


def quote_text(text: str) -> str:
    """Write a text as an SQL literal, for statements that take no parameters (LOAD, ATTACH).

    Example:
        >>> quote_text("it's")
        "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Write a column's name as an SQL identifier.

    Example:
        >>> quote_name("Total amount")
        '"Total amount"'
    """
    return '"' + name.replace('"', '""') + '"'


def quote_texts(texts: Iterable[str]) -> str:
    """Write texts as an SQL list of literals.

    Example:
        >>> quote_texts(["a.csv", "b.csv"])
        "['a.csv', 'b.csv']"
    """
    return "[" + ", ".join(map(quote_text, texts)) + "]"


def _set_up(connection: duckdb.DuckDBPyConnection, settings: WarehouseSettings) -> None:
    """Set what holds for a lake of either kind."""
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET memory_limit = {quote_text(settings.memory_limit)}")
    # A spill folder of its own: two connections in one folder would write over each other.
    own = quote_text(str(settings.lake_folder / "spill" / uuid.uuid4().hex))
    connection.execute(f"SET temp_directory = {own}")
    if settings.threads:
        connection.execute(f"SET threads = {settings.threads}")


def has_lake(settings: WarehouseSettings) -> bool:
    """Tell whether a lake was ever made where the settings say; none is made.

    Raises:
        BusyError: if the catalog of a shared lake does not answer.
        WarehouseError: if it does not let this user in.
    """
    if settings.catalog is None:
        return (settings.lake_folder / "catalog.sqlite").exists()
    return has_table(settings.catalog.get_secret_value(), "ducklake_metadata")


class Lake:
    """One connection to the lake; a private in-memory database beside it holds the staging tables.

    A connection serves one thread. Many connections, threads and processes may share a lake.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, folder: Path, lock: CommitLock
    ) -> None:
        """Wrap an attached connection; use ``Lake.open``."""
        self.connection = connection
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(
        cls, settings: WarehouseSettings, *, lock_seconds: float = LOCK_TIMEOUT_SECONDS
    ) -> Self:
        """Open the lake, making folder, catalog and tables where they are missing.

        Args:
            settings: Where the lake is, and what DuckDB may use.
            lock_seconds: How long to wait for another's commit, now and whenever this one commits.

        Raises:
            BusyError: if another process holds the lake's commit lock for longer, or a server of
                a shared lake does not answer.
            SettingsError: if the environment lacks a key, or others opened the lake elsewhere.
            WarehouseError: if the folder cannot be written or the catalog cannot be opened.
        """
        folder = settings.lake_folder
        with writing_to(folder):
            (folder / "spill").mkdir(parents=True, exist_ok=True)
            if settings.catalog is None:
                (folder / "commit.lock").touch()
        connection = duckdb.connect()
        try:
            _set_up(connection, settings)
            if settings.catalog is None:
                lock: CommitLock = FolderLock(folder / "commit.lock", lock_seconds)
                lake = cls(connection, folder, lock)
                lake._attach_embedded()
                return lake
            url = settings.catalog.get_secret_value()
            lake = cls(connection, folder, PostgresqlLock(url, "commit", lock_seconds))
            lake._attach_shared(url, str(settings.data))
        except BaseException:
            connection.close()
            raise
        return lake

    def _attach_embedded(self) -> None:
        for name in ("ducklake", "sqlite_scanner"):
            load_extension(self.connection, name)
        catalog = self.folder / "catalog.sqlite"
        attach = (
            f"ATTACH {quote_text(f'ducklake:sqlite:{catalog}')} AS lake "
            f"(DATA_PATH {quote_text(str(self.folder / 'data'))}, "
            "META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 30000, "
            "OVERRIDE_DATA_PATH true)"  # the warehouse folder may be moved or copied
        )
        try:
            with self.locked():
                self.connection.execute(attach)
                self._create_tables()
                self._adopt_key_file()
        except (duckdb.Error, OSError) as error:
            message = f"the lake {catalog} cannot be opened: {error}"
            busy = "locked" in str(error)
            raise (BusyError if busy else WarehouseError)(message) from error

    def _attach_shared(self, url: str, data: str) -> None:
        for name in ("ducklake", "postgres_scanner"):
            load_extension(self.connection, name)
        # DuckDB's secrets that this user keeps at home would mix with those of the settings.
        self.connection.execute(f"SET secret_directory = {quote_text(str(self.folder / 'none'))}")
        if data.startswith(S3):
            load_extension(self.connection, "httpfs")
            use_object_store(self.connection, data)
        else:
            with writing_to(Path(data)):
                Path(data).mkdir(parents=True, exist_ok=True)
        catalog = safe_address(url, "nightwarden lake", is_watched=True)
        attach = (
            f"ATTACH {quote_text(f'ducklake:postgres:{catalog}')} AS lake "
            f"(DATA_PATH {quote_text(data)})"
        )
        reason = ""
        with self.locked():
            try:
                self.connection.execute(attach)
                self._create_tables()
            except duckdb.Error as error:
                reason = str(error).splitlines()[0]
        if "DATA_PATH" in reason:
            message = (
                f"the lake in {describe_address(url)} keeps its files elsewhere than [warehouse] "
                f"data says ({reason}); every machine must name the same place"
            )
            raise SettingsError(message)
        if reason:
            message = f"the lake in {describe_address(url)} cannot be opened: {reason}"
            raise (WarehouseError if will_last(reason) else BusyError)(message)

    def _create_tables(self) -> None:
        """Make the tables that are missing, and the columns that came after a table was made."""
        found = self.connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
        ).fetchall()
        statements = schema.missing_statements(set(found))
        if not statements:
            return
        self.connection.execute("BEGIN")
        for statement in statements:
            self.connection.execute(statement)
        self.connection.execute("COMMIT")

    def _adopt_key_file(self) -> None:
        """Take the pseudonym key's fingerprint into the lake; earlier versions had it in a file."""
        file = self.folder / "pseudonym-key.fingerprint"
        if not file.exists():
            return
        self.connection.execute(
            "INSERT INTO lake.pseudonym_keys SELECT fingerprint, now() FROM (SELECT ?) AS "
            "file (fingerprint) WHERE fingerprint <> '' "
            "AND NOT EXISTS (SELECT 1 FROM lake.pseudonym_keys)",
            [file.read_text()],
        )
        file.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lake's one commit lock.

        Raises:
            BusyError: if another process holds it for longer than this lake waits.
        """
        with self._lock.held():
            yield

    @contextmanager
    def commit(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Run the statements inside as one transaction, under the lock; all of them or none.

        Yields:
            The connection, inside BEGIN.

        Raises:
            BusyError: if another holds the lock for longer, or it was lost before the end.
        """
        with self.locked():
            self.connection.execute("BEGIN")
            try:
                yield self.connection
                # A server that was started anew freed the lock: another may be writing by now.
                self._lock.require_held()
            except BaseException:
                with suppress(duckdb.Error):  # a catalog that went away has rolled back by itself
                    self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    def snapshot_id(self) -> int:
        """Give the id of the lake's newest snapshot, for the record of what a run read."""
        # A result that is read to its end leaves no transaction open in the catalog meanwhile.
        rows = self.connection.execute("SELECT id FROM lake.current_snapshot()").fetchall()
        return int(rows[0][0] or 0) if rows else 0

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        """Give the lake; it closes at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()
