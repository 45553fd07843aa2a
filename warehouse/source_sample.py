"""The rows of the user's files that ``nightwarden init`` looks at."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date

import duckdb

from warehouse.connection import quote_name
from warehouse.errors import SettingsError, SourceError
from warehouse.privacy import card_number_columns
from warehouse.proposal import PRIVATE
from warehouse.source import SQL_PREFIX, column_expression
from warehouse.source_files import SourceFiles, dates_in_path

SAMPLE_ROWS = 300_000  # of each file looked at: months of a sorted file, so that days tell months
NESTED = ("STRUCT", "MAP", "UNION", "BLOB")


@dataclass
class Sample:
    """The rows looked at (table ``sample``), and what was found so far."""

    connection: duckdb.DuckDBPyConnection
    files: SourceFiles
    types: dict[str, str]
    near: Collection[date]
    whole: bool
    cards: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def simple(self) -> dict[str, str]:
        """Give the columns that hold one value a row."""
        return {
            name: kind
            for name, kind in self.types.items()
            if not kind.startswith(NESTED) and not kind.endswith("]") and name != "_file"
        }

    def columns_of(self, expression: str) -> set[str]:
        """Give the source columns that an expression uses."""
        if not expression.startswith(SQL_PREFIX):
            return {expression}
        words = {w.lower() for w in re.findall(r'"(?:[^"]|"")+"|\w+', expression)}
        return {n for n in self.types if {n.lower(), quote_name(n).lower()} & words}


def read_sample(connection: duckdb.DuckDBPyConnection, files: SourceFiles) -> Sample:
    """Read the first rows of the first, middle and last file into the table ``sample``.

    Raises:
        SourceError: if the files cannot be read, or hold no rows.
    """
    near = {when for file in files.looked_at() for _, _, when, _ in dates_in_path(file)}
    notes = list(files.notes)
    try:
        notes += _make_table(connection, files)
        n_bad = _count_rejects(connection) if files.format == "csv" else 0
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        message = f"{files.files[-1]} cannot be read as {files.format}: {reason}"
        raise SourceError(f"{message}; deliver whole files of one format") from error
    row = connection.execute("SELECT count(*) FROM sample").fetchone()
    n_rows = int(row[0]) if row else 0
    if not n_rows:
        message = f"{files.files[-1]} has no rows: expected some to look at; name a file with rows"
        raise SourceError(message)
    if n_bad:
        notes.append(f"{n_bad} lines could not be split into columns: they are set aside")
    types = {n: t for n, t in _describe(connection, "sample").items() if n != "_row"}
    whole = len(files.files) == len(files.looked_at()) and n_rows < SAMPLE_ROWS
    sample = Sample(connection, files, types, near, whole, notes=notes)
    sample.cards = card_number_columns(connection, "sample", list(sample.simple()))
    return sample


def _make_table(connection: duckdb.DuckDBPyConnection, files: SourceFiles) -> list[str]:
    """Make the table of the columns that all files have; give a note on the others."""
    scans = [files.scan(file) for file in files.looked_at()]
    headers = [_describe(connection, scan) for scan in scans]
    shared = [name for name in headers[-1] if all(name in header for header in headers)]
    names = ", ".join(quote_name(name) for name in shared)
    reads = [f"(SELECT {names} FROM {scan} LIMIT {SAMPLE_ROWS})" for scan in scans]
    connection.execute(
        "CREATE TABLE sample AS SELECT *, row_number() OVER () AS _row "
        f"FROM ({' UNION ALL '.join(reads)})"
    )
    uneven = sorted({name for header in headers for name in header} - set(shared))
    if not uneven:
        return []
    return [f"not all files have the columns {', '.join(uneven)}: they are left out"]


def _describe(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    return {row[0]: row[1] for row in rows}


def _count_rejects(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM (SELECT DISTINCT file_id, line FROM reject_errors)"
    ).fetchone()
    return int(row[0]) if row else 0


def bind_expression(sample: Sample, name: str, text: str) -> str:
    """Give the type of the user's expression.

    Raises:
        SettingsError: if it does not fit the columns.
    """
    try:
        row = sample.connection.execute(
            f"DESCRIBE SELECT {column_expression(text)} AS x FROM sample"
        ).fetchone()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        message = f"--map {name}: {text!r} cannot be used: {reason}; columns are "
        raise SettingsError(message + ", ".join(sample.simple())) from error
    return str(row[1]) if row else "VARCHAR"


def seen_columns(sample: Sample, hidden: Collection[str]) -> dict[str, tuple[str, str]]:
    """Give each column's type and an example, but for the hidden ones."""
    names = [name for name in sample.types if name != "_file"]
    parts = ", ".join(f"any_value({quote_name(n)})::VARCHAR" for n in names)
    row = sample.connection.execute(f"SELECT {parts} FROM sample").fetchone() or ()
    return {
        name: (sample.types[name], PRIVATE if name in hidden else str(value)[:40])
        for name, value in zip(names, row, strict=True)
    }
