"""Reads of the lake for features, training and evaluation; each bounded by days, not history."""

from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from warehouse.connection import Lake, quote_name, quote_text

TRUTH = """
    SELECT event_date, transaction_id, is_fraud, source FROM lake.labels
    WHERE event_date BETWEEN $start AND $end AND known_at <= $as_of
    QUALIFY row_number() OVER (
        PARTITION BY transaction_id ORDER BY known_at DESC, recorded_at DESC) = 1
"""
"""Each transaction's newest label as of a moment: the rule, written once."""


def midnight(day: date, time_zone: str = "UTC") -> datetime:
    """Give the first moment of a day of some place, in UTC."""
    return datetime.combine(day, time.min, ZoneInfo(time_zone)).astimezone(UTC)


def read_transactions(lake: Lake, start: date, end: date) -> pl.DataFrame:
    """Read the transactions of the days from ``start`` to ``end``, both included."""
    return lake.connection.execute(
        "SELECT * EXCLUDE (batch_id, ingested_at) FROM lake.transactions "
        "WHERE event_date BETWEEN ? AND ?",
        [start, end],
    ).pl()


def read_newest_transactions(
    lake: Lake, accounts: Collection[str], end: date, *, days: int, rows: int
) -> pl.DataFrame:
    """Read what accounts did in the days up to ``end``: the newest transactions of each.

    Args:
        lake: The lake.
        accounts: The accounts.
        end: The last day, included.
        days: How many days count, the last one included.
        rows: How many of an account at most.
    """
    return lake.connection.execute(
        """
        SELECT transaction_id, account_id, event_date, occurred_at, merchant_id, amount
        FROM lake.transactions
        WHERE event_date BETWEEN $start AND $end AND account_id IN (SELECT unnest($accounts))
        QUALIFY row_number() OVER (
            PARTITION BY account_id ORDER BY occurred_at DESC, transaction_id DESC) <= $rows
        """,
        {
            "start": end - timedelta(days=days - 1),
            "end": end,
            "accounts": sorted(accounts),
            "rows": rows,
        },
    ).pl()


def read_label_statements(lake: Lake, known_from: date, known_to: date) -> pl.DataFrame:
    """Read what became known about any transaction on the days given, both included."""
    return lake.connection.execute(
        "SELECT event_date, transaction_id, account_id, merchant_id, is_fraud, known_at, "
        "recorded_at FROM lake.labels WHERE known_at >= ? AND known_at < ?",
        [midnight(known_from), midnight(known_to + timedelta(days=1))],
    ).pl()


def read_truth(lake: Lake, start: date, end: date, as_of: datetime) -> pl.DataFrame:
    """Read what was known as of a moment about the transactions of the days given.

    Returns:
        ``transaction_id`` and ``is_fraud``: each transaction's newest label with
        ``known_at <= as_of``.
    """
    return lake.connection.execute(
        f"SELECT transaction_id, is_fraud FROM ({TRUTH})",
        {"start": start, "end": end, "as_of": as_of},
    ).pl()


def count_frauds_by_source(lake: Lake, start: date, end: date, as_of: datetime) -> dict[str, int]:
    """Count the transactions known to be fraud as of a moment, by who says so last."""
    rows = lake.connection.execute(
        f"SELECT source, count(*) FROM ({TRUTH}) WHERE is_fraud GROUP BY source",
        {"start": start, "end": end, "as_of": as_of},
    ).fetchall()
    return dict(rows)


def are_selective(found: Mapping[str, int]) -> bool:
    """Tell whether labels are mostly of what models had flagged: analysts found most of the frauds.

    Args:
        found: Known frauds by source, see ``count_frauds_by_source``.
    """
    return 2 * found.get("analyst", 0) > sum(found.values())


def count_transactions(lake: Lake, start: date, end: date) -> dict[date, int]:
    """Count the transactions of each day from ``start`` to ``end`` that has any, in order."""
    rows = lake.connection.execute(
        "SELECT event_date, count(*) FROM lake.transactions WHERE event_date BETWEEN ? AND ? "
        "GROUP BY 1 ORDER BY 1",
        [start, end],
    ).fetchall()
    return dict(rows)


def read_scores(lake: Lake, start: date, end: date) -> pl.DataFrame:
    """Read the scores of the days given, with each transaction's account, merchant, amount, time.

    Returns:
        One row per scored transaction, by day and rank; each member's score is a column
        ``member.NAME``, null where the day's model had no such member.
    """
    days = [start, end]
    names = lake.connection.execute(
        "SELECT DISTINCT unnest(map_keys(members)) FROM lake.scores "
        "WHERE event_date BETWEEN ? AND ? ORDER BY 1",
        days,
    ).fetchall()
    members = "".join(
        f", map_extract_value(members, {quote_text(name)}) AS {quote_name('member.' + name)}"
        for (name,) in names
    )
    return lake.connection.execute(
        f"SELECT s.* EXCLUDE (members){members}, t.account_id, t.merchant_id, t.amount, "
        "t.occurred_at FROM lake.scores s "
        "JOIN lake.transactions t USING (event_date, transaction_id) "
        "WHERE event_date BETWEEN ? AND ? ORDER BY event_date, rank_of_day",
        days,
    ).pl()
