"""Several detectors, calibrated to the same scale, combined into one score."""

import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.autoencoder import AutoencoderConfig
from models.calibration import Calibration, CalibrationConfig
from models.detector import Detector, FitReport, sample_rows, score_in_blocks
from models.gaussian import GaussianConfig
from models.preprocessing import PreprocessingConfig, Preprocessor
from models.registry import get_entry
from models.training import make_generator
from models.vae import VAEConfig

OnMemberEpoch = Callable[[str, int, float, float], None]
"""Called after each epoch with the member's name, epoch (from 1), training and validation loss."""

logger = logging.getLogger(__name__)


def default_members() -> dict[str, Any]:
    """Give the detectors that are trained unless the settings say otherwise."""
    return {
        "autoencoder": AutoencoderConfig(),
        "gaussian": GaussianConfig(),
        "vae": VAEConfig(),
    }


def default_weights() -> dict[str, float]:
    """Give the weights used while there are no labels.

    Chosen on two validation weeks of simulated card data, where the order was VAE, autoencoder,
    Gaussian; neighbouring weights (0.3 to 1 each) moved average precision by less than 0.01.
    """
    return {"autoencoder": 0.8, "gaussian": 0.5, "vae": 1.0}


@dataclass(frozen=True)
class EnsembleConfig:
    """What an ensemble is made of.

    Args:
        members: Registry name to detector config.
        weights: Registry name to weight > 0; every member needs one.
        cardinalities: Categorical feature to its number of codes.
        preprocessing: How raw columns are scaled.
        calibration: How scores become tail probabilities.
        calibration_share: Share of the held-out rows for calibration; the rest stops training
            early.
    """

    members: Mapping[str, Any] = field(default_factory=default_members)
    weights: Mapping[str, float] = field(default_factory=default_weights)
    cardinalities: Mapping[str, int] = field(default_factory=dict)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    calibration_share: float = 0.7

    def __post_init__(self) -> None:
        """Refuse members that are unknown, of the wrong config class or without weight.

        Raises:
            ValueError: naming the member and what was expected.
        """
        if not self.members:
            raise ValueError("expected at least one member, got none")
        for name, config in self.members.items():
            expected, found = get_entry(name).config, type(config)
            if not issubclass(found, expected):
                raise ValueError(
                    f"expected {expected.__name__} for member {name!r}, got {found.__name__}"
                )
            weight = self.weights.get(name, 0.0)
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"expected a weight > 0 for member {name!r}, got {weight}")
        if not 0 < self.calibration_share < 1:
            raise ValueError(f"expected 0 < calibration_share < 1, got {self.calibration_share}")


class FitReports(dict[str, FitReport]):
    """Fit report of each member that was trained; ``failures`` has the others' errors."""

    def __init__(self) -> None:
        """Start with no members."""
        super().__init__()
        self.failures: dict[str, str] = {}


class Ensemble:
    """Fitted detectors whose calibrated scores are averaged with fixed weights.

    The score is sum(w_m * surprise_m(x)) / sum(w_m), in units of -log10 tail probability: 3 means
    "as rare, on average over the members, as one normal transaction in a thousand".
    """

    def __init__(
        self,
        feature_names: Sequence[str],
        preprocessor: Preprocessor,
        members: Mapping[str, Detector],
        calibrations: Mapping[str, Calibration],
        weights: Mapping[str, float],
        threshold: float | None = None,
    ) -> None:
        """Put fitted parts together; members are kept in alphabetical order.

        Raises:
            ValueError: if the parts do not fit together.
        """
        if tuple(feature_names) != preprocessor.feature_names:
            raise ValueError(
                f"expected the preprocessor's features {list(preprocessor.feature_names)}, "
                f"got {list(feature_names)}"
            )
        if not members or not set(members) == set(calibrations) == set(weights):
            raise ValueError(
                "expected members, calibrations and weights of the same names, got "
                f"{sorted(members)}, {sorted(calibrations)} and {sorted(weights)}"
            )
        self.feature_names = tuple(feature_names)
        self.preprocessor = preprocessor
        self.members = {name: members[name] for name in sorted(members)}
        self.calibrations = {name: calibrations[name] for name in self.members}
        self.weights = {name: float(weights[name]) for name in self.members}
        self.threshold = threshold

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the columns of ``member_scores``."""
        return tuple(self.members)

    @property
    def device(self) -> torch.device:
        """Where the parts are, and where ``x`` is moved to for scoring."""
        return self.preprocessor.center.device

    def to(self, device: str | torch.device) -> "Ensemble":
        """Move all parts to another device, in place."""
        self.preprocessor.to(device)
        for name in self.members:
            self.members[name].to(device)
            self.calibrations[name].to(device)
        return self

    def member_scores(self, x: Tensor, feature_names: Sequence[str] | None = None) -> Tensor:
        """Give each member's surprise; a row's values do not depend on the other rows.

        Shape:
            x: (batch, features), raw, NaN for missing. Returns: (batch, members), float32, on x's
                device.

        Raises:
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        rows = x.to(self.device)
        self.preprocessor.check(rows, feature_names)
        # float64 blocks hold float32 input exactly
        return score_in_blocks(self._member_scores_of_block, rows).to(x.device)

    def _member_scores_of_block(self, block: Tensor) -> Tensor:
        prepared = self.preprocessor.forward(block)  # (rows, n_outputs)
        surprises = [
            # rounded as Detector.score rounds, so that calibration sees what it was fitted on
            self.calibrations[name].forward(member.forward(prepared).float())
            for name, member in self.members.items()
        ]
        return torch.stack(surprises, dim=1)

    def combine(self, member_scores: Tensor) -> Tensor:
        """Average calibrated scores with the ensemble's weights.

        Shape:
            member_scores: (batch, members), in the order of ``member_names``. Returns: (batch,),
                float32.
        """
        weights = list(self.weights.values())
        total = torch.zeros_like(member_scores[:, 0], dtype=torch.float64)
        for column, weight in enumerate(weights):
            total = total + weight * member_scores[:, column].double()
        return (total / sum(weights)).to(torch.float32)

    def score(self, x: Tensor, feature_names: Sequence[str] | None = None) -> Tensor:
        """Give the ensemble's anomaly score; higher is more anomalous.

        Shape:
            x: (batch, features), raw, NaN for missing. Returns: (batch,), float32, >= 0, on x's
                device.

        Raises:
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        return self.combine(self.member_scores(x, feature_names))


def fit_ensemble(
    x_train_normal: Tensor,
    x_held_out_normal: Tensor,
    feature_names: Sequence[str],
    config: EnsembleConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    on_epoch: OnMemberEpoch | None = None,
) -> tuple[Ensemble, FitReports]:
    """Fit preprocessing, members and calibrations on rows that are not labelled fraud.

    The held-out rows (later days than the training rows) are split at random: one part stops
    training early, the other calibrates, so that calibration sees rows that no weight was chosen
    on. A member that fails to train is left out, and its error is logged and kept in
    ``reports.failures``.

    Shape:
        x_train_normal: (rows, features), x_held_out_normal: (held-out rows, features); NaN for
            missing.

    Raises:
        ValueError: if the columns do not match ``feature_names`` or there are too few rows.
        RuntimeError: if every member fails.
    """
    target = torch.device(device)
    preprocessor = Preprocessor(config.preprocessing, feature_names, config.cardinalities)
    preprocessor.fit(x_train_normal.to(target))
    train = preprocessor.transform(x_train_normal.to(target))
    held_out = preprocessor.transform(x_held_out_normal.to(target))
    held_out = sample_rows(held_out, held_out.shape[0], make_generator(seed, target))
    n_calibration = round(config.calibration_share * held_out.shape[0])
    parts = (train, held_out[n_calibration:], held_out[:n_calibration])
    members: dict[str, Detector] = {}
    calibrations: dict[str, Calibration] = {}
    reports = FitReports()
    for name in sorted(config.members):
        try:
            members[name], calibrations[name], reports[name] = fit_member(
                name, config, parts, derive_seed(seed, name), on_epoch
            )
        except (RuntimeError, ValueError, ArithmeticError) as error:
            logger.exception("member %s failed to train and is left out", name)
            reports.failures[name] = f"{type(error).__name__}: {error}"
    if not members:
        raise RuntimeError(f"expected at least one member to train, got {reports.failures}")
    weights = {name: config.weights[name] for name in members}
    return Ensemble(feature_names, preprocessor, members, calibrations, weights), reports


def fit_member(
    name: str,
    config: EnsembleConfig,
    parts: tuple[Tensor, Tensor, Tensor],
    seed: int,
    on_epoch: OnMemberEpoch | None,
) -> tuple[Detector, Calibration, FitReport]:
    """Fit and calibrate one member.

    Shape:
        parts: training, early stopping and calibration rows, each (rows, n_outputs), preprocessed.

    Raises:
        ValueError: if there are too few rows, or calibration scores are not finite.
        models.training.TrainingDivergedError: if the loss stops being finite.
    """
    train, stopping, calibrating = parts
    member = get_entry(name).detector(config.members[name], train.shape[1])
    report = member.fit(train, stopping, seed=seed, on_epoch=name_epochs(name, on_epoch))
    calibration = Calibration(config.calibration).to(train.device)
    return member, calibration.fit(member.score(calibrating)), report


def derive_seed(seed: int, name: str) -> int:
    """Give each member a seed of its own, which does not depend on the other members."""
    return (seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63


def name_epochs(
    name: str, on_epoch: OnMemberEpoch | None
) -> Callable[[int, float, float], None] | None:
    """Turn a callback of the ensemble into one of the member ``name``."""
    if on_epoch is None:
        return None

    def on_member_epoch(epoch: int, train_loss: float, validation_loss: float) -> None:
        on_epoch(name, epoch, train_loss, validation_loss)

    return on_member_epoch
