import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from models.gaussian import Gaussian, GaussianConfig, ledoit_wolf


@pytest.mark.parametrize("n_rows", [5, 30, 1000], ids=["fewer_rows_than_features", "few", "many"])
def test_covariance_equals_scikit_learns(n_rows):
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=g, dtype=torch.float64)
    x = torch.randn(n_rows, 8, generator=g, dtype=torch.float64) @ mixing
    covariance, shrinkage = ledoit_wolf(x)
    reference = LedoitWolf().fit(x.numpy())
    assert shrinkage == pytest.approx(reference.shrinkage_, abs=1e-10)
    np.testing.assert_allclose(covariance.numpy(), reference.covariance_, rtol=1e-9, atol=1e-10)


def test_constant_rows_shrink_to_nothing():
    covariance, shrinkage = ledoit_wolf(torch.ones(10, 3, dtype=torch.float64))
    assert shrinkage == 1.0
    assert covariance.abs().max() == 0


def test_score_is_the_squared_mahalanobis_distance():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double()
    detector = Gaussian(GaussianConfig(variance_floor=1e-9), 3)
    detector.fit(x, x, seed=0)
    covariance, _ = ledoit_wolf(x)
    centred = x - x.mean(dim=0)
    expected = (centred @ torch.linalg.inv(covariance) * centred).sum(dim=1)
    torch.testing.assert_close(detector.score(x), expected.float(), rtol=1e-4, atol=1e-5)


def test_losses_are_negative_log_likelihoods():
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
    detector = Gaussian(GaussianConfig(variance_floor=1e-9), 2)
    report = detector.fit(x, x, seed=0)
    covariance, _ = ledoit_wolf(x)
    law = torch.distributions.MultivariateNormal(x.mean(dim=0), covariance)
    assert report.train_losses[0] == pytest.approx(-float(law.log_prob(x).mean()), rel=1e-6)


@pytest.mark.parametrize("values", [{"max_rows": 1}, {"variance_floor": 0.0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected max_rows >= 2 and variance_floor > 0"):
        GaussianConfig(**values)
