"""One-class support vector machine on random Fourier features."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import BaseDetector, report_once
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
    score_in_blocks,
)

POWER_STEPS = 20  # power iterations for the step size: enough, since the estimate is enlarged
BISECTION_STEPS = 60  # halvings of the multiplier's range: down to float64's own resolution
REACH_SHARE = 0.99  # share of the training rows within the kernel's reach


@dataclass(frozen=True)
class OneClassSVMConfig:
    """Settings of :class:`OneClassSVM`.

    Args:
        max_rows: Training rows drawn at random beyond this number are left out.
        frequencies: Random frequencies; each gives a cosine and a sine.
        nu: Share of training rows that may lie outside, in (0, 1).
        gamma_factor: The kernel is exp(-gamma |x - y|^2) with gamma = gamma_factor / (features x
            variance); 1 is scikit-learn's "scale".
        steps: Accelerated gradient steps on the dual.
    """

    max_rows: int = 10_000
    frequencies: int = 512
    nu: float = 0.5
    gamma_factor: float = 2.0
    steps: int = 200

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a count is too small, nu is not in (0, 1) or gamma_factor <= 0.
        """
        if self.max_rows < 2 or self.frequencies < 1 or self.steps < 1:
            raise ValueError(
                "expected max_rows >= 2, frequencies >= 1 and steps >= 1, "
                f"got {self.max_rows}, {self.frequencies} and {self.steps}"
            )
        if not 0 < self.nu < 1 or self.gamma_factor <= 0:
            raise ValueError(
                f"expected 0 < nu < 1 and gamma_factor > 0, got {self.nu} and {self.gamma_factor}"
            )


def draw_frequencies(
    n_features: int, n_frequencies: int, gamma: float, generator: torch.Generator
) -> Tensor:
    """Draw frequencies whose waves average to the kernel exp(-gamma |x - y|^2).

    Orthogonal in blocks of ``n_features``, which lowers the error of the average.

    Shape:
        Returns: (features, frequencies), float64, on the generator's device.

    Source: Yu et al., 2016, "Orthogonal Random Features".
    """
    n_blocks = math.ceil(n_frequencies / n_features)
    shape = (n_blocks, n_features, n_features)
    device = generator.device
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
    directions, _ = torch.linalg.qr(gaussian)  # (blocks, features, features)
    other = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
    lengths = other.square().sum(dim=1, keepdim=True).sqrt()  # (blocks, 1, features)
    waves: Tensor = (directions * lengths).transpose(0, 1).flatten(1)[:, :n_frequencies]
    return waves * math.sqrt(2 * gamma)


def make_waves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Map rows so that the inner product of two is close to their kernel, and 1 for a row itself.

    Shape:
        x: (batch, features), frequencies: (features, frequencies). Returns: (batch, 2 x
            frequencies).

    Source: Rahimi & Recht, 2007, "Random Features for Large-Scale Kernel Machines".
    """
    phase = x @ frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(frequencies.shape[1])


def project_to_capped_simplex(values: Tensor, cap: float) -> Tensor:
    """Give the nearest vector with entries in [0, cap] that sum to 1.

    Shape:
        values: (rows,), with rows x cap >= 1. Returns: (rows,).
    """
    low, high = values.min() - cap, values.max()  # the shift that makes the sum 1 lies between
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        is_too_much = (values - middle).clamp(0, cap).sum() > 1
        low = torch.where(is_too_much, middle, low)
        high = torch.where(is_too_much, high, middle)
    return (values - (low + high) / 2).clamp(0, cap)


def solve_dual(mapped: Tensor, nu: float, steps: int, generator: torch.Generator) -> Tensor:
    """Give the weights w = sum_i a_i phi(x_i) of the least |w|^2, 0 <= a_i <= 1/(nu n), sum a = 1.

    The dual is smooth where the primal's hinge is not, so accelerated projected gradients apply,
    with a restart where momentum points uphill.

    Shape:
        mapped: (rows, mapped features), float64. Returns: (mapped features,).

    Source: Schölkopf et al., 2001, eq. (3.11); Beck & Teboulle, 2009, "A Fast Iterative
        Shrinkage-Thresholding Algorithm"; O'Donoghue & Candès, 2015, "Adaptive Restart for
        Accelerated Gradient Schemes".
    """
    n_rows = mapped.shape[0]
    cap = 1 / (nu * n_rows)
    step_size = 1 / largest_eigenvalue(mapped, generator)
    dual = torch.full((n_rows,), 1 / n_rows, dtype=mapped.dtype, device=mapped.device)
    ahead, momentum = dual, torch.ones((), dtype=mapped.dtype, device=mapped.device)
    for _ in range(steps):
        gradient = mapped @ (mapped.T @ ahead)  # (rows,)
        following = project_to_capped_simplex(ahead - step_size * gradient, cap)
        is_uphill = (ahead - following) @ (following - dual) > 0
        momentum = torch.where(is_uphill, torch.ones_like(momentum), momentum)
        next_momentum = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - dual)
        dual, momentum = following, next_momentum
    return mapped.T @ dual


def largest_eigenvalue(mapped: Tensor, generator: torch.Generator) -> Tensor:
    """Estimate the largest eigenvalue of mapped mapped', a little too high.

    Shape:
        mapped: (rows, mapped features). Returns: (), > 0.
    """
    n_columns = mapped.shape[1]
    vector = torch.randn(n_columns, generator=generator, dtype=mapped.dtype, device=mapped.device)
    for _ in range(POWER_STEPS):
        vector = mapped.T @ (mapped @ (vector / vector.norm()))
    length: Tensor = vector.norm()
    return 1.02 * length


class OneClassSVM(BaseDetector[OneClassSVMConfig]):
    """Signed distance to the plane between the origin and most mapped normal rows.

    score(x) = rho - w'phi(x) + max(0, d(x) / reach - 1), where w and rho minimise |w|^2 / 2 - rho
    + mean of max(0, rho - w'phi(x_i)) / nu, phi maps rows so that phi(x)'phi(y) is about
    exp(-gamma |x - y|^2), and d is the distance to the mean row. The kernel is blind beyond its
    reach: there w'phi(x) is 0 but for the noise of the random features, and all rows would be
    alike. So the last term, 0 for 99 % of the training rows, puts those farther out in order.
    Valid for scaled columns; a single gamma cannot fit both a dense and a wide cloud, and in many
    features all distances look alike to it.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Schölkopf et al., 2001, "Estimating the Support of a High-Dimensional Distribution".
        Departures: random Fourier features as in :func:`make_waves` instead of the exact kernel;
            at most ``max_rows`` rows; rho is the nu-quantile of w'phi over them; the last term.
    """

    frequencies: Tensor
    weights: Tensor
    rho: Tensor
    mean: Tensor
    reach: Tensor

    def __init__(self, config: OneClassSVMConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        float64 = torch.float64
        count = config.frequencies
        self.register_buffer("frequencies", torch.zeros(n_features, count, dtype=float64))
        self.register_buffer("weights", torch.zeros(2 * count, dtype=float64))
        self.register_buffer("rho", torch.zeros((), dtype=float64))
        self.register_buffer("mean", torch.zeros(n_features, dtype=float64))
        self.register_buffer("reach", torch.ones((), dtype=float64))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Find the plane; losses are those of the primal problem."""
        rows = sample_rows(x, self.config.max_rows, generator).double()
        gamma = self._fit_kernel(rows, generator)
        mapped = make_waves(rows, self.frequencies)  # (rows, 2 x frequencies)
        self.weights.copy_(solve_dual(mapped, self.config.nu, self.config.steps, generator))
        similarity = (mapped @ self.weights).sort().values
        self.rho.copy_(similarity[math.ceil(self.config.nu * rows.shape[0]) - 1])
        distance = (rows - self.mean).norm(dim=1).sort().values
        last = distance.shape[0] - 1
        self.reach.copy_(distance[math.floor(REACH_SHARE * last)].clamp(min=gamma**-0.5))
        held_out = sample_rows(x_held_out, self.config.max_rows, generator)
        losses = [self._primal_loss(part) for part in (rows, held_out)]
        return report_once((losses[0], losses[1]), on_epoch)

    def _fit_kernel(self, rows: Tensor, generator: torch.Generator) -> float:
        self.mean.copy_(rows.mean(dim=0))
        variance = float(rows.var(correction=0))
        gamma = self.config.gamma_factor / self.n_features
        if variance > 0:
            gamma /= variance
        self.frequencies.copy_(
            draw_frequencies(self.n_features, self.config.frequencies, gamma, generator)
        )
        return gamma

    def _primal_loss(self, x: Tensor) -> float:
        outside = score_in_blocks(self._measure_outside, x).clamp(min=0)
        regular = 0.5 * self.weights.square().sum() - self.rho
        return float(regular + outside.mean() / self.config.nu)

    def _measure_outside(self, x: Tensor) -> Tensor:
        outside: Tensor = self.rho - make_waves(x, self.frequencies) @ self.weights
        return outside

    def forward(self, x: Tensor) -> Tensor:
        """Give signed distances of one block, times |w|, plus what lies beyond the reach.

        Shape:
            x: (batch, features), float64. Returns: (batch,).
        """
        distance = torch.linalg.vector_norm(x - self.mean, dim=1)
        beyond: Tensor = (distance / self.reach - 1).clamp(min=0)
        return self._measure_outside(x) + beyond
