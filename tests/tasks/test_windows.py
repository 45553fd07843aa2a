"""The window engine against brute force."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.windows import (
    AMOUNT_SCALE,
    DAY,
    LARGEST_AMOUNT,
    NEVER,
    Rows,
    Squares,
    Timeline,
    dense_codes,
    prefix_sums,
    quantile_of_sorted,
    sorted_recent,
    spread,
    to_fixed_point,
)

HUGE = 2**62  # entities: their keys do not fit, so that times are ranked
events = st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50)), max_size=40)
queries = st.lists(st.tuples(st.integers(0, 3), st.integers(-120, 120)), min_size=1, max_size=20)


def columns(pairs):
    array = np.array(pairs, np.int64).reshape(-1, 2)
    return array[:, 0].copy(), array[:, 1].copy()


@pytest.mark.parametrize("n_codes", [4, HUGE], ids=["direct", "ranked"])
@given(events=events, queries=queries)
@settings(deadline=None, max_examples=60)
def test_position_differences_count_events(events, queries, n_codes):
    line = Timeline(*columns(events), n_codes)
    codes, times = columns(queries)
    counted = line.position(codes, times) - line.position(codes, times - 30)
    expected = [sum(c == code and t - 30 < at <= t for c, at in events) for code, t in queries]
    assert counted.tolist() == expected
    assert line.is_ranked == (n_codes == HUGE)


@given(events=events, slots=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_rows_count_events_of_their_windows_in_output_order(events, slots):
    if not events:
        return
    place = list(range(len(events)))
    slots.shuffle(place)
    codes, hours = columns(events)
    times = hours * (DAY // 8)
    for n_codes in (4, HUGE):
        rows = Rows(Timeline(codes, times, n_codes), np.array(place))
        counts = rows.in_output_order(rows.count(2, DAY // 8))
        for i, (code, at) in enumerate(events):
            expected = sum(c == code and at - 17 < t <= at - 1 for c, t in events)
            assert counts[place[i]] == expected


@pytest.mark.parametrize("n_codes", [4, HUGE], ids=["direct", "ranked"])
@given(
    events=events,
    intervals=st.lists(
        st.tuples(st.integers(0, 3), st.integers(-70, 50), st.integers(0, 40) | st.none())
    ),
)
@settings(deadline=None, max_examples=80)
def test_count_open_counts_the_intervals_that_hold_an_event(events, intervals, n_codes):
    line = Timeline(*columns(events), n_codes)
    codes, starts = columns([(code, start) for code, start, _ in intervals])
    ends = np.array(
        [NEVER if length is None else start + length for _, start, length in intervals], np.int64
    )
    expected = [
        sum(c == code and s <= t and (n is None or t < s + n) for c, s, n in intervals)
        for code, t in zip(line.codes, line.times, strict=True)
    ]
    assert line.count_open(codes, starts, ends).tolist() == expected


@pytest.mark.parametrize("in_time_order", [True, False])
@pytest.mark.parametrize("n_codes", [5, 2**17, 2**40])
def test_the_order_is_by_entity_and_time_whatever_the_way_of_sorting(n_codes, in_time_order):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, n_codes, 500)
    times = rng.integers(0, 100, 500)
    if in_time_order:
        times.sort()
    line = Timeline(codes, times, n_codes)
    pairs = list(zip(line.codes.tolist(), line.times.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert line.codes.tolist() == codes[line.order].tolist()


def test_next_times_stay_within_the_entity():
    line = Timeline(np.array([1, 0, 0, 1]), np.array([5, 9, 2, 3]), 2)
    assert line.next_times().tolist() == [9, NEVER, 5, NEVER]


def test_settle_ties_orders_by_the_criteria_whatever_the_input_order():
    amounts = np.array([3, 1, 2, 7, 2])
    ids = np.array([0, 1, 3, 4, 2])
    times = np.array([5, 5, 5, 9, 5])
    for seed in range(4):
        mixed = np.random.default_rng(seed).permutation(5)
        line = Timeline(np.zeros(5, np.int64), times[mixed], 1)
        tied = mixed[line.order[line.tied()]]
        line.settle_ties(amounts[tied], ids[tied])
        assert ids[mixed[line.order]].tolist() == [1, 2, 3, 0, 4]


@given(amounts=st.lists(st.integers(1, 10**14), min_size=1, max_size=64))
@settings(deadline=None)
def test_squares_and_spread_agree_with_exact_arithmetic(amounts):
    array = np.array(amounts, np.int64)
    low, high = np.zeros(1, np.int64), np.full(1, len(amounts))
    squares = Squares(array).between(low, high)
    assert squares[0] == pytest.approx(sum(a * a for a in amounts), rel=1e-14)
    total = prefix_sums(array)[high] - prefix_sums(array)[low]
    expected = float(np.std(np.array(amounts, np.longdouble)))
    floor = 1e-6 * max(amounts)  # cancellation in the variance
    assert spread(total, squares, high)[0] == pytest.approx(expected, rel=1e-6, abs=floor)


def test_prefix_sums_differences_are_exact_after_they_wrap_around():
    sums = prefix_sums(np.array([2**62, 2**62, 2**62, 5, 7]))
    assert sums[3] < 0
    assert sums[5] - sums[3] == 12


@given(
    values=st.lists(st.integers(0, 1000), min_size=1, max_size=150),
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_recent_quantiles_agree_with_numpy(values, share, data):
    high = data.draw(st.integers(0, len(values)))
    low = data.draw(st.integers(max(0, high - 64), high))
    bounds = np.array([low]), np.array([high])
    (rows, matrix), *rest = list(sorted_recent(np.array(values), *bounds))
    assert not rest
    quantile = quantile_of_sorted(matrix, bounds[1][rows] - bounds[0][rows], share)[0]
    expected = np.quantile(values[low:high], share) if high > low else 0.0
    assert quantile == pytest.approx(expected)


def test_recent_values_come_in_chunks_that_cover_all_rows():
    n = 40_000
    high = np.arange(n)
    values = np.arange(n)
    newest = np.empty(n, np.int64)
    for rows, matrix in sorted_recent(values, np.maximum(high - 3, 0), high):
        newest[rows] = matrix[:, 0]
    assert newest[1:].tolist() == np.maximum(high - 3, 0)[1:].tolist()


def test_dense_codes_number_combinations_from_zero():
    left, right = np.array([5, 5, 2, 2, 5]), np.array([0, 1, 0, 0, 0])
    codes, n_codes = dense_codes(left, right)
    assert n_codes == 3
    assert sorted(set(codes.tolist())) == [0, 1, 2]
    frame = pl.DataFrame({"l": left, "r": right, "c": codes})
    assert frame.unique().height == 3


def test_fixed_point_refuses_what_is_not_finite_and_clips_what_is_huge():
    assert to_fixed_point(np.array([12.34, 0.00004])).tolist() == [123_400, 0]
    assert to_fixed_point(np.array([1e300]))[0] == LARGEST_AMOUNT * AMOUNT_SCALE
    with pytest.raises(ValueError, match="finite"):
        to_fixed_point(np.array([1.0, np.nan]))
