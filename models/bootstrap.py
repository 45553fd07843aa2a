"""Intervals for detection figures by the day-block bootstrap: whole days are drawn anew.

Transactions of one day are not independent: one stolen card pays ten times, one bad terminal
catches twenty cards. Drawing single rows would take them for independent and give intervals that are
too narrow; drawing whole days keeps what happens within a day together. Two scores of the same rows are
compared by drawing the same days for both: pass the same ``counts`` and subtract.

Not valid with few days: the spread of n drawn days is too small by about 1 / (2 n), and under
``LEAST_DAYS`` days there is little to draw from. Days count as independent of each other: where a
fraud wave lasts for weeks, intervals are still too narrow.

Source: Kunsch, 1989, "The Jackknife and the Bootstrap for General Stationary Observations"; Davison &
    Hinkley, 1997, "Bootstrap Methods and their Application", section 8.2. Departure: blocks are
    calendar days, which do not overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.metrics import FloatArray, check_labelled

LEAST_DAYS = 5  # fewer days give no interval worth printing
CELLS_AT_ONCE = 4_000_000  # 32 MB of float64 a matrix

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """Where a figure may lie; both ends are NaN where nothing could be resampled."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A figure and where it may lie; ``interval`` is None where there were too few days for one."""

    value: float
    interval: Interval | None


def interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Give the percentile interval of resampled figures; NaN (nothing to measure) is left out.

    Shape:
        values: (resamples,).

    Raises:
        ValueError: if ``level`` is not between 0 and 1.

    Example:
        >>> interval([4.0, 1.0, 2.0, 3.0, 5.0], level=0.5)
        Interval(low=2.0, high=4.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if array.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(array, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resample_days(n_days: int, resamples: int, seed: int) -> IntArray:
    """Draw ``n_days`` days with replacement, again and again: how often each day was drawn.

    Shape:
        Returns: (resamples, n_days), >= 0; each row sums to ``n_days``.

    Raises:
        ValueError: if ``n_days`` or ``resamples`` is below 1.
    """
    if n_days < 1 or resamples < 1:
        raise ValueError(
            f"expected at least one day and one resample, got {n_days} and {resamples}"
        )
    random = np.random.default_rng(seed)
    return random.multinomial(n_days, np.full(n_days, 1 / n_days), size=resamples)


def resampled_average_precision(
    scores: ArrayLike, labels: ArrayLike, days: ArrayLike, counts: ArrayLike
) -> FloatArray:
    """Give ``metrics.average_precision`` of each resample, its rows repeated as their day was drawn.

    The step at a fraud needs only how many rows and frauds score at least as high. These are sums
    over days, so one product of matrices counts them for all resamples at once.

    Shape:
        scores, labels: (rows,); label 1 is fraud. days: (rows,), from 0 to n_days - 1.
        counts: (resamples, n_days), see ``resample_days``. Returns: (resamples,), NaN for a
        resample without fraud.

    Raises:
        ValueError: if shapes differ or a day has no count.
    """
    s, is_fraud, day, drawn = _check(scores, labels, days, counts)
    at = np.unique(s[is_fraud])[::-1]  # (steps,): each distinct score of a fraud, from the top
    rows_above = _count_above(s, day, at, drawn.shape[1])
    frauds_above = _count_above(s[is_fraud], day[is_fraud], at, drawn.shape[1])
    found = [
        _average_precision_of_steps(part @ rows_above, part @ frauds_above)
        for part in _parts(drawn, at.size)
    ]
    return np.concatenate(found)


def resampled_roc_auc(
    scores: ArrayLike, labels: ArrayLike, days: ArrayLike, counts: ArrayLike
) -> FloatArray:
    """Give ``metrics.roc_auc`` of each resample, its rows repeated as their day was drawn.

    The area is the share of won pairs of a fraud and a genuine row. The pairs won between each two
    days are counted once; a resample weighs them by how often both days were drawn.

    Shape:
        As for ``resampled_average_precision``; NaN for a resample with one class only.

    Raises:
        ValueError: if shapes differ or a day has no count.
    """
    s, is_fraud, day, drawn = _check(scores, labels, days, counts)
    n_days = drawn.shape[1]
    won = np.zeros((n_days, n_days))  # (day of the genuine row, day of the fraud)
    fraud_scores, fraud_days = s[is_fraud], day[is_fraud]
    for genuine_day, rows in enumerate(_split(s[~is_fraud], day[~is_fraud], n_days)):
        below = np.searchsorted(rows, fraud_scores, "left")
        up_to = np.searchsorted(rows, fraud_scores, "right")
        wins = (below + up_to) / 2  # ties count half
        won[genuine_day] = np.bincount(fraud_days, weights=wins, minlength=n_days)
    frauds = drawn @ np.bincount(fraud_days, minlength=n_days)
    genuine = drawn @ np.bincount(day[~is_fraud], minlength=n_days)
    return _divide(((drawn @ won) * drawn).sum(axis=1), frauds * genuine)


def resampled_mean(daily: ArrayLike, counts: ArrayLike) -> FloatArray:
    """Give the mean over the drawn days of a figure that each day has, such as card precision.

    For card precision the daily figures are those of the days as they were: an account caught on
    one day is left out on the next in time, whichever days are drawn.

    Shape:
        daily: (n_days,). counts: (resamples, n_days). Returns: (resamples,).

    Raises:
        ValueError: if the shapes do not fit.
    """
    return resampled_ratio(daily, np.ones(np.shape(daily)), counts)


def resampled_ratio(
    numerators: ArrayLike, denominators: ArrayLike, counts: ArrayLike
) -> FloatArray:
    """Give the ratio of two daily sums over the drawn days, such as frauds caught of all frauds.

    Shape:
        numerators, denominators: (n_days,). counts: (resamples, n_days). Returns: (resamples,),
        NaN where the denominator is 0.

    Raises:
        ValueError: if the shapes do not fit.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators)
    drawn = np.asarray(counts, dtype=np.float64)
    if drawn.ndim != 2 or top.shape != bottom.shape or top.shape != drawn.shape[1:]:
        raise ValueError(
            f"expected daily sums of one shape (n_days,) and counts (resamples, n_days), got "
            f"{top.shape}, {bottom.shape} and {drawn.shape}"
        )
    return _divide(drawn @ top, drawn @ bottom)


def estimate_ratio(
    numerators: ArrayLike, denominators: ArrayLike, counts: ArrayLike
) -> Estimate | None:
    """Give the ratio of two daily sums over the days as they were, with its interval.

    Returns:
        None where the denominator is 0; without interval under ``LEAST_DAYS`` days.

    Raises:
        ValueError: if the shapes do not fit, see ``resampled_ratio``.
    """
    resampled = resampled_ratio(numerators, denominators, counts)
    top, bottom = np.sum(numerators), np.sum(denominators)
    if not bottom > 0:
        return None
    enough = np.size(denominators) >= LEAST_DAYS
    return Estimate(float(top / bottom), interval(resampled) if enough else None)


def _check(
    scores: ArrayLike, labels: ArrayLike, days: ArrayLike, counts: ArrayLike
) -> tuple[FloatArray, NDArray[np.bool_], IntArray, FloatArray]:
    s, is_fraud = check_labelled(scores, labels)
    day, drawn = np.asarray(days), np.asarray(counts, dtype=np.float64)
    if day.shape != s.shape or drawn.ndim != 2:
        raise ValueError(
            f"expected days of shape {s.shape} and counts (resamples, n_days), got {day.shape} "
            f"and {drawn.shape}"
        )
    if day.size and not (day.dtype.kind in "iu" and day.min() >= 0 and day.max() < drawn.shape[1]):
        raise ValueError(
            f"expected days as whole numbers from 0 to {drawn.shape[1] - 1}, got {day.min()} to "
            f"{day.max()} of type {day.dtype}"
        )
    return s, is_fraud, day.astype(np.int64), drawn


def _split(scores: FloatArray, days: IntArray, n_days: int) -> list[FloatArray]:
    """Give each day's scores, ascending."""
    order = np.lexsort((scores, days))
    ends = np.cumsum(np.bincount(days, minlength=n_days))
    return np.split(scores[order], ends[:-1])


def _count_above(scores: FloatArray, days: IntArray, at: FloatArray, n_days: int) -> FloatArray:
    """Count each day's rows that score at least as high as each step: (n_days, steps)."""
    per_day = [rows.size - np.searchsorted(rows, at) for rows in _split(scores, days, n_days)]
    return np.array(per_day, dtype=np.float64)


def _average_precision_of_steps(rows: FloatArray, frauds: FloatArray) -> FloatArray:
    """Sum the precision at each step times its recall: (resamples, steps) to (resamples,)."""
    if frauds.shape[1] == 0:
        return np.full(frauds.shape[0], np.nan)
    gained = np.diff(frauds, prepend=0.0, axis=1)
    precision = np.divide(frauds, rows, out=np.zeros_like(rows), where=rows > 0)
    return _divide((gained * precision).sum(axis=1), frauds[:, -1])


def _parts(counts: FloatArray, steps: int) -> Iterator[FloatArray]:
    """Cut the resamples so that a matrix of resamples and steps fits into memory."""
    size = max(1, CELLS_AT_ONCE // max(steps, 1))
    for begin in range(0, counts.shape[0], size):
        yield counts[begin : begin + size]


def _divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    ratio: FloatArray = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio
