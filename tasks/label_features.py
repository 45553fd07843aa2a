"""Features from labels, each statement used only from the moment it was known.

Belongs here: which statement holds when, and how known frauds are counted. Does not: names,
meanings, phrases (``tasks.feature_catalog``).

A transaction's newest statement with ``known_at <= t`` holds at t (``recorded_at`` breaks ties). A
known fraud enters at its statement's ``known_at`` and leaves when a later statement replaces it: a
reversal removes it, a repetition moves it to the repetition's time.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.transaction_features import (
    HIGH_HISTORY_DAYS,
    HIGH_HISTORY_ROWS,
    HISTORY_DAYS,
    UNUSUAL_RATIO,
    Accounts,
    Merchants,
    ratio,
)
from tasks.windows import (
    DAY,
    NEVER,
    RECENT,
    FloatArray,
    IntArray,
    Rows,
    Timeline,
    quantile_of_sorted,
    sorted_recent,
)

_COLUMNS = (
    "event_date",
    "transaction_id",
    "account_id",
    "merchant_id",
    "is_fraud",
    "known_at",
    "recorded_at",
)
_MOMENT = pl.duration(microseconds=1)


class Statements(NamedTuple):
    """Statements; when the transaction's next one replaces each (NEVER if none does).

    ``occurred`` and ``amounts`` are the transaction's own, -NEVER and 0 where it is too old to be
    at hand.
    """

    known: IntArray
    replaced: IntArray
    accounts: IntArray
    merchants: IntArray
    occurred: IntArray
    amounts: IntArray


class KnownLabels:
    """What was known of entities' transactions, asked at the times of one set of rows.

    Args:
        frauds: Statements that say fraud. genuine: Statements that say genuine.
        view: The view that the rows are of; it says by which entity.
    """

    def __init__(
        self, frauds: Statements, genuine: Statements, view: Accounts | Merchants
    ) -> None:
        """Sort the frauds; the genuine ones only once they are needed."""
        entity = "accounts" if isinstance(view, Accounts) else "merchants"
        self._rows = view.rows
        self._ledger = view.ledger
        self._delay = view.delay
        self._n_codes = getattr(view.ledger, f"n_{entity}")
        self.frauds = Timeline(getattr(frauds, entity), frauds.known, self._n_codes)
        self._replaced = frauds.replaced[self.frauds.order]
        self._statements = frauds
        self._genuine = genuine
        self._entity = entity

    @cached_property
    def genuine(self) -> Timeline:
        """The statements that say genuine."""
        return Timeline(getattr(self._genuine, self._entity), self._genuine.known, self._n_codes)

    def count(self, days: int) -> IntArray:
        """Count the frauds that became known in (t - days, t] and still hold at t."""
        ends = np.minimum(self._replaced, self.frauds.times + days * DAY)
        return self._count_open(ends)

    @cached_property
    def ratios(self) -> FloatArray:
        """Give each fraud's amount over the account's usual one, the median of its 16 days before.

        NaN where the account has fewer than 3 transactions in them.
        """
        frauds = Statements(*(values[self.frauds.order] for values in self._statements))
        ledger = self._ledger
        line = Timeline(ledger.accounts, ledger.times, ledger.n_accounts)
        amounts = ledger.amounts[line.order]
        high = line.position(frauds.accounts, frauds.occurred - 1)
        low = line.position(frauds.accounts, frauds.occurred - HIGH_HISTORY_DAYS * DAY)
        low = np.maximum(low, high - RECENT)
        out = np.full(len(high), np.nan)
        for rows, matrix in sorted_recent(amounts, low, high):
            count = (high - low)[rows]
            usual = quantile_of_sorted(matrix, count, 0.5)
            told = ratio(frauds.amounts[rows], usual)
            out[rows] = np.where(count >= HIGH_HISTORY_ROWS, told, np.nan)
        return out

    @cached_property
    def compared_until(self) -> IntArray:
        """Give until when each fraud is recent enough for the account's days before to be at hand.

        14 days and the label delay after its transaction, so that with the 16 days before it
        nothing older than 30 days and the delay is looked at.
        """
        occurred = self._statements.occurred[self.frauds.order]
        return occurred + self._delay + (HISTORY_DAYS - HIGH_HISTORY_DAYS) * DAY

    def count_ordinary(self, days: int) -> IntArray:
        """Count the recent frauds of ``count`` whose amount was not unusual for the account."""
        line = self.frauds
        ends = np.minimum(self._replaced, line.times + days * DAY)
        ends = np.minimum(ends, self.compared_until)
        is_ordinary = ~(self.ratios >= UNUSUAL_RATIO)
        return self._count_open(np.where(is_ordinary, np.maximum(ends, line.times), line.times))

    def newest_ratio(self) -> FloatArray:
        """Give the ratio of the entity's newest known fraud if it still holds and is recent."""
        rows = self._rows
        place = self.frauds.position(rows.codes, rows.times) - 1
        since = self.frauds.position(rows.codes, rows.times - HISTORY_DAYS * DAY)
        until = np.minimum(self._replaced, self.compared_until)
        is_there = (place >= since) & (np.append(until, -NEVER)[place] > rows.times)
        return np.where(is_there, np.append(self.ratios, np.nan)[place], np.nan)

    def run(self) -> IntArray:
        """Count the frauds known since the entity's last genuine statement, within 30 days."""
        line = self.genuine
        following = line.position(self.frauds.codes, self.frauds.times)
        is_same = np.append(line.codes, -1)[following] == self.frauds.codes
        broken = np.where(is_same, np.append(line.times, NEVER)[following], NEVER)
        ends = np.minimum(self._replaced, self.frauds.times + HISTORY_DAYS * DAY)
        return self._count_open(np.minimum(ends, broken))

    def _count_open(self, ends: IntArray) -> IntArray:
        line = self._rows.timeline
        return line.count_open(self.frauds.codes, self.frauds.times, ends)[self._rows.picked]

    def days_since_fraud(self) -> FloatArray:
        """Give the days since the newest fraud that still holds became known."""
        return _days_since_newest(self.frauds, self._replaced, self._rows)

    def days_since_genuine(self) -> FloatArray:
        """Give the days since the newest genuine one that still holds became known."""
        replaced = self._genuine.replaced[self.genuine.order]
        return _days_since_newest(self.genuine, replaced, self._rows)

    def days_since_run_began(self) -> FloatArray:
        """Give the days since the first fraud of the run became known; NaN without a run."""
        rows = self._rows
        earliest = rows.times - HISTORY_DAYS * DAY + 1
        last = self.genuine.position(rows.codes, rows.times) - 1
        is_recent = last >= self.genuine.position(rows.codes, earliest - 1)
        since = np.where(is_recent, np.append(self.genuine.times, 0)[last], earliest)
        first = self.frauds.position(rows.codes, since - 1)
        days = (rows.times - np.append(self.frauds.times, 0)[first]) / DAY
        return np.where(self.run() > 0, days, np.nan)


def _days_since_newest(line: Timeline, replaced: IntArray, rows: Rows) -> FloatArray:
    days = np.full(len(rows.times), np.nan)
    place = line.position(rows.codes, rows.times) - 1
    oldest = line.position(rows.codes, rows.times - HISTORY_DAYS * DAY)
    open_rows = np.flatnonzero(place >= oldest)
    while len(open_rows):  # a step per replaced statement in a row, not per row
        times, at = rows.times[open_rows], place[open_rows]
        holds = replaced[at] > times
        days[open_rows[holds]] = (times[holds] - line.times[at[holds]]) / DAY
        open_rows = open_rows[~holds]
        place[open_rows] -= 1
        open_rows = open_rows[place[open_rows] >= oldest[open_rows]]
    return days


def read_statements(
    labels: pl.DataFrame, transactions: pl.DataFrame, *, since: int, until: int, all_labels: bool
) -> pl.DataFrame:
    """Order the statements known in (since, until] and find when each is replaced.

    Args:
        labels: Rows of ``lake.labels``.
        transactions: Rows of ``lake.transactions``; a statement counts as known after its own
            transaction at the earliest, so that no row is described by its own label.
        since: Microseconds since 1970, exclusive.
        until: Microseconds since 1970, inclusive.
        all_labels: Whether statements of transactions never called fraud are wanted, too.

    Returns:
        ``transaction_id``, ``account_id``, ``merchant_id``, ``is_fraud``, ``known``, ``replaced``
        (microseconds).
    """
    known = pl.col("known_at").dt.timestamp("us").alias("known")
    labels = (
        _after_own_transaction(labels, transactions)
        .filter(known > since, known <= until)
        .drop("event_date")
    )
    called_fraud = labels.filter("is_fraud")["transaction_id"].unique()
    disputed = pl.col("transaction_id").is_in(called_fraud.implode())
    key = pl.struct("transaction_id", "known_at")
    ordered = (
        labels.filter(disputed)
        .sort("transaction_id", "known_at", "recorded_at", "is_fraud")
        .filter(key.ne_missing(key.shift(-1)))
    )
    is_same = pl.col("transaction_id").shift(-1) == pl.col("transaction_id")
    replaced = pl.when(is_same).then(known.shift(-1)).otherwise(NEVER).alias("replaced")
    columns = (pl.col("transaction_id", "account_id", "merchant_id", "is_fraud"), known)
    statements = ordered.select(*columns, replaced)
    if not all_labels:
        return statements
    others = labels.filter(~disputed).select(*columns, pl.lit(NEVER).alias("replaced"))
    return pl.concat([statements, others])


def _after_own_transaction(labels: pl.DataFrame, transactions: pl.DataFrame) -> pl.DataFrame:
    """Let no statement be known before the moment after its transaction."""
    two_days_on = pl.col("event_date").cast(pl.Datetime("us", "UTC")) + pl.duration(days=2)
    labels = labels.select(_COLUMNS)
    is_early = labels.select(pl.col("known_at") < two_days_on).to_series()
    if not is_early.any():
        return labels
    own = transactions.select("transaction_id", own_at="occurred_at")
    early = labels.filter(is_early).join(own, on="transaction_id", how="left")
    known = pl.max_horizontal("known_at", pl.col("own_at") + _MOMENT).alias("known_at")
    return pl.concat([labels.filter(~is_early), early.with_columns(known).drop("own_at")])


def _fraud_share(merchants: Merchants, known: KnownLabels, days: int) -> FloatArray:
    count = merchants.rows.count(days, merchants.delay)
    frauds = known.count(days)
    return np.where(count > 0, np.minimum(frauds / np.maximum(count, 1), 1.0), 0.0)


def _ordinary_frauds(_: Merchants, known: KnownLabels, days: int) -> IntArray:
    return known.count_ordinary(days)


def _known_frauds(_: Accounts | Merchants, known: KnownLabels, days: int) -> IntArray:
    return known.count(days)


MERCHANT_LABEL_CALCULATORS: dict[
    str, Callable[[Merchants, KnownLabels], FloatArray | IntArray]
] = {
    **{f"merchant_fraud_share_{days}d": partial(_fraud_share, days=days) for days in (1, 7, 30)},
    **{f"merchant_known_frauds_{days}d": partial(_known_frauds, days=days) for days in (7, 28)},
    **{
        f"merchant_ordinary_frauds_{days}d": partial(_ordinary_frauds, days=days)
        for days in (7, 14)
    },
    "merchant_known_fraud_ratio": lambda _, known: known.newest_ratio(),
    "days_since_merchant_known_fraud": lambda _, known: known.days_since_fraud(),
    "days_since_merchant_known_genuine": lambda _, known: known.days_since_genuine(),
    "merchant_fraud_run": lambda _, known: known.run(),
    "days_since_merchant_fraud_run_began": lambda _, known: known.days_since_run_began(),
}

ACCOUNT_LABEL_CALCULATORS: dict[str, Callable[[Accounts, KnownLabels], FloatArray | IntArray]] = {
    "account_known_frauds_30d": partial(_known_frauds, days=30),
    "days_since_account_known_fraud": lambda _, known: known.days_since_fraud(),
}

NEEDS_GENUINE = frozenset(
    {
        "days_since_merchant_known_genuine",
        "merchant_fraud_run",
        "days_since_merchant_fraud_run_began",
    }
)

# of what is known of a merchant, what depends on its customers' payments elsewhere
NEEDS_ACCOUNTS = frozenset(
    {
        "merchant_ordinary_frauds_7d",
        "merchant_ordinary_frauds_14d",
        "merchant_known_fraud_ratio",
    }
)
