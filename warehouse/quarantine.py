"""Rows that were set aside: list them, and replay them once the mapping or a rule is mended."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import duckdb

from warehouse.connection import Lake, quote_name, quote_text
from warehouse.errors import UserError, WarehouseError
from warehouse.ledger import PartitionRun, digest, write_run
from warehouse.publishing import (
    LATE_BATCH_PREFIX,
    Stamp,
    add_extra_columns,
    append_labels,
    insert_transactions,
    mark_published_elsewhere,
)
from warehouse.rules import ValidationSettings
from warehouse.source import SourceSettings
from warehouse.staging import stage_day


@dataclass(frozen=True)
class QuarantineCount:
    """How many rows of a day broke a rule, with an example."""

    event_date: date
    rule: str
    rows: int
    example_value: str | None
    example_raw: str


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did: rows that are published now, and rows that still break a rule."""

    published: int
    still_broken: int
    days: tuple[date, ...]


def list_quarantine(
    lake: Lake, start: date | None = None, end: date | None = None
) -> list[QuarantineCount]:
    """Count the rows set aside by day and rule, newest day first."""
    rows = lake.connection.execute(
        """
        SELECT event_date, rule, count(*), arg_min_null(value, raw), min(raw)
        FROM lake.quarantine
        WHERE event_date BETWEEN coalesce($start, event_date) AND coalesce($end, event_date)
        GROUP BY event_date, rule ORDER BY event_date DESC, count(*) DESC, rule
        """,
        {"start": start, "end": end},
    ).fetchall()
    return [QuarantineCount(day, rule, int(n), value, raw) for day, rule, n, value, raw in rows]


def replay_quarantine(
    lake: Lake,
    settings: SourceSettings,
    limits: ValidationSettings,
    day: date,
    *,
    to_own_day: bool = False,
) -> ReplayReport:
    """Judge a day's quarantined rows anew and publish those that now pass.

    With ``to_own_day`` a row is judged against the day it happened on, so that rows that came
    late, in another day's file, join their own day.

    Raises:
        UserError: if nothing of the day is in quarantine, or only lines that were no rows.
    """
    started = datetime.now(UTC)
    schemas = _raw_schemas(lake, day)
    published, targets = 0, set()
    for schema in schemas:
        _make_raw(lake, day, schema)
        stage_day(lake.connection, settings, limits, day)
        days = _own_days(lake) if to_own_day else [day]
        for target in days:
            stage_day(lake.connection, settings, limits, target)
            run = _replay_run(settings, day, target, started)
            added = _publish_passing(lake, settings, limits, run, is_late=target != day)
            published += added
            targets |= {target} if added else set()
    row = lake.connection.execute(
        "SELECT count(*) FROM lake.quarantine WHERE event_date = ?", [day]
    ).fetchone()
    return ReplayReport(published, int(row[0]) if row else 0, tuple(sorted(targets)))


def _raw_schemas(lake: Lake, day: date) -> Sequence[str]:
    rows = lake.connection.execute(
        "SELECT DISTINCT raw_schema FROM lake.quarantine "
        "WHERE event_date = ? AND raw_schema <> '{}' ORDER BY 1",
        [day],
    ).fetchall()
    if not rows:
        message = f"no row of {day} is in quarantine; see nightwarden quarantine list"
        raise UserError(message)
    return [row[0] for row in rows]


def _make_raw(lake: Lake, day: date, schema: str) -> None:
    """Rebuild the table ``raw`` from the JSON of the rows."""
    types: dict[str, str] = json.loads(schema)
    texts = json.dumps(dict.fromkeys(types, "VARCHAR"), ensure_ascii=False)
    columns = ", ".join(
        f"CAST(texts.{quote_name(name)} AS {kind}) AS {quote_name(name)}"
        for name, kind in types.items()
    )
    lake.connection.execute(
        f"CREATE OR REPLACE TABLE raw AS SELECT {columns}, source_file AS _file, "
        "row_number() OVER (ORDER BY source_file, raw) AS _row, _quarantine_row "
        f"FROM (SELECT from_json(raw, {quote_text(texts)}) AS texts, raw, source_file, "
        "rowid AS _quarantine_row FROM lake.quarantine WHERE event_date = ? AND raw_schema = ?)",
        [day, schema],
    )


def _own_days(lake: Lake) -> list[date]:
    rows = lake.connection.execute(
        "SELECT DISTINCT event_date FROM checked WHERE event_date IS NOT NULL ORDER BY 1"
    ).fetchall()
    return [row[0] for row in rows]


def _replay_run(
    settings: SourceSettings, day: date, target: date, started: datetime
) -> PartitionRun:
    return PartitionRun(
        target,
        "replay",
        "done",
        started,
        digest(settings.meaning()),
        data_digest=digest([day, target, started]),
    )


def _publish_passing(
    lake: Lake,
    settings: SourceSettings,
    limits: ValidationSettings,
    run: PartitionRun,
    *,
    is_late: bool,
) -> int:
    """Move the rows of ``checked`` that pass, and are not in the lake yet, out of quarantine."""
    connection = lake.connection
    prefix = LATE_BATCH_PREFIX if is_late else "replay-"
    stamp = Stamp(batch=f"{prefix}{run.data_digest}"[:21], now=run.started_at)
    with lake.locked():
        connection.execute(
            "UPDATE checked SET rule = 'transaction_id_repeated_in_day' WHERE rule IS NULL "
            "AND transaction_id IN "
            "(SELECT transaction_id FROM lake.transactions WHERE event_date = ?)",
            [run.event_date],
        )
        mark_published_elsewhere(connection, run.event_date, limits.duplicate_window_days)
        row = connection.execute("SELECT count(*) FROM checked WHERE rule IS NULL").fetchone()
        passing = int(row[0]) if row else 0
        if not passing:
            return 0
        with lake.commit():
            add_extra_columns(connection, settings)
            insert_transactions(connection, settings, stamp)
            if settings.label:
                append_labels(connection, settings, run.event_date, stamp)
            _release(connection, passing)
            write_run(connection, replace(run, rows_in=passing, rows_out=passing))
    return passing


def _release(connection: duckdb.DuckDBPyConnection, passing: int) -> None:
    """Delete the published rows from quarantine; inside a commit.

    Raises:
        WarehouseError: if another run replaced the quarantine meanwhile.
    """
    row = connection.execute(
        "DELETE FROM lake.quarantine WHERE rowid IN "
        "(SELECT _quarantine_row FROM raw JOIN checked USING (_row) WHERE rule IS NULL)"
    ).fetchone()
    if row is None or row[0] != passing:
        message = (
            f"expected {passing} rows to leave quarantine, found {row and row[0]}: the day was "
            "ingested meanwhile; replay it again"
        )
        raise WarehouseError(message)
