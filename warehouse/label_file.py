"""Read a file of labels into the table ``label_rows``, and judge each row in ``label_checked``.

Only the four columns of a label are read, and transaction ids are pseudonymised in the very
statement that reads them where the source's are: nothing else of the file is ever stored.
"""

import codecs
import csv
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl

from warehouse.connection import quote_name, quote_text, quote_texts
from warehouse.csv_source import RejectedLine, csv_scan, rejected_lines
from warehouse.errors import SettingsError, SourceError
from warehouse.privacy import PseudonymKey
from warehouse.rules import FUTURE_TOLERANCE, RowRule, first_broken
from warehouse.source import SourceSettings, text_to_instant
from warehouse.source_files import COMPRESSED, DECODED_BYTES, Dialect, Encoding

LABEL_SOURCES = ("chargeback", "analyst", "import")
NEEDED_COLUMNS = ("transaction_id", "label", "known_at")
COLUMNS = (*NEEDED_COLUMNS, "source")
DELIMITERS = (",", ";", "\t", "|")
NUL = "chr(0), '\ufffd'"  # DuckLake cannot look for a text with this character
LINE_UNREADABLE = "line_unreadable"
CONTRADICTED = "label_contradicted_in_file"
RULES = (
    RowRule(
        "transaction_id_missing",
        "transaction_id",
        "transaction_id_text IS NULL",
        "transaction_id is given",
    ),
    RowRule("label_missing", "label", "label_text IS NULL", "label is given"),
    RowRule(
        "label_unreadable",
        "label",
        "is_fraud IS NULL",
        "label is 0, 1, true, false, fraud or genuine",
    ),
    RowRule("known_at_missing", "known_at", "known_at_text IS NULL", "known_at is given"),
    RowRule("known_at_unreadable", "known_at", "known_at IS NULL", "known_at is a time or a date"),
    RowRule(
        "source_unknown",
        "source",
        f"source NOT IN ({', '.join(map(quote_text, LABEL_SOURCES))})",
        f"source is {', '.join(LABEL_SOURCES)} or empty",
    ),
    RowRule(
        "transaction_unknown",
        "transaction_id",
        "event_date IS NULL",
        "the transaction is in the lake",
    ),
    RowRule(
        "known_at_before_transaction",
        "known_at",
        "known_at < occurred_at",
        "the label became known after the transaction happened",
    ),
    RowRule(
        "known_at_in_future",
        "known_at",
        f"known_at > $now + {FUTURE_TOLERANCE}",
        "the label is known already",
    ),
)
"""What a row must satisfy, in the order of trial; the first broken rule is recorded."""


def read_label_file(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    settings: SourceSettings,
    key: PseudonymKey | None,
) -> None:
    """Read the rows into ``label_rows``, and lines that are no rows into ``label_lines``.

    Both carry ``row_number``, the place in the file from 1. ``label_rows`` holds each column's
    text as ``NAME_text``, null where it is empty; ``label_lines`` says as ``value`` what was wrong.

    Raises:
        SourceError: if the file is missing, empty, neither CSV nor Parquet, or lacks a column.
        SettingsError: if the source's transaction ids are pseudonymised but there is no key.
    """
    for table in ("reject_errors", "reject_scans"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    dialect = _find_dialect(file)
    try:
        scan = _scan(file, dialect)
        select = _select(connection, file, scan, settings, key)
        connection.execute(
            f"CREATE OR REPLACE TABLE label_rows AS SELECT {select}, row_number() OVER () AS _row "
            f"FROM {scan}"
        )
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        message = f"{file} cannot be read as a table of labels: {reason}; deliver it again"
        raise SourceError(message) from error
    _number_rows(connection, rejected_lines(connection, dialect) if dialect else ())


def _find_dialect(file: Path) -> SourceSettings | None:
    """Find how a CSV file is written; None says that it is Parquet."""
    if not file.is_file() or not file.stat().st_size:
        found = "is empty" if file.is_file() else "is no file"
        message = f"expected a CSV or Parquet file of labels, but {file} {found}; correct its name"
        raise SourceError(message)
    try:
        with file.open("rb") as stream:
            start = stream.read(DECODED_BYTES)
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror}); check its permissions"
        raise SourceError(message) from error
    if start.startswith(b"PAR1"):
        return None
    for mark, kind in COMPRESSED.items():
        if start.startswith(mark):
            message = f"expected plain CSV or Parquet, but {file} is {kind} data; unpack it first"
            raise SourceError(message)
    encoding = _find_encoding(start)
    lines = start.decode(encoding, errors="replace").lstrip("\ufeff").splitlines()
    try:
        names = {mark: _known_names(_split(lines[:1], mark)) for mark in DELIMITERS}
    except csv.Error as error:
        message = (
            f"expected a first line with the columns {', '.join(NEEDED_COLUMNS)}, but that of "
            f"{file} is no header ({error}); correct its name, or deliver it again"
        )
        raise SourceError(message) from error
    delimiter = max(DELIMITERS, key=lambda mark: len(names[mark]))
    return SourceSettings.model_construct(**asdict(Dialect(delimiter, encoding=encoding)))


def _find_encoding(start: bytes) -> Encoding:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:200]:
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _split(lines: Sequence[str], delimiter: str) -> list[str]:
    return next(csv.reader(lines, delimiter=delimiter), [])


def _known_names(names: Sequence[str]) -> dict[str, str]:
    """Map the label's columns to the file's, whatever their case."""
    found = {name.strip().lower(): name for name in names}
    return {name: found[name] for name in COLUMNS if name in found}


def _scan(file: Path, dialect: SourceSettings | None) -> str:
    if dialect is not None:
        return csv_scan(dialect, [str(file)])
    return f"read_parquet({quote_texts([str(file)])}, hive_partitioning = false)"


def _select(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    scan: str,
    settings: SourceSettings,
    key: PseudonymKey | None,
) -> str:
    """Write the SELECT list that reads the label's columns as texts, private ids replaced."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    names = [row[0] for row in described if row[0] != "_file"]
    known = _known_names(names)
    missing = [name for name in NEEDED_COLUMNS if name not in known]
    if missing:
        message = (
            f"expected the columns {', '.join(NEEDED_COLUMNS)} and, if you like, source, but "
            f"{file} has no {', '.join(missing)}; it has {names}; rename its columns"
        )
        raise SourceError(message)
    texts = {
        name: f"nullif(trim(replace(CAST({quote_name(column)} AS VARCHAR), {NUL})), '')"
        for name, column in known.items()
    }
    if has_private_ids(settings):
        if key is None:
            message = (
                "the source's transaction ids are pseudonymised, which needs the key: set "
                "NIGHTWARDEN_PSEUDONYM_KEY, or restore nightwarden.key"
            )
            raise SettingsError(message)
        texts["transaction_id"] = key.expression(connection, quote_name(known["transaction_id"]))
    return ", ".join(f"{texts.get(name, 'NULL::VARCHAR')} AS {name}_text" for name in COLUMNS)


def has_private_ids(settings: SourceSettings) -> bool:
    """Tell whether the lake holds pseudonyms as transaction ids.

    Ids that an expression makes are expected as the lake has them.
    """
    private = {name.lower() for name in settings.pseudonymise}
    return settings.columns.transaction_id.lower() in private


def _number_rows(connection: duckdb.DuckDBPyConnection, rejected: Sequence[RejectedLine]) -> None:
    """Give the rows their place in the file, which lines that are no rows take part in."""
    lines = pl.DataFrame(
        {
            "row_number": [line.line - 1 for line in rejected],  # the header is no row
            "value": [f"line {line.line}: {line.error}" for line in rejected],
        },
        schema={"row_number": pl.Int64, "value": pl.String},
    )
    connection.register("rejected_label_lines", lines.to_arrow())
    connection.execute(
        "CREATE OR REPLACE TABLE label_lines AS SELECT row_number, value FROM rejected_label_lines"
    )
    connection.unregister("rejected_label_lines")
    connection.execute(
        """
        CREATE OR REPLACE TABLE label_rows AS
        WITH shifts AS (
            SELECT row_number - place AS after_row, max(place) AS shift FROM (
                SELECT row_number, row_number() OVER (ORDER BY row_number) AS place
                FROM label_lines)
            GROUP BY ALL
        )
        SELECT r.* EXCLUDE (_row), r._row + coalesce(s.shift, 0) AS row_number
        FROM label_rows r ASOF LEFT JOIN shifts s ON r._row > s.after_row
        """
    )


def judge_labels(
    connection: duckdb.DuckDBPyConnection, time_zone: str, default_source: str, now: datetime
) -> None:
    """Make ``label_checked`` from ``label_rows``: the statement, and the first broken rule.

    A time without a zone is in ``time_zone``. A date says no time: its label counts from the end
    of that day, so that nothing uses it too early. Where an id was published twice, years apart,
    the statement is about the newest transaction that had happened by then.
    """
    rule, value = first_broken(RULES)
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE label_checked AS
        WITH stated AS (
            SELECT *, {_to_truth("label_text")} AS is_fraud,
                {_to_moment("known_at_text", time_zone)} AS known_at,
                coalesce(lower(source_text), $source) AS source
            FROM label_rows
        ), transactions AS (
            SELECT transaction_id, event_date, account_id, merchant_id, occurred_at
            FROM lake.transactions
            WHERE transaction_id IN (SELECT transaction_id_text FROM label_rows)
        ), matched AS (
            SELECT s.*, t.* EXCLUDE (transaction_id)
            FROM stated s LEFT JOIN transactions t ON t.transaction_id = s.transaction_id_text
            QUALIFY row_number() OVER (
                PARTITION BY row_number
                ORDER BY occurred_at <= known_at DESC NULLS LAST, occurred_at DESC) = 1
        ), judged AS (SELECT *, {rule} AS rule, {value} AS value FROM matched),
        compared AS (
            SELECT *, rule IS NULL AND min(is_fraud) OVER same <> max(is_fraud) OVER same
                AS is_contradicted
            FROM judged
            WINDOW same AS (PARTITION BY transaction_id_text, known_at, rule IS NULL)
        )
        SELECT * EXCLUDE (is_contradicted) REPLACE (
            CASE WHEN is_contradicted THEN {quote_text(CONTRADICTED)} ELSE rule END AS rule,
            CASE WHEN is_contradicted THEN label_text ELSE value END AS value)
        FROM compared
        """,
        {"source": default_source, "now": now},
    )


def _to_truth(text: str) -> str:
    """Write the SQL of what a label says; a Parquet file may hold it as 1.0."""
    said = f"lower({text})"
    return (
        f"CASE WHEN {said} IN ('true', 'fraud') OR TRY_CAST({text} AS DOUBLE) = 1 THEN true "
        f"WHEN {said} IN ('false', 'genuine') OR TRY_CAST({text} AS DOUBLE) = 0 THEN false END"
    )


def _to_moment(text: str, zone: str) -> str:
    """Write the SQL of when a label became known; null where that cannot be read."""
    day = f"TRY_CAST({text} AS TIMESTAMP)"
    end = f"timezone({quote_text(zone)}, {day} + INTERVAL 1 DAY)"
    return (  # TRY: a year near the last that there is has no next day
        f"TRY(CASE WHEN contains({text}, ':') THEN {text_to_instant(text, zone)} "
        f"WHEN isfinite({day}) THEN {end} END)"
    )
