"""The final score to a probability of fraud, learned on held-out rows whose label is mature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

LEAST_FRAUDS = 50  # known ones among the held-out rows; fewer leave a step of the curve to chance


@dataclass(frozen=True, eq=False)
class Probability:
    """Give the share of frauds among held-out rows that scored alike, never falling with the score.

    Isotonic regression: of all non-decreasing curves, the one with the least squared error. It
    consists of flat steps, each the share of frauds among its rows; between two steps the curve is
    a straight line, and beyond the outermost it stays flat.

    Two rows are made up before the fit: a fraud at the lowest score and a genuine row at the
    highest. So an end with n rows of one kind says 1 / (n + 1) or n / (n + 1), like Laplace's rule
    of succession, and no score is ever called certain.

    Not valid for rows that were chosen by their score (only alerts that somebody reviewed), nor
    where frauds have become much more or less frequent since.

    Args:
        knot_scores: (knots,), float64, strictly ascending.
        knot_probabilities: (knots,), float64, never falling, above 0 and below 1.
        n_rows: Held-out rows that it was fitted to.
        n_frauds: Frauds among them.

    Source: Zadrozny & Elkan, 2002, "Transforming Classifier Scores into Accurate Multiclass
        Probability Estimates". Departure: the two rows that are made up.
    """

    knot_scores: Tensor
    knot_probabilities: Tensor
    n_rows: int
    n_frauds: int

    def __post_init__(self) -> None:
        """Refuse knots that make no curve.

        Raises:
            ValueError: if the knots are not as described above.
        """
        s, p = self.knot_scores, self.knot_probabilities
        if s.ndim != 1 or s.shape != p.shape or s.shape[0] == 0:
            raise ValueError(
                f"expected as many knot probabilities as knot scores, at least one, got shapes "
                f"{tuple(p.shape)} and {tuple(s.shape)}"
            )
        if not (s.isfinite().all() and (s.diff() > 0).all()):
            raise ValueError("expected finite, strictly ascending knot scores")
        if not ((p > 0).all() and (p < 1).all() and (p.diff() >= 0).all()):
            raise ValueError("expected knot probabilities above 0 and below 1 that never fall")

    @classmethod
    def fit(cls, scores: Tensor, is_fraud: Tensor) -> Self:
        """Learn the curve from held-out rows that no part of the model has seen.

        Shape:
            scores: (rows,), finite. is_fraud: (rows,), bool or 0 and 1; of mature rows only.

        Raises:
            ValueError: if shapes differ, a score is not finite, or there are fewer than
                ``LEAST_FRAUDS`` frauds or no genuine row.
        """
        s, y = scores.detach().double().cpu().numpy(), is_fraud.cpu().numpy().astype(bool)
        if s.ndim != 1 or s.shape != y.shape:
            raise ValueError(
                f"expected scores and labels of one shape (rows,), got {s.shape} and {y.shape}"
            )
        if not np.isfinite(s).all():
            raise ValueError("expected finite scores to learn probabilities from")
        n_rows, n_frauds = y.size, int(y.sum())
        if n_frauds < LEAST_FRAUDS or n_frauds == n_rows:
            raise ValueError(
                f"expected at least {LEAST_FRAUDS} known frauds and a genuine row to learn "
                f"probabilities from, got {n_frauds} frauds in {n_rows} rows"
            )
        distinct, place = np.unique(s, return_inverse=True)
        rows = np.bincount(place).astype(np.float64)  # (distinct scores,)
        frauds = np.bincount(place, weights=y)
        rows[0] += 1  # the fraud that is made up,
        frauds[0] += 1
        rows[-1] += 1  # and the genuine row
        fitted = isotonic_regression(frauds / rows, weights=rows)
        begins, ends = fitted.blocks[:-1], fitted.blocks[1:] - 1  # places in distinct
        knots = np.unique(np.concatenate([begins, ends]))
        return cls(
            torch.from_numpy(distinct[knots]), torch.from_numpy(fitted.x[knots]), n_rows, n_frauds
        )

    def forward(self, scores: Tensor) -> Tensor:
        """Give each score's probability of fraud.

        Shape:
            scores: (batch,). Returns: (batch,), float64, above 0 and below 1; NaN for NaN.
        """
        s = scores.double()
        x, p = self.knot_scores.to(s.device), self.knot_probabilities.to(s.device)
        right = torch.searchsorted(x, s.contiguous()).clamp(max=x.shape[0] - 1)
        left = (right - 1).clamp(min=0)
        width = (x[right] - x[left]).clamp(min=torch.finfo(s.dtype).tiny)  # 0 before the first
        share = ((s - x[left]) / width).clamp(0.0, 1.0)
        return (p[left] + share * (p[right] - p[left])).minimum(p[right])

    def describe(self) -> dict[str, object]:
        """Give everything as JSON-able values, for ``from_description``."""
        return {
            "scores": self.knot_scores.tolist(),
            "probabilities": self.knot_probabilities.tolist(),
            "n_rows": self.n_rows,
            "n_frauds": self.n_frauds,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, object]) -> Self:
        """Rebuild from what ``describe`` gave.

        Raises:
            ValueError: if something is missing or makes no curve.
        """
        try:
            return cls(
                _numbers(description["scores"]),
                _numbers(description["probabilities"]),
                _count(description["n_rows"]),
                _count(description["n_frauds"]),
            )
        except KeyError as error:
            message = f"the description of the probability lacks {error}"
            raise ValueError(message) from error


def _numbers(value: object) -> Tensor:
    if not isinstance(value, list) or not all(_is_number(one) for one in value):
        raise ValueError(f"expected a list of finite numbers, got {value!r:.80}")
    return torch.tensor(value, dtype=torch.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, got {value!r}")
    return value
