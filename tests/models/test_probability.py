"""The laws of a probability curve: monotone, never certain, as calibrated as its own rows."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from models.probability import LEAST_FRAUDS, Probability

SOME = {"scores": [0.5, 1.0, 4.0], "probabilities": [0.01, 0.01, 0.9], "n_rows": 9, "n_frauds": 3}


def make(seed, n=4000, digits=8):
    """Frauds that become likelier with the score: logistic, 3 % on the whole."""
    random = np.random.default_rng(seed)
    scores = np.round(random.gamma(1.0, 0.6, n), digits)
    truth = 1 / (1 + np.exp(5 - 2 * scores))
    return (
        torch.from_numpy(scores),
        torch.from_numpy(random.random(n) < truth),
        torch.from_numpy(truth),
    )


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.integers(0, 3),
    st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1, max_size=50),
)
def test_probabilities_never_fall_and_are_never_certain(seed, digits, anywhere):
    scores, is_fraud, _ = make(seed, 3000, digits)
    fitted = Probability.fit(scores, is_fraud)
    asked = torch.cat([torch.tensor(anywhere, dtype=torch.float64), scores]).sort().values
    found = fitted.forward(asked)
    assert found.dtype == torch.float64
    assert (found.diff() >= 0).all()
    assert (found > 0).all()
    assert (found < 1).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_neighbouring_numbers_never_fall(seed):
    scores, is_fraud, _ = make(seed, 3000)
    fitted = Probability.fit(scores, is_fraud)
    knots = fitted.knot_scores
    below = torch.nextafter(knots, torch.tensor(-torch.inf, dtype=torch.float64))
    above = torch.nextafter(knots, torch.tensor(torch.inf, dtype=torch.float64))
    found = torch.stack([fitted.forward(one) for one in (below, knots, above)])
    assert (found.diff(dim=0) >= 0).all()
    torch.testing.assert_close(found[1], fitted.knot_probabilities, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_scores_of_a_row_do_not_depend_on_the_others(seed):
    scores, is_fraud, _ = make(seed, 2500)
    fitted = Probability.fit(scores, is_fraud)
    whole = fitted.forward(scores[:20])
    torch.testing.assert_close(
        torch.cat([fitted.forward(one[None]) for one in scores[:20]]), whole, rtol=0, atol=0
    )


def test_curve_equals_scikit_learns_with_the_two_rows_made_up():
    scores, is_fraud, _ = make(3, digits=2)  # with ties
    fitted = Probability.fit(scores, is_fraud)
    padded = np.concatenate([[scores.min()], scores, [scores.max()]])
    labels = np.concatenate([[1.0], is_fraud, [0.0]])
    reference = IsotonicRegression(out_of_bounds="clip").fit(padded, labels)
    asked = np.linspace(-1, 8, 500)
    np.testing.assert_allclose(
        fitted.forward(torch.from_numpy(asked)), reference.predict(asked), atol=1e-12
    )


def test_its_own_rows_are_as_often_fraud_as_it_says():
    scores, is_fraud, _ = make(5)
    fitted = Probability.fit(scores, is_fraud)
    found = fitted.forward(scores)
    for value in found.unique():
        at = found == value
        said, seen = found[at].sum(), is_fraud[at].double().sum()
        assert abs(said - seen) <= 1 + 1e-9  # but for the row that was made up
    assert found.sum() == pytest.approx(int(is_fraud.sum()), abs=1)


def test_new_rows_are_as_often_fraud_as_it_says():
    fitted = Probability.fit(*make(1, 40_000)[:2])
    scores, _, truth = make(2, 40_000)
    assert (fitted.forward(scores) - truth).abs().mean() < 0.005
    assert fitted.forward(scores).sum().item() == pytest.approx(truth.sum().item(), rel=0.15)


def test_ends_follow_the_rule_of_succession():
    scores = torch.arange(400.0)
    fitted = Probability.fit(scores, scores >= 300)
    found = fitted.forward(torch.tensor([-9.0, 0.0, 299.0, 300.0, 399.0, 999.0]))
    low, high = 1 / 301, 100 / 101
    torch.testing.assert_close(found, torch.tensor([low] * 3 + [high] * 3, dtype=torch.float64))


def test_scores_without_meaning_give_one_probability():
    is_fraud = torch.arange(1000) < LEAST_FRAUDS
    fitted = Probability.fit(torch.ones(1000), is_fraud)
    found = fitted.forward(torch.tensor([-1.0, 1.0, 3.0]))
    torch.testing.assert_close(found, torch.full((3,), 51 / 1002, dtype=torch.float64))


def test_nan_stays_nan():
    fitted = Probability.from_description(SOME)
    assert fitted.forward(torch.tensor([torch.nan])).isnan().all()


def test_description_rebuilds_the_very_same_curve():
    scores, is_fraud, _ = make(4)
    fitted = Probability.fit(scores.float(), is_fraud)
    told = fitted.describe()
    again = Probability.from_description(json.loads(json.dumps(told)))
    assert again.describe() == told
    assert told["n_rows"] == 4000
    assert told["n_frauds"] == int(is_fraud.sum())
    assert torch.equal(again.forward(scores), fitted.forward(scores))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": None}, "lacks 'scores'"),
        ({"n_frauds": None}, "lacks 'n_frauds'"),
        ({"scores": [1.0, 0.5, 4.0]}, "strictly ascending"),
        ({"scores": [1.0, 1.0, 4.0]}, "strictly ascending"),
        ({"scores": [1.0, 4.0]}, r"got shapes \(3,\) and \(2,\)"),
        ({"scores": [], "probabilities": []}, "at least one"),
        ({"probabilities": [0.2, 0.1, 0.9]}, "never fall"),
        ({"probabilities": [0.0, 0.1, 0.9]}, "above 0 and below 1"),
        ({"probabilities": [0.1, 0.2, 1.0]}, "above 0 and below 1"),
        ({"probabilities": [0.1, 0.2, float("nan")]}, "list of finite numbers"),
        ({"scores": "012"}, "list of finite numbers"),
        ({"scores": [0.5, "1", 4.0]}, "list of finite numbers"),
        ({"n_rows": -1}, "expected a count, got -1"),
        ({"n_rows": 1.5}, "expected a count, got 1.5"),
    ],
)
def test_damaged_description_is_refused(change, said):
    damaged = {name: value for name, value in (SOME | change).items() if value is not None}
    with pytest.raises(ValueError, match=said):
        Probability.from_description(damaged)


@pytest.mark.parametrize(
    ("scores", "is_fraud", "said"),
    [
        (torch.arange(500.0), torch.arange(500) < LEAST_FRAUDS - 1, "at least 50.*got 49 frauds"),
        (torch.arange(60.0), torch.ones(60), "a genuine row.*got 60 frauds in 60 rows"),
        (torch.arange(60.0), torch.ones(61), "one shape"),
        (torch.full((500,), torch.inf), torch.arange(500) < 99, "finite scores"),
    ],
)
def test_rows_that_teach_nothing_are_refused(scores, is_fraud, said):
    with pytest.raises(ValueError, match=said):
        Probability.fit(scores, is_fraud)
