"""Mahalanobis distance to the normal rows: the statistical baseline."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import BaseDetector, report_once
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)


@dataclass(frozen=True)
class GaussianConfig:
    """Settings of :class:`Gaussian`.

    Args:
        max_rows: Training rows drawn at random beyond this number are left out.
        variance_floor: Added to every variance: a column that never varied in training must not
            outweigh all others by the first digit of rounding noise.
    """

    max_rows: int = 1_000_000
    variance_floor: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if ``max_rows`` < 2 or ``variance_floor`` <= 0.
        """
        if self.max_rows < 2 or self.variance_floor <= 0:
            raise ValueError(
                "expected max_rows >= 2 and variance_floor > 0, "
                f"got {self.max_rows} and {self.variance_floor}"
            )


def ledoit_wolf(x: Tensor) -> tuple[Tensor, float]:
    """Estimate a covariance that is always well conditioned, and the share of shrinkage.

    The sample covariance S (divided by rows, not rows - 1) is drawn towards m I, m being the mean
    variance: (1 - b/d) S + (b/d) m I, with d = |S - m I|^2 and b = min(d, mean over rows of |x_k
        x_k' - S|^2 / rows).

    Shape:
        x: (rows, features), float64. Returns: covariance (features, features), shrinkage in [0,
            1].

    Source: Ledoit & Wolf, 2004, "A well-conditioned estimator for large-dimensional covariance
        matrices", lemmas 3.2 to 3.5. Departure: the norms are not divided by the number of
        features, which cancels.
    """
    n_rows, n_features = x.shape
    centred = x - x.mean(dim=0)  # (rows, features)
    covariance = centred.T @ centred / n_rows  # (features, features)
    mean_variance = covariance.diagonal().mean()
    target = mean_variance * torch.eye(n_features, dtype=x.dtype, device=x.device)
    distance = (covariance - target).square().sum()
    # mean of |x_k x_k' - S|^2 is mean of |x_k|^4 - |S|^2: no (rows, features, features) tensor is
    # needed
    fourth_moment = centred.square().sum(dim=1).square().mean()
    spread = (fourth_moment - covariance.square().sum()) / n_rows
    shrinkage = float((spread / distance).clamp(0, 1)) if distance > 0 else 1.0
    return (1 - shrinkage) * covariance + shrinkage * target, shrinkage


def find_whitening(x: Tensor, variance_floor: float) -> Tensor:
    """Find the matrix W for which W (x - mean) has about unit covariance.

    Args:
        x: Rows.
        variance_floor: Added to every variance.

    Shape:
        x: (rows, features), float64. Returns: (features, features), lower triangular.
    """
    covariance, _ = ledoit_wolf(x)
    covariance.diagonal().add_(variance_floor)
    factor, _ = torch.linalg.cholesky_ex(covariance)  # covariance = factor factor'
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    whitening: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return whitening


class Gaussian(BaseDetector[GaussianConfig]):
    """Squared Mahalanobis distance under one shrunk Gaussian.

    The score is (x - mean)' C^-1 (x - mean). Valid where normal rows form one elongated cloud; it
    cannot see an empty region between two clouds.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0, higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Mahalanobis, 1936; covariance as in :func:`ledoit_wolf`. Departure: ``variance_floor``.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, config: GaussianConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("whitening", torch.eye(n_features, dtype=torch.float64))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Estimate mean and covariance in closed form; losses are mean negative log-likelihoods."""
        rows = sample_rows(x, self.config.max_rows, generator).double()
        self.mean.copy_(rows.mean(dim=0))
        self.whitening.copy_(find_whitening(rows, self.config.variance_floor))
        losses = [self._mean_loss(part) for part in (rows, x_held_out.double())]
        return report_once((losses[0], losses[1]), on_epoch)

    def _mean_loss(self, x: Tensor) -> float:
        log_determinant = -2 * float(self.whitening.diagonal().log().sum())
        constant = self.n_features * math.log(2 * math.pi)
        return 0.5 * (float(self.forward(x).mean()) + log_determinant + constant)

    def forward(self, x: Tensor) -> Tensor:
        """Give squared distances of one block.

        Shape:
            x: (batch, features), float64. Returns: (batch,).
        """
        return ((x - self.mean) @ self.whitening.T).square().sum(dim=1)
