"""Squared distance to the centre of a learned hypersphere."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import BaseDetector
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)
from models.mlp import initialise_weights, make_linear
from models.training import (
    TrainingConfig,
    mean_over_rows,
    train_with_adam,
)

LEAK = 0.1  # slope of the leaky ReLU below zero, as in the paper's reference code


class HypersphereCollapseError(RuntimeError):
    """The network maps all rows to nearly one point, so that distances mean nothing."""


@dataclass(frozen=True)
class DeepSVDDConfig(TrainingConfig):
    """Settings of :class:`DeepSVDD`.

    The loss is least when every row is mapped to the centre, so more training is not better:
    ``epochs``, ``min_steps`` and ``learning_rate`` are part of the method here.

    Args:
        hidden_features: Widths of the hidden layers.
        output_features: Dimension of the hypersphere.
        center_floor: Least distance of a component of the centre from zero: near a component
            that is zero, weights of zero would already be a perfect fit.
        least_spread: Collapse is reported below this share of the outputs' variance before
            training.
    """

    epochs: int = 8
    min_steps: int = 100
    max_rows: int = 60_000
    learning_rate: float = 3e-4
    hidden_features: tuple[int, ...] = (128,)
    output_features: int = 64
    center_floor: float = 0.1
    least_spread: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a width, floor or share is not positive.
        """
        super().__post_init__()
        if min(self.output_features, *self.hidden_features) < 1:
            raise ValueError(
                f"expected widths >= 1, got {self.hidden_features} and {self.output_features}"
            )
        if self.center_floor <= 0 or self.least_spread <= 0:
            raise ValueError(
                "expected center_floor > 0 and least_spread > 0, "
                f"got {self.center_floor} and {self.least_spread}"
            )


class DeepSVDD(BaseDetector[DeepSVDDConfig]):
    """Squared distance to a fixed centre, after a network that draws normal rows towards it.

    score(x) = |f(x) - c|^2, c the mean of the untrained network's outputs. f has no bias and no
    normalisation layer: with a constant to add anywhere, f(x) = c for every x would be a perfect
    fit (proposition 2 of the paper); unbounded activations, since a saturated unit is such a
    constant (proposition 3). A column that is constant but not zero is one too, so give columns
    centred on zero, as the preprocessor does. f(t x) = t f(x) for t > 0: along any ray the score
    grows with the square of the distance in the end.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0, higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Ruff et al., 2018, "Deep One-Class Classification", eq. (4).
        Departures: AdamW with a one-cycle rate; no pretraining as an autoencoder; the weights of
            the epoch with the least held-out loss; no soft boundary, as training rows are meant
            to be normal.
    """

    center: Tensor

    def __init__(self, config: DeepSVDDConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        sizes = (n_features, *config.hidden_features, config.output_features)
        self.network = build_unbiased_mlp(sizes)
        self.register_buffer("center", torch.zeros(config.output_features))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Fix the centre, train on the mean squared distance to it, then look for collapse.

        Raises:
            HypersphereCollapseError: if all held-out rows end at nearly one point.
        """
        self.float()
        initialise_weights(self, generator)
        rows = sample_rows(x, self.config.max_rows, generator).float()
        held_out = x_held_out.float()
        self._place_center(rows)
        first_spread = self._spread(held_out)
        report = train_with_adam(
            self,
            lambda part: self(part).mean(),
            lambda: mean_over_rows(self, held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self._check_spread(first_spread, self._spread(held_out))
        self.double()
        return report

    def _place_center(self, rows: Tensor) -> None:
        with torch.no_grad():
            mean = self.network(rows).mean(dim=0)  # (output,)
        floor = self.config.center_floor
        pushed = torch.where(mean < 0, -floor, floor).to(mean)
        self.center.copy_(torch.where(mean.abs() < floor, pushed, mean))

    def _spread(self, x: Tensor) -> float:
        with torch.no_grad():
            return float(self.network(x).var(dim=0, correction=0).sum())

    def _check_spread(self, before: float, after: float) -> None:
        if after < self.config.least_spread * before:  # constant rows have 0 before and after
            raise HypersphereCollapseError(
                f"expected outputs to keep {self.config.least_spread:g} of their first variance "
                f"{before:.3g} on the held-out rows, got {after:.3g}: the hypersphere collapsed; "
                "lower learning_rate, weight_decay or epochs"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Give squared distances of one block.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        distance: Tensor = (self.network(x) - self.center).square().sum(dim=1)
        return distance


def build_unbiased_mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers without bias and leaky ReLUs between them; weights are not initialised.

    Shape:
        input: (batch, sizes[0]). output: (batch, sizes[-1]).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [make_linear(inputs, outputs, bias=False), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers[:-1])
