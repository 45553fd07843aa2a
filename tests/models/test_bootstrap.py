"""Resampled figures equal the plain ones on rows repeated as their days were drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bootstrap import (
    LEAST_DAYS,
    Estimate,
    Interval,
    estimate_ratio,
    interval,
    resample_days,
    resampled_average_precision,
    resampled_mean,
    resampled_ratio,
    resampled_roc_auc,
)
from models.metrics import average_precision, roc_auc

DAYS = 6
AP, AUC = (resampled_average_precision, average_precision), (resampled_roc_auc, roc_auc)
figures = pytest.mark.parametrize(("resampled", "plain"), [AP, AUC], ids=["ap", "auc"])


@st.composite
def judged(draw):
    """Scores with many ties, labels and days."""
    n = draw(st.integers(1, 40))
    scores = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    days = draw(st.lists(st.integers(0, DAYS - 1), min_size=n, max_size=n))
    return np.array(scores) / 2, np.array(labels), np.array(days)


@figures
@settings(deadline=None, max_examples=30)
@given(judged(), st.integers(0, 1000))
def test_resampled_figure_equals_that_of_the_repeated_rows(resampled, plain, rows, seed):
    scores, labels, days = rows
    counts = resample_days(DAYS, 5, seed)
    found = resampled(scores, labels, days, counts)
    for figure, drawn in zip(found, counts, strict=True):
        s, y = np.repeat(scores, drawn[days]), np.repeat(labels, drawn[days])
        if not y.any() or (plain is roc_auc and y.all()):
            assert np.isnan(figure)
        else:
            assert figure == pytest.approx(plain(s, y))


@figures
@settings(deadline=None, max_examples=30)
@given(judged())
def test_drawing_each_day_once_gives_the_figure_itself(resampled, plain, rows):
    scores, labels, days = rows
    labels[0] = True
    if labels.all():
        return
    (found,) = resampled(scores, labels, days, np.ones((1, DAYS)))
    assert found == pytest.approx(plain(scores, labels))


@figures
def test_parts_of_the_resamples_give_the_same(resampled, plain, monkeypatch):
    random = np.random.default_rng(0)
    labels, days = random.random(500) < 0.2, random.integers(0, DAYS, 500)
    scores, counts = random.normal(size=500) + labels, resample_days(DAYS, 50, 0)
    whole = resampled(scores, labels, days, counts)
    monkeypatch.setattr("models.bootstrap.CELLS_AT_ONCE", 300)
    np.testing.assert_allclose(resampled(scores, labels, days, counts), whole)
    assert whole.std() > 0.001
    assert whole.mean() == pytest.approx(plain(scores, labels), abs=0.05)


def test_each_resample_draws_as_many_days_as_there_are():
    counts = resample_days(30, 400, seed=3)
    assert counts.shape == (400, 30)
    assert (counts.sum(axis=1) == 30).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.2)  # no day is preferred
    assert counts.var() == pytest.approx(1 - 1 / 30, rel=0.05)  # multinomial
    np.testing.assert_array_equal(counts, resample_days(30, 400, seed=3))
    assert (counts != resample_days(30, 400, seed=4)).any()


def test_mean_and_ratio_weigh_days_as_drawn():
    counts = np.array([[2, 0, 1], [0, 3, 0], [1, 1, 1]])
    np.testing.assert_allclose(resampled_mean([0.3, 0.6, 0.9], counts), [0.5, 0.6, 0.6])
    ratio = resampled_ratio([1.0, 0.0, 3.0], [2.0, 0.0, 4.0], counts)
    np.testing.assert_allclose(ratio, [5 / 8, np.nan, 4 / 6])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    n_days, covered = 30, 0
    for trial in range(300):
        day_effect = random.normal(size=n_days)  # days differ, as weekends do
        daily = 0.5 + 0.1 * day_effect
        found = interval(resampled_mean(daily, resample_days(n_days, 300, trial)))
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 300 <= 0.99


def test_days_that_differ_give_a_wider_interval_than_rows_drawn_one_by_one():
    random = np.random.default_rng(1)
    days = np.repeat(np.arange(20), 200)
    share = np.repeat(random.uniform(0.0, 0.3, 20), 200)  # frauds come in bad days
    labels = random.random(4000) < share
    scores = random.normal(size=4000) + labels
    by_day = resampled_average_precision(scores, labels, days, resample_days(20, 300, 0))
    rows = np.arange(4000)
    by_row = resampled_average_precision(scores, labels, rows, resample_days(4000, 300, 0))
    assert by_day.std() > 1.3 * by_row.std()


def test_interval_leaves_out_what_could_not_be_measured():
    assert interval([np.nan, 1.0, 3.0], level=0.5) == Interval(1.5, 2.5)
    nothing = interval([np.nan])
    assert np.isnan(nothing.low)
    assert np.isnan(nothing.high)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: interval([1.0], level=1.0), "level between 0 and 1, got 1.0"),
        (lambda: resample_days(0, 5, 0), "at least one day and one resample, got 0 and 5"),
        (lambda: resample_days(5, 0, 0), "got 5 and 0"),
        (lambda: resampled_mean([1.0], np.ones((3, 2))), r"got \(1,\), \(1,\) and \(3, 2\)"),
        (lambda: resampled_ratio([1.0], [1.0, 2.0], np.ones((3, 1))), r"\(1,\), \(2,\)"),
        (lambda: resampled_roc_auc([0.1], [1], [2], np.ones((3, 2))), "0 to 1, got 2 to 2"),
        (lambda: resampled_roc_auc([0.1], [1], [-1], np.ones((3, 2))), "got -1 to -1"),
        (lambda: resampled_roc_auc([0.1], [1], [0.5], np.ones((3, 2))), "of type float64"),
        (lambda: resampled_roc_auc([0.1], [1], [0, 1], np.ones((3, 2))), r"shape \(1,\)"),
        (lambda: resampled_average_precision([0.1], [2], [0], np.ones((3, 2))), "labels 0 or 1"),
    ],
)
def test_mistakes_are_said(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_estimate_needs_days_and_something_to_divide_by():
    counts = resample_days(LEAST_DAYS, 200, seed=0)
    numerators, denominators = np.arange(LEAST_DAYS), np.arange(LEAST_DAYS) + 1.0
    found = estimate_ratio(numerators, denominators, counts)
    assert found.value == pytest.approx(10 / 15)
    assert found.interval == interval(resampled_ratio(numerators, denominators, counts))
    few = estimate_ratio(numerators[1:], denominators[1:], resample_days(LEAST_DAYS - 1, 200, 0))
    assert few == Estimate(10 / 14, None)
    assert estimate_ratio(numerators, 0 * denominators, counts) is None
