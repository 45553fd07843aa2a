import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boosted import LEAST_FRAUDS, Boosted, BoostedConfig
from models.detector import NotFittedError
from models.metrics import roc_auc

NAMES = ("amount", "ratio", "share", "category", "gap")
SMALL = BoostedConfig(least_rows_a_leaf=20, max_rounds=60, patience=20)


def make_rows(n_rows, seed):
    """Frauds are high ratios, or rare shares in one category; some values are missing."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, len(NAMES), generator=g)
    x[:, 2] = torch.where(torch.rand(n_rows, generator=g) < 0.1, 0.01, 0.0)
    x[:, 3] = torch.randint(0, 6, (n_rows,), generator=g).float()
    is_fraud = (x[:, 1] > 2.2) | ((x[:, 2] > 0) & (x[:, 3] == 4.0))
    x[torch.rand(n_rows, generator=g) < 0.1, 0] = math.nan
    x[torch.rand(n_rows, generator=g) < 0.02, 4] = math.inf
    return x, is_fraud


@pytest.fixture(scope="module")
def rows():
    return make_rows(4000, 1)


@pytest.fixture(scope="module")
def later():
    return make_rows(2000, 2)


def fit(rows, later, seed=0, config=SMALL):
    model = Boosted(config, NAMES, {"category"})
    return model, model.fit(*rows, *later, seed=seed)


@pytest.fixture(scope="module")
def fitted(rows, later):
    return fit(rows, later)


@pytest.fixture(scope="module")
def model(fitted):
    return fitted[0]


def test_kinds_of_fraud_that_labels_showed_are_found(fitted):
    model, report = fitted
    x, is_fraud = make_rows(3000, 3)
    assert roc_auc(model.score(x), is_fraud) > 0.99
    assert report.validation_ap > 0.9
    assert 1 <= report.best_round <= report.rounds <= SMALL.max_rounds
    assert report.seconds > 0


def test_scores_are_log_odds(model, later):
    x, is_fraud = later
    expected = float(model.score(x).sigmoid().sum())
    assert expected == pytest.approx(int(is_fraud.sum()), rel=0.1)


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_score_does_not_depend_on_the_company(model, later, data):
    x = later[0]
    expected = model.score(x)
    places = torch.tensor(
        data.draw(st.lists(st.integers(0, x.shape[0] - 1), min_size=1, max_size=50))
    )
    assert torch.equal(model.score(x[places]), expected[places])


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_and_seed_decide_alone(model, rows, later, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again, _ = fit(rows, later)
    finally:
        torch.set_num_threads(before)
    assert again.dumps() == model.dumps()


def test_written_and_read_it_gives_the_same_bits(model, later):
    text = model.dumps()
    read = Boosted.loads(SMALL, NAMES, {"category"}, text)
    assert torch.equal(read.score(later[0]), model.score(later[0]))
    assert read.dumps() == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("leaf_value=", "leaf_value=7", 1),
        lambda text: text.partition("\n")[2],
        lambda _: "",
        lambda _: "[]\n",
        lambda text: text + "x",
    ],
    ids=["cut", "changed", "headless", "empty", "list", "longer"],
)
def test_damaged_text_is_refused(model, damage):
    with pytest.raises(ValueError, match="expected boosted trees"):
        Boosted.loads(SMALL, NAMES, {"category"}, damage(model.dumps()))


def test_text_of_other_features_is_refused(model):
    other = (*NAMES[:-1], "count")
    with pytest.raises(ValueError, match=r"count.*got.*gap"):
        Boosted.loads(SMALL, other, {"category"}, model.dumps())
    with pytest.raises(ValueError, match="categorical"):
        Boosted.loads(SMALL, NAMES, (), model.dumps())


def test_no_row_and_one_row(model, later):
    assert model.score(later[0][:0]).shape == (0,)
    one = model.score(later[0][:1])
    assert one.shape == (1,)
    assert one.dtype == torch.float64


def test_a_row_of_missing_values_has_a_score(model):
    assert model.score(torch.full((1, len(NAMES)), math.nan)).isfinite().all()


def test_inputs_are_left_alone(rows, later):
    copies = [tensor.clone() for tensor in (*rows, *later)]
    model, _ = fit(rows, later)
    model.score(later[0])
    for tensor, copy in zip((*rows, *later), copies, strict=True):
        assert torch.equal(tensor.nan_to_num(), copy.nan_to_num())


def test_wrong_width_names_the_features(model, rows):
    with pytest.raises(ValueError, match=r"expected 5 features.*got 4.*'share'"):
        model.score(rows[0][:, :4])
    with pytest.raises(ValueError, match="expected 5 features"):
        model.fit(rows[0], rows[1], rows[0][:, :2], rows[1], seed=0)
    with pytest.raises(ValueError, match="expected 4000 labels"):
        model.fit(rows[0], rows[1][:9], *rows, seed=0)


def test_few_frauds_are_refused(rows, later):
    x, is_fraud = rows
    few = is_fraud & (is_fraud.cumsum(0) < LEAST_FRAUDS)
    with pytest.raises(ValueError, match=rf"at least {LEAST_FRAUDS} known frauds.*got 49"):
        fit((x, few), later)
    with pytest.raises(ValueError, match="to validate on, got 0 frauds in 2000"):
        fit(rows, (later[0], torch.zeros_like(later[1])))
    with pytest.raises(ValueError, match="genuine row"):
        fit((x, torch.ones_like(is_fraud)), later)


def test_unfitted_it_says_so():
    model = Boosted(SMALL, NAMES)
    with pytest.raises(NotFittedError, match="call fit or loads"):
        model.score(torch.zeros(1, len(NAMES)))
    with pytest.raises(NotFittedError):
        model.dumps()


def test_features_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"categorical.*'place'"):
        Boosted(SMALL, NAMES, {"place"})
    with pytest.raises(ValueError, match="each named once"):
        Boosted(SMALL, ("amount", "amount"))
    with pytest.raises(ValueError, match="at least one feature"):
        Boosted(SMALL, ())


@pytest.mark.parametrize(
    "setting",
    [
        {"leaves": 1},
        {"least_rows_a_leaf": 0},
        {"learning_rate": 0.0},
        {"learning_rate": 1.5},
        {"max_rounds": 0},
        {"patience": 0},
        {"max_bins": 1},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match="expected"):
        BoostedConfig(**setting)


def test_more_bins_keep_rare_values_apart():
    """A share that one row in a thousand has must not share a bin with zero."""
    g = torch.Generator().manual_seed(0)
    share = torch.zeros(40_000, 1)
    share[:100] = 0.0005  # fraud; between zero and a crowd of other values
    share[100:20_000] = torch.rand(19_900, 1, generator=g) + 0.001
    order = torch.randperm(40_000, generator=g)
    is_fraud = (torch.arange(40_000) < 100)[order]
    config = BoostedConfig(least_rows_a_leaf=50, max_rounds=20)
    model = Boosted(config, ["share"])
    report = model.fit(share[order], is_fraud, share[order], is_fraud, seed=0)
    assert report.validation_ap == pytest.approx(1.0)
    coarse = Boosted(BoostedConfig(least_rows_a_leaf=50, max_rounds=20, max_bins=15), ["share"])
    assert coarse.fit(share[order], is_fraud, share[order], is_fraud, seed=0).validation_ap < 0.5
