"""Windows of earlier events against a plain loop, and the matrix that is made only in parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import score_in_blocks
from models.history import History, WindowedRows

CHANNELS = 2


@st.composite
def accounts(draw):
    """Events of a few accounts, and rows that each look at some place of an account."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    rows = draw(st.lists(st.tuples(st.integers(0, len(sizes) - 1), st.integers(0, 6)), max_size=9))
    return sizes, [(account, min(seen, sizes[account])) for account, seen in rows]


def tabulate(sizes, rows, offset=0.0):
    n_events = sum(sizes)
    events = offset + 1.0 + torch.arange(n_events * CHANNELS).reshape(n_events, CHANNELS)
    starts = torch.tensor([0, *sizes]).cumsum(0)
    end = torch.tensor([int(starts[account]) + seen for account, seen in rows], dtype=torch.int64)
    count = torch.tensor([seen for _, seen in rows], dtype=torch.int64)
    return History(events, end, count)


def naive_windows(sizes, rows, window):
    """Walk the accounts event by event; give nested lists, oldest first."""
    value, of_account = 1.0, []
    for size in sizes:
        of_account.append([[value + 2 * i, value + 2 * i + 1, 1.0] for i in range(size)])
        value += 2 * size
    found = []
    for account, seen in rows:
        newest = of_account[account][:seen][-window:]
        found.append([[0.0] * (CHANNELS + 1)] * (window - len(newest)) + newest)
    return torch.tensor(found).reshape(len(rows), window, CHANNELS + 1)


@settings(deadline=None, max_examples=150)
@given(case=accounts(), window=st.integers(1, 5))
def test_windows_equal_a_walk_over_the_accounts(case, window):
    history = tabulate(*case)
    assert torch.equal(history.windows(window, slice(None)), naive_windows(*case, window))


@settings(deadline=None, max_examples=150)
@given(case=accounts(), window=st.integers(1, 5), seed=st.integers(0, 99))
def test_compact_and_take_change_no_window(case, window, seed):
    history = tabulate(*case)
    whole = history.windows(window, slice(None))
    chosen = torch.randperm(len(case[1]), generator=torch.Generator().manual_seed(seed))[:4]
    compact = history.take(chosen).compact(window)
    assert torch.equal(compact.windows(window, slice(None)), whole[chosen])
    assert compact.events.shape[0] <= window * len(chosen)
    assert torch.equal(history.compact(window).windows(window, slice(None)), whole)


@settings(deadline=None, max_examples=50)
@given(first=accounts(), second=accounts(), window=st.integers(1, 5))
def test_concat_keeps_every_rows_window(first, second, window):
    parts = [tabulate(*first), tabulate(*second, offset=500.0)]
    joined = History.concat(parts).windows(window, slice(None))
    assert torch.equal(joined, torch.cat([part.windows(window, slice(None)) for part in parts]))


def test_compact_drops_what_nobody_looks_at():
    history = tabulate([6, 4], [(0, 5), (0, 4)]).compact(2)
    assert history.events[:, 0].tolist() == [5.0, 7.0, 9.0]  # events 2 to 4 of ten
    assert history.count.tolist() == [2, 2]


def test_rows_without_history_have_empty_windows():
    history = History.none(3, CHANNELS)
    assert torch.equal(history.windows(4, slice(None)), torch.zeros(3, 4, CHANNELS + 1))
    mixed = History.concat([history, tabulate([2], [(0, 2)])])
    assert mixed.windows(4, slice(None)).sum(dim=(1, 2)).tolist() == [0, 0, 0, 1 + 2 + 3 + 4 + 2]


def test_what_stands_in_absent_places_is_not_seen():
    history = tabulate([3], [(0, 1)])
    history.events[1:] = torch.nan
    assert history.windows(3, slice(None)).isfinite().all()


def test_dense_rows_are_the_row_then_the_window_oldest_first():
    history = tabulate([3], [(0, 2), (0, 0)])
    x = torch.tensor([[0.5, -0.5, 7.0], [1.5, 2.5, 3.5]], dtype=torch.float64)
    rows = WindowedRows(x, history, 3)
    assert rows.shape == (2, 3 + 3 * 3)
    assert rows[:].tolist() == [
        [0.5, -0.5, 7.0, 0, 0, 0, 1, 2, 1, 3, 4, 1],
        [1.5, 2.5, 3.5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert rows[:].dtype == rows.dtype == torch.float64
    assert rows.float()[:].dtype == torch.float32
    assert rows.double()[:].dtype == torch.float64


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 3),
        slice(5, 9),
        torch.tensor([3, 0, 0]),
        torch.tensor([True, False, False, True]),
    ],
    ids=["slice", "empty", "places", "mask"],
)
def test_any_index_gives_the_same_rows_as_the_dense_matrix(index):
    history = tabulate([3, 4], [(0, 2), (1, 4), (1, 0), (0, 3)])
    rows = WindowedRows(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), history, 2)
    assert torch.equal(rows[index], rows[:][index])
    assert torch.equal(rows.take(index)[:], rows[:][index])
    assert rows.take(index).shape == rows[:][index].shape


def test_scores_in_blocks_are_those_of_the_dense_matrix():
    g = torch.Generator().manual_seed(0)
    n_rows, n_events = 5000, 800
    end = torch.randint(0, n_events + 1, (n_rows,), generator=g)
    count = (end * torch.rand(n_rows, generator=g)).long()
    history = History(torch.randn(n_events, CHANNELS, generator=g), end, count)
    rows = WindowedRows(torch.randn(n_rows, 2, generator=g), history, 3)

    def score(block):
        return (block * torch.arange(block.shape[1])).sum(dim=1)

    assert torch.equal(score_in_blocks(score, rows), score_in_blocks(score, rows[:]))


@pytest.mark.parametrize(("end", "count"), [([3], [0]), ([1], [2]), ([1], [-1]), ([1, 1], [1])])
def test_spans_outside_the_table_are_refused(end, count):
    with pytest.raises(ValueError, match="expected"):
        History(torch.zeros(2, CHANNELS), torch.tensor(end), torch.tensor(count))


def test_rows_and_history_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="a history for each row"):
        WindowedRows(torch.zeros(3, 2), History.none(2, CHANNELS), 4)
    with pytest.raises(ValueError, match="window > 0"):
        WindowedRows(torch.zeros(2, 2), History.none(2, CHANNELS), 0)
