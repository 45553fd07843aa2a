"""Copies a lake of one machine into one that several share, with all its snapshots.

Files first, byte for byte; then DuckLake's own tables from SQLite into PostgreSQL, in one
transaction, so that a copy that was cut off shows nothing. Snapshots keep their numbers, so what the
ledger says of a run stays true, and new commits go on after the last one.
"""

import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb

from warehouse.connection import (
    Lake,
    WarehouseSettings,
    load_extension,
    quote_name,
    quote_text,
    writing_to,
)
from warehouse.copied import Copied, refuse
from warehouse.errors import BusyError, WarehouseError
from warehouse.object_store import S3
from warehouse.postgresql import describe_address, safe_address, will_last

logger = logging.getLogger(__name__)

CATALOG = "__ducklake_metadata_lake"  # under this name DuckLake attaches the catalog of "lake"
LEFT_OUT = {"ducklake_files_scheduled_for_deletion"}  # files that nobody needs are not copied
# What DuckLake keeps as text in SQLite, and as these types in PostgreSQL; other types stay text.
INLINED = {
    "varchar": "encode({})",
    "boolean": "CAST({} AS BOOLEAN)",
    "int32": "CAST({} AS INTEGER)",
    "int64": "CAST({} AS BIGINT)",
    "float64": "CAST({} AS DOUBLE)",
}
TEXT = ("date", "timestamptz", "map")
INLINED_TABLE = re.compile(r"ducklake_inlined_(data|delete)_\d+(_\d+)?")
STATE = """
    SELECT EXISTS (SELECT FROM public.ducklake_table_stats WHERE next_row_id > 0),
        (SELECT schema_uuid::text FROM public.ducklake_schema WHERE schema_id = 0),
        (SELECT snapshot_time FROM public.ducklake_snapshot WHERE snapshot_id = %s)
"""
SECONDS_BETWEEN_REPORTS = 10.0


@dataclass(frozen=True)
class _State:
    """Whose lake a catalog holds: the main schema's id, and when a snapshot was taken."""

    has_rows: bool
    uuid: str | None = None
    taken_at: datetime | None = None


@dataclass(frozen=True)
class DataFile:
    """A file of the lake: where it lies below the data folder, and its size."""

    path: str
    size: int


class LakeCopy:
    """A lake in a folder, to which nobody may commit meanwhile, and the shared one that it goes to."""

    def __init__(self, source: Lake, target: WarehouseSettings) -> None:
        """Take the source, locked; ``LakeCopy.begin`` opens it."""
        self._source, self._target = source, target
        self._url = target.catalog.get_secret_value() if target.catalog else ""
        self._data = str(target.data)
        self._snapshot = source.snapshot_id()

    @classmethod
    @contextmanager
    def begin(cls, source: WarehouseSettings, target: WarehouseSettings) -> Iterator[Self]:
        """Keep others from committing to the source until the block ends.

        Raises:
            BusyError: if another holds the source's commit lock.
            WarehouseError: if the source cannot be opened.
        """
        with Lake.open(source) as lake, lake.locked():
            yield cls(lake, target)

    def look(self) -> list[Copied]:
        """Count the rows of the source, and of them those at the target; writes nothing.

        Raises:
            BusyError: if a server does not answer.
            WarehouseError: if the target cannot be read, or holds another lake.
        """
        if self._is_there():
            with Lake.open(self._target) as target, self._explained():
                return self._compare(target)
        return [
            Copied("lake", name, _digest_table(self._source, name, self._snapshot)[0], 0)
            for name in _table_names(self._source)
        ]

    def run(self) -> list[Copied]:
        """Copy the lake, and compare every row at the target; copies nothing that is there.

        Raises:
            BusyError: if a server went away, or another holds the target's commit lock.
            WarehouseError: if the target holds another lake, or a file of the source is missing.
        """
        if not self._is_there():
            with Lake.open(self._target) as target, target.locked(), self._explained():
                if not self._is_there():
                    self._copy_files(target)
                    self._copy_catalog(target)
        # opened anew: a connection remembers the tables that it saw
        with Lake.open(self._target) as target, self._explained():
            return self._compare(target)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            message = (
                f"the lake must be copied to {describe_address(self._url)} and {self._data}, and "
                f"that broke off ({reason}); mend what it names and run this again: what has "
                "arrived is not copied twice"
            )
            is_lasting = isinstance(error, duckdb.OutOfMemoryException) or will_last(reason)
            raise (WarehouseError if is_lasting else BusyError)(message) from None

    def _compare(self, target: Lake) -> list[Copied]:
        """Compare the tables as they were at the source's newest snapshot."""
        found = []
        for name in _table_names(self._source):
            logger.info("comparing the rows of %s", name)
            mine, theirs = (
                _digest_table(each, name, self._snapshot) for each in (self._source, target)
            )
            found.append(Copied("lake", name, mine[0], theirs[0], mine == theirs))
        return found

    def _is_there(self) -> bool:
        """Tell whether the target has this lake's snapshots; refuse it if it has another's."""
        where = describe_address(self._url)
        found = _read_state(self._url, self._snapshot)
        if not found.has_rows:
            return False
        uuid, taken_at = self._fetch(
            "SELECT schema_uuid::VARCHAR, snapshot_time::TIMESTAMPTZ "
            f"FROM {CATALOG}.ducklake_schema, {CATALOG}.ducklake_snapshot "
            f"WHERE schema_id = 0 AND snapshot_id = {self._snapshot}"
        )[0]
        if found.uuid != uuid:
            raise refuse("lake", where, "the rows of another lake")
        if found.taken_at != taken_at:
            held = f"this lake as it was at another time, without its snapshot {self._snapshot}"
            raise refuse("lake", where, held)
        return True

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        return self._source.connection.execute(sql).fetchall()

    def _files(self) -> list[DataFile]:
        """List the files of all snapshots, those with deleted rows' numbers, too."""
        rows = self._fetch(
            "SELECT DISTINCT s.path || t.path || f.path, "
            "s.path_is_relative AND t.path_is_relative AND f.path_is_relative "
            f"FROM (SELECT table_id, path, path_is_relative FROM {CATALOG}.ducklake_data_file "
            f"UNION ALL SELECT table_id, path, path_is_relative FROM {CATALOG}.ducklake_delete_file"
            f") f JOIN {CATALOG}.ducklake_table t USING (table_id) "
            f"JOIN {CATALOG}.ducklake_schema s USING (schema_id) ORDER BY 1"
        )
        folder = self._source.folder / "data"
        lost = [path for path, is_inside in rows if not (is_inside and (folder / path).is_file())]
        if lost:
            message = (
                f"all files of the lake must lie in {folder}, and {len(lost)} do not, such as "
                f"{lost[0]}; bring them back from your backup"
            )
            raise WarehouseError(message)
        return [DataFile(path, (folder / path).stat().st_size) for path, _ in rows]

    def _copy_files(self, target: Lake) -> None:
        """Copy the files that are not at the target, or are there with another size."""
        files = self._files()
        present = _read_sizes(target, self._data)
        left = [file for file in files if present.get(file.path) != file.size]
        logger.info("%d of %d files are there already", len(files) - len(left), len(files))
        done, total, told = 0, sum(file.size for file in left), time.monotonic()
        for number, file in enumerate(left, start=1):
            self._copy_file(target, file)
            done += file.size
            if time.monotonic() - told > SECONDS_BETWEEN_REPORTS or number == len(left):
                told = time.monotonic()
                logger.info(
                    "copied %d of %d files, %.1f of %.1f MB",
                    number,
                    len(left),
                    done / 1e6,
                    total / 1e6,
                )

    def _copy_file(self, target: Lake, file: DataFile) -> None:
        source = self._source.folder / "data" / file.path
        if self._data.startswith(S3):
            address = f"{self._data.rstrip('/')}/{file.path}"
            # whole in memory: DuckLake begins another file at half a gigabyte
            target.connection.execute(
                f"COPY (SELECT content FROM read_blob({quote_text(str(source))})) "
                f"TO {quote_text(address)} (FORMAT blob)"
            )
            return
        place = Path(self._data) / file.path
        with writing_to(Path(self._data)):
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f"{place.name}.part")
            shutil.copyfile(source, draft)
            draft.replace(place)

    def _copy_catalog(self, target: Lake) -> None:
        """Put the source's catalog in the place of the target's empty one, in one transaction."""
        connection = target.connection
        load_extension(connection, "sqlite_scanner")
        file = quote_text(str(self._source.folder / "catalog.sqlite"))
        shared = quote_text(safe_address(self._url, application_name="nightwarden copy"))
        connection.execute(f"ATTACH {file} AS embedded (TYPE sqlite, READ_ONLY)")
        connection.execute(f"ATTACH {shared} AS shared (TYPE postgres, SCHEMA 'public')")
        mine, theirs = (_list_catalog(connection, name) for name in ("embedded", "shared"))
        types = self._inlined_types()
        with target.commit():
            for name in filter(INLINED_TABLE.fullmatch, theirs):
                connection.execute(f"DROP TABLE shared.{name}")
            for name in mine:
                for statement in _copy_statements(name, types.get(name, {})):
                    connection.execute(statement)

    def _inlined_types(self) -> dict[str, dict[str, str]]:
        """Give the columns' types of each table of small inserts: DuckLake keeps these as rows."""
        rows = self._fetch(
            "SELECT i.table_name, c.column_name, c.column_type "
            f"FROM {CATALOG}.ducklake_inlined_data_tables i "
            f"JOIN {CATALOG}.ducklake_schema_versions v USING (table_id, schema_version) "
            f"JOIN {CATALOG}.ducklake_column c USING (table_id) "
            "WHERE c.parent_column IS NULL AND c.begin_snapshot <= v.begin_snapshot "
            "AND (c.end_snapshot IS NULL OR c.end_snapshot > v.begin_snapshot)"
        )
        types: dict[str, dict[str, str]] = {}
        for table, column, kind in rows:
            types.setdefault(table, {})[column] = kind
        return types


def _copy_statements(table: str, types: Mapping[str, str]) -> list[str]:
    """Give the SQL that copies a table of the catalog.

    Args:
        table: Its name.
        types: DuckLake's types of its columns, where it holds rows of small inserts.
    """
    if table in LEFT_OUT:
        return []
    if INLINED_TABLE.fullmatch(table):
        changed = [
            f"{INLINED[kind].format(quote_name(column))} AS {quote_name(column)}"
            for column, kind in types.items()
            if kind not in TEXT
        ]
        replace = f" REPLACE ({', '.join(changed)})" if changed else ""
        return [f"CREATE TABLE shared.{table} AS SELECT *{replace} FROM embedded.{table}"]
    mine = " WHERE key <> 'data_path'" if table == "ducklake_metadata" else ""
    return [
        f"DELETE FROM shared.{table}{mine}",
        f"INSERT INTO shared.{table} BY NAME SELECT * FROM embedded.{table}{mine}",
    ]


def _list_catalog(connection: duckdb.DuckDBPyConnection, database: str) -> list[str]:
    """List DuckLake's tables in an attached database, which may hold others' too."""
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? "
        "AND starts_with(table_name, 'ducklake_') ORDER BY 1",
        [database],
    ).fetchall()
    return [name for (name,) in rows]


def _table_names(lake: Lake) -> list[str]:
    rows = lake.connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def _digest_table(lake: Lake, name: str, snapshot: int) -> tuple[int, int]:
    """Count a table's rows at a snapshot, and add up their hashes."""
    row = lake.connection.execute(
        "SELECT count(*), coalesce(sum(hash(rows)), 0) "
        f"FROM (FROM lake.{quote_name(name)} AT (VERSION => {snapshot})) AS rows"
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _read_sizes(target: Lake, data: str) -> dict[str, int]:
    """Give the sizes of the files below the target's data folder or address."""
    root = data.rstrip("/") + "/"
    if not data.startswith(S3):
        files = (path for path in Path(data).rglob("*") if path.is_file())
        return {path.relative_to(data).as_posix(): path.stat().st_size for path in files}
    pattern = f"{root}**"
    if not target.connection.execute("SELECT 1 FROM glob(?) LIMIT 1", [pattern]).fetchall():
        return {}
    rows = target.connection.execute("SELECT filename, size FROM read_blob(?)", [pattern])
    return {name.removeprefix(root): size for name, size in rows.fetchall()}


def _read_state(url: str, snapshot: int) -> "_State":
    """Look whose lake a database holds, if any, without making one there.

    Raises:
        BusyError: if the server does not answer.
        WarehouseError: if it does not let this user in.
    """
    import psycopg

    reason = ""
    try:
        with psycopg.connect(safe_address(url)) as session:
            found = session.execute("SELECT to_regclass('public.ducklake_table_stats')").fetchone()
            if found == (None,):
                return _State(has_rows=False)
            row = session.execute(STATE, [snapshot]).fetchone()
            return _State(*row) if row else _State(has_rows=False)
    except psycopg.Error as error:
        reason = str(error)
    message = (
        f"the database {describe_address(url)} must let this user in, and does not; check the "
        "address, the password, the user's rights, and that the server runs"
    )
    raise (WarehouseError if will_last(reason) else BusyError)(message)
