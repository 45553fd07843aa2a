"""The Detector contract and the small functions that all detectors share.

A detector is a ``torch.nn.Module`` made from a frozen config and a number of features. It is
fitted on preprocessed rows that are not labelled fraud, and gives one anomaly score a row: higher
is more anomalous.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

OnEpoch = Callable[[int, float, float], None]
"""Called after each epoch with its number (from 1), the training loss and the validation loss."""

BLOCK_ROWS = 1024


class Rows(Protocol):
    """A matrix whose rows may be gathered only when they are asked for; a ``Tensor`` is one."""

    @property
    def shape(self) -> Sequence[int]:
        """Rows and columns."""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 (torch's own indexing)
        """Give the rows of an index tensor or slice as a matrix."""


class NotFittedError(RuntimeError):
    """A detector or preprocessor was used before ``fit``."""


@dataclass(frozen=True)
class FitReport:
    """What one fit did, epoch by epoch.

    Args:
        epochs: Epochs that were run.
        train_losses: Mean loss over the training batches, one per epoch.
        validation_losses: Mean loss on the held-out rows, one per epoch.
        best_epoch: The epoch (from 1) with the least validation loss: the one whose weights were
            kept.
        seconds: Wall time of the whole fit; ``models.base.BaseDetector.fit`` takes it.
    """

    epochs: int
    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    best_epoch: int
    seconds: float = 0.0


class Detector(Protocol):
    """What every detector in ``models.registry`` gives, as ``test_contract`` checks."""

    config: Any
    n_features: int

    def fit(
        self, x: Tensor, x_held_out: Tensor, *, seed: int, on_epoch: OnEpoch | None = None
    ) -> FitReport:
        """Learn what is normal.

        Shape:
            x: (rows, features), x_held_out: (held-out rows, features); float, finite,
                preprocessed.

        Raises:
            ValueError: if a width is not ``n_features`` or there are too few rows.
            models.training.TrainingDivergedError: if the loss stops being finite.
        """

    def score(self, x: Tensor) -> Tensor:
        """Give anomaly scores that do not depend on the other rows of ``x``.

        Shape:
            x: (batch, features). Returns: (batch,), float32.

        Raises:
            ValueError: if the width is not ``n_features``.
            NotFittedError: if ``fit`` was not called.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Give differentiable scores of one block, with the module's own dtype.

        Shape:
            x: (batch, features). Returns: (batch,).
        """

    def to(self, device: str | torch.device) -> Self:
        """Move the detector to another device."""

    def double(self) -> Self:
        """Hold the parameters in float64, as ``score`` wants them."""

    def eval(self) -> Self:
        """Leave training mode, as ``score`` wants it."""

    def state_dict(self) -> dict[str, Any]:
        """Name every tensor that ``fit`` made."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:  # noqa: ANN401 torch's own type
        """Take over the tensors of a fitted detector."""


def check_width(x: Rows, n_features: int) -> None:
    """Refuse a matrix that has another number of columns than at fit.

    Raises:
        ValueError: if ``x`` is not (batch, n_features).
    """
    if len(x.shape) != 2:
        raise ValueError(f"expected a (batch, features) matrix, got shape {tuple(x.shape)}")
    if x.shape[1] != n_features:
        raise ValueError(f"expected {n_features} features as at fit, got {x.shape[1]}")


def check_names(x: Tensor, fitted_names: Sequence[str], names: Sequence[str] | None) -> None:
    """Refuse a matrix whose columns are not those of the fit, naming the missing ones.

    Raises:
        ValueError: if width, names or order differ from the fit's.
    """
    if names is None:
        check_width(x, len(fitted_names))
        return
    missing = [name for name in fitted_names if name not in names]
    extra = [name for name in names if name not in fitted_names]
    if missing or extra or len(names) != len(fitted_names):
        raise ValueError(
            f"expected {len(fitted_names)} features as at fit, got {len(names)}; "
            f"missing: {missing}" + (f"; not known at fit: {extra}" if extra else "")
        )
    if list(names) != list(fitted_names):
        raise ValueError(f"expected the features in the order of the fit: {list(fitted_names)}")
    check_width(x, len(fitted_names))


def check_fit_rows(x: Rows, x_held_out: Rows, n_features: int) -> None:
    """Refuse training data that no detector can learn from.

    Raises:
        ValueError: if a width is wrong, or there are fewer than 2 training or 1 held-out rows.
    """
    check_width(x, n_features)
    check_width(x_held_out, n_features)
    if x.shape[0] < 2 or x_held_out.shape[0] < 1:
        raise ValueError(
            "expected at least 2 training rows and 1 held-out row, "
            f"got {x.shape[0]} and {x_held_out.shape[0]}"
        )


def score_in_blocks(score_block: Callable[[Tensor], Tensor], x: Rows) -> Tensor:
    """Score any number of rows so that a row's score does not depend on its company.

    Matrix kernels choose their order of summation by shape, place and number of threads, so the
    same row may differ in its last bits from batch to batch. Hence three measures: every block
    has the same shape (the last one is padded with zeros), arithmetic is float64, and the result
    is rounded to float32. Float64 differences (about 1e-15) are 2**29 times finer than float32's
    grid, so the rounding swallows them: a row would have to lie within 1e-15 of a rounding
    boundary (odds below 1e-7, and only if the kernel differs at all) to change.

    Shape:
        x: (batch, features). score_block: (BLOCK_ROWS, features) -> (BLOCK_ROWS, ...).
        Returns: (batch, ...), float32.
    """
    blocks: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, max(x.shape[0], 1), BLOCK_ROWS):
            rows = x[start : start + BLOCK_ROWS]  # (<= BLOCK_ROWS, features)
            block = torch.zeros(BLOCK_ROWS, x.shape[1], dtype=torch.float64, device=x.device)
            block[: rows.shape[0]] = rows
            blocks.append(score_block(block)[: rows.shape[0]].to(torch.float32))
    return torch.cat(blocks)


def sample_rows(x: Tensor, max_rows: int, generator: torch.Generator) -> Tensor:
    """Take at most ``max_rows`` rows at random, without replacement, in random order.

    Shape:
        x: (rows, features). Returns: (min(rows, max_rows), features), a copy.
    """
    return x[sample_places(x.shape[0], max_rows, generator).to(x.device)]


def sample_places(n_rows: int, max_rows: int, generator: torch.Generator) -> Tensor:
    """Draw the places of at most ``max_rows`` of ``n_rows`` rows, in random order.

    Shape:
        Returns: (min(n_rows, max_rows),), int64, on the generator's device.
    """
    return torch.randperm(n_rows, generator=generator, device=generator.device)[:max_rows]
