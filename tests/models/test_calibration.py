import math

import pytest
import torch

from models.calibration import SHAPE_RANGE, Calibration, CalibrationConfig, fit_pareto_tail
from models.detector import NotFittedError


def exponential(n_rows, seed):
    u = torch.rand(n_rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -(1 - u).log()


@pytest.fixture(scope="module")
def calibration():
    return Calibration(CalibrationConfig()).fit(exponential(20_000, 0))


@pytest.mark.parametrize("surprise", [0.3, 1.0, 2.0, 3.0, 4.0])
def test_surprise_is_minus_log10_of_the_tail_probability(calibration, surprise):
    score = torch.tensor([surprise * math.log(10)])  # P(S >= s) = exp(-s)
    assert float(calibration(score)[0]) == pytest.approx(surprise, rel=0.1)


def test_new_normal_rows_exceed_a_surprise_as_often_as_it_says(calibration):
    surprises = calibration(exponential(50_000, 1))
    for level in (0.5, 1.0, 2.0, 3.0):
        share = float((surprises >= level).double().mean())
        assert -math.log10(share) == pytest.approx(level, rel=0.1)


def test_surprise_rises_strictly_in_the_tail_and_never_falls(calibration):
    grid = torch.linspace(0, 60, 5000, dtype=torch.float64)
    surprises = calibration(grid)
    assert (surprises.diff() >= 0).all()
    assert (surprises[grid > 4].diff() > 0).all()
    assert float(calibration(torch.tensor([-5.0]))[0]) == 0


def test_surprise_is_continuous_where_the_tail_begins(calibration):
    u = float(calibration.knots[-1])
    below, above = calibration(torch.tensor([u - 1e-9, u + 1e-9], dtype=torch.float64))
    assert float(above - below) == pytest.approx(0, abs=1e-6)
    assert float(above) == pytest.approx(2, abs=0.01)


def test_new_normal_rows_are_rarely_tied(calibration):
    surprises = calibration(exponential(10_000, 2)).float()
    assert surprises.unique().shape[0] > 9_900


@pytest.mark.parametrize("shape", [0.2, 0.5])
def test_pareto_tail_is_recovered(shape):
    u = torch.rand(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    excess = (2.0 * ((1 - u) ** -shape - 1) / shape).sort().values
    found_shape, found_scale = fit_pareto_tail(excess).tolist()
    assert found_shape == pytest.approx(shape, abs=0.05)
    assert found_scale == pytest.approx(2.0, rel=0.1)


def test_tail_with_an_end_point_still_rises_without_end():
    excess = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double().sort().values
    shape, scale = fit_pareto_tail(excess).tolist()
    assert shape == SHAPE_RANGE[0]
    assert scale > 0


@pytest.mark.parametrize("n_levels", [1, 2, 5])
def test_few_distinct_scores_survive(n_levels):
    scores = (torch.arange(200) % n_levels).double()
    calibration = Calibration(CalibrationConfig()).fit(scores)
    surprises = calibration(torch.tensor([0.0, 4.0, 5.0, 6.0]))
    assert surprises.isfinite().all()
    assert surprises[3] > surprises[2] > surprises[0]


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="at least 20 held-out scores, got shape"):
        Calibration(CalibrationConfig()).fit(torch.zeros(19))
    with pytest.raises(ValueError, match="expected finite scores"):
        Calibration(CalibrationConfig()).fit(torch.full((50,), math.nan))


def test_unfitted_calibration_says_so():
    with pytest.raises(NotFittedError, match="call fit first"):
        Calibration(CalibrationConfig())(torch.zeros(3))


@pytest.mark.parametrize("values", [{"tail_share": 0.5}, {"least_tail_rows": 1}, {"max_knots": 1}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected 0 < tail_share"):
        CalibrationConfig(**values)
