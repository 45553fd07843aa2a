"""Each row's earlier transactions of the same account, for detectors that read sequences.

Laws (property-tested in ``tests/tasks/test_history.py``):

- A row's history holds its account's transactions that are strictly earlier and less than 30 days
  old, the newest ``window`` of them. Rows of one instant are not history of each other, and
  nothing later than a row changes its history.
- A row's history depends on no transaction older than ``HISTORY_LOOKBACK_DAYS`` before its day.
- The order of the input rows, and other accounts' rows, do not matter.
"""

import math

import numpy as np
import polars as pl

from tasks.transaction_features import HISTORY_DAYS, seconds_since_previous
from tasks.windows import DAY, Rows, Timeline

HISTORY_CHANNELS = ("amount", "seconds_since_account_transaction", "hour_sin", "hour_cos")
"""What is told of each earlier transaction; the names are those of the features they equal."""

HISTORY_LOOKBACK_DAYS = 2 * HISTORY_DAYS
"""History is up to 30 days old, and its oldest event's gap looks back as far again."""

DAY_NANOSECONDS = 24 * 3600 * 10**9


def hour_angle(time_zone: str) -> pl.Expr:
    """Give the local time of ``occurred_at`` as an angle: 0 at midnight, pi at noon."""
    clock = pl.col("occurred_at").dt.convert_time_zone(time_zone).dt.time()
    return clock.cast(pl.Int64) * (2 * math.pi / DAY_NANOSECONDS)


def account_history(
    transactions: pl.DataFrame, rows: pl.DataFrame, *, time_zone: str, window: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lay out the accounts' events, and find each row's history among them.

    Args:
        transactions: Rows of ``lake.transactions`` in any order, from ``HISTORY_LOOKBACK_DAYS``
            before the first row's day to the last row's.
        rows: The rows wanted, by ``transaction_id``; each must be among the transactions.
        time_zone: Where an hour of the day is.
        window: Most events in a history.

    Returns:
        The events in order of ``account_id``, ``occurred_at`` and ``transaction_id``: the
        ``HISTORY_CHANNELS``, raw, Float32, NaN where not defined. And, in the order of ``rows``,
        their ``transaction_id``, ``history_end`` (the place in the events after the newest one of
        the history) and ``history_count`` (0 to ``window``), both Int64.

    Raises:
        ValueError: if a row is not among the transactions, or an identifier is there twice.
    """
    timeline = _sort_events(transactions)
    view = Rows(timeline, np.arange(len(timeline)))
    end = view.bound(1)
    count = np.minimum(end - view.bound(HISTORY_DAYS * DAY), window)
    place = np.empty(len(timeline), np.int64)  # of each transaction among the events
    place[timeline.order] = np.arange(len(timeline))
    spans = transactions.select(
        "transaction_id",
        history_end=pl.Series(end[place], dtype=pl.Int64),
        history_count=pl.Series(count[place], dtype=pl.Int64),
    )
    return _events(transactions, timeline, view, time_zone), _join_once(rows, spans)


def _events(
    transactions: pl.DataFrame, timeline: Timeline, view: Rows, time_zone: str
) -> pl.DataFrame:
    angle = hour_angle(time_zone)
    gap = pl.Series(seconds_since_previous(view), dtype=pl.Float32)
    in_order = transactions.select("occurred_at", pl.col("amount").cast(pl.Float32))[
        timeline.order
    ]
    return in_order.select(
        "amount",
        seconds_since_account_transaction=gap,
        hour_sin=angle.sin().cast(pl.Float32),
        hour_cos=angle.cos().cast(pl.Float32),
    )


def _join_once(rows: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    found = rows.select("transaction_id").join(
        spans, on="transaction_id", how="left", maintain_order="left"
    )
    missing = found["history_end"].null_count()
    if missing or found.height != rows.height:
        raise ValueError(
            f"expected each of the {rows.height} rows once among the transactions, however: "
            f"{missing} are not there, and {found.height - rows.height} are there again"
        )
    return found


def _sort_events(transactions: pl.DataFrame) -> Timeline:
    """Sort by account and time; at one instant by identifier."""
    accounts = transactions["account_id"].cast(pl.String)
    names = accounts.unique().sort()
    codes = accounts.cast(pl.Enum(names)).to_physical().cast(pl.Int64).to_numpy()
    times = transactions["occurred_at"].dt.timestamp("us").to_numpy()
    timeline = Timeline(codes, times, names.len())
    tied = timeline.order[timeline.tied()]
    if len(tied):
        ids = transactions["transaction_id"].gather(tied).rank("dense")
        timeline.settle_ties(ids.to_numpy().astype(np.int64))
    return timeline
