"""Which day is over where the source is, and whether its transactions have come."""

from datetime import date, datetime

import duckdb

from warehouse.errors import DayMissingError
from warehouse.source import (
    SourceSettings,
    address_of_day,
    bound_type,
    column_expression,
    day_conditions,
    explain_unreadable,
    files_of_day,
    source_scan,
)


def day_at(time_zone: str, moment: datetime) -> date:
    """Give the day that it is in a time zone; DuckDB knows the zones that settings may name.

    Example:
        >>> from datetime import UTC
        >>> day_at("Asia/Tokyo", datetime(2026, 3, 21, 15, tzinfo=UTC)).isoformat()
        '2026-03-22'
    """
    with duckdb.connect() as connection:
        row = connection.execute(
            "SELECT CAST(timezone(?, ?::TIMESTAMPTZ) AS DATE)", [time_zone, moment]
        ).fetchone()
    if row is None:
        message = "DuckDB gave no day"
        raise RuntimeError(message)
    found: date = row[0]
    return found


def has_day_come(settings: SourceSettings, day: date) -> bool:
    """Tell whether the day's file is there or, in a source of many days, any row of the day.

    Raises:
        SourceError: if the source cannot be read.
        BusyError: if the source's database went away.
    """
    try:
        is_file = settings.format != "postgres"
        files = files_of_day(settings, day) if is_file else [address_of_day(settings, day)]
    except DayMissingError:
        return False
    if not settings.holds_many_days():
        return True
    with duckdb.connect() as connection:
        try:
            return _has_row(connection, settings, files, day)
        except duckdb.Error as error:
            raise explain_unreadable(settings, files, error) from None


def _has_row(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, files: list[str], day: date
) -> bool:
    scan = source_scan(connection, settings, files)
    dated = "true"
    if settings.date_column:
        column = column_expression(settings.date_column)
        kind = bound_type(connection, "date_column", column, scan)
        dated, _ = day_conditions(settings, column, kind, day)
    return connection.execute(f"SELECT 1 FROM {scan} WHERE {dated} LIMIT 1").fetchone() is not None
