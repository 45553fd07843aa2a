"""Writes the feed's changes as JSON Lines, CSV or Parquet, block by block, and keeps the cursor."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from errno import EISDIR
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from desk.api_records import ChangeRecord
from warehouse.errors import UserError
from warehouse.feed import AlertFacts, FeedChange, newest_change, read_feed
from warehouse.queue import Queue

BLOCK = 500  # changes in memory at a time
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "happened_at": MOMENT,
        "kind": pa.string(),
        "actor": pa.string(),
        "case_id": pa.int64(),
        "alert_id": pa.int64(),
        "details": pa.string(),
        "transaction_id": pa.string(),
        "event_date": pa.date32(),
        "occurred_at": MOMENT,
        "account_id": pa.string(),
        "merchant_id": pa.string(),
        "amount": pa.float64(),
        "lane": pa.string(),
        "score": pa.float64(),
        "probability": pa.float64(),
        "model_version": pa.string(),
        "reasons": pa.string(),
    }
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class ChangeWriter(Protocol):
    """Writes changes in a format."""

    def write(self, changes: Sequence[FeedChange]) -> None:
        """Write some more changes."""

    def close(self) -> None:
        """Write what belongs at the end; the file stays open."""


class JsonLinesWriter:
    """Writes a change a line, as the API gives it."""

    def __init__(self, file: BinaryIO) -> None:
        """Write into a file that is open."""
        self._file = file

    def write(self, changes: Sequence[FeedChange]) -> None:
        """Write some more changes."""
        for change in changes:
            self._file.write(
                ChangeRecord.model_validate(change).model_dump_json().encode() + b"\n"
            )

    def close(self) -> None:
        """Write nothing more."""


class CsvWriter:
    """Writes a change a row, its details as JSON text.

    CSV is what people open in a spreadsheet, where a text that begins like a formula would be
    computed, and merchants choose their names: such a text gets an apostrophe before it. JSON
    Lines and Parquet, which programs read, have every text as it is. Rows end with CR LF, as RFC
    4180 says: then a lone CR within a text is quoted, and begins no row.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Write the names of the columns into a file that is open."""
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._rows = csv.DictWriter(self._text, SCHEMA.names, lineterminator="\r\n")
        self._rows.writeheader()

    def write(self, changes: Sequence[FeedChange]) -> None:
        """Write some more changes."""
        for row in map(flatten, changes):
            self._rows.writerow({name: write_cell(value) for name, value in row.items()})

    def close(self) -> None:
        """Hand the file back."""
        self._text.detach()


class ParquetWriter:
    """Writes a change a row, its details as JSON text."""

    def __init__(self, file: BinaryIO) -> None:
        """Write into a file that is open."""
        self._rows = pq.ParquetWriter(file, SCHEMA)

    def write(self, changes: Sequence[FeedChange]) -> None:
        """Write some more changes, as a group of rows."""
        self._rows.write_table(pa.Table.from_pylist(list(map(flatten, changes)), schema=SCHEMA))

    def close(self) -> None:
        """Write the file's end."""
        self._rows.close()


WRITERS: dict[str, type[JsonLinesWriter] | type[CsvWriter] | type[ParquetWriter]] = {
    "jsonl": JsonLinesWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
}


def flatten(change: FeedChange) -> dict[str, Any]:
    """Give a change as one row: its details as JSON text, its alert's facts as columns."""
    facts = [field.name for field in fields(AlertFacts) if field.name not in ("id", "reasons")]
    row = {name: getattr(change, name) for name in SCHEMA.names[:6]}
    row["details"] = json.dumps(dict(change.details), ensure_ascii=False, sort_keys=True)
    alert = change.alert
    row |= {name: getattr(alert, name) if alert else None for name in facts}
    return row | {"reasons": "; ".join(alert.reasons) if alert else None}


def write_cell(value: object) -> object:
    """Write a value into CSV; see ``CsvWriter`` for the apostrophe.

    Example:
        >>> write_cell("=1+1"), write_cell("shop"), write_cell(-1.5)
        ("'=1+1", 'shop', -1.5)
    """
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def write_changes(queue: Queue, writer: ChangeWriter, cursor: int) -> int:
    """Write the changes beyond a cursor that there are now; give the next cursor."""
    until = max(newest_change(queue), cursor)
    has_more = True
    while has_more:
        block = read_feed(queue, cursor=cursor, limit=BLOCK, until=until)
        if block.changes:
            writer.write(block.changes)
        cursor, has_more = block.next_cursor, block.has_more
    writer.close()
    return cursor


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the path's place when the block ends well, whole and on the disk.

    Raises:
        UserError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():  # known now, not when all is written
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise not_a_file(path, "written", error) from error
    finally:
        with suppress(OSError):  # it is not there any more, if all went well
            draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_cursor(state: Path) -> int | None:
    """Read the cursor that was kept; None where there is no such file.

    Raises:
        UserError: if the file cannot be read, or holds no number.
    """
    try:
        text = state.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise not_a_file(state, "read", error) from error
    if not (text.isascii() and text.isdigit()):
        raise UserError(
            f"{state} must hold the number of a change, and holds {text[:40]!r}; correct it, or "
            "delete it to start at the beginning"
        )
    return int(text)


def not_a_file(path: Path, treated: str, error: OSError) -> UserError:
    """Say that a path is no file to be read or written."""
    return UserError(
        f"{path} must be a file that can be {treated}: {error.strerror}; name another"
    )


def keep_cursor(state: Path, cursor: int) -> None:
    """Write the cursor in place of the one before."""
    with replacing(state) as file:
        file.write(f"{cursor}\n".encode())
