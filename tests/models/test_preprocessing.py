import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import NotFittedError
from models.preprocessing import PreprocessingConfig, Preprocessor, tame_tails

NAN = math.nan


def fit(columns, cardinalities=None, **config):
    x = torch.tensor(list(zip(*columns.values(), strict=True)), dtype=torch.float32)
    return Preprocessor(PreprocessingConfig(**config), list(columns), cardinalities).fit(x), x


def test_numeric_column_gets_median_zero_and_unit_spread():
    g = torch.Generator().manual_seed(0)
    values = 100 + 7 * torch.randn(5000, 1, generator=g)
    out = Preprocessor(PreprocessingConfig(), ["a"]).fit(values).transform(values)
    assert float(out.median()) == pytest.approx(0, abs=0.01)
    assert float(out.std()) == pytest.approx(1, abs=0.05)
    assert out.dtype == torch.float64


def test_column_that_is_mostly_zero_is_scaled_by_its_deviation():
    preprocessor, x = fit({"risk": [0.0] * 95 + [1.0] * 5})
    assert float(preprocessor.scale[0]) == pytest.approx(float(x.std(correction=0)))


def test_column_with_one_odd_value_in_many_is_scaled():
    preprocessor, x = fit({"risk": [0.0] * 9999 + [1.0]})
    assert float(preprocessor.scale[0]) == pytest.approx(float(x.double().std(correction=0)))


def test_constant_column_gives_zero_and_a_change_shows():
    preprocessor, _ = fit({"a": [5.0] * 10})
    assert preprocessor.transform(torch.tensor([[5.0], [7.0]])).flatten().tolist() == [0.0, 2.0]


def test_missing_value_becomes_the_median_with_indicator_only_if_seen_in_training():
    preprocessor, _ = fit({"a": [1.0, 2.0, 3.0, NAN], "b": [1.0, 2.0, 3.0, 4.0]})
    assert preprocessor.n_outputs == 3
    out = preprocessor.transform(torch.tensor([[NAN, NAN], [2.0, 2.0]]))
    assert out[0].tolist() == [0.0, 0.0, 1.0]
    assert out[1, 2] == 0


def test_column_without_any_value_survives():
    preprocessor, _ = fit({"a": [NAN, NAN]})
    assert preprocessor.transform(torch.tensor([[NAN], [3.0]])).isfinite().all()


def test_rare_codes_stand_out_and_unknown_most_of_all():
    preprocessor, _ = fit({"kind": [1.0] * 90 + [2.0] * 10}, {"kind": 4})
    unknown, common, rare, unseen, missing = (
        preprocessor.transform(torch.tensor([[0.0], [1.0], [2.0], [3.0], [NAN]]))
        .flatten()
        .tolist()
    )
    assert common < rare < unknown == unseen == missing


@pytest.mark.parametrize("code", [-1.0, 4.0, 1.5], ids=["negative", "too_large", "fraction"])
def test_value_that_is_no_code_is_refused(code):
    preprocessor, _ = fit({"kind": [1.0, 2.0]}, {"kind": 4})
    with pytest.raises(ValueError, match="expected whole codes from 0 to 3 in feature 'kind'"):
        preprocessor.transform(torch.tensor([[code]]))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_value_is_refused_with_the_feature_named(value):
    preprocessor, _ = fit({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="feature 'b' has 1 infinite of 2"):
        preprocessor.transform(torch.tensor([[1.0, value], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], r"expected 2 features as at fit, got 1; missing: \['b'\]"),
        (["a", "c"], r"missing: \['b'\]; not known at fit: \['c'\]"),
        (["b", "a"], "in the order of the fit"),
    ],
    ids=["missing", "another", "order"],
)
def test_other_columns_are_refused_by_name(names, message):
    preprocessor, _ = fit({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match=message):
        preprocessor.transform(torch.zeros(2, len(names)), names)


def test_other_width_is_refused_without_names():
    preprocessor, _ = fit({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="expected 2 features as at fit, got 3"):
        preprocessor.transform(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="matrix"):
        preprocessor.transform(torch.zeros(2))


def test_input_is_left_as_it_is():
    preprocessor, x = fit({"a": [1.0, NAN, 3.0], "kind": [0.0, 1.0, NAN]}, {"kind": 2})
    before = x.clone()
    preprocessor.transform(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


def test_unfitted_preprocessor_says_so():
    with pytest.raises(NotFittedError, match="call fit first"):
        Preprocessor(PreprocessingConfig(), ["a"]).transform(torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("names", "cardinalities"),
    [(["a", "a"], {}), ([], {}), (["a"], {"b": 2}), (["a"], {"a": 0})],
    ids=["repeated", "none", "no_feature", "no_codes"],
)
def test_declaration_without_meaning_is_refused(names, cardinalities):
    with pytest.raises(ValueError, match="expected"):
        Preprocessor(PreprocessingConfig(), names, cardinalities)


def test_no_training_rows_are_refused():
    with pytest.raises(ValueError, match="at least 1 training row"):
        Preprocessor(PreprocessingConfig(), ["a"]).fit(torch.zeros(0, 1))


@pytest.mark.parametrize("values", [{"linear_range": 0.0}, {"least_quartile_share": 0.0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected linear_range > 0"):
        PreprocessingConfig(**values)


@pytest.mark.parametrize("values", [{"embedding_dim": -1}, {"prior_rows": 0.0}])
def test_embedding_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected embedding_dim >= 0 and prior_rows > 0"):
        PreprocessingConfig(**values)


MIXED_NAMES = ("kind", "amount", "town", "gap")
MIXED_CODES = {"town": 4, "kind": 6}  # kinds 1 to 4 and towns 1 to 3 have rows
MIXED_OUTPUTS = 4 + 1 + 2 + 1  # features, gap's indicator, two components of kind, one of town


def make_mixed_rows(n_rows, seed):
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(1, 5, (n_rows,), generator=g)
    town = torch.randint(1, 4, (n_rows,), generator=g)
    amount = torch.randn(n_rows, generator=g) + kind
    gap = torch.randn(n_rows, generator=g) + (kind == 2) - (town == 3).float()
    gap[::9] = NAN
    return torch.stack([kind, amount, town, gap], dim=1)


def fit_mixed(x, cardinalities=MIXED_CODES, **config):
    return Preprocessor(PreprocessingConfig(**config), MIXED_NAMES, cardinalities).fit(x)


@pytest.fixture(scope="module")
def mixed():
    return fit_mixed(make_mixed_rows(3000, 0))


def test_embeddings_come_last_and_are_counted(mixed):
    out = mixed.transform(make_mixed_rows(50, 1))
    assert out.shape == (50, mixed.n_outputs) == (50, MIXED_OUTPUTS)
    without = fit_mixed(make_mixed_rows(3000, 0), embedding_dim=0)
    assert without.n_outputs == 5
    assert torch.equal(out[:, :5], without.transform(make_mixed_rows(50, 1)))


def test_unknown_unseen_and_missing_codes_are_finite_with_zero_embedding_and_own_rarity(mixed):
    codes = torch.tensor([1.0, 0.0, 5.0, NAN])
    x = torch.stack([codes, codes * 0 + 2, codes * 0 + 1, codes * 0 + 3], dim=1)
    x[3, 1:] = x[0, 1:]
    out = mixed.transform(x)
    assert out.isfinite().all()
    assert out[0, 5:7].all()
    assert not out[1:, 5:7].any()
    assert (out[1:, 0] > out[0, 0]).all()
    assert out[:, 7].unique().numel() == 1  # the town's embedding is untouched


def test_loaded_state_transforms_alike_whatever_the_order_of_the_declaration(mixed):
    fresh = Preprocessor(PreprocessingConfig(), MIXED_NAMES, dict(sorted(MIXED_CODES.items())))
    fresh.load_state_dict(mixed.state_dict())
    x = make_mixed_rows(50, 2)
    assert fresh.n_outputs == mixed.n_outputs
    assert torch.equal(fresh.transform(x), mixed.transform(x))
    assert torch.equal(fresh.columns_of(["town"]), mixed.columns_of(["town"]))


@settings(max_examples=25, deadline=None)
@given(n_rows=st.integers(0, 60), seed=st.integers(0, 2**31))
def test_output_depends_on_the_row_alone(mixed, n_rows, seed):
    x = make_mixed_rows(60, 3)
    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:n_rows]
    assert torch.equal(mixed.transform(x[chosen]), mixed.transform(x)[chosen])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_training_rows_does_not_matter(mixed, seed):
    x = make_mixed_rows(3000, 0)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(seed))
    again = fit_mixed(x[order]).transform(x)
    torch.testing.assert_close(again, mixed.transform(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["amount"], [1]),
        (["gap"], [3, 4]),
        (["kind"], [0, 5, 6]),
        (["town", "kind", "town"], [0, 2, 5, 6, 7]),
        (MIXED_NAMES, list(range(MIXED_OUTPUTS))),
        ([], []),
    ],
    ids=["numeric", "indicated", "embedded", "two", "all", "none"],
)
def test_columns_of_features(mixed, names, places):
    found = mixed.columns_of(names)
    assert found.dtype == torch.int64
    assert found.tolist() == places


def test_columns_of_numeric_features_alone():
    preprocessor, _ = fit({"a": [1.0, NAN], "b": [1.0, 2.0]})
    assert preprocessor.columns_of(["a"]).tolist() == [0, 2]


def test_columns_of_categorical_features_alone():
    preprocessor, _ = fit({"kind": [1.0, 2.0], "town": [1.0, 1.0]}, {"kind": 3, "town": 2})
    assert preprocessor.columns_of(["town"]).tolist() == [1]


def test_columns_of_unknown_features_are_refused(mixed):
    with pytest.raises(ValueError, match=r"got also \['colour'\]"):
        mixed.columns_of(["kind", "colour"])


def test_columns_of_unfitted_preprocessor_says_so():
    with pytest.raises(NotFittedError, match="call fit first"):
        Preprocessor(PreprocessingConfig(), ["a"]).columns_of(["a"])


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=20))
def test_taming_keeps_the_order(values):
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    tamed = tame_tails(ordered, 30.0)
    assert (tamed.diff() >= 0).all()
    assert tamed.abs().max() < 110
