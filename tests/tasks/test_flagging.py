"""Thresholds of each policy against a plain reading of it; flags within capacity, row by row."""

import logging

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.threshold import split_by_day, threshold_for_capacity
from tasks.flagging import choose_threshold, flag, warn_of_fallback
from tasks.review_settings import QueueSettings

CAPACITY = QueueSettings(capacity=3)
BUDGET = QueueSettings(capacity=3, threshold="false_positives", false_positives=2.0)
SCORE = QueueSettings(capacity=3, threshold="score", least_score=1.5)
COST = QueueSettings(capacity=3, threshold="cost", review_cost=10.0)
POLICIES = (CAPACITY, BUDGET, SCORE, COST)


def make_day(scores, amounts=None, probabilities=None):
    """Rows of a day, ranked."""
    n = len(scores)
    frame = pl.DataFrame(
        {
            "transaction_id": [f"t{place}" for place in range(n)],
            "score": pl.Series(scores, dtype=pl.Float64),
            "amount": pl.Series(amounts or [100.0] * n, dtype=pl.Float64),
            "probability": pl.Series(probabilities or [None] * n, dtype=pl.Float64),
        }
    )
    order = frame.sort("score", "transaction_id", descending=[True, False])
    return order.with_row_index("rank_of_day", offset=1)


def flagged(day, threshold, queue):
    found = flag(day, threshold, queue)
    assert found.drop("is_flagged").equals(day.sort("rank_of_day"))
    return found.filter("is_flagged")["transaction_id"].to_list()


@pytest.fixture
def validation():
    g = torch.Generator().manual_seed(3)
    scores = torch.rand(600, generator=g).exp()
    return scores, torch.arange(600) % 6, torch.rand(600, generator=g) < 0.05


def test_each_policy_chooses_its_threshold(validation):
    scores, days, is_fraud = validation
    by_capacity = threshold_for_capacity(split_by_day(scores, days), 3)
    assert choose_threshold(*validation, CAPACITY) == by_capacity
    assert choose_threshold(*validation, COST) == by_capacity
    assert choose_threshold(*validation, SCORE) == 1.5
    least = choose_threshold(*validation, BUDGET)
    assert int((scores[~is_fraud] >= least).sum()) == 2 * 6
    assert choose_threshold(scores, days, torch.zeros_like(is_fraud), BUDGET) > least


def test_capacity_takes_the_highest_that_reach_the_threshold():
    day = make_day([5.0, 1.0, 4.0, 3.0, 2.0])
    assert flagged(day, 2.0, CAPACITY) == ["t0", "t2", "t3"]
    assert flagged(day, 3.5, CAPACITY) == ["t0", "t2"]
    assert flagged(day, 9.0, CAPACITY) == []
    assert flagged(day.clear(), 2.0, CAPACITY) == []


def test_score_is_read_from_the_settings_of_tonight():
    day = make_day([2.0, 1.6, 1.4])
    assert flagged(day, 99.0, SCORE) == ["t0", "t1"]


def test_cost_flags_what_pays_and_the_highest_gains_first():
    day = make_day(
        [5.0, 4.0, 3.0, 2.0, 1.0],
        amounts=[20.0, 1000.0, 12.0, 5000.0, 900.0],
        probabilities=[0.9, 0.5, 0.8, 0.2, 0.1],
    )  # expected gains: 8, 490, -0.4, 990, 80
    assert flagged(day, 99.0, COST) == ["t1", "t3", "t4"]  # t0 would pay, but less
    assert flagged(day, 99.0, COST.model_copy(update={"capacity": 9})) == ["t0", "t1", "t3", "t4"]
    dear = COST.model_copy(update={"review_cost": 990.0})
    assert flagged(day, 0.0, dear) == ["t3"]


def test_alert_that_just_pays_for_itself_is_not_worth_a_review():
    day = make_day([1.0, 0.5], amounts=[20.0, 20.5], probabilities=[0.5, 0.5])
    assert flagged(day, 0.0, COST) == ["t1"]


def test_model_without_probabilities_flags_by_capacity_and_says_so(caplog):
    day = make_day([5.0, 1.0, 4.0, 3.0, 2.0])
    assert flagged(day, 3.5, COST) == flagged(day, 3.5, CAPACITY)
    with caplog.at_level(logging.WARNING, "tasks.flagging"):
        warn_of_fallback(day, CAPACITY)
        warn_of_fallback(day.with_columns(probability=pl.lit(0.5)), COST)
        assert caplog.text == ""
        warn_of_fallback(day, COST)
    assert "5 of 5 transactions have no probability" in caplog.text


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_flag_depends_on_other_rows_by_the_capacity_alone(data):
    """A row alone is flagged if it passes; among others, unless ``capacity`` come before it."""
    n = data.draw(st.integers(1, 12))
    numbers = st.lists(st.sampled_from([0.1, 0.5, 1.0, 1.5, 2.0]), min_size=n, max_size=n)
    chances = [p if p < 1 else None for p in data.draw(numbers)]
    day = make_day(data.draw(numbers), [20 * a for a in data.draw(numbers)], chances)
    queue = data.draw(st.sampled_from(POLICIES))
    threshold = data.draw(st.sampled_from([0.0, 1.0, 1.2, 9.0]))
    passing = [i for part in day.iter_slices(1) for i in flagged(part, threshold, queue)]
    found = flagged(day, threshold, queue)
    assert set(found) <= set(passing)
    assert len(found) == min(queue.capacity, len(passing))
    assert flagged(day, threshold, queue) == found
    everything = queue.model_copy(update={"capacity": 100})
    assert flagged(day, threshold, everything) == passing
    assert sorted(flagged(day.reverse(), threshold, queue)) == sorted(found)


@pytest.mark.parametrize("policy", ["false_positives", "score", "cost"])
def test_policy_without_its_figure_is_refused(policy):
    with pytest.raises(ValidationError, match=f"threshold '{policy}' needs .*, which is not set"):
        QueueSettings(threshold=policy)
