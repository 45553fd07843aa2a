"""Negative log-likelihood of a neural spline flow; the only module that knows zuko."""

import math
from dataclasses import dataclass
from functools import partial

import torch
import zuko  # type: ignore[import-untyped]  # (zuko) has no py.typed
from torch import Tensor, nn

from models.base import BaseDetector
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)
from models.training import (
    TrainingConfig,
    mean_over_rows,
    train_with_adam,
)

BOUND = 5.0  # the splines live on [-5, 5] and asinh brings |x| < 74 into it


@dataclass(frozen=True)
class FlowConfig(TrainingConfig):
    """Settings of :class:`Flow`.

    Args:
        hidden_features: Widths of the hidden layers of each transform's masked network.
        transforms: Autoregressive transforms in the chain; every other one takes the columns in
            reverse order.
        bins: Bins of each spline.
        noise: Deviation of the normal noise added to training rows, in units of asinh(x). Counts
            and constants have no density: without noise their likelihood grows without end and
            one such column rules the score.
    """

    epochs: int = 6
    min_steps: int = 200
    max_rows: int = 40_000
    hidden_features: tuple[int, ...] = (64, 64)
    transforms: int = 2
    bins: int = 8
    noise: float = 0.3

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a count or the noise is too small.
        """
        super().__post_init__()
        if min(self.transforms, self.bins - 1, *self.hidden_features) < 1 or self.noise <= 0:
            raise ValueError(
                "expected transforms >= 1, bins >= 2, hidden_features >= 1 and noise > 0, got "
                f"{self.transforms}, {self.bins}, {self.hidden_features} and {self.noise}"
            )


class Flow(BaseDetector[FlowConfig]):
    """Negative log-likelihood under an autoregressive flow of rational-quadratic splines.

    score(x) = -log N(z; 0, I) - log |det dz/dx|, z = f(asinh(x)). It sees gaps inside the normal
    rows that a distance to their middle cannot. asinh comes first because the splines cover only
    [-5, 5]. Beyond (|x| > 74) they are the identity: such a value reaches z as asinh(x), so the
    score grows without bound like asinh(x)^2 / 2 + log |x|, and what the value can do to the
    other columns is bounded, as splines keep to [-5, 5] and their slopes are bounded. The
    density is that of rows blurred by ``noise``, taken at the row as it is. May be negative.

    Scoring takes one pass; only ``inverse``, which no score needs, goes column by column.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), in nats; higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Durkan et al., 2019, "Neural Spline Flows"; Papamakarios et al., 2017, "Masked
        Autoregressive Flow for Density Estimation".
        Departures: asinh before the splines; noise on training rows; columns reversed between
            transforms instead of mixed by a learned linear map.
    """

    def __init__(self, config: FlowConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        # zuko draws weights from the global generator; fit draws its own, so give the state back
        with torch.random.fork_rng(devices=[]):
            self.network: nn.Module = zuko.flows.MAF(
                n_features,
                transforms=config.transforms,
                hidden_features=config.hidden_features,
                univariate=partial(zuko.transforms.MonotonicRQSTransform, bound=BOUND),
                shapes=[(config.bins,), (config.bins,), (config.bins - 1,)],
            )

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Maximise the likelihood of the rows, with fresh noise in every batch."""
        self.float()
        self._reset(generator)
        rows = sample_rows(x, self.config.max_rows, generator).float()
        held_out = x_held_out.float()

        def loss(part: Tensor) -> Tensor:  # (rows, features) -> ()
            noise = torch.randn(part.shape, generator=generator, device=part.device)
            blurred: Tensor = (part.asinh() + self.config.noise * noise).sinh()
            return self(blurred).mean()  # type: ignore[no-any-return]  # torch does not annotate it

        report = train_with_adam(
            self,
            loss,
            lambda: mean_over_rows(self, held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self.double()
        return report

    def _reset(self, generator: torch.Generator) -> None:
        for parameter in self.parameters():
            if parameter.dim() == 2:  # weights (outputs, inputs): torch's own bound
                bound = 1 / math.sqrt(parameter.shape[1])
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give z and log |det dz/dx|.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch, features), (batch,).
        """
        chain = self.network().transform
        z, log_determinant = chain.call_and_ladj(x.asinh())  # (batch, features), (batch,)
        return z, log_determinant - 0.5 * x.square().log1p().sum(dim=1)

    def inverse(self, z: Tensor) -> Tensor:
        """Give the rows that ``transform`` maps to ``z``.

        Shape:
            z: (batch, features), of the module's dtype. Returns: (batch, features).
        """
        bent: Tensor = self.network().transform.inv(z)
        return bent.sinh()

    def forward(self, x: Tensor) -> Tensor:
        """Give negative log-likelihoods of one block.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        z, log_determinant = self.transform(x)
        constant = 0.5 * self.n_features * math.log(2 * math.pi)
        return 0.5 * z.square().sum(dim=1) + constant - log_determinant
