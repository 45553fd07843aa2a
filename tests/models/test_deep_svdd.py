import pytest
import torch
from torch import nn

from models.deep_svdd import DeepSVDD, DeepSVDDConfig, HypersphereCollapseError
from models.detector import NotFittedError
from models.metrics import roc_auc

FAST = {"epochs": 1, "min_steps": 30, "learning_rate": 1e-3, "hidden_features": (16,)}


def make_rows(n_rows, seed, n_features=5):
    return torch.randn(n_rows, n_features, generator=torch.Generator().manual_seed(seed))


def fit_small(**values):
    detector = DeepSVDD(DeepSVDDConfig(**{**FAST, **values}), 5)
    detector.fit(make_rows(800, 1), make_rows(200, 2), seed=0)
    return detector


def test_nothing_can_add_a_constant():
    detector = fit_small(hidden_features=(16, 8))
    assert [parameter.dim() for parameter in detector.parameters()] == [2, 2, 2]
    assert {type(module) for module in detector.network} == {nn.Linear, nn.LeakyReLU}
    zero = torch.zeros(3, 5, dtype=torch.float64)
    assert torch.equal(detector.network(zero), torch.zeros(3, 64, dtype=torch.float64))


def test_center_keeps_away_from_zero():
    detector = fit_small(center_floor=0.2)
    assert (detector.center.abs() >= 0.2 - 1e-7).all()
    assert (detector.center < 0).any()  # pushed away to its own side
    assert (detector.center.abs() > 0.21).any()  # the others stay where they were


def test_center_is_the_mean_of_the_untrained_outputs():
    detector = fit_small(center_floor=1e-9, learning_rate=1e-9)
    outputs = detector.network(make_rows(800, 1).double())
    torch.testing.assert_close(detector.center, outputs.mean(dim=0), rtol=1e-3, atol=1e-4)


def test_score_is_the_squared_distance_to_the_center():
    detector = fit_small()
    x = make_rows(30, 3).double()
    first, _, last = detector.network
    hidden = x @ first.weight.T
    hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
    distance = ((hidden @ last.weight.T - detector.center) ** 2).sum(dim=1)
    torch.testing.assert_close(detector.score(x), distance.float())


def test_training_finds_the_directions_in_which_normal_rows_hardly_vary():
    narrow = torch.tensor([1.0, 1.0, 1.0, 0.02, 0.02])
    rows, odd = make_rows(1500, 1) * narrow, make_rows(300, 2) * narrow.flip(0)
    labels = [0] * 500 + [1] * 300

    def auc(learning_rate):
        values = {"min_steps": 100, "learning_rate": learning_rate, "hidden_features": (64,)}
        detector = DeepSVDD(DeepSVDDConfig(**{**FAST, **values}), 5)
        detector.fit(rows[:1000], rows[1000:], seed=0)
        return roc_auc(detector.score(torch.cat([rows[1000:], odd])), labels)

    assert auc(5e-3) > 0.9
    assert auc(1e-9) < 0.6  # untrained: the odd rows are no longer than the normal ones


def test_collapse_is_reported_and_leaves_the_detector_unfitted():
    x, held_out = make_rows(800, 1), make_rows(200, 2)
    constant = torch.ones(800, 1)  # a constant column is the bias that the network lacks
    rows, held_rows = torch.cat([x, constant], dim=1), torch.cat([held_out, constant[:200]], dim=1)
    config = DeepSVDDConfig(
        **{**FAST, "min_steps": 500, "learning_rate": 2e-2, "weight_decay": 0.3}
    )
    detector = DeepSVDD(config, 6)
    with pytest.raises(HypersphereCollapseError, match="the hypersphere collapsed"):
        detector.fit(rows, held_rows, seed=0)
    with pytest.raises(NotFittedError):
        detector.score(rows)


def test_constant_rows_are_no_collapse():
    detector = DeepSVDD(DeepSVDDConfig(**FAST), 5)
    detector.fit(torch.zeros(100, 5), torch.zeros(30, 5), seed=0)
    assert detector.score(torch.ones(1, 5)) > detector.score(torch.zeros(1, 5))


@pytest.mark.parametrize(
    "values",
    [
        {"center_floor": 0.0},
        {"least_spread": 0.0},
        {"output_features": 0},
        {"hidden_features": (0,)},
    ],
)
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        DeepSVDDConfig(**values)
