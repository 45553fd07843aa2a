"""Turn ``raw`` into ``checked``: canonical columns and types, and each row's first broken rule."""

from datetime import date, timedelta

import duckdb

from warehouse.connection import quote_name, quote_text
from warehouse.errors import SettingsError
from warehouse.rules import ValidationSettings, copy_rules, first_broken, row_rules
from warehouse.schema import TRANSACTIONS
from warehouse.source import (
    SQL_PREFIX,
    SourceSettings,
    bound_type,
    column_expression,
    text_to_instant,
)


def column_types(settings: SourceSettings) -> dict[str, str]:
    """Give the lake type of every mapped column."""
    types = {column.name: column.type for column in TRANSACTIONS.columns}
    mapped = {name: types[name] for name in settings.columns.given()}
    kinds = {"numeric": "DOUBLE", "categorical": "VARCHAR"}
    mapped |= {name: kinds[extra.type] for name, extra in settings.extra.items()}
    return mapped | ({"is_fraud": "BOOLEAN"} if settings.label else {})


def stage_day(
    connection: duckdb.DuckDBPyConnection,
    settings: SourceSettings,
    limits: ValidationSettings,
    day: date,
) -> None:
    """Make the table ``checked`` from ``raw``.

    One row per source row: the canonical columns (null where unreadable), each one's text as
    ``NAME_text``, ``_file``, ``_row``, and ``rule`` and ``value`` of the first broken row rule.

    Raises:
        SettingsError: if an expression of the mapping cannot be bound to the source's columns.
    """
    _make_staged(connection, settings)
    rule, value = first_broken(row_rules(settings, day))
    connection.execute(
        f"CREATE OR REPLACE TABLE judged AS SELECT *, {rule} AS rule, {value} AS value FROM staged"
    )
    copy_rule, copy_value = first_broken(copy_rules())
    window = limits.duplicate_window_days
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE checked AS
        WITH published AS (
            SELECT transaction_id, min(event_date) AS _published_on
            FROM lake.transactions
            WHERE event_date BETWEEN $low AND $high AND event_date <> $day
              AND transaction_id IN (SELECT transaction_id FROM judged)
            GROUP BY transaction_id
        ), counted AS (
            SELECT judged.*, _published_on,
                row_number() OVER copies AS _copy, first_value(_file) OVER copies AS _first_file
            FROM judged LEFT JOIN published USING (transaction_id)
            WINDOW copies AS (PARTITION BY transaction_id, rule IS NULL ORDER BY _file, _row)
        )
        SELECT * EXCLUDE (_published_on, _copy, _first_file)
            REPLACE (coalesce(rule, {copy_rule}) AS rule,
                     CASE WHEN rule IS NULL THEN {copy_value} ELSE value END AS value)
        FROM counted ORDER BY _row
        """,
        {"low": day - timedelta(days=window), "high": day + timedelta(days=window), "day": day},
    )
    connection.execute("DROP TABLE judged; DROP TABLE staged")


def _make_staged(connection: duckdb.DuckDBPyConnection, settings: SourceSettings) -> None:
    types = column_types(settings)
    parts = []
    for name, text in settings.expressions().items():
        expression = column_expression(text)
        kind = bound_type(connection, name, expression, "raw")
        typed = _cast(expression, kind, types[name], settings.time_zone)
        shown = _cast(expression, kind, "VARCHAR", settings.time_zone)
        parts += [f"{typed} AS {quote_name(name)}", f"{shown} AS {quote_name(name + '_text')}"]
    zone = quote_text(settings.time_zone)
    try:
        connection.execute(
            f"CREATE OR REPLACE TABLE staged AS SELECT *, "
            f"CAST(timezone({zone}, occurred_at) AS DATE) AS event_date "
            f"FROM (SELECT {', '.join(parts)}, _file, _row FROM raw)"
        )
    except duckdb.BinderException as error:
        reason = str(error).splitlines()[0]
        message = f"[source]: an expression must give one value a row: {reason}; correct it"
        raise SettingsError(message) from error


def _cast(expression: str, kind: str, wanted: str, zone: str) -> str:
    """Write the cast from an expression's type to a lake type; null where it cannot be read."""
    if wanted == "TIMESTAMPTZ":
        return _to_instant(expression, kind, zone)
    if wanted == "VARCHAR":
        return f"nullif(trim(CAST({expression} AS VARCHAR)), '')"
    if wanted == "BOOLEAN" and kind not in ("BOOLEAN", "VARCHAR"):
        return f"CASE {expression} WHEN 0 THEN false WHEN 1 THEN true END"
    return f"TRY_CAST({expression} AS {wanted})"


def _to_instant(expression: str, kind: str, zone: str) -> str:
    """Write the cast to a point in time; times without a zone are in the source's zone."""
    quoted = quote_text(zone)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return expression
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"timezone({quoted}, CAST({expression} AS TIMESTAMP))"
    if kind != "VARCHAR":
        message = (
            f"[source] occurred_at must be a time or a text, but its source column is {kind}; "
            f'for seconds since 1970 write "{SQL_PREFIX} to_timestamp({expression})"'
        )
        raise SettingsError(message)
    return text_to_instant(expression, zone)
