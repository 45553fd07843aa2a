import pytest
import torch

from models.metrics import average_precision
from models.weights import learn_weights


def make_surprises(n_rows, n_frauds, seed=0):
    """One member that sees frauds, one of noise, and one that ranks them backwards."""
    g = torch.Generator().manual_seed(seed)
    is_fraud = torch.zeros(n_rows, dtype=torch.bool)
    is_fraud[:n_frauds] = True
    normal = torch.rand(n_rows, 3, generator=g).log10().neg()
    sees = torch.where(is_fraud, normal[:, 0] + 2 * torch.rand(n_rows, generator=g), normal[:, 0])
    backwards = torch.where(is_fraud, 0.2 * normal[:, 2], normal[:, 2])
    return torch.stack([sees, normal[:, 1], backwards], dim=1), is_fraud


def test_members_that_see_frauds_get_the_weight():
    surprises, is_fraud = make_surprises(20_000, 200)
    weights = learn_weights(surprises, is_fraud)
    assert weights[0] > 0.9
    assert weights[2] == 0.0
    assert weights.sum() == pytest.approx(1)


def test_learned_weights_rank_better_than_equal_ones_on_other_rows():
    weights = learn_weights(*make_surprises(20_000, 200, seed=1))
    surprises, is_fraud = make_surprises(20_000, 200, seed=2)
    learned = average_precision((surprises.double() @ weights).numpy(), is_fraud.numpy())
    equal = average_precision(surprises.double().mean(dim=1).numpy(), is_fraud.numpy())
    assert learned > 2 * equal


def test_two_members_that_say_the_same_share_the_weight():
    surprises, is_fraud = make_surprises(20_000, 200)
    weights = learn_weights(surprises[:, [0, 0, 1]], is_fraud)
    assert float(weights[0]) == pytest.approx(float(weights[1]), rel=1e-3)


def test_members_that_say_nothing_get_equal_weights():
    surprises, is_fraud = make_surprises(5000, 100)
    backwards = surprises[:, [2, 2]]
    assert learn_weights(backwards, is_fraud).tolist() == [0.5, 0.5]


def test_order_of_the_rows_hardly_matters():
    surprises, is_fraud = make_surprises(5000, 100)
    there = learn_weights(surprises, is_fraud)
    back = learn_weights(surprises.flip(0), is_fraud.flip(0))
    torch.testing.assert_close(there, back, rtol=1e-3, atol=1e-4)
