import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.threshold import (
    split_by_day,
    threshold_for_capacity,
    threshold_for_false_positives,
)


def days(*scores):
    return [torch.tensor(day, dtype=torch.float32) for day in scores]


@pytest.mark.parametrize(
    ("scores", "capacity", "expected"),
    [
        (days([5, 4, 3], [9, 8, 7]), 2, 4.0),  # the quietest day decides
        (days([5, 4, 3], [9]), 2, 4.0),  # a day shorter than the capacity is left out
        (days([5, 4], [9]), 3, 4.0),  # all are: everything can be reviewed
        (days([5, 4, 3], []), 3, 3.0),  # an empty day is left out
        (days([2, 2, 2, 1]), 2, 2.0),  # ties
    ],
    ids=["quietest", "short_day", "all_short", "empty_day", "ties"],
)
def test_threshold(scores, capacity, expected):
    assert threshold_for_capacity(scores, capacity) == expected


def test_every_validation_day_fills_the_capacity():
    g = torch.Generator().manual_seed(0)
    scores = [torch.rand(200, generator=g) for _ in range(7)]
    threshold = threshold_for_capacity(scores, 20)
    assert min(int((day >= threshold).sum()) for day in scores) == 20


@pytest.mark.parametrize(
    ("scores", "capacity", "message"),
    [
        (days([1.0]), 0, "capacity >= 1, got 0"),
        (days([]), 5, "at least one validation day"),
        (days([float("nan")]), 5, "finite"),
    ],
    ids=["capacity", "no_rows", "nan"],
)
def test_meaningless_input_is_refused(scores, capacity, message):
    with pytest.raises(ValueError, match=message):
        threshold_for_capacity(scores, capacity)


def test_days_and_scores_must_pair_up():
    with pytest.raises(ValueError, match="of one shape"):
        split_by_day(torch.zeros(3), torch.zeros(4))


def labelled(*days):
    """Rows of score and label, day by day, as three tensors."""
    rows = [(score, day, fraud) for day, of_day in enumerate(days) for score, fraud in of_day]
    scores, day, fraud = zip(*rows, strict=True)
    return torch.tensor(scores), torch.tensor(day), torch.tensor(fraud)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), min_size=1, max_size=40
    ),
    st.floats(0.1, 12),
)
def test_false_positives_stay_within_the_budget_and_no_lower_score_does(rows, budget):
    scores, days, fraud = (torch.tensor(column) for column in zip(*rows, strict=True))
    scores = scores.float()
    found = threshold_for_false_positives(scores, days, fraud, budget)

    def genuine_a_day(least):
        return int((scores[~fraud] >= least).sum()) / days.unique().shape[0]

    assert genuine_a_day(found) <= budget
    lower = scores[scores < found]
    assert all(genuine_a_day(least) > budget for least in lower.tolist())


@pytest.mark.parametrize(
    ("rows", "budget", "passing"),
    [
        (labelled([(9.0, True), (5.0, False), (3.0, False)], [(8.0, False)]), 1, [9, 5, 8]),
        (labelled([(9.0, False), (5.0, False), (5.0, False)]), 2, [9]),  # ties pass together
        (labelled([(9.0, False), (9.0, False)]), 1, []),
        (labelled([(9.0, True), (5.0, False)]), 7, [9, 5]),  # all rows are within the budget
        (labelled([(9.0, True), (5.0, False), (6.0, True)]), 0.5, [9, 6]),
    ],
    ids=["mean_of_days", "ties", "none", "all", "below_one_a_day"],
)
def test_rows_that_pass_the_budget(rows, budget, passing):
    threshold = threshold_for_false_positives(*rows, budget)
    assert rows[0][rows[0] >= threshold].tolist() == passing


@pytest.mark.parametrize(
    ("rows", "budget", "message"),
    [
        (labelled([(1.0, False)]), 0.0, "a day > 0, got 0.0"),
        (labelled([(float("inf"), False)]), 1.0, "finite"),
        ((torch.zeros(0), torch.zeros(0), torch.zeros(0).bool()), 1.0, "at least one"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(3).bool()), 1.0, "of one shape"),
    ],
    ids=["budget", "infinite", "no_rows", "shapes"],
)
def test_meaningless_budgets_and_rows_are_refused(rows, budget, message):
    with pytest.raises(ValueError, match=message):
        threshold_for_false_positives(*rows, budget)
