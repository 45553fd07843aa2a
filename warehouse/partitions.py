"""Land one day: read, stage, validate, and replace the day's partition in one short commit."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

from warehouse import expectations
from warehouse.connection import Lake, quote_name
from warehouse.errors import DayMissingError, DayRefusedError
from warehouse.ledger import (
    PartitionRun,
    day_states,
    digest,
    find_repeated,
    table_digest,
    write_run,
)
from warehouse.privacy import PseudonymKey, record_key, require_same_key
from warehouse.publishing import (
    LATE_BATCH_PREFIX,
    Stamp,
    add_extra_columns,
    append_labels,
    make_quarantine_rows,
    mark_published_elsewhere,
    replace_quarantine,
    replace_transactions,
    stored_columns,
)
from warehouse.rules import History, ValidationSettings, day_rules, judged_copy_rules, row_rules
from warehouse.schema import TRANSACTIONS
from warehouse.source import SourceBatch, SourceSettings, read_day
from warehouse.staging import stage_day

HISTORY_DAYS = 56
COMPARED_WEEKDAYS = 3


@dataclass(frozen=True)
class IngestReport:
    """What happened to a day: ``published``, or ``unchanged`` when the same data was there."""

    day: date
    status: str
    rows_in: int
    rows_published: int
    rows_quarantined: int
    broken_rules: dict[str, int]
    labels_added: int
    page: Path | None
    notes: tuple[str, ...]


def land_day(
    lake: Lake,
    settings: SourceSettings,
    limits: ValidationSettings,
    day: date,
    *,
    key: PseudonymKey | None,
    pages: Path,
    force: bool = False,
) -> IngestReport:
    """Read, check and publish a day; the same input again changes nothing.

    Raises:
        DayMissingError: if the day's file or, in a source of many days, its rows have not come.
        SourceError: if the day's source cannot be read as the settings say.
        DayRefusedError: if a day rule is broken and ``force`` is not set; the day stays as it was.
    """
    started = datetime.now(UTC)
    batch = _read(lake, settings, day, key)
    if not (force or batch.n_rows or batch.rejected) and settings.holds_many_days():
        message = f"no row for {day} in {batch.files[0]}: deliver it, or correct [source]"
        raise DayMissingError(message)
    run = _begin(lake, settings, limits, batch, started)
    if not force and find_repeated(lake, run):
        return _unchanged(lake, run)
    stage_day(lake.connection, settings, limits, day)
    rules = [*row_rules(settings, day), *judged_copy_rules()]
    history = _history(lake, settings, day)
    stops = day_rules(settings, limits, history, len(batch.rejected))
    report = expectations.validate_day(lake.connection, day.isoformat(), rules, stops)
    page = expectations.write_page(pages, day.isoformat(), report.html)
    if report.broken_day_rules and not force:
        _refuse(lake, run, report.broken_day_rules, page)
    done = _publish(lake, settings, limits, batch, run, key)
    return IngestReport(
        day,
        "published",
        done.run.rows_in,
        done.run.rows_out,
        done.run.rows_quarantined,
        broken_row_counts(lake, day),
        done.labels_added,
        page,
        _notes(lake.connection, settings, done.run),
    )


def ingest_digest(settings: SourceSettings, limits: ValidationSettings) -> str:
    """Give the digest of the settings that decide what of a day is published."""
    return digest([settings.meaning(), limits.model_dump(mode="json")])


def _begin(
    lake: Lake,
    settings: SourceSettings,
    limits: ValidationSettings,
    batch: SourceBatch,
    started: datetime,
) -> PartitionRun:
    rows = "(SELECT * EXCLUDE (_file) FROM raw)"  # files may move
    rejected = [(line.line, line.error, line.text) for line in batch.rejected]
    return PartitionRun(
        batch.day,
        "ingest",
        "done",
        started,
        ingest_digest(settings, limits),
        rows_in=batch.n_rows + len(batch.rejected),
        snapshot_id=lake.snapshot_id(),
        data_digest=digest([table_digest(lake.connection, rows), rejected]),
    )


def _read(
    lake: Lake, settings: SourceSettings, day: date, key: PseudonymKey | None
) -> SourceBatch:
    today = datetime.now(UTC).date()
    if day > today + timedelta(days=1):
        message = f"{day} is in the future (today is {today}): there is nothing to ingest yet"
        raise DayRefusedError(message)
    if key is not None and settings.pseudonymise:
        require_same_key(lake, key)
    return read_day(lake.connection, settings, day, key)


def _unchanged(lake: Lake, run: PartitionRun) -> IngestReport:
    row = lake.connection.execute(
        "SELECT count(*) FROM lake.transactions "
        "WHERE event_date = ? AND NOT starts_with(batch_id, ?)",
        [run.event_date, LATE_BATCH_PREFIX],
    ).fetchone()
    broken = broken_row_counts(lake, run.event_date)
    return IngestReport(
        run.event_date,
        "unchanged",
        run.rows_in,
        int(row[0]) if row else 0,
        sum(broken.values()),
        broken,
        0,
        None,
        (),
    )


def landed_before(lake: Lake, day: date) -> IngestReport | None:
    """Give what the ledger and the lake say of a day that is published; None where it is not."""
    run = day_states(lake, day, day).get((day, "ingest"))
    return _unchanged(lake, run) if run is not None and run.status == "done" else None


def broken_row_counts(lake: Lake, day: date) -> dict[str, int]:
    """Count a day's quarantined rows by rule."""
    rows = lake.connection.execute(
        "SELECT rule, count(*) FROM lake.quarantine WHERE event_date = ? GROUP BY rule ORDER BY 1",
        [day],
    ).fetchall()
    return {rule: int(count) for rule, count in rows}


def _history(lake: Lake, settings: SourceSettings, day: date) -> History:
    """Look back eight weeks: the same weekday's row counts (else all), last week's null shares."""
    rows = lake.connection.execute(
        """
        WITH newest AS (
            SELECT event_date, rows_in FROM lake.partition_runs
            WHERE stage = 'ingest' AND status = 'done' AND event_date BETWEEN $low AND $high
            QUALIFY row_number() OVER (PARTITION BY event_date ORDER BY finished_at DESC) = 1
        )
        SELECT count(*) FILTER (same_weekday), median(rows_in) FILTER (same_weekday),
               count(*), median(rows_in)
        FROM (SELECT *, dayofweek(event_date) = dayofweek($day) AS same_weekday FROM newest)
        """,
        {"low": day - timedelta(days=HISTORY_DAYS), "high": day - timedelta(days=1), "day": day},
    ).fetchone() or (0, None, 0, None)
    weekdays, typical_weekday, days, typical_day = rows
    usable = weekdays >= COMPARED_WEEKDAYS
    return History(
        typical_rows=typical_weekday if usable else typical_day,
        compared_days=weekdays if usable else days,
        null_shares=_null_shares(lake, settings, day),
    )


def _null_shares(lake: Lake, settings: SourceSettings, day: date) -> dict[str, float]:
    optional = [c.name for c in TRANSACTIONS.columns if c.nullable]
    names = [n for n in settings.columns.given() if n in optional]
    stored = stored_columns(lake.connection)
    names += [name for name in settings.extra if name in stored]
    if not names:
        return {}
    shares = ", ".join(f"avg(({quote_name(name)} IS NULL)::INT)" for name in names)
    row = lake.connection.execute(
        f"SELECT {shares} FROM lake.transactions WHERE event_date BETWEEN ? AND ?",
        [day - timedelta(days=7), day - timedelta(days=1)],
    ).fetchone()
    found = zip(names, row or (), strict=True)
    return {name: float(share) for name, share in found if share is not None}


def _refuse(lake: Lake, run: PartitionRun, broken: dict[str, str], page: Path) -> None:
    reasons = "; ".join(f"{rule}: {text}" for rule, text in broken.items())
    message = (
        f"{run.event_date} is not published ({reasons}). What was there before stays. See {page}; "
        "correct the source and ingest the day again, or publish it as it is with --force"
    )
    refused = replace(run, status="refused", error=reasons)
    with lake.commit() as connection:
        write_run(connection, refused)
    raise DayRefusedError(message)


@dataclass(frozen=True)
class _Published:
    run: PartitionRun
    labels_added: int


def _publish(
    lake: Lake,
    settings: SourceSettings,
    limits: ValidationSettings,
    batch: SourceBatch,
    run: PartitionRun,
    key: PseudonymKey | None,
) -> _Published:
    connection = lake.connection
    stamp = Stamp(batch=digest([run.data_digest, run.settings_digest])[:16], now=run.started_at)
    with lake.locked():
        if lake.snapshot_id() != run.snapshot_id:
            mark_published_elsewhere(connection, batch.day, limits.duplicate_window_days)
        make_quarantine_rows(connection, batch, stamp)
        good, bad = connection.execute(
            "SELECT count(*) - count(rule), count(rule) FROM checked"
        ).fetchone() or (0, 0)
        run = replace(run, rows_out=good, rows_quarantined=bad + len(batch.rejected))
        with lake.commit():
            add_extra_columns(connection, settings)
            replace_transactions(connection, settings, batch.day, stamp)
            replace_quarantine(connection, batch)
            added = append_labels(connection, settings, batch.day, stamp) if settings.label else 0
            write_run(connection, run)
            if key is not None and settings.pseudonymise:
                record_key(lake, key)
    return _Published(run, added)


def _notes(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, run: PartitionRun
) -> tuple[str, ...]:
    if settings.label is None or not run.rows_out:
        return ()
    row = connection.execute("SELECT count(is_fraud) FROM checked").fetchone()
    if row and row[0] == 0:
        return (
            f"{run.event_date}: the label column {settings.label.column!r} is empty in all "
            f"{run.rows_out:,} rows, so no label was stored; "
            "ingest the day again once it is known",
        )
    return ()
