"""Features from transactions alone: an account's, a merchant's and a place's history up to a row.

Belongs here: how each value is computed. Does not: names, meanings, phrases
(``tasks.feature_catalog``), anything that reads a label (``tasks.label_features``).

Every calculator gives one float64 value per row in its view's order; NaN means "not defined".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import polars as pl

from tasks.windows import (
    AMOUNT_SCALE,
    DAY,
    RECENT,
    FloatArray,
    IntArray,
    Rows,
    Squares,
    Timeline,
    dense_codes,
    prefix_sums,
    quantile_of_sorted,
    sorted_recent,
    spread,
)

HISTORY_DAYS = 30  # how far back anything looks
HIGH_RATIO = 3.0  # an amount this many times the usual one counts as high
UNUSUAL_RATIO = 2.0  # an amount this many times the usual one does not pass for ordinary
HIGH_HISTORY_DAYS = 16  # with the longest count, 14 days, this makes HISTORY_DAYS
HIGH_HISTORY_ROWS = 3  # fewer earlier rows say nothing about what is usual
SPREAD_FLOOR = 0.1  # share of the mean below which a standard deviation is not believed
ZSCORE_ROWS = 2  # fewer earlier rows have no spread
EARTH_RADIUS_KM = 6371.0088  # IUGG mean radius
SHORTEST_TRIP_HOURS = 1 / 60  # two taps within a minute do not make a rocket

COORDINATES = ("latitude", "longitude", "merchant_latitude", "merchant_longitude")


@dataclass(frozen=True)
class Ledger:
    """The transactions as arrays, all in one row order.

    Args:
        times: Microseconds since 1970. amounts: Fixed point. accounts, merchants: Entity codes.
        slots: The row's place in the output, -1 for history.
        frame: The rows themselves, for identifiers and optional columns.
    """

    times: IntArray
    amounts: IntArray
    accounts: IntArray
    merchants: IntArray
    n_accounts: int
    n_merchants: int
    slots: IntArray
    frame: pl.DataFrame


def ratio(value: FloatArray | IntArray, usual: FloatArray | IntArray) -> FloatArray:
    """Divide, NaN where there is nothing positive to divide by."""
    out = np.full(len(value), np.nan)
    np.divide(value, usual, out=out, where=usual > 0)
    return out


def zscore(amount: IntArray, total: IntArray, squares: FloatArray, count: IntArray) -> FloatArray:
    """Give (amount - mean) / standard deviation, the latter at least a tenth of the mean."""
    n = np.maximum(count, 1)
    mean = total / n
    floor = np.maximum(SPREAD_FLOOR * np.abs(mean), 0.01 * AMOUNT_SCALE)
    value = (amount - mean) / np.maximum(spread(total, squares, count), floor)
    return np.where(count >= ZSCORE_ROWS, value, np.nan)


def seconds_since_previous(rows: Rows) -> FloatArray:
    """Give the seconds since the entity's last strictly earlier event of the last 30 days."""
    previous = rows.bound(1) - 1
    gap = (rows.times - rows.timeline.times[previous]) / 1e6
    return np.where(previous >= rows.bound(HISTORY_DAYS * DAY), gap, np.nan)


class Accounts:
    """The rows to describe in order of account and time, with what is known of each account."""

    def __init__(self, ledger: Ledger, delay: int) -> None:
        """Sort the ledger by account and time; at one instant by amount and identifier.

        ``delay`` is the label delay in microseconds.
        """
        self.delay = delay
        timeline = Timeline(ledger.accounts, ledger.times, ledger.n_accounts)
        tied = timeline.order[timeline.tied()]
        if len(tied):
            ids = ledger.frame["transaction_id"].gather(tied).rank("dense")
            timeline.settle_ties(ledger.amounts[tied], ids.to_numpy().astype(np.int64))
        self.ledger = ledger
        self.rows = Rows(timeline, ledger.slots)
        self.amounts = ledger.amounts[timeline.order]
        self.amount = self.amounts[self.rows.picked]

    @cached_property
    def sums(self) -> IntArray:
        """Running sums of the amounts."""
        return prefix_sums(self.amounts)

    @cached_property
    def squares(self) -> Squares:
        """Running sums of the squared amounts."""
        return Squares(self.amounts)

    @cached_property
    def history(self) -> tuple[IntArray, IntArray]:
        """Positions of the strictly earlier rows of 30 days, the most recent 64 of them."""
        high = self.rows.bound(1)
        return np.maximum(self.rows.bound(HISTORY_DAYS * DAY), high - RECENT), high

    @cached_property
    def history_count(self) -> IntArray:
        """Rows in the history."""
        return self.history[1] - self.history[0]

    @cached_property
    def history_sum(self) -> IntArray:
        """Sum of the history's amounts."""
        return self.sums[self.history[1]] - self.sums[self.history[0]]

    @cached_property
    def history_quantiles(self) -> dict[float, FloatArray]:
        """Median, 0.9 quantile and maximum of the history's amounts; 0 without history."""
        return self._quantiles(*self.history)

    @cached_property
    def settled(self) -> tuple[IntArray, IntArray]:
        """Positions of the rows of 30 days that ended one label delay ago, the last 64 of them.

        By now a fraud among them is known, so what they call usual is not the fraud's own doing.
        Without a delay they end before the row's own instant, so that no row is among them itself.
        """
        high = self.rows.bound(max(self.delay, 1))
        return np.maximum(self.rows.bound(self.delay + HISTORY_DAYS * DAY), high - RECENT), high

    @cached_property
    def settled_count(self) -> IntArray:
        """Rows in the settled history."""
        return self.settled[1] - self.settled[0]

    @cached_property
    def settled_sum(self) -> IntArray:
        """Sum of the settled history's amounts."""
        return self.sums[self.settled[1]] - self.sums[self.settled[0]]

    @cached_property
    def settled_mean(self) -> FloatArray:
        """Mean of the settled history's amounts; 0 where there is none."""
        return self.settled_sum / np.maximum(self.settled_count, 1)

    @cached_property
    def settled_quantiles(self) -> dict[float, FloatArray]:
        """Median, 0.9 quantile and maximum of the settled history's amounts; 0 without any."""
        return self._quantiles(*self.settled)

    @cached_property
    def unsettled_high(self) -> tuple[FloatArray, FloatArray]:
        """Of the earlier rows since one label delay ago, the last 64, the largest amount.

        And how many are above twice the settled median.
        """
        high = self.rows.bound(1)
        low = np.minimum(np.maximum(self.rows.bound(self.delay), high - RECENT), high)
        least = UNUSUAL_RATIO * self.settled_quantiles[0.5]
        largest, count = np.zeros(len(low)), np.zeros(len(low))
        for rows, matrix in sorted_recent(self.amounts, low, high):
            n = high[rows] - low[rows]
            largest[rows] = quantile_of_sorted(matrix, n, 1.0)
            is_row = np.arange(RECENT) < n[:, None]
            count[rows] = (is_row & (matrix > least[rows, None])).sum(axis=1)
        return largest, count

    def _quantiles(self, low: IntArray, high: IntArray) -> dict[float, FloatArray]:
        out = {share: np.empty(len(low)) for share in (0.5, 0.9, 1.0)}
        for rows, matrix in sorted_recent(self.amounts, low, high):
            for share, values in out.items():
                values[rows] = quantile_of_sorted(matrix, (high - low)[rows], share)
        return out

    @cached_property
    def high_sums(self) -> IntArray:
        """Running count of transactions that were high at their own moment.

        Only rows that a 14-day count can reach are looked at.
        """
        timeline = self.rows.timeline
        at = np.flatnonzero(timeline.times > self.rows.times.min() - 14 * DAY)
        codes, times = timeline.codes[at], timeline.times[at]
        high = timeline.position(codes, times - 1)
        low = np.maximum(timeline.position(codes, times - HIGH_HISTORY_DAYS * DAY), high - RECENT)
        flags = np.zeros(len(timeline), np.int64)
        for rows, matrix in sorted_recent(self.amounts, low, high):
            count = high[rows] - low[rows]
            usual = quantile_of_sorted(matrix, count, 0.5)
            is_high = self.amounts[at[rows]] >= HIGH_RATIO * usual
            flags[at[rows]] = is_high & (count >= HIGH_HISTORY_ROWS)
        return prefix_sums(flags)

    @cached_property
    def pairs(self) -> Timeline:
        """The same events by account and merchant together."""
        codes, n_codes = dense_codes(self.ledger.accounts, self.ledger.merchants)
        return Timeline(codes, self.ledger.times, n_codes)

    @cached_property
    def next_visit(self) -> IntArray:
        """Per event in account order, when the account next pays the same merchant."""
        out = np.empty(len(self.pairs), np.int64)
        out[self.pairs.order] = self.pairs.next_times()
        return out[self.rows.timeline.order]

    @cached_property
    def pair_rows(self) -> Rows:
        """The rows to describe, by account and merchant."""
        return Rows(self.pairs, self.ledger.slots)

    def from_output_order(self, rows: Rows, values: FloatArray) -> FloatArray:
        """Bring values of another view of the same rows into this view's order."""
        out = np.empty(len(values))
        out[rows.slots] = values
        return out[self.rows.slots]

    @cached_property
    def category_rows(self) -> Rows | None:
        """The rows by account and category; None if categories are not mapped."""
        if not is_mapped(self.ledger.frame, "category"):
            return None
        category = category_codes(self.ledger.frame)
        codes, n_codes = dense_codes(self.ledger.accounts, category)
        return Rows(Timeline(codes, self.ledger.times, n_codes), self.ledger.slots)

    @cached_property
    def coordinates(self) -> list[FloatArray] | None:
        """Account and merchant coordinates in account order; None if not mapped."""
        if not all(is_mapped(self.ledger.frame, name) for name in COORDINATES):
            return None
        order = self.rows.timeline.order
        frame = self.ledger.frame.select(COORDINATES).cast(pl.Float64).fill_null(np.nan)
        return [column.to_numpy()[order] for column in frame]


class Merchants:
    """The rows to describe in order of merchant and time, with what is known of each merchant."""

    def __init__(self, ledger: Ledger, delay: int) -> None:
        """Sort the ledger by merchant and time; ``delay`` is in microseconds."""
        timeline = Timeline(ledger.merchants, ledger.times, ledger.n_merchants)
        self.delay = delay
        self.ledger = ledger
        self.rows = Rows(timeline, ledger.slots)
        self.amounts = ledger.amounts[timeline.order]
        self.amount = self.amounts[self.rows.picked]

    @cached_property
    def history_sum(self) -> tuple[IntArray, IntArray]:
        """Sum and number of the strictly earlier amounts of 30 days."""
        sums = prefix_sums(self.amounts)
        high, low = self.rows.bound(1), self.rows.bound(HISTORY_DAYS * DAY)
        return sums[high] - sums[low], high - low

    def history_squares(self) -> FloatArray:
        """Sum of the squares of the same amounts."""
        return Squares(self.amounts).between(
            self.rows.bound(HISTORY_DAYS * DAY), self.rows.bound(1)
        )


def is_mapped(frame: pl.DataFrame, name: str) -> bool:
    """Say whether an optional column is there with at least one value."""
    return name in frame.columns and frame[name].null_count() < frame.height


def category_codes(frame: pl.DataFrame) -> IntArray:
    """Give each row's category as a code from 1; 0 where it is null."""
    codes = frame["category"].cast(pl.Utf8).cast(pl.Categorical).to_physical()
    return codes.cast(pl.Int64).fill_null(-1).to_numpy() + 1


def haversine_km(
    latitude: FloatArray, longitude: FloatArray, to_latitude: FloatArray, to_longitude: FloatArray
) -> FloatArray:
    """Give the great-circle distance of points in degrees, on a sphere of the mean radius.

    Example:
        >>> one = np.ones(1)
        >>> round(float(haversine_km(0 * one, 0 * one, 0 * one, 180 * one)[0]))
        20015
    """
    phi, to_phi = np.radians(latitude), np.radians(to_latitude)
    half = np.sin((to_phi - phi) / 2) ** 2
    turn = np.sin(np.radians(to_longitude - longitude) / 2) ** 2
    square = np.clip(half + np.cos(phi) * np.cos(to_phi) * turn, 0.0, 1.0)
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(square)), np.float64)


def _count(view: Accounts, days: int) -> IntArray:
    return view.rows.count(days)


def _mean_amount(view: Accounts, days: int) -> FloatArray:
    total = view.sums[view.rows.bound(0)] - view.sums[view.rows.bound(days * DAY)]
    return total / (view.rows.count(days) * AMOUNT_SCALE)


def _to_quantile(view: Accounts, share: float) -> FloatArray:
    return ratio(view.amount, view.history_quantiles[share])


def _account_zscore(view: Accounts) -> FloatArray:
    squares = view.squares.between(*view.history)
    return zscore(view.amount, view.history_sum, squares, view.history_count)


def _settled_zscore(view: Accounts) -> FloatArray:
    squares = view.squares.between(*view.settled)
    return zscore(view.amount, view.settled_sum, squares, view.settled_count)


def _to_settled_quantile(view: Accounts, share: float) -> FloatArray:
    return ratio(view.amount, view.settled_quantiles[share])


def _unsettled_max_ratio(view: Accounts) -> FloatArray:
    return ratio(view.unsettled_high[0], view.settled_mean)


def _unsettled_high_count(view: Accounts) -> FloatArray:
    return np.where(view.settled_count >= HIGH_HISTORY_ROWS, view.unsettled_high[1], np.nan)


def _high_count(view: Accounts, days: int) -> IntArray:
    return view.high_sums[view.rows.bound(0)] - view.high_sums[view.rows.bound(days * DAY)]


def _is_new_merchant(view: Accounts) -> FloatArray:
    rows = view.pair_rows
    is_new = rows.bound(1) == rows.bound(HISTORY_DAYS * DAY)
    return view.from_output_order(rows, is_new.astype(np.float64))


def _distinct_merchants(view: Accounts, days: int) -> IntArray:
    line = view.rows.timeline
    ends = np.minimum(view.next_visit, line.times + days * DAY)
    return line.count_open(line.codes, line.times, ends)[view.rows.picked]


def _category_share(view: Accounts) -> FloatArray:
    rows = view.category_rows
    if rows is None:
        return np.full(len(view.amount), np.nan)
    count = view.from_output_order(rows, rows.count(HISTORY_DAYS).astype(np.float64))
    return _where_category(view, count / view.rows.count(HISTORY_DAYS))


def _to_category_mean(view: Accounts) -> FloatArray:
    rows = view.category_rows
    if rows is None:
        return np.full(len(view.amount), np.nan)
    amounts = view.ledger.amounts[rows.timeline.order]
    sums, high, low = prefix_sums(amounts), rows.bound(1), rows.bound(HISTORY_DAYS * DAY)
    mean = (sums[high] - sums[low]) / np.maximum(high - low, 1)
    return _where_category(view, view.from_output_order(rows, ratio(amounts[rows.at], mean)))


def _where_category(view: Accounts, values: FloatArray) -> FloatArray:
    known = view.ledger.frame["category"].is_not_null().to_numpy()
    return np.where(known[view.rows.timeline.order[view.rows.at]], values, np.nan)


def _distance(view: Accounts) -> FloatArray:
    if view.coordinates is None:
        return np.full(len(view.amount), np.nan)
    return haversine_km(*(column[view.rows.at] for column in view.coordinates))


def _trip(view: Accounts) -> FloatArray:
    if view.coordinates is None:
        return np.full(len(view.amount), np.nan)
    _, _, latitude, longitude = view.coordinates
    at, previous = view.rows.at, view.rows.bound(1) - 1
    trip = haversine_km(latitude[previous], longitude[previous], latitude[at], longitude[at])
    return np.where(previous >= view.rows.bound(HISTORY_DAYS * DAY), trip, np.nan)


def _speed(view: Accounts) -> FloatArray:
    hours = np.fmax(seconds_since_previous(view.rows) / 3600, SHORTEST_TRIP_HOURS)
    return _trip(view) / hours


def _merchant_count(view: Merchants, days: int) -> IntArray:
    return view.rows.count(days, view.delay)


def _to_merchant_mean(view: Merchants) -> FloatArray:
    total, count = view.history_sum
    return ratio(view.amount, total / np.maximum(count, 1))


def _merchant_zscore(view: Merchants) -> FloatArray:
    total, count = view.history_sum
    return zscore(view.amount, total, view.history_squares(), count)


ACCOUNT_CALCULATORS: dict[str, Callable[[Accounts], FloatArray | IntArray]] = {
    **{f"account_count_{days}d": partial(_count, days=days) for days in (1, 7, 30)},
    **{f"account_mean_amount_{days}d": partial(_mean_amount, days=days) for days in (1, 7, 30)},
    "amount_to_account_mean_30d": lambda view: ratio(
        view.amount, view.history_sum / np.maximum(view.history_count, 1)
    ),
    "amount_to_account_median_30d": partial(_to_quantile, share=0.5),
    "amount_to_account_q90_30d": partial(_to_quantile, share=0.9),
    "amount_to_account_max_30d": partial(_to_quantile, share=1.0),
    "amount_account_zscore_30d": _account_zscore,
    "amount_to_account_settled_mean": lambda view: ratio(view.amount, view.settled_mean),
    "amount_to_account_settled_q90": partial(_to_settled_quantile, share=0.9),
    "amount_to_account_settled_max": partial(_to_settled_quantile, share=1.0),
    "amount_account_settled_zscore": _settled_zscore,
    "account_unsettled_max_ratio": _unsettled_max_ratio,
    "account_unsettled_high_amounts": _unsettled_high_count,
    "seconds_since_account_transaction": lambda view: seconds_since_previous(view.rows),
    "is_new_merchant_30d": _is_new_merchant,
    **{f"account_merchants_{days}d": partial(_distinct_merchants, days=days) for days in (7, 30)},
    **{f"account_high_amounts_{days}d": partial(_high_count, days=days) for days in (1, 3, 7, 14)},
    "account_category_share_30d": _category_share,
    "amount_to_account_category_mean_30d": _to_category_mean,
    "distance_to_merchant_km": _distance,
    "distance_from_previous_km": _trip,
    "speed_from_previous_kmh": _speed,
}

MERCHANT_CALCULATORS: dict[str, Callable[[Merchants], FloatArray | IntArray]] = {
    **{f"merchant_count_{days}d": partial(_merchant_count, days=days) for days in (1, 7, 30)},
    "amount_to_merchant_mean_30d": _to_merchant_mean,
    "amount_merchant_zscore_30d": _merchant_zscore,
    "seconds_since_merchant_transaction": lambda view: seconds_since_previous(view.rows),
}
