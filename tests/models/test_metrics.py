import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.metrics import average_precision, card_precision_at_k, roc_auc

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
