"""Write what was judged into the lake: transactions, quarantine and labels of a day."""

import json
from datetime import date, datetime, timedelta
from typing import TypedDict

import duckdb

from warehouse.connection import quote_name, quote_text
from warehouse.errors import SettingsError
from warehouse.schema import LABELS, QUARANTINE
from warehouse.source import SourceBatch, SourceSettings

LATE_BATCH_PREFIX = "late-"  # batch ids of rows replayed from another day's file


class Stamp(TypedDict):
    """What every row of a run carries: its batch, and when it was written."""

    batch: str
    now: datetime


def mark_published_elsewhere(
    connection: duckdb.DuckDBPyConnection, day: date, window_days: int
) -> None:
    """Judge again, in ``checked``, the ids that another run may have published meanwhile.

    Call it under the lake's lock but outside a commit: a transaction of DuckDB writes to one
    database only.
    """
    window = timedelta(days=window_days)
    connection.execute(
        """
        UPDATE checked
        SET rule = 'transaction_id_published_on_another_day', value = transaction_id_text
        WHERE rule IS NULL AND transaction_id IN (
            SELECT transaction_id FROM lake.transactions
            WHERE event_date BETWEEN $low AND $high AND event_date <> $day)
        """,
        {"low": day - window, "high": day + window, "day": day},
    )


def stored_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Give the columns that ``lake.transactions`` has by now, and their types."""
    rows = connection.execute("DESCRIBE lake.transactions").fetchall()
    return {row[0]: row[1] for row in rows}


def add_extra_columns(connection: duckdb.DuckDBPyConnection, settings: SourceSettings) -> None:
    """Add the extra columns that the lake lacks; inside a commit.

    Raises:
        SettingsError: if the lake has a column of that name and another type.
    """
    present = stored_columns(connection)
    for name, extra in settings.extra.items():
        kind = "DOUBLE" if extra.type == "numeric" else "VARCHAR"
        if name not in present:
            connection.execute(
                f"ALTER TABLE lake.transactions ADD COLUMN {quote_name(name)} {kind}"
            )
        elif present[name] != kind:
            message = (
                f"[source.extra] {name} is {extra.type} now, but the lake holds it as "
                f"{present[name]}; give the new column another name"
            )
            raise SettingsError(message)


def replace_transactions(
    connection: duckdb.DuckDBPyConnection,
    settings: SourceSettings,
    day: date,
    stamp: Stamp,
) -> None:
    """Replace a day's transactions by the good rows of ``checked``; inside a commit.

    Rows that came late, in another day's file, stay, unless the day's own file has them now.
    """
    connection.execute(
        "DELETE FROM lake.transactions WHERE event_date = ? AND (NOT starts_with(batch_id, ?) "
        "OR transaction_id IN (SELECT transaction_id FROM checked WHERE rule IS NULL))",
        [day, LATE_BATCH_PREFIX],
    )
    insert_transactions(connection, settings, stamp)


def insert_transactions(
    connection: duckdb.DuckDBPyConnection, settings: SourceSettings, stamp: Stamp
) -> None:
    """Insert the good rows of ``checked``; inside a commit."""
    mapped = [*settings.columns.given(), *settings.extra]
    names = ", ".join(map(quote_name, ["event_date", *mapped, "batch_id", "ingested_at"]))
    columns = ", ".join(map(quote_name, mapped))
    connection.execute(
        f"INSERT INTO lake.transactions ({names}) "
        f"SELECT event_date, {columns}, $batch, $now FROM checked WHERE rule IS NULL "
        "ORDER BY occurred_at, transaction_id",
        dict(stamp),
    )


def make_quarantine_rows(
    connection: duckdb.DuckDBPyConnection, batch: SourceBatch, stamp: Stamp
) -> None:
    """Collect the rows to set aside: broken rows as JSON of texts, and lines that were no rows."""
    names = ", ".join(QUARANTINE.column_names())
    pairs = ", ".join(
        f"{quote_text(name)}, CAST(raw.{quote_name(name)} AS VARCHAR)" for name in batch.types
    )
    values = {**stamp, "day": batch.day, "types": json.dumps(batch.types, ensure_ascii=False)}
    connection.execute(
        f"CREATE OR REPLACE TABLE set_aside ({names}) AS "
        "SELECT $day::DATE, checked.transaction_id, checked.rule, checked.value, "
        f"json_object({pairs})::VARCHAR, $types::VARCHAR, checked._file, "
        "$batch::VARCHAR, $now::TIMESTAMPTZ "
        "FROM checked JOIN raw USING (_row) WHERE checked.rule IS NOT NULL",
        values,
    )
    if batch.rejected:
        connection.executemany(
            "INSERT INTO set_aside VALUES (?, NULL, 'line_unreadable', ?, ?, '{}', ?, ?, ?)",
            [
                (
                    batch.day,
                    f"line {line.line}: {line.error}",
                    line.text or "",
                    line.file,
                    stamp["batch"],
                    stamp["now"],
                )
                for line in batch.rejected
            ],
        )


def replace_quarantine(connection: duckdb.DuckDBPyConnection, batch: SourceBatch) -> None:
    """Replace a day's quarantine by what was set aside; inside a commit."""
    names = ", ".join(QUARANTINE.column_names())
    connection.execute("DELETE FROM lake.quarantine WHERE event_date = ?", [batch.day])
    connection.execute(f"INSERT INTO lake.quarantine ({names}) SELECT {names} FROM set_aside")


def append_labels(
    connection: duckdb.DuckDBPyConnection,
    settings: SourceSettings,
    day: date,
    stamp: Stamp,
) -> int:
    """Append the source's labels that say something new; inside a commit.

    A label is known ``delay_days`` after the transaction, where the day is loaded later than that
    (history). One that came after the day had been landed without it, or that contradicts the
    source's earlier label, cannot have been known before it came: it counts from now on, if that
    is later than the delay.

    Returns:
        How many labels were appended.
    """
    delay = settings.label.delay_days if settings.label else 0
    names = ", ".join(LABELS.column_names())
    landed = _first_landed(connection, day) or stamp["now"]
    row = connection.execute(
        f"""
        INSERT INTO lake.labels ({names})
        WITH stated AS (
            SELECT transaction_id, is_fraud FROM lake.labels
            WHERE event_date = $day AND source = 'source'
            QUALIFY row_number() OVER (
                PARTITION BY transaction_id ORDER BY known_at DESC, recorded_at DESC) = 1
        )
        SELECT event_date, transaction_id, account_id, merchant_id, c.is_fraud,
            CASE WHEN s.transaction_id IS NOT NULL OR $landed < occurred_at + to_days($delay)
                 THEN greatest(occurred_at + to_days($delay), $now)
                 ELSE occurred_at + to_days($delay) END,
            'source', $now
        FROM checked c LEFT JOIN stated s USING (transaction_id)
        WHERE rule IS NULL AND c.is_fraud IS NOT NULL AND c.is_fraud IS DISTINCT FROM s.is_fraud
        ORDER BY occurred_at, transaction_id
        """,
        {"day": day, "delay": delay, "now": stamp["now"], "landed": landed},
    ).fetchone()
    return int(row[0]) if row else 0


def _first_landed(connection: duckdb.DuckDBPyConnection, day: date) -> datetime | None:
    """Find when the day was first published."""
    row = connection.execute(
        "SELECT min(finished_at) FROM lake.partition_runs "
        "WHERE event_date = ? AND stage = 'ingest' AND status = 'done'",
        [day],
    ).fetchone()
    return row[0] if row else None
