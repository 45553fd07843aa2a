"""CSV as its settings describe it: the scan, and the lines that are no rows."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from warehouse.connection import quote_name, quote_text, quote_texts
from warehouse.errors import SourceError

if TYPE_CHECKING:
    from warehouse.source import SourceSettings

KEPT_CHARACTERS = 10_000  # DuckDB keeps so much of a line that is no row
OPEN_QUOTE = "UNQUOTED VALUE"


@dataclass(frozen=True)
class RejectedLine:
    """A line of a CSV file that is no row: too few or too many fields, an open quote."""

    file: str
    line: int
    error: str
    text: str | None


def csv_scan(settings: "SourceSettings", files: list[str]) -> str:
    """Write the table function that reads the files; every column is text until it is staged.

    Raises:
        SourceError: if a file is empty, not in the encoding, or has other columns than the first.
    """
    header = _header(settings, files[0])
    for file in files[1:]:
        other = _header(settings, file)
        if other != header:
            message = f"files of one day must have the same columns: {files[0]} has {header}, "
            raise SourceError(message + f"{file} has {other}")
    columns = ", ".join(f"{quote_name(name)}: 'VARCHAR'" for name in header)
    return (
        f"read_csv({quote_texts(files)}, columns = {{{columns}}}, auto_detect = false, "
        f"delim = {quote_text(settings.delimiter)}, quote = {quote_text(settings.quote)}, "
        f"escape = {quote_text(settings.quote)}, header = {settings.header}, "
        f"encoding = {quote_text(settings.encoding)}, store_rejects = true, "
        "filename = '_file', hive_partitioning = false)"
    )


def _header(settings: "SourceSettings", file: str) -> list[str]:
    """Read the names of a file's columns; nameless ones are column0, column1, ..."""
    encoding = "utf-8-sig" if settings.encoding == "utf-8" else settings.encoding
    try:
        with Path(file).open(encoding=encoding, newline="") as stream:
            first = _split(settings, stream.readline())
    except UnicodeError as error:
        raise SourceError(_wrong_encoding(settings, file)) from error
    except (OSError, csv.Error) as error:
        message = f"{file} cannot be read as CSV: {error}; deliver it again"
        raise SourceError(message) from error
    if not first:
        message = f"{file} is empty: expected a header line and rows; deliver the file again"
        raise SourceError(message)
    return [
        name if settings.header and name.strip() else f"column{position}"
        for position, name in enumerate(first)
    ]


def _split(settings: "SourceSettings", line: str) -> list[str]:
    # csv.reader takes one character as delimiter, DuckDB up to four.
    mark = settings.delimiter if len(settings.delimiter) == 1 else "\x1f"
    lines = [line.replace(settings.delimiter, mark)]
    if settings.quote:
        return next(csv.reader(lines, delimiter=mark, quotechar=settings.quote), [])
    return next(csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE), [])


def _wrong_encoding(settings: "SourceSettings", place: str) -> str:
    others = [name for name in ("utf-8", "latin-1", "utf-16") if name != settings.encoding]
    return (
        f"{place} is not {settings.encoding}; export it as {settings.encoding}, or set "
        f'[source] encoding to "{others[0]}" or "{others[1]}"'
    )


def rejected_lines(
    connection: duckdb.DuckDBPyConnection, settings: "SourceSettings"
) -> tuple[RejectedLine, ...]:
    """Fetch the lines that DuckDB could not split; their text only where nothing in it is private.

    Raises:
        SourceError: if a line is not in the encoding, or an open quote hides more lines than
            DuckDB tells.
    """
    rows = connection.execute(
        "SELECT s.file_path, e.line, first(e.error_type::VARCHAR ORDER BY e.column_idx), "
        "CASE WHEN bool_or(e.error_type::VARCHAR = 'TOO MANY COLUMNS') "
        "THEN last(e.error_message ORDER BY e.column_idx) "
        "ELSE first(e.error_message ORDER BY e.column_idx) END, first(e.csv_line) "
        "FROM reject_errors e JOIN reject_scans s USING (scan_id, file_id) "
        "GROUP BY s.file_path, e.line, e.line_byte_position ORDER BY ALL"
    ).fetchall()
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    private = bool(settings.pseudonymise or settings.drop)
    found = []
    for file, line, kind, error, text in rows:
        if kind == "INVALID ENCODING":
            raise SourceError(_wrong_encoding(settings, f"{file}, line {line},"))
        if kind == OPEN_QUOTE and len(text.encode()) >= KEPT_CHARACTERS:
            message = (
                f"{file}, line {line}: a quote is opened and hides the lines behind it; close it, "
                'or set [source] quote = "" if quotes mean nothing in this file'
            )
            raise SourceError(message)
        found += [
            RejectedLine(file, int(line) + offset, error, None if private else part)
            for offset, part in enumerate(_physical_lines(kind, text))
        ]
    return tuple(found)


def _physical_lines(kind: str, text: str) -> list[str]:
    """Take the lines apart that an open quote joined: each of them was a row to somebody."""
    return text.rstrip("\r\n").splitlines() if kind == OPEN_QUOTE else [text]
