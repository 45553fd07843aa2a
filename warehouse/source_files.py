"""Find the user's source files: their format, their dialect, and the date in their names."""

import codecs
import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import takewhile
from pathlib import Path
from typing import Literal

import duckdb

from warehouse.connection import quote_text
from warehouse.csv_source import csv_scan
from warehouse.errors import SourceError
from warehouse.source import SourceSettings

Encoding = Literal["utf-8", "utf-16", "latin-1"]
SUFFIXES = {".parquet", ".pq", ".csv", ".tsv", ".txt"}
DECODED_BYTES = 64 * 1024 * 1024  # a later byte that is no UTF-8 is caught when the day is read
COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a spreadsheet or zip", b"\x28\xb5": "zstd"}
# A day: 2018-04-01, 20180401, 2018_04_01, 2018/04/01; six digits of the hour may follow at once.
DATE_IN_PATH = re.compile(r"(?<!\d)(\d{4})([-_./]?)(\d{2})\2(\d{2})(?=\d{6}(?!\d)|(?!\d))")
HIVE_DATE = re.compile(r"(?<![a-z])year=(\d{4})/(month=)(\d{2})/day=(\d{2})(?!\d)")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: Encoding = "utf-8"


@dataclass(frozen=True)
class SourceFiles:
    """The files that a pattern stands for, all of one format."""

    pattern: str
    files: tuple[str, ...]
    format: Literal["csv", "parquet"]
    dialect: Dialect = Dialect()
    notes: tuple[str, ...] = ()

    def looked_at(self) -> list[str]:
        """Give the files to read for the proposal: first, middle and last."""
        chosen = {0, len(self.files) // 2, len(self.files) - 1}
        return [self.files[i] for i in sorted(chosen)]

    def scan(self, file: str) -> str:
        """Write the SQL that reads a file as the nightly run will read it: CSV as texts."""
        if self.format == "parquet":
            return f"read_parquet([{quote_text(file)}], filename = '_file', hive_partitioning = false)"
        return csv_scan(SourceSettings.model_construct(**asdict(self.dialect)), [file])


def find_source_files(connection: duckdb.DuckDBPyConnection, pattern: str) -> SourceFiles:
    """Find the files of a glob, a folder or a single name, and how they are written.

    Raises:
        SourceError: if there are none, or they are of no kind that can be read.
    """
    pattern = os.path.abspath(Path(pattern).expanduser())  # noqa: PTH100 (resolve follows links)
    folder = Path(pattern)
    if folder.is_dir():
        suffix = _suffix_of_folder(folder)
        pattern = os.path.join(glob.escape(pattern), "**", f"*{suffix}")  # noqa: PTH118 (a pattern)
    elif folder.exists():
        pattern = glob.escape(pattern)
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    files = tuple(f for f in found if _is_data_file(Path(f)))
    if not files:
        message = (
            f"no file matches {pattern}: expected CSV or Parquet files; correct --source "
            "(put quotes around a pattern with *)"
        )
        raise SourceError(message)
    kinds = {_file_format(file) for file in (files[0], files[len(files) // 2], files[-1])}
    if len(kinds) > 1:
        message = f"{pattern} matches CSV and Parquet files; name one kind, as in '*.parquet'"
        raise SourceError(message)
    if kinds == {"parquet"}:
        return SourceFiles(pattern, files, "parquet")
    dialect, notes = _sniff_dialect(connection, files[-1])
    return SourceFiles(pattern, files, "csv", dialect, tuple(notes))


def _is_data_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(("_", ".")) and path.stat().st_size > 0


def _suffix_of_folder(folder: Path) -> str:
    found = [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and _is_data_file(p)]
    suffixes = Counter(path.suffix for path in found)
    if not suffixes:
        message = (
            f"{folder} holds no data: expected files that end in {', '.join(sorted(SUFFIXES))}; "
            "correct --source, or name the files with a pattern"
        )
        raise SourceError(message)
    if len(suffixes) > 1:
        message = f"{folder} holds {dict(suffixes)} files; name one kind: '{folder}/*.csv'"
        raise SourceError(message)
    return suffixes.most_common(1)[0][0]


def _file_format(file: str) -> Literal["csv", "parquet"]:
    try:
        with Path(file).open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror}); check its permissions"
        raise SourceError(message) from error
    if start == b"PAR1":
        return "parquet"
    for mark, kind in COMPRESSED.items():
        if start.startswith(mark):
            message = f"expected plain CSV or Parquet, but {file} is {kind} data; unpack it first"
            raise SourceError(message)
    if Path(file).suffix.lower() in {".parquet", ".pq"}:
        message = f"{file} is no Parquet file (it must begin with PAR1); deliver it again"
        raise SourceError(message)
    return "csv"


def _find_encoding(file: str) -> Encoding:
    with Path(file).open("rb") as stream:
        data = stream.read(DECODED_BYTES)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:200]:
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _sniff_dialect(connection: duckdb.DuckDBPyConnection, file: str) -> tuple[Dialect, list[str]]:
    encoding = _find_encoding(file)
    try:
        row = connection.execute(
            "SELECT Delimiter, Quote, Escape, SkipRows, HasHeader "
            f"FROM sniff_csv(?, encoding = {quote_text(encoding)}, sample_size = 20000)",
            [file],
        ).fetchone()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        message = f"expected a CSV file with a header line, but {file} is not one: {reason}"
        raise SourceError(message) from error
    delimiter, quote, escape, skipped, header = row or (",", '"', '"', 0, True)
    if skipped:
        message = f"{file}: expected the column names in line 1, found them in line {skipped + 1}"
        raise SourceError(f"{message}; remove the lines before")
    notes = []
    if escape == "\\":
        notes.append('quotes are escaped with "\\"; Nightwarden reads doubled quotes only')
    quote = _settle_quote(file, quote, encoding)
    return Dialect(delimiter, quote, bool(header), encoding), notes


def _settle_quote(file: str, sniffed: str, encoding: str) -> str:
    """Keep the usual quote where the file has none, for files to come; DuckDB says '(empty)'."""
    if sniffed not in {"(empty)", ""}:
        return sniffed
    with Path(file).open(encoding=encoding, errors="replace", newline="") as stream:
        return "" if '"' in stream.read(1_000_000) else '"'


def dates_in_path(path: str) -> list[tuple[int, int, date, str]]:
    """Find the dates in a path: begin, end, date and how to write it in braces.

    Example:
        >>> dates_in_path("/in/tx_20180401.csv")
        [(7, 15, datetime.date(2018, 4, 1), '{date:%Y%m%d}')]
    """
    found = []
    for match in [*DATE_IN_PATH.finditer(path), *HIVE_DATE.finditer(path)]:
        year, mark, month, day = match.groups()
        try:
            when = date(int(year), int(month), int(day))
        except ValueError:
            continue
        if not 1970 <= when.year <= 2100:
            continue
        if mark == "month=":
            text = "year={date:%Y}/month={date:%m}/day={date:%d}"
        else:
            text = "{date}" if mark == "-" else f"{{date:%Y{mark}%m{mark}%d}}"
        found.append((*match.span(), when, text))
    return sorted(found)


def escape_path(path: str) -> str:
    """Write a path so that neither ``str.format`` nor glob changes it."""
    return glob.escape(path).replace("{", "{{").replace("}", "}}")


def dated_path(
    files: Sequence[str], row_days: Mapping[str, date]
) -> tuple[str, date, date] | None:
    """Write the path with a placeholder for the day, and the first and last day of the files.

    Args:
        files: All files.
        row_days: The day of most rows, for some of the files: only a date that says when the
            rows happened (and not when the file was written) becomes the placeholder.

    Returns:
        None if the names do not tell the day.
    """
    if not row_days:
        return None
    hits = Counter(
        position
        for file, day in row_days.items()
        for position, (_, _, when, _) in enumerate(dates_in_path(file))
        if when == day
    )
    if not hits:
        return None
    position, n_hits = hits.most_common(1)[0]
    if n_hits * 2 <= len(row_days):
        return None
    days, templates = [], []
    for file in files:
        dates = dates_in_path(file)
        if len(dates) <= position:
            return None
        days.append(dates[position][2])
        templates.append(_cut_at_dates(file, dates, days[-1]))
    path = _join_templates(templates)
    return None if path is None else (path, min(days), max(days))


def _cut_at_dates(
    file: str, dates: Sequence[tuple[int, int, date, str]], day: date
) -> tuple[list[str], list[str]]:
    """Cut a path into the texts around the day's dates, and those dates' placeholders."""
    texts, marks, end = [], [], 0
    for begin, stop, when, mark in dates:
        if when == day:
            texts.append(file[end:begin])
            marks.append(mark)
            end = stop
    return [*texts, file[end:]], marks


def _join_templates(templates: Sequence[tuple[list[str], list[str]]]) -> str | None:
    marks = templates[0][1]
    if any(other != marks for _, other in templates):
        return None
    parts = [_common_glob(texts) for texts in zip(*(texts for texts, _ in templates), strict=True)]
    if any(part is None for part in parts):
        return None
    return "".join((part or "") + mark for part, mark in zip(parts, [*marks, ""], strict=True))


def _common_glob(texts: Sequence[str]) -> str | None:
    """Write the glob for texts alike but for some names; None if their depths differ."""
    if len({text.count("/") for text in texts}) > 1:
        return None
    columns = zip(*(text.split("/") for text in texts), strict=True)
    return "/".join(_star_name(names) for names in columns)


def _common_start(names: Sequence[str]) -> str:
    """Give the characters with which all names begin."""
    equal = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in equal)


def _star_name(names: Sequence[str]) -> str:
    if len(set(names)) == 1:
        return escape_path(names[0])
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    # Cut at whole words and numbers: part-001 and part-002 make part-*, not part-00*.
    start = re.sub(r"[^\W_]+$", "", start)
    end = re.sub(r"^[^\W_]+", "", end)
    return f"{escape_path(start)}*{escape_path(end)}"
