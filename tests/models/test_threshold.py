import pytest
import torch

from models.threshold import split_by_day, threshold_for_capacity


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
