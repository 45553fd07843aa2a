"""Exact trailing windows over the events of many entities: sort once, then search.

Belongs here: integer arithmetic on sorted arrays. Does not: what a feature means (the modules
beside this one).

Times are int64 microseconds, entities are int64 codes. Sums are kept in int64 fixed point, whose
prefix sums may wrap around but whose differences are exact, so a window's value is the same bit
for bit whatever else (older rows, other entities) is in the same array.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

DAY = 86_400_000_000  # microseconds
NEVER = 2**62  # microseconds; after every event
AMOUNT_SCALE = 10_000  # fixed-point units per currency unit
LARGEST_AMOUNT = 1e10  # currency units; larger ones count as this, so that int64 sums hold
RECENT = 64  # transactions at most in a history of amounts

_LARGEST_KEY = 2**62
_LIMB_BITS = 20
_CHUNK_ROWS = 16_384


class Timeline:
    """Events sorted by entity and time, searchable by both.

    Events at the same instant of one entity stand in no particular order until ``settle_ties``.

    Args:
        codes: The events' entities, 0 <= code < n_codes.
        times: The events' times in microseconds.
        n_codes: Number of entities that may be asked for.

    Example:
        >>> line = Timeline(np.array([1, 0, 1]), np.array([50, 20, 10]), n_codes=2)
        >>> line.times.tolist(), line.order.tolist()
        ([20, 10, 50], [1, 2, 0])
        >>> line.position(np.array([1, 1]), np.array([10, 9])).tolist()
        [2, 1]
    """

    def __init__(self, codes: IntArray, times: IntArray, n_codes: int) -> None:
        """Sort the events."""
        self._set_ticks(times, n_codes)
        keys = self.keys_of(codes, times)
        self.order = _ascending(keys, codes, times)
        self.sorted_keys = keys[self.order]
        self.codes = codes[self.order]
        self.times = times[self.order]

    def __len__(self) -> int:
        """Count the events."""
        return len(self.sorted_keys)

    def position(self, codes: IntArray, times: IntArray) -> IntArray:
        """Give, per query, the index just after the entity's last event at or before the time.

        The difference of two positions of one entity counts events. Sorted queries are fast.
        """
        keys = self.keys_of(codes, times)
        return np.searchsorted(self.sorted_keys, keys, side="right")

    def tied(self) -> IntArray:
        """Give the positions of events that share their entity and instant with another one."""
        same = self.sorted_keys[1:] == self.sorted_keys[:-1]
        return np.flatnonzero(np.append(same, False) | np.append(False, same))

    def settle_ties(self, *criteria: IntArray) -> None:
        """Order tied events by criteria (a value per ``tied()`` position), the first one first."""
        positions = self.tied()
        by_key = np.lexsort((*reversed(criteria), self.sorted_keys[positions]))
        self.order[positions] = self.order[positions][by_key]

    def next_times(self) -> IntArray:
        """Give the time of each event's successor in its entity; NEVER if it is the last."""
        following = np.full(len(self), NEVER, np.int64)
        same = self.codes[1:] == self.codes[:-1]
        following[:-1][same] = self.times[1:][same]
        return following

    def count_open(self, codes: IntArray, starts: IntArray, ends: IntArray) -> IntArray:
        """Count, at each event, its entity's half-open intervals [start, end) that hold its time.

        Args:
            codes: The intervals' entities.
            starts: When each begins.
            ends: When each ends, not before it begins.
        """
        steps = np.bincount(self.position(codes, starts - 1), minlength=len(self) + 1)
        steps -= np.bincount(self.position(codes, ends - 1), minlength=len(self) + 1)
        return np.cumsum(steps[:-1])

    def _set_ticks(self, times: IntArray, n_codes: int) -> None:
        self._first = int(times.min()) if len(times) else 0
        self._span = int(times.max()) - self._first + 1 if len(times) else 1
        self._instants = np.empty(0, np.int64)
        self.is_ranked = n_codes * self._span >= _LARGEST_KEY  # too many entities for one key
        if self.is_ranked:
            self._instants = np.unique(times)
            self._span = len(self._instants)

    def keys_of(self, codes: IntArray, times: IntArray) -> IntArray:
        """Give numbers that sort as entity and time do, for times up to the last event's."""
        if not self.is_ranked:
            ticks = np.clip(times - self._first, -1, self._span - 1)
        else:
            ticks = np.searchsorted(self._instants, times, side="right") - 1
        return codes * self._span + ticks


def _ascending(keys: IntArray, codes: IntArray, times: IntArray) -> IntArray:
    """Give the order that sorts the keys; events already in order of time need less work."""
    largest = int(codes.max(initial=0))
    if largest >= 2**32 or not (times[1:] >= times[:-1]).all():
        return pl.Series(keys).arg_sort().to_numpy().astype(np.int64)
    order = np.argsort((codes & 0xFFFF).astype(np.uint16), kind="stable")  # a radix sort
    if largest >= 2**16:
        order = order[np.argsort((codes >> 16)[order].astype(np.uint16), kind="stable")]
    return order


class Rows:
    """The rows to describe, in a timeline's order, with their window bounds computed once each.

    Args:
        timeline: The timeline that the rows are events of.
        slots: Per event in original order, its place in the output, -1 if not asked for.
    """

    def __init__(self, timeline: Timeline, slots: IntArray) -> None:
        """Pick the rows from the timeline."""
        self.timeline = timeline
        slots = slots[timeline.order]
        self.at = np.flatnonzero(slots >= 0)
        self.picked: IntArray | slice = slice(None) if len(self.at) == len(timeline) else self.at
        self.slots = slots[self.picked]
        self.codes = timeline.codes[self.picked]
        self.times = timeline.times[self.picked]
        self._floor = timeline.keys_of(self.codes, np.full(1, -NEVER))
        self._keys = timeline.sorted_keys[self.picked]
        self._bounds: dict[int, IntArray] = {}

    def bound(self, ago: int) -> IntArray:
        """Give the position after the last event at or before ``ago`` microseconds earlier."""
        if ago not in self._bounds:
            self._bounds[ago] = self._around(ago) if ago <= 1 else self._position(ago)
        return self._bounds[ago]

    def _around(self, ago: int) -> IntArray:
        """Give the end (ago 0) or the beginning (ago 1) of each row's instant, without a search."""
        bounds = np.arange(len(self.timeline)) + (1 - ago)
        tied, keys = self.timeline.tied(), self.timeline.sorted_keys
        bounds[tied] = np.searchsorted(keys, keys[tied], side="left" if ago else "right")
        return bounds[self.picked]

    def _position(self, ago: int) -> IntArray:
        if self.timeline.is_ranked:
            return self.timeline.position(self.codes, self.times - ago)
        keys = self._keys - ago
        np.maximum(keys, self._floor, out=keys)
        return np.searchsorted(self.timeline.sorted_keys, keys, side="right")

    def count(self, days: int, delay: int = 0) -> IntArray:
        """Count the events in (t - delay - days, t - delay]; ``delay`` in microseconds."""
        return self.bound(delay) - self.bound(delay + days * DAY)

    def in_output_order(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Put one value per row into the output's order, as float32."""
        out = np.empty(len(values), np.float32)
        out[self.slots] = values
        return out


def prefix_sums(values: IntArray) -> IntArray:
    """Give n + 1 running sums from 0; they may wrap around, their differences stay exact."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def to_fixed_point(amounts: FloatArray) -> IntArray:
    """Round amounts to 1 / 10,000 of a currency unit, as int64; beyond +-1e10 they are clipped.

    Raises:
        ValueError: if an amount is not finite.
    """
    finite = np.isfinite(amounts)
    if not finite.all():
        raise ValueError(f"amounts must be finite, however: {amounts[~finite][0]}")
    clipped = np.clip(amounts, -LARGEST_AMOUNT, LARGEST_AMOUNT)
    return np.rint(clipped * AMOUNT_SCALE).astype(np.int64)


def dense_codes(*parts: IntArray) -> tuple[IntArray, int]:
    """Number the distinct combinations of codes from 0; give the numbers and how many there are.

    Example:
        >>> dense_codes(np.array([7, 7, 3]), np.array([1, 1, 0]))
        (array([1, 1, 0]), 2)
    """
    combined = parts[0]
    for part in parts[1:]:
        combined = combined * (int(part.max(initial=0)) + 1) + part
    order = pl.Series(combined).arg_sort().to_numpy()
    is_new = np.diff(combined[order], prepend=combined[order[:1]]) != 0
    codes = np.empty(len(combined), np.int64)
    codes[order] = np.cumsum(is_new)
    return codes, int(is_new.sum()) + 1


class Squares:
    """Exact window sums of squares of fixed-point amounts, in limbs of 20 bits."""

    def __init__(self, amounts: IntArray) -> None:
        """Take the running sums of the limbs' products."""
        high, low = amounts >> _LIMB_BITS, amounts & ((1 << _LIMB_BITS) - 1)
        self._sums = [prefix_sums(part) for part in (high * high, high * low, low * low)]

    def between(self, low: IntArray, high: IntArray) -> FloatArray:
        """Give the sum over positions low to high, in squared fixed-point units."""
        squares, mixed, small = (sums[high] - sums[low] for sums in self._sums)
        unit = float(1 << _LIMB_BITS)
        return (squares * unit + 2.0 * mixed) * unit + small


def spread(total: IntArray, squares: FloatArray, count: IntArray) -> FloatArray:
    """Give the population standard deviation from exact sums; 0 where the count is 0."""
    n = np.maximum(count, 1)
    mean = total / n
    deviation: FloatArray = np.sqrt(np.maximum(squares / n - mean * mean, 0.0))
    return deviation


def sorted_recent(
    values: IntArray, low: IntArray, high: IntArray
) -> Iterator[tuple[slice, IntArray]]:
    """Give, chunk by chunk of rows, the values at positions low to high sorted ascending.

    Shape:
        values: (events,); low, high: (rows,) with 0 <= high - low <= 64.
        Yields: the rows' slice and a matrix (rows, 64), filled up with the largest int64.
    """
    filler = np.iinfo(np.int64).max
    padded = np.concatenate([np.full(RECENT, filler, np.int64), values])
    windows = sliding_window_view(padded, RECENT)  # windows[high] ends just before position high
    columns = np.arange(RECENT)
    for first in range(0, len(high), _CHUNK_ROWS):
        rows = slice(first, first + _CHUNK_ROWS)
        matrix = windows[high[rows]]
        matrix[columns < RECENT - (high[rows] - low[rows])[:, None]] = filler
        matrix.sort(axis=1)
        yield rows, matrix


def quantile_of_sorted(matrix: IntArray, count: IntArray, share: float) -> FloatArray:
    """Give each row's quantile with linear interpolation over its first ``count`` values.

    Shape:
        matrix: (rows, columns), sorted ascending; count: (rows,). Rows with count 0 give 0.

    Example:
        >>> quantile_of_sorted(np.array([[1, 2, 9]]), np.array([2]), 0.5).tolist()
        [1.5]
    """
    place = share * np.maximum(count - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    rows = np.arange(len(matrix))
    low = matrix[rows, below].astype(np.float64)
    value = low + (matrix[rows, above] - low) * (place - below)
    return np.where(count > 0, value, 0.0)
