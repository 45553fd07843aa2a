"""Member scores to tail probabilities on held-out normal days, so that members are comparable."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.detector import NotFittedError


@dataclass(frozen=True)
class CalibrationConfig:
    """Settings of :class:`Calibration`.

    Args:
        tail_share: Share of held-out rows that the tail is fitted to.
        least_tail_rows: But at least this many of them, up to a quarter of all.
        max_knots: Points of the empirical part that are kept.
    """

    tail_share: float = 0.01
    least_tail_rows: int = 25
    max_knots: int = 512

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a setting is out of range.
        """
        if not 0 < self.tail_share < 0.5 or self.least_tail_rows < 2 or self.max_knots < 2:
            raise ValueError(
                "expected 0 < tail_share < 0.5, least_tail_rows >= 2 and max_knots >= 2, got "
                f"{self.tail_share}, {self.least_tail_rows} and {self.max_knots}"
            )


LEAST_ROWS = 20  # fewer say nothing about a tail
SHAPE_RANGE = (0.05, 0.9)  # above 0: no end point, hence strictly monotone; below 1: finite mean


class Calibration(nn.Module):
    """Map a raw score s to its surprise, -log10 P(a normal transaction scores at least s).

    3 means that one normal transaction in a thousand scores this high. Below the threshold u (the
    quantile at which the tail begins) P is the held-out rows' own share, interpolated between
    order statistics. Above u it is a generalised Pareto tail, P = p_u (1 + shape (s - u) /
    scale)^(-1 / shape): the law that exceedances over a high threshold approach (Pickands 1975).
    Chosen over an exponential tail because detector scores are squares of heavy-tailed errors: an
    exponential tail would give surprises in the hundreds, and one member would outvote all
    others. A negative shape would end the scale at a point, so shape is kept in SHAPE_RANGE and
    the map is strictly increasing without end.

    Not valid as a probability far beyond 1 / rows: there it is an ordering, not a promise.

    Source: Pickands, 1975; Hosking & Wallis, 1987, "Parameter and Quantile Estimation for the
        Generalized Pareto Distribution" (probability-weighted moments). Departure: shape clamped.
    """

    knots: Tensor
    knot_surprises: Tensor
    tail: Tensor

    def __init__(self, config: CalibrationConfig, n_knots: int = 0) -> None:
        """Make an unfitted calibration, with room for ``n_knots`` knots that are to be loaded."""
        super().__init__()
        self.config = config
        self.register_buffer("knots", torch.zeros(n_knots, dtype=torch.float64))
        self.register_buffer("knot_surprises", torch.zeros(n_knots, dtype=torch.float64))
        self.register_buffer("tail", torch.zeros(2, dtype=torch.float64))  # shape, scale

    def fit(self, scores: Tensor) -> "Calibration":
        """Learn the distribution of a member's scores on held-out normal rows.

        Shape:
            scores: (rows,), finite.

        Raises:
            ValueError: if there are fewer than ``LEAST_ROWS`` rows or a score is not
                finite.
        """
        if scores.ndim != 1 or scores.shape[0] < LEAST_ROWS:
            raise ValueError(
                f"expected at least {LEAST_ROWS} held-out scores, got shape {tuple(scores.shape)}"
            )
        if not scores.isfinite().all():
            raise ValueError("expected finite scores to calibrate on, got NaN or infinity")
        ordered = scores.double().sort().values  # (rows,), ascending
        n_rows = ordered.shape[0]
        n_tail = max(self.config.least_tail_rows, round(self.config.tail_share * n_rows))
        n_tail = min(n_tail, n_rows // 4)
        self._fit_body(ordered[: n_rows - n_tail], n_rows)
        self.tail = fit_pareto_tail(ordered[n_rows - n_tail :] - self.knots[-1])
        return self

    def _fit_body(self, body: Tensor, n_rows: int) -> None:
        # The row of rank r (from 0) is reached by n_rows - r rows.
        ranks = torch.linspace(0, body.shape[0] - 1, min(self.config.max_knots, body.shape[0]))
        knots: Tensor = torch.unique(body[ranks.round().long().to(body.device)])  # ascending
        reached = n_rows - torch.searchsorted(body, knots)
        self.knots = knots
        self.knot_surprises = -((reached.double() / n_rows).log10())

    def forward(self, scores: Tensor) -> Tensor:
        """Give surprises.

        Shape:
            scores: (batch,). Returns: (batch,), float64, >= 0.

        Raises:
            NotFittedError: if ``fit`` was not called.
        """
        if self.knots.shape[0] == 0:
            raise NotFittedError("Calibration was not fitted; call fit first")
        s = scores.double()
        shape, scale = self.tail
        excess = (s - self.knots[-1]).clamp(min=0.0)
        tail = (shape * excess / scale).log1p() / (shape * torch.log(s.new_tensor(10.0)))
        surprises: Tensor = self._interpolate(s) + tail
        return surprises

    def _interpolate(self, s: Tensor) -> Tensor:
        if self.knots.shape[0] == 1:
            return self.knot_surprises.expand(s.shape)
        right = torch.searchsorted(self.knots, s).clamp(1, self.knots.shape[0] - 1)
        left = right - 1
        width = self.knots[right] - self.knots[left]
        share = ((s - self.knots[left]) / width).clamp(0.0, 1.0)
        rise = self.knot_surprises[right] - self.knot_surprises[left]
        return self.knot_surprises[left] + share * rise


def fit_pareto_tail(excess: Tensor) -> Tensor:
    """Estimate a generalised Pareto distribution by probability-weighted moments.

    With the ascending excesses e_i, i = 1..n: a0 = mean(e), a1 = mean(e_i (n - i) / (n - 1));
    shape = 2 - a0 / (a0 - 2 a1), scale = 2 a0 a1 / (a0 - 2 a1) (Hosking & Wallis's k is -shape).
    If the shape has to be clamped, the scale is (1 - shape) a0, so that the mean still fits.

    Shape:
        excess: (n,), ascending, >= 0, n >= 2. Returns: (2,): shape, scale > 0.
    """
    n = excess.shape[0]
    weight = torch.arange(n - 1, -1, -1, dtype=excess.dtype, device=excess.device) / (n - 1)
    mean = excess.mean()
    gap = mean - 2 * (excess * weight).mean()
    shape = 2 - mean / gap if gap > 0 else mean.new_tensor(SHAPE_RANGE[0])
    shape = shape.clamp(*SHAPE_RANGE)
    scale = ((1 - shape) * mean).clamp(min=1e-6)
    return torch.stack([shape, scale])
