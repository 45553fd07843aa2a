import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.svm import OneClassSVM as ReferenceSVM

from models.one_class_svm import (
    OneClassSVM,
    OneClassSVMConfig,
    draw_frequencies,
    make_waves,
    project_to_capped_simplex,
)


def make_gaussian(n_rows, seed):
    g = np.random.default_rng(seed)
    return g.normal(size=(n_rows, 5)) @ np.random.default_rng(9).normal(size=(5, 5))


def make_clusters_with_outliers(n_rows, seed):
    g = np.random.default_rng(seed)
    centres = 4 * np.random.default_rng(9).normal(size=(4, 6))
    x = centres[g.integers(0, 4, n_rows)] + 0.5 * g.normal(size=(n_rows, 6))
    x[: n_rows // 50] = g.uniform(-12, 12, size=(n_rows // 50, 6))
    return x


def fit(x, **values):
    detector = OneClassSVM(OneClassSVMConfig(**values), x.shape[1])
    x = torch.from_numpy(x)
    return detector, detector.fit(x, x[:100], seed=0)


@pytest.mark.parametrize("make", [make_gaussian, make_clusters_with_outliers])
@pytest.mark.parametrize("nu", [0.5, 0.1])
def test_ranking_agrees_with_scikit_learns(make, nu):
    x, other = make(2000, 0), make(2000, 1)
    detector, _ = fit(x, nu=nu, gamma_factor=1.0)
    reference = ReferenceSVM(kernel="rbf", gamma="scale", nu=nu).fit(x)
    for part in (x, other):
        ours = detector.score(torch.from_numpy(part)).numpy()
        assert spearmanr(ours, -reference.decision_function(part)).statistic >= 0.95


def test_waves_approximate_the_kernel():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 500, 7, generator=g, dtype=torch.float64)
    frequencies = draw_frequencies(7, 512, 0.1, g)
    assert frequencies.shape == (7, 512)
    exact = (-0.1 * (x - y).square().sum(dim=1)).exp()
    products = (make_waves(x, frequencies) * make_waves(y, frequencies)).sum(dim=1)
    error = products - exact
    assert error.square().mean().sqrt() < 0.04  # 1 / sqrt(2 x 512) = 0.031 for far rows
    assert error.mean().abs() < 0.01
    torch.testing.assert_close(
        make_waves(x, frequencies).square().sum(dim=1), torch.ones(500, dtype=torch.float64)
    )


@pytest.mark.parametrize("nu", [0.05, 0.3, 0.5])
def test_about_a_share_nu_of_the_training_rows_is_outside(nu):
    x = make_gaussian(1500, 0)
    detector, _ = fit(x, nu=nu, frequencies=64)
    outside = detector._measure_outside(torch.from_numpy(x)) > 0
    assert float(outside.double().mean()) == pytest.approx(nu, abs=0.01)


def test_training_reaches_scikit_learns_loss():
    x = make_clusters_with_outliers(1000, 0)
    _, report = fit(x, nu=0.2, gamma_factor=1.0)
    reference = ReferenceSVM(kernel="rbf", gamma="scale", nu=0.2).fit(x)
    alpha = reference.dual_coef_[0] / (0.2 * 1000)  # scikit-learn scales the sum to nu n
    vectors = torch.from_numpy(reference.support_vectors_)
    gamma = 1 / (6 * x.var())
    kernel = (-gamma * torch.cdist(vectors, vectors).square()).exp().numpy()
    least = -0.5 * alpha @ kernel @ alpha  # the dual's value is the primal's at the optimum
    assert report.train_losses[0] == pytest.approx(least, abs=0.01)


def test_projection_keeps_sum_and_bounds():
    values = torch.tensor([5.0, 0.3, 0.1, -2.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 0.35, 0.15, 0.0], dtype=torch.float64)
    torch.testing.assert_close(project_to_capped_simplex(values, 0.5), expected)


def test_rows_beyond_the_kernels_reach_keep_their_order():
    detector, _ = fit(make_gaussian(500, 0), frequencies=64)
    direction = torch.ones(1, 5, dtype=torch.float64)
    scores = detector.score(torch.cat([10.0**power * direction for power in range(1, 9)]))
    assert (scores.diff() > 0).all()


def test_same_seed_gives_the_same_scores_another_seed_others():
    x = make_gaussian(300, 0)
    (first, _), (second, _) = fit(x), fit(x)
    third = OneClassSVM(OneClassSVMConfig(), 5)
    third.fit(torch.from_numpy(x), torch.from_numpy(x), seed=1)
    rows = torch.from_numpy(make_gaussian(50, 1))
    assert torch.equal(first.score(rows), second.score(rows))
    assert not torch.equal(first.score(rows), third.score(rows))


@pytest.mark.parametrize("values", [{"nu": 1.0}, {"gamma_factor": 0.0}, {"frequencies": 0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        OneClassSVMConfig(**values)
