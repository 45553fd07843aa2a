import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.category_embedding import embed_codes, profile_codes, turn_to_positive
from models.gaussian import Gaussian, GaussianConfig
from models.metrics import roc_auc
from models.preprocessing import PreprocessingConfig, Preprocessor

N_KINDS = 8
NAMES = ("amount_log", "gap", "hour", "kind")


def make_payments(n_rows, seed):
    """Every kind has its own level of amounts and is as common as the others."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(1, N_KINDS + 1, (n_rows,), generator=g)
    numbers = torch.randn(n_rows, 3, generator=g)
    numbers[:, 0] = kind + 0.5 * numbers[:, 0]
    return torch.cat([numbers, kind.unsqueeze(1)], dim=1)


def deal_codes(n_rows, n_codes, n_columns, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, n_codes, (n_rows,), generator=g)
    return codes, torch.randn(n_rows, n_columns, generator=g, dtype=torch.float64)


def embed(codes, values, n_codes, embedding_dim=2):
    return embed_codes(codes, values, n_codes, embedding_dim=embedding_dim, prior_rows=20.0)


def auc_of_amounts_odd_for_their_kind(embedding_dim):
    train = make_payments(3000, 0)
    config = PreprocessingConfig(embedding_dim=embedding_dim)
    preprocessor = Preprocessor(config, NAMES, {"kind": N_KINDS + 1}).fit(train)
    prepared = preprocessor.transform(train)
    detector = Gaussian(GaussianConfig(), preprocessor.n_outputs)
    detector.fit(prepared, prepared[:500], seed=0)
    odd = make_payments(1000, 2)
    odd[:, 3] = (odd[:, 3] - 1 + N_KINDS // 2).remainder(N_KINDS) + 1
    rows = torch.cat([make_payments(1000, 1), odd])
    return roc_auc(detector.score(preprocessor.transform(rows)), [0] * 1000 + [1] * 1000)


def test_amount_that_is_odd_only_for_its_kind_is_seen():
    assert auc_of_amounts_odd_for_their_kind(embedding_dim=2) >= 0.95
    assert auc_of_amounts_odd_for_their_kind(embedding_dim=0) < 0.6


def test_profile_is_the_mean_shrunk_to_the_overall_mean():
    codes = torch.tensor([1, 1, 1, 2])
    values = torch.tensor([[1.0], [2.0], [3.0], [-2.0]], dtype=torch.float64)
    counts = torch.tensor([0.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    # the overall mean is 1: deviations add up to 3 and -3
    profiles = profile_codes(codes, values, counts, 2.0).flatten()
    assert profiles.tolist() == pytest.approx([0.0, 3 / 5, -3 / 3, 0.0], abs=1e-9)


def test_components_have_unit_variance_over_the_rows_and_the_leading_one_comes_first():
    codes, values = deal_codes(5000, 7, 3)
    values[:, 1] += (codes == 1) + 2.0 * (codes == 2)
    values[:, 2] += 0.5 * (codes == 3)
    rows = embed(codes, values, 7)[codes]
    assert rows.std(dim=0, correction=0).tolist() == pytest.approx([1.0, 1.0])
    assert abs(float(torch.corrcoef(torch.stack([rows[:, 0], values[:, 1]]))[0, 1])) > 0.4
    assert abs(float(torch.corrcoef(torch.stack([rows[:, 1], values[:, 2]]))[0, 1])) > 0.1


def test_common_codes_weigh_more_than_rare_ones_that_differ_more():
    codes = torch.tensor([1] * 1400 + [2] * 1400 + [3] * 60 + [4] * 60)
    level = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    leading = embed(codes, level[codes].double(), 5)[:, 0]
    assert leading[1] - leading[2] > 1.9
    assert float(leading[3] - leading[4]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_codes_that_say_nothing_have_no_components(seed):
    assert not embed(*deal_codes(2000, 50, 10, seed), 50).any()


@pytest.mark.parametrize(
    ("codes", "values"),
    [
        (torch.tensor([1, 2] * 50), torch.zeros(100, 0)),
        (torch.tensor([1, 2] * 50), torch.full((100, 2), 7.0)),
        (torch.ones(100, dtype=torch.int64), torch.linspace(-1, 2, 200).reshape(100, 2)),
        (torch.zeros(100, dtype=torch.int64), torch.linspace(-1, 2, 200).reshape(100, 2)),
        (torch.tensor([1]), torch.ones(1, 2)),
    ],
    ids=["no_columns", "constant", "one_code", "unknown_alone", "one_row"],
)
def test_nothing_to_learn_gives_zeros(codes, values):
    embedding = embed(codes, values.double(), 4)
    assert embedding.shape == (4, 2)
    assert not embedding.any()


def test_more_components_than_columns_are_zeros():
    codes = torch.tensor([1, 2]).repeat(500)
    embedding = embed(codes, codes.double().unsqueeze(1), 3, embedding_dim=4)
    assert embedding.any(dim=0).tolist() == [True, False, False, False]


def test_unknown_and_unseen_codes_are_at_zero_whatever_their_rows():
    codes = torch.tensor([0, 1, 2, 2]).repeat(100)
    embedding = embed(codes, (codes == 0).double().unsqueeze(1) - 1.0 * (codes == 1)[:, None], 5)
    assert embedding[[1, 2]].any()
    assert not embedding[[0, 3, 4]].any()


def test_rare_code_is_nearer_to_zero_than_a_common_one_of_the_same_profile():
    codes = torch.tensor([1] * 500 + [2] * 495 + [3] * 5)
    values = torch.where(codes == 1, -1.0, 1.0).double().unsqueeze(1)
    embedding = embed(codes, values, 4)[:, 0]
    assert 0 < 3 * embedding[3] < embedding[2]


def test_wild_value_counts_as_a_large_one():
    codes, values = deal_codes(1000, 4, 2)
    values[:, 0] += codes
    large, wild = values.clone(), values.clone()
    large[0, 0], wild[0, 0] = 3.0, 1e12
    assert torch.equal(embed(codes, large, 4), embed(codes, wild, 4))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_the_rows_does_not_matter(seed):
    codes, values = deal_codes(1000, 6, 3)
    values[:, 0] += codes
    values[:, 2] -= values[:, 0]
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(embed(codes[order], values[order], 6), embed(codes, values, 6))


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1)], ids=str)
def test_component_grows_with_the_first_of_its_columns(signs):
    codes = torch.tensor([1, 2, 3]).repeat(500)
    values = (codes - 2.0).double().unsqueeze(1) * torch.tensor(signs)
    assert (embed(codes, values, 4)[1:, 0].diff() > 0).all()


@pytest.mark.parametrize("rounding", [-1e-15, 0.0, 1e-15])
def test_rounding_does_not_choose_the_sign(rounding):
    axis = torch.tensor([[-0.1], [-0.7], [0.7 + rounding]], dtype=torch.float64)
    assert turn_to_positive(axis)[1] > 0
    assert turn_to_positive(-axis)[1] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_the_same_points():
    codes, values = deal_codes(5000, 6, 3)
    values[:, 0] += codes
    on_gpu = embed(codes.cuda(), values.cuda(), 6)
    torch.testing.assert_close(on_gpu.cpu(), embed(codes, values, 6), rtol=0, atol=1e-9)
