"""The rarest of a row's values: empirical tail probabilities, column by column."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import BaseDetector, report_once
from models.calibration import fit_pareto_tail
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)

LEAST_WIDTH = 1e-12  # between two quantiles: equal ones have nothing in between
LOG_10 = math.log(10.0)


@dataclass(frozen=True)
class TailsConfig:
    """Settings of :class:`Tails`.

    Args:
        max_rows: Training rows drawn at random beyond this number are left out.
        knots: Quantiles of each column that are kept.
        tail_share: Share of the rows to which each column's tail is fitted.
        scale_floor: Least scale of a tail, in scaled units: one more than ever seen in a column
            of few values must not outweigh all else.
    """

    max_rows: int = 300_000
    knots: int = 1024
    tail_share: float = 0.005
    scale_floor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a setting is out of range.
        """
        if self.max_rows < 2 or self.knots < 2 or self.scale_floor <= 0:
            raise ValueError(
                "expected max_rows >= 2, knots >= 2 and scale_floor > 0, "
                f"got {self.max_rows}, {self.knots} and {self.scale_floor}"
            )
        if not 0 < self.tail_share < 0.5:
            raise ValueError(f"expected 0 < tail_share < 0.5, got {self.tail_share}")


class Tails(BaseDetector[TailsConfig]):
    """Surprise of the rarest value: max over features of -log10 P(a normal value is as extreme).

    The side that counts as extreme is the longer one: the right for a column that is skewed to the
    right, as amounts, ratios and counts are. P is interpolated between quantiles of the training
    rows, and a generalised Pareto tail beyond the last. On the shorter side only a value beyond
    all that were seen counts, by the logarithm of how far. Blind to combinations: values that are
    each ordinary and never meet are not seen.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0; 3 means that one normal row in
            a thousand has so extreme a value in that column.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Li et al., 2022, "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative
        Distribution Functions": the tail by the sign of the skewness. Departures: the largest of
        the columns' surprises in place of their sum, which correlated columns would count twice;
            a smooth tail (Pickands, 1975).
    """

    sides: Tensor
    quantiles: Tensor
    surprises: Tensor
    tails: Tensor

    def __init__(self, config: TailsConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        real = torch.float64
        self.register_buffer("sides", torch.ones(n_features, dtype=real))
        self.register_buffer("quantiles", torch.zeros(n_features, config.knots, dtype=real))
        self.register_buffer("surprises", torch.zeros(config.knots, dtype=real))
        self.register_buffer("tails", torch.ones(2, n_features, dtype=real))  # shape, scale

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Learn each column's longer side, quantiles and tail; losses are mean scores."""
        rows = sample_rows(x, self.config.max_rows, generator).double()
        centred = rows - rows.mean(dim=0)
        self.sides.copy_(torch.where(centred.pow(3).mean(dim=0) < 0, -1.0, 1.0))
        self._fit_columns((rows * self.sides).sort(dim=0).values)
        losses = [float(self.forward(part).mean()) for part in (rows, x_held_out.double())]
        return report_once((losses[0], losses[1]), on_epoch)

    def _fit_columns(self, ordered: Tensor) -> None:
        n_rows = ordered.shape[0]  # (rows, features), each column ascending
        n_tail = min(max(2, round(self.config.tail_share * n_rows)), n_rows - 1)
        last = n_rows - n_tail
        ranks = torch.linspace(0, last, self.config.knots, device=ordered.device).round().long()
        self.quantiles.copy_(ordered[ranks].T)
        self.surprises.copy_(-((n_rows - ranks).double() / n_rows).log10())  # of that or more
        for column in range(self.n_features):
            self.tails[:, column] = fit_pareto_tail(ordered[last:, column] - ordered[last, column])
        self.tails[1].clamp_(min=self.config.scale_floor)

    def column_surprises(self, x: Tensor) -> Tensor:
        """Give the surprise of each value by itself.

        Shape:
            x: (batch, features), float64. Returns: (batch, features), >= 0.
        """
        values = (x * self.sides).T.contiguous()  # (features, batch)
        right = torch.searchsorted(self.quantiles, values.detach()).clamp(1, self.config.knots - 1)
        low, high = self.quantiles.gather(1, right - 1), self.quantiles.gather(1, right)
        share = ((values - low) / (high - low).clamp(min=LEAST_WIDTH)).clamp(0.0, 1.0)
        body = self.surprises[right - 1].lerp(self.surprises[right], share)
        shape, scale = self.tails.unsqueeze(2)  # (features, 1) each
        excess = (values - self.quantiles[:, -1:]).clamp(min=0.0)
        beyond = (shape * excess / scale).log1p() / (shape * LOG_10)
        short = (self.quantiles[:, :1] - values).clamp(min=0.0)  # beyond the other side's last
        surprises: Tensor = (body + beyond + (short / self.config.scale_floor).log1p() / LOG_10).T
        return surprises

    def forward(self, x: Tensor) -> Tensor:
        """Give the largest surprise of each row of one block.

        Shape:
            x: (batch, features), float64. Returns: (batch,).
        """
        return self.column_surprises(x).amax(dim=1)
