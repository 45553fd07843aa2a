import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_auc_score,
)

from models.metrics import (
    average_precision,
    brier_score,
    card_precision_at_k,
    daily_card_precision,
    daily_caught,
    expected_calibration_error,
    precision_recall,
    probability_bins,
    rank_within_day,
    reliability,
    roc_auc,
)

rows = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=60)


@given(rows)
def test_curves_equal_scikit_learns_ties_included(pairs):
    scores, labels = zip(*pairs, strict=True)
    assume(0 < sum(labels) < len(labels))
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_card_precision_removes_detected_accounts():
    days = [1, 1, 1, 2, 2, 2]
    accounts = ["a", "b", "c", "a", "b", "c"]
    scores = [3.0, 2.0, 1.0, 3.0, 2.0, 1.0]
    labels = [1, 0, 0, 1, 0, 1]
    # day 1: a is found; day 2: a is gone, b is reviewed in vain, c is not reached
    assert card_precision_at_k(scores, labels, accounts, days, k=1) == 0.5
    # day 2 with two reviews: b and c
    assert card_precision_at_k(scores, labels, accounts, days, k=2) == 0.5


def test_card_precision_takes_an_accounts_highest_score_and_any_fraud():
    scores, labels = [1.0, 9.0, 5.0], [1, 0, 0]
    assert card_precision_at_k(scores, labels, [7, 7, 8], [1, 1, 1], k=1) == 1.0


def test_card_precision_divides_by_k_on_short_days():
    assert card_precision_at_k([1.0], [1], [7], [1], k=4) == 0.25


def test_card_precision_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    n = 3000
    accounts, days = rng.integers(0, 200, n), rng.integers(0, 7, n)
    scores, labels = rng.random(n), rng.random(n) < 0.02
    found, precisions = set(), []
    for day in range(7):
        best = {}
        for s, y, a in zip(*(v[days == day] for v in (scores, labels, accounts)), strict=True):
            if a not in found:
                high, fraud = best.get(a, (-1.0, False))
                best[a] = (max(high, s), fraud or y)
        top = sorted(best, key=lambda a: -best[a][0])[:20]
        hits = [a for a in top if best[a][1]]
        found.update(hits)
        precisions.append(len(hits) / 20)
    expected = sum(precisions) / 7
    assert card_precision_at_k(scores, labels, accounts, days, k=20) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0], [1, 0], "of one shape"),
        ([float("nan"), 1.0], [1, 0], "without NaN"),
        ([1.0, 2.0], [2, 0], "labels 0 or 1"),
        ([1.0, 2.0], [0, 0], "expected"),
    ],
    ids=["shape", "nan", "label", "one_class"],
)
@pytest.mark.parametrize("metric", [roc_auc, average_precision])
def test_meaningless_input_is_refused(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


def test_card_precision_refuses_meaningless_input():
    with pytest.raises(ValueError, match="accounts and days of shape"):
        card_precision_at_k([1.0, 2.0], [0, 1], [1], [1, 1])
    with pytest.raises(ValueError, match="k >= 1"):
        card_precision_at_k([1.0], [1], [1], [1], k=0)


def judged(seed=0, n=2000, days=5):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.05
    return rng.integers(0, 30, n) / 10 + labels, labels, rng.integers(0, days, n)


def test_daily_card_precisions_average_to_card_precision():
    scores, labels, days = judged()
    accounts = np.random.default_rng(1).integers(0, 300, scores.size)
    daily = daily_card_precision(scores, labels, accounts, days, [1, 7, 40])
    assert daily.shape == (3, 5)
    for k, of_days in zip([1, 7, 40], daily, strict=True):
        whole = card_precision_at_k(scores, labels, accounts, days, k)
        assert whole == pytest.approx(of_days.mean())


def test_ranks_within_days_equal_a_plain_sort():
    scores, _, days = judged(2)
    found = rank_within_day(scores, days)
    for day in range(5):
        rows = np.flatnonzero(days == day)
        plain = sorted(rows, key=lambda row: (-scores[row], row))
        assert found[plain].tolist() == list(range(1, rows.size + 1))


def test_caught_amounts_are_those_of_frauds_within_the_capacity():
    ranks, labels = [1, 2, 3, 1, 2], [1, 0, 1, 0, 1]
    days, amounts = ["a", "a", "a", "b", "b"], [10.0, 99.0, 5.0, 99.0, 7.0]
    caught = daily_caught(ranks, labels, days, amounts, [1, 2, 3])
    np.testing.assert_array_equal(caught, [[10, 0], [10, 7], [15, 7]])


def test_caught_share_grows_with_the_capacity_up_to_all():
    scores, labels, days = judged(3)
    capacities = [0, 1, 10, 100, 1000]
    ranks = rank_within_day(scores, days)
    caught = daily_caught(ranks, labels, days, np.ones(scores.size), capacities).sum(axis=1)
    assert (np.diff(caught) > 0).all()
    assert caught[0] == 0
    assert caught[-1] == labels.sum()


@given(rows)
def test_precision_recall_equals_scikit_learns(pairs):
    scores, labels = zip(*pairs, strict=True)
    assume(any(labels))
    precision, recall = precision_recall(scores, labels)
    known_precision, known_recall, _ = precision_recall_curve(labels, scores)
    known = set(zip(known_recall.round(9), known_precision.round(9), strict=True))
    assert set(zip(recall.round(9), precision.round(9), strict=True)) <= known
    gained = np.diff(recall, prepend=0)
    assert (gained > 0).all()
    assert (gained * precision).sum() == pytest.approx(average_precision(scores, labels))


def test_brier_score_equals_scikit_learns():
    scores, labels, _ = judged(4)
    probabilities = scores / scores.max()
    assert brier_score(probabilities, labels) == pytest.approx(
        brier_score_loss(labels, probabilities)
    )
    assert brier_score(labels.astype(float), labels) == 0


probabilities = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=200)


@given(probabilities, st.integers(1, 12), st.booleans())
def test_bins_hold_every_row_once_and_ties_together(pairs, bins, by_frauds):
    p, labels = (np.array(column) for column in zip(*pairs, strict=True))
    p = p / 20
    numbers = probability_bins(p, bins, by_frauds=by_frauds)
    found = reliability(p, labels, bins, by_frauds=by_frauds)
    assert len(found) <= bins
    assert sorted(set(numbers.tolist())) == list(range(len(found)))
    assert sum(one.rows for one in found) == p.size
    assert sum(one.frauds for one in found) == labels.sum()
    assert sum(one.rows * one.mean_probability for one in found) == pytest.approx(p.sum())
    assert all(np.unique(numbers[p == value]).size == 1 for value in np.unique(p))
    means = [one.mean_probability for one in found]
    assert means == sorted(means)


def test_bins_hold_as_many_rows_or_expect_as_many_frauds():
    p = np.random.default_rng(0).random(10_000) ** 4
    labels = np.zeros(p.size)
    rows = [one.rows for one in reliability(p, labels, 10)]
    np.testing.assert_allclose(rows, 1000, atol=2)
    expected = [
        one.rows * one.mean_probability for one in reliability(p, labels, 10, by_frauds=True)
    ]
    np.testing.assert_allclose(expected, p.sum() / 10, rtol=0.02)


def test_calibration_error_is_the_distance_that_was_put_in():
    rng = np.random.default_rng(0)
    p = rng.random(200_000) * 0.5
    labels = rng.random(p.size) < p
    assert expected_calibration_error(p, labels) < 0.005
    assert expected_calibration_error(p + 0.1, labels) == pytest.approx(0.1, abs=0.005)
    assert expected_calibration_error(np.zeros(p.size), labels) == pytest.approx(labels.mean())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: brier_score([1.5], [1]), "probabilities from 0 to 1"),
        (lambda: brier_score([], []), "at least one, got 0 rows"),
        (lambda: reliability([0.5], [1], bins=0), "at least one bin, got 0"),
        (lambda: rank_within_day([0.5], [1, 2]), r"days of shape \(1,\), got \(2,\)"),
        (lambda: daily_caught([1], [1], [1], [1, 2], [1]), r"got \(1,\) and \(2,\)"),
        (lambda: precision_recall([0.5], [0]), "at least one fraud in 1 rows"),
        (lambda: daily_card_precision([1.0], [1], [1], [1], [5, 0]), "k >= 1, got 1 rows and k=0"),
    ],
)
def test_mistakes_of_the_curves_are_said(call, said):
    with pytest.raises(ValueError, match=said):
        call()
