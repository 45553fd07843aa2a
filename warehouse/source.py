"""Read one day of the source (CSV, Parquet or a PostgreSQL table) into the staging table ``raw``.

Private columns are replaced or dropped in the very statement that reads them, so nothing behind
this door ever holds them.
"""

import difflib
import glob
import json
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Literal, Self

import duckdb
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from warehouse.connection import quote_name, quote_text, quote_texts
from warehouse.csv_source import RejectedLine, csv_scan, rejected_lines
from warehouse.errors import DayMissingError, SettingsError, SourceError, UserError
from warehouse.postgresql_source import attach_table, explain_failure
from warehouse.privacy import PseudonymKey, card_number_columns

SQL_PREFIX = "sql:"
ZONED_TEXT = r"\d:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|UTC|[+-]\d{2}(:?\d{2})?)$"
RESERVED = {"event_date", "batch_id", "ingested_at", "is_fraud", "rule", "value"}


def _check_expression(text: str) -> str:
    if not text.removeprefix(SQL_PREFIX).strip():
        message = "a column needs the name of a source column or an expression after 'sql:'"
        raise ValueError(message)
    return text


def _check_time_zone(name: str) -> str:
    with duckdb.connect() as connection:
        zones = [row[0] for row in connection.execute("FROM pg_timezone_names()").fetchall()]
    if name in zones:
        return name
    close = difflib.get_close_matches(name, zones, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    message = f"expected a time zone such as 'Europe/Berlin', not {name!r}{hint}"
    raise ValueError(message)


Expression = Annotated[str, AfterValidator(_check_expression)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnMapping(_Frozen):
    """Where each canonical column comes from: a column's name, or ``sql:`` and an expression."""

    transaction_id: Expression
    occurred_at: Expression
    account_id: Expression
    merchant_id: Expression
    amount: Expression
    currency_code: Expression | None = None
    category: Expression | None = None
    latitude: Expression | None = None
    longitude: Expression | None = None
    merchant_latitude: Expression | None = None
    merchant_longitude: Expression | None = None

    def given(self) -> dict[str, str]:
        """Give the mapped columns alone, canonical name to expression."""
        return {name: value for name, value in self if value is not None}


class ExtraColumn(_Frozen):
    """A further column to keep: where it comes from, and whether it is a number or a category."""

    column: Expression
    type: Literal["numeric", "categorical"]


class LabelMapping(_Frozen):
    """The source's fraud label (0/1, true/false), known ``delay_days`` after the transaction."""

    column: Expression
    delay_days: int = Field(7, ge=0, le=365)


class SourceSettings(_Frozen):
    """What ``[source]`` in nightwarden.toml may say."""

    format: Literal["csv", "parquet", "postgres"]
    path: str | None = None
    table: str | None = None
    dsn: SecretStr | None = None
    delimiter: str = Field(",", min_length=1, max_length=4)
    quote: str = Field('"', max_length=1)
    header: bool = True
    encoding: Literal["utf-8", "utf-16", "latin-1"] = "utf-8"
    time_zone: Annotated[str, AfterValidator(_check_time_zone)] = "UTC"
    date_column: Expression | None = None
    wait_minutes: int = Field(
        0, ge=0, le=1440, description="How long a scheduled night waits for its day."
    )
    columns: ColumnMapping
    extra: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")], ExtraColumn] = {}
    pseudonymise: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    label: LabelMapping | None = None

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if (self.format == "postgres") != (self.table is not None and self.path is None):
            message = "format 'postgres' needs table (and no path); 'csv' and 'parquet' need path"
            raise ValueError(message)
        address = self.path or self.table or ""
        if "{date" not in address and self.date_column is None:
            message = (
                f"{address!r} names no day: put {{date}} into it (one file a day), "
                "or set date_column (the column that holds the day)"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _check_extra(self) -> Self:
        canonical = set(ColumnMapping.model_fields)
        texts = {f"{name}_text" for name in (*canonical, *self.extra, "is_fraud")}
        taken = set(self.extra) & (canonical | texts | RESERVED)
        if taken:
            message = f"extra columns need names of their own, not {sorted(taken)}"
            raise ValueError(message)
        return self

    def meaning(self) -> dict[str, Any]:
        """Give what decides how rows are read, without where they lie: files may move."""
        return self.model_dump(mode="json", exclude={"path", "table", "dsn", "wait_minutes"})

    def holds_many_days(self) -> bool:
        """Tell whether the source is there before a day's rows are: a table, or one file of all."""
        return self.format == "postgres" or self.date_column is not None

    def expressions(self) -> dict[str, str]:
        """Give every mapped column (canonical, extra, label) and its expression."""
        extras = {name: extra.column for name, extra in self.extra.items()}
        label = {"is_fraud": self.label.column} if self.label else {}
        return {**self.columns.given(), **extras, **label}


@dataclass(frozen=True)
class SourceBatch:
    """What was read: files, columns and types of ``raw``, and the lines that were no rows."""

    day: date
    files: tuple[str, ...]
    types: dict[str, str]
    n_rows: int
    rejected: tuple[RejectedLine, ...]


def address_of_day(settings: SourceSettings, day: date) -> str:
    """Fill the day into the source's path or table; ``{date}`` is ISO, ``{date:%Y%m%d}`` as asked.

    Raises:
        SettingsError: if the placeholder cannot be filled.
    """
    address = settings.path or settings.table or ""
    try:
        return address.format(date=day)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        message = f"source path {address!r}: only {{date}} or {{date:%Y%m%d}} can be filled in"
        raise SettingsError(message) from error


def files_of_day(settings: SourceSettings, day: date) -> list[str]:
    """Find the day's files, sorted.

    Raises:
        DayMissingError: if there is none.
    """
    pattern = address_of_day(settings, day)
    files = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    if not files:
        message = f"no file for {day}: expected {pattern}; deliver it, or correct [source] path"
        raise DayMissingError(message)
    return files


def read_day(
    connection: duckdb.DuckDBPyConnection,
    settings: SourceSettings,
    day: date,
    key: PseudonymKey | None,
) -> SourceBatch:
    """Read a day's rows into the table ``raw``: source columns, ``_file`` and ``_row``.

    Raises:
        DayMissingError: if there is no file for the day.
        SourceError: if a file is unreadable, lacks a mapped column, or holds card numbers that are
            neither pseudonymised nor dropped.
        BusyError: if the source's database went away.
        SettingsError: if ``pseudonymise`` names columns but there is no key.
    """
    postgres = settings.format == "postgres"
    files = [address_of_day(settings, day)] if postgres else files_of_day(settings, day)
    for table in ("raw", "reject_errors", "reject_scans"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    try:
        scan = source_scan(connection, settings, files)
        types = _describe(connection, scan)
        _require_columns(settings, types, files[0])
        select = _private_select(connection, settings, types, key)
        of_day = _day_scan(connection, settings, scan, day)
        connection.execute(
            f"CREATE TABLE raw AS SELECT {select}, row_number() OVER () AS _row FROM {of_day}"
        )
    except duckdb.Error as error:
        raise explain_unreadable(settings, files, error) from None
    finally:
        connection.execute("DETACH DATABASE IF EXISTS source_db")
    rejected = rejected_lines(connection, settings) if settings.format == "csv" else ()
    types = _describe(connection, "raw")
    del types["_file"], types["_row"]
    row = connection.execute("SELECT count(*) FROM raw").fetchone()
    _refuse_card_numbers(connection, settings, types)
    return SourceBatch(day, tuple(files), types, int(row[0]) if row else 0, rejected)


def source_scan(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, files: list[str]
) -> str:
    """Write what stands after FROM."""
    if settings.format == "postgres":
        return attach_table(connection, settings.dsn, files[0])
    if settings.format == "csv":
        return csv_scan(settings, files)
    return f"read_parquet({quote_texts(files)}, filename = '_file', hive_partitioning = false)"


def _describe(connection: duckdb.DuckDBPyConnection, scan: str) -> dict[str, str]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    return {row[0]: row[1] for row in rows}


def _require_columns(settings: SourceSettings, types: dict[str, str], address: str) -> None:
    """Refuse a source that lacks a mapped or private column, naming the likely one."""
    plain = [text for text in settings.expressions().values() if not text.startswith(SQL_PREFIX)]
    known = {name.lower(): name for name in types if name != "_file"}
    wanted = [*plain, *settings.pseudonymise, *settings.drop]
    if settings.date_column and not settings.date_column.startswith(SQL_PREFIX):
        wanted.append(settings.date_column)
    missing = [name for name in dict.fromkeys(wanted) if name.lower() not in known]
    if not missing:
        return
    found = list(known.values())
    message = f"{address} has no column {', '.join(map(repr, missing))}; it has {found}"
    if len(found) == 1 and settings.format == "csv":
        guesses = [mark for mark in (";", "\t", "|", ",") if mark in found[0]]
        if guesses:
            raise SourceError(f"{message}; set [source] delimiter = {json.dumps(guesses[0])}")
    close = difflib.get_close_matches(missing[0].lower(), known, n=1)
    hint = f"; did it become {known[close[0]]!r}?" if close else ""
    raise SourceError(f"{message}{hint}; correct [source] in nightwarden.toml, or the file")


def _private_select(
    connection: duckdb.DuckDBPyConnection,
    settings: SourceSettings,
    types: dict[str, str],
    key: PseudonymKey | None,
) -> str:
    """Write the SELECT list that drops and pseudonymises while reading."""
    if settings.pseudonymise and key is None:
        message = (
            "pseudonymise needs a key: set NIGHTWARDEN_PSEUDONYM_KEY, or run nightwarden init"
        )
        raise SettingsError(message)
    private = {name.lower() for name in settings.pseudonymise}
    dropped = {name.lower() for name in settings.drop}
    parts = []
    for name in types:
        if name.lower() in dropped:
            continue
        if key is not None and name.lower() in private:
            parts.append(f"{key.expression(connection, quote_name(name))} AS {quote_name(name)}")
        else:
            parts.append(quote_name(name))
    return ", ".join(parts)


def _day_scan(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, scan: str, day: date
) -> str:
    """Choose the day's rows of a source of many days; rows without a readable day come too.

    A column of times is asked twice, for the day and for nothing, each of which a Parquet file or a
    database answers without reading the other days.
    """
    if settings.date_column is None:
        return scan
    column = column_expression(settings.date_column)
    kind = bound_type(connection, "date_column", column, scan)
    dated, undated = day_conditions(settings, column, kind, day)
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        rest = f"SELECT * FROM {scan} WHERE {undated}"
        return f"(SELECT * FROM {scan} WHERE {dated} UNION ALL {rest})"
    return f"{scan} WHERE {dated} OR {undated}"


def day_conditions(settings: SourceSettings, column: str, kind: str, day: date) -> tuple[str, str]:
    """Write what the day's rows fulfil, and what those fulfil whose day cannot be read."""
    after = day + timedelta(days=1)
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        low, high = (f"TIMESTAMP '{moment}'" for moment in (day, after))
        if kind == "TIMESTAMP WITH TIME ZONE":
            zone = quote_text(settings.time_zone)
            low, high = f"timezone({zone}, {low})", f"timezone({zone}, {high})"
        return f"{column} >= {low} AND {column} < {high}", f"{column} IS NULL"
    text = f"CAST({column} AS VARCHAR)"
    instant = (
        f"timezone({quote_text(settings.time_zone)}, {text_to_instant(text, settings.time_zone)})"
    )
    found = f"coalesce(CAST({instant} AS DATE), TRY_CAST({text} AS DATE))"
    return f"{found} = DATE '{day}'", f"{found} IS NULL"


def bound_type(
    connection: duckdb.DuckDBPyConnection, name: str, expression: str, relation: str
) -> str:
    """Find the type that a setting's expression gives over a relation.

    Raises:
        SettingsError: if the expression does not fit the relation's columns.
    """
    try:
        row = connection.execute(f"DESCRIBE SELECT {expression} AS x FROM {relation}").fetchone()
    except duckdb.IOException:
        raise  # the source itself, of which whoever reads it can say more
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        message = (
            f"[source] {name}: the expression {expression} cannot be used: {reason}; "
            "correct it in nightwarden.toml"
        )
        raise SettingsError(message) from error
    return str(row[1]) if row else "VARCHAR"


def text_to_instant(text: str, zone: str) -> str:
    """Write the cast of a text to a point in time; times without a zone are in ``zone``."""
    zoned = f"regexp_matches(trim({text}), {quote_text(ZONED_TEXT)})"
    naive = f"timezone({quote_text(zone)}, TRY_CAST({text} AS TIMESTAMP))"
    return f"CASE WHEN {zoned} THEN TRY_CAST({text} AS TIMESTAMPTZ) ELSE {naive} END"


def column_expression(text: str) -> str:
    """Turn a setting into SQL: a quoted column, or the guarded expression after ``sql:``.

    Example:
        >>> column_expression("sql: price / 100")
        'TRY(price / 100)'
    """
    if text.startswith(SQL_PREFIX):
        return f"TRY({text.removeprefix(SQL_PREFIX).strip()})"
    return quote_name(text)


def _refuse_card_numbers(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, types: dict[str, str]
) -> None:
    private = {name.lower() for name in settings.pseudonymise}
    open_columns = [name for name in types if name.lower() not in private]
    found = card_number_columns(connection, "raw", open_columns)
    if found:
        names = json.dumps([*settings.pseudonymise, *found], ensure_ascii=False)
        connection.execute("DROP TABLE raw")
        message = (
            f"column {', '.join(found)} holds card numbers in the clear; add under [source] in "
            f"nightwarden.toml:  pseudonymise = {names}  (or name it in drop)"
        )
        raise SourceError(message)


def explain_unreadable(
    settings: SourceSettings, files: list[str], error: duckdb.Error
) -> UserError:
    """Say in one sentence what DuckDB found wrong with the source, as an error to raise."""
    if settings.format == "postgres":
        return explain_failure(error, settings.dsn, files[0])
    text = str(error).splitlines()[0]
    file = next((name for name in reversed(files) if name in str(error)), files[0])
    if settings.format == "parquet" and "schema mismatch" in str(error).lower():
        message = f"files of one day must have the same columns, but {file} differs: {text}"
    elif settings.format == "parquet":
        message = f"{file} is no whole Parquet file (cut off?): {text}; deliver it again"
    else:
        message = (
            f"{file} cannot be read as csv: {text}; correct [source] in nightwarden.toml, or "
            "deliver it again"
        )
    return SourceError(message)
