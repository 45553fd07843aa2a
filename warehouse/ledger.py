"""The partition ledger: what was done to which day, on what data, with what result."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import duckdb

from warehouse.connection import Lake
from warehouse.schema import PARTITION_RUNS

ARRIVAL = "arrival"
"""The stage under which it is noted that a day's data have not come."""


@dataclass(frozen=True)
class PartitionRun:
    """One finished run of a stage over a day; see ``warehouse.schema.PARTITION_RUNS``."""

    event_date: date
    stage: str
    status: str
    started_at: datetime
    settings_digest: str
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    lane: str | None = None
    snapshot_id: int | None = None
    model_version: str | None = None
    data_digest: str | None = None
    error: str | None = None
    finished_at: datetime | None = None


def code_version() -> str:
    """Give Nightwarden's version, for the record."""
    try:
        return version("nightwarden")
    except PackageNotFoundError:
        return "unknown"


def digest(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Give the SHA-256 of a JSON value; keys are sorted, what JSON lacks is written as text."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def table_digest(connection: duckdb.DuckDBPyConnection, relation: str) -> str:
    """Give a digest of a relation's rows that does not depend on their order."""
    row = connection.execute(
        f"SELECT count(*), coalesce(sum(hash(t)::HUGEINT), 0)::VARCHAR FROM {relation} AS t"
    ).fetchone()
    return digest(list(row or ()))


def write_run(connection: duckdb.DuckDBPyConnection, run: PartitionRun) -> None:
    """Append a run to the ledger; call it inside the transaction that does the run's work."""
    values = asdict(run) | {"code_version": code_version(), "finished_at": datetime.now(UTC)}
    names = PARTITION_RUNS.column_names()
    places = ", ".join(f"${name}" for name in names)
    connection.execute(
        f"INSERT INTO lake.partition_runs ({', '.join(names)}) VALUES ({places})", values
    )


def find_repeated(lake: Lake, run: PartitionRun) -> PartitionRun | None:
    """Give the day's newest run of the stage, if it did the same work on the same data."""
    before = day_states(lake, run.event_date, run.event_date).get((run.event_date, run.stage))
    if before is None or before.status != "done":
        return None
    decisive = ("data_digest", "rows_in", "settings_digest", "model_version")
    same = all(getattr(before, name) == getattr(run, name) for name in decisive)
    return before if same else None


def day_states(lake: Lake, start: date, end: date) -> dict[tuple[date, str], PartitionRun]:
    """Find the newest run of every stage over the days from ``start`` to ``end``."""
    names = [field.name for field in fields(PartitionRun)]
    rows = lake.connection.execute(
        f"SELECT {', '.join(names)} FROM lake.partition_runs "
        "WHERE event_date BETWEEN ? AND ? "
        "QUALIFY row_number() OVER (PARTITION BY event_date, stage ORDER BY finished_at DESC) = 1",
        [start, end],
    ).fetchall()
    runs = [PartitionRun(**dict(zip(names, row, strict=True))) for row in rows]
    return {(run.event_date, run.stage): run for run in runs}


def is_queued(
    states: Mapping[tuple[date, str], PartitionRun],
    day: date,
    *,
    model_version: str,
    settings_digest: str,
    lookback: timedelta,
) -> bool:
    """Tell whether a day was queued like this after all that its features look back on landed."""
    queued = states.get((day, "enqueue"))
    wanted = (model_version, settings_digest)
    if queued is None or (queued.model_version, queued.settings_digest) != wanted:
        return False
    return is_queued_after_landing(states, day, lookback=lookback)


def is_queued_after_landing(
    states: Mapping[tuple[date, str], PartitionRun], day: date, *, lookback: timedelta
) -> bool:
    """Tell whether a day was queued, however, after all that its features look back on landed.

    An enqueue run begins with the scoring whose alerts it queued, so that what lands between the
    two counts as later.
    """
    queued = states.get((day, "enqueue"))
    return queued is not None and all(
        run.finished_at is None or run.finished_at <= queued.started_at
        for (other, stage), run in states.items()
        if stage in ("ingest", "replay") and day - lookback <= other <= day
        if run.status == "done"
    )


@dataclass(frozen=True)
class DueNight:
    """A night to do; ``version`` is the model that scored it, if it was done before."""

    day: date
    version: str | None


def due_nights(
    states: Mapping[tuple[date, str], PartitionRun],
    days: Iterable[date],
    *,
    lookback: timedelta,
) -> list[DueNight]:
    """Give those of the days that are not done, in their order.

    A night that is done anew, as an earlier day landed late, keeps the model that it was scored
    with: its alerts were queued by it. A champion or settings that changed since make no night due.
    """
    nights = []
    for day in days:
        if not is_queued_after_landing(states, day, lookback=lookback):
            before = states.get((day, "enqueue"))
            nights.append(DueNight(day, before.model_version if before else None))
    return nights


def days_noted_missing(lake: Lake, days: Sequence[date]) -> frozenset[date]:
    """Give those of the days of which it was noted that their data have not come."""
    states = day_states(lake, min(days), max(days)) if days else {}
    return frozenset(day for day in days if (day, ARRIVAL) in states)


def note_missing_days(lake: Lake, days: Sequence[date]) -> None:
    """Note, once, that the data of days have not come."""
    noted = days_noted_missing(lake, days)
    if new := [day for day in days if day not in noted]:
        started = datetime.now(UTC)
        with lake.commit() as connection:
            for day in new:
                write_run(connection, PartitionRun(day, ARRIVAL, "missing", started, ""))


def first_night(lake: Lake, lane: str) -> date | None:
    """Find the earliest day that was ever queued in a lane."""
    row = lake.connection.execute(
        "SELECT min(event_date) FROM lake.partition_runs WHERE stage = 'enqueue' AND lane = ?",
        [lane],
    ).fetchone()
    return row[0] if row else None
