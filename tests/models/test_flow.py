import math

import pytest
import torch

from models.flow import Flow, FlowConfig
from models.gaussian import Gaussian, GaussianConfig

FAST = {"epochs": 1, "min_steps": 50, "learning_rate": 1e-2, "hidden_features": (16,)}


def make_moons(n_rows, seed):
    """Give two half circles that interlock, each about the end of the other."""
    g = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n_rows, generator=g)
    upper = torch.rand(n_rows, generator=g) < 0.5
    side = torch.where(upper, 1.0, -1.0)
    moons = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], dim=1)
    return 1.5 * moons + 0.1 * torch.randn(n_rows, 2, generator=g)


@pytest.fixture(scope="module")
def flow():
    detector = Flow(FlowConfig(**{**FAST, "min_steps": 200}, noise=0.1), 2)
    detector.fit(make_moons(3000, 1), make_moons(500, 2), seed=0)
    return detector


@pytest.fixture(scope="module")
def wide_flow():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 5, generator=g)
    x[:, 3] = (x[:, 3] > 1.5).float() * 10  # mostly zero
    x[:, 4] = 0.0  # constant
    detector = Flow(FlowConfig(**FAST), 5)
    detector.fit(x[:800], x[800:], seed=0)
    return detector


def wide_points(scale):
    return scale * torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_inverse_undoes_the_transform(wide_flow, scale):
    x = wide_points(scale)
    with torch.no_grad():
        z, _ = wide_flow.transform(x)
        torch.testing.assert_close(wide_flow.inverse(z), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_log_determinant_equals_that_of_autograds_jacobian(wide_flow, scale):
    x = wide_points(scale)
    _, log_determinant = wide_flow.transform(x)
    for row, value in zip(x, log_determinant, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda point: wide_flow.transform(point[None])[0][0], row
        )
        torch.testing.assert_close(jacobian.slogdet().logabsdet, value.detach())


def test_score_is_the_negative_log_likelihood(wide_flow):
    x = wide_points(1.0)
    with torch.no_grad():
        z, log_determinant = wide_flow.transform(x)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(wide_flow.score(x), -(normal + log_determinant).float())


def test_density_sums_to_one_over_a_grid(flow):
    ticks = torch.linspace(-6, 6, 301).double()
    scores = flow.score(torch.cartesian_prod(ticks, ticks))
    cell = float(ticks[1] - ticks[0]) ** 2
    assert float((-scores.double()).exp().sum()) * cell == pytest.approx(1.0, abs=0.02)


def test_hollow_between_the_moons_is_odder_than_the_moons(flow):
    hollow = torch.tensor([[0.0, 0.75]]) * 0.5
    moons = make_moons(500, 5)
    usual = flow.score(moons).quantile(0.98)
    assert flow.score(hollow) > usual
    gaussian = Gaussian(GaussianConfig(), 2)
    gaussian.fit(make_moons(3000, 1), make_moons(500, 2), seed=0)
    assert gaussian.score(hollow) < gaussian.score(moons).quantile(0.2)


@pytest.mark.parametrize("column", range(5))
def test_score_grows_with_the_distance_in_the_tails(wide_flow, column):
    x = torch.zeros(5, 5)
    x[:, column] = torch.tensor([20.0, 100.0, 1e3, 1e6, 1e12])
    for signed in (x, -x):
        scores = wide_flow.score(signed)
        assert scores.isfinite().all()
        assert (scores.diff() > 0).all()


def test_construction_leaves_the_global_seed_alone():
    before = torch.random.get_rng_state()
    Flow(FlowConfig(), 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_seed_decides_the_weights():
    g = torch.Generator().manual_seed(0)
    x, held_out = torch.randn(200, 5, generator=g), torch.randn(50, 5, generator=g)

    def weights(seed):
        detector = Flow(FlowConfig(**{**FAST, "min_steps": 5}), 5)
        torch.rand(3)  # the global generator has moved on, and does not matter
        detector.fit(x, held_out, seed=seed)
        return torch.cat([parameter.flatten() for parameter in detector.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_constant_columns_do_not_rule_the_score(wide_flow):
    """Without noise the density at a constant would grow without end."""
    least = wide_flow.score(torch.zeros(1, 5)).item()
    per_spike = -math.log(1 / (wide_flow.config.noise * math.sqrt(2 * math.pi)))
    assert least > 2 * per_spike - 3


def test_single_column_can_be_fitted():
    g = torch.Generator().manual_seed(0)
    detector = Flow(FlowConfig(**FAST), 1)
    detector.fit(torch.randn(500, 1, generator=g), torch.randn(100, 1, generator=g), seed=0)
    usual, odd = detector.score(torch.tensor([[0.0], [6.0]]))
    assert odd > usual + 3


@pytest.mark.parametrize("values", [{"noise": 0.0}, {"bins": 1}, {"transforms": 0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected transforms >= 1"):
        FlowConfig(**values)
