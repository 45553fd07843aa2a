"""What all detectors do around the part that is their own: checks before, a mark after, scoring."""

import time
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.detector import (
    FitReport,
    NotFittedError,
    OnEpoch,
    Rows,
    check_fit_rows,
    check_width,
    score_in_blocks,
)
from models.training import check_finite, make_generator

Config = TypeVar("Config")


class BaseDetector(nn.Module, Generic[Config]):
    """A ``models.detector.Detector`` but for ``learn`` and ``forward``, which a subclass gives.

    Everything that ``learn`` makes is a parameter or a buffer, and float64 at its end.
    """

    is_fitted: Tensor

    def __init__(self, config: Config, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__()
        self.config = config
        self.n_features = n_features
        self.register_buffer("is_fitted", torch.tensor(False))

    def fit(
        self, x: Rows, x_held_out: Rows, *, seed: int, on_epoch: OnEpoch | None = None
    ) -> FitReport:
        """Learn what is normal; what was learned before is forgotten.

        Shape:
            x: (rows, features), x_held_out: (held-out rows, features); finite.

        Raises:
            ValueError: if a width is wrong or there are fewer than 2 rows.
            models.training.TrainingDivergedError: if a loss is not finite.
        """
        started = time.perf_counter()
        check_fit_rows(x, x_held_out, self.n_features)
        self.to(x.device)
        self.is_fitted.fill_(False)
        report = self.learn(x, x_held_out, make_generator(seed, x.device), on_epoch)
        self.eval()  # only the epoch loop switches to training mode, and back
        self.is_fitted.fill_(True)
        return replace(report, seconds=time.perf_counter() - started)

    def learn(
        self,
        x: Any,  # noqa: ANN401 (a Tensor; for detectors of sequences any Rows)
        x_held_out: Any,  # noqa: ANN401 (likewise)
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Set the parameters and buffers from rows that ``fit`` has passed.

        Shape:
            x: (rows, features), x_held_out: (held-out rows, features); on the module's device.
        """
        raise NotImplementedError

    def score(self, x: Rows) -> Tensor:
        """Give anomaly scores, each independent of the other rows.

        Shape:
            x: (batch, features). Returns: (batch,), float32.

        Raises:
            ValueError: if the width is not that of the fit.
            NotFittedError: if ``fit`` was not called.
        """
        if not self.is_fitted:
            raise NotFittedError(f"{type(self).__name__} was not fitted; call fit first")
        check_width(x, self.n_features)
        return score_in_blocks(self.forward, x)


def report_once(losses: tuple[float, float], on_epoch: OnEpoch | None) -> FitReport:
    """Report a fit in closed form as one epoch.

    Args:
        losses: Mean loss on the training and on the held-out rows.
        on_epoch: Called with them.

    Raises:
        models.training.TrainingDivergedError: if one is not finite.
    """
    check_finite(1, *losses)
    if on_epoch is not None:
        on_epoch(1, *losses)
    return FitReport(1, losses[:1], losses[1:], 1)
