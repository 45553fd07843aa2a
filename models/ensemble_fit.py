"""Fit an ensemble: preprocessing, then every member by itself, then its calibration."""

import logging
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from models.calibration import Calibration, CalibrationConfig
from models.detector import Detector, FitReport, sample_places
from models.ensemble import Ensemble, scale_history, window_of
from models.history import History, WindowedRows
from models.preprocessing import PreprocessingConfig, Preprocessor
from models.registry import REGISTRY, get_entry
from models.training import make_generator

OnMemberEpoch = Callable[[str, int, float, float], None]
"""Called after each epoch with the member's name, epoch (from 1), training and validation loss."""

logger = logging.getLogger(__name__)


def default_members() -> dict[str, Any]:
    """Give the detectors that are trained unless the settings say otherwise: all there are."""
    return {name: entry.config() for name, entry in REGISTRY.items()}


def default_weights() -> dict[str, float]:
    """Give the weights used while there are no labels.

    Chosen on three validation weeks of simulated card data, where distances to normal rows and
    single rare values ranked best, each saw what the other missed, and each of the others moved
    average precision by less than 0.01; see docs/detectors.md.
    """
    strong = {"nearest_neighbours": 1.0, "tails": 1.0, "deep_svdd": 0.3}
    return dict.fromkeys(REGISTRY, 0.05) | strong


def weights_beside_trees() -> dict[str, float]:
    """Give the weights of the members where boosted trees find the known kinds of fraud.

    Single rare values count for more than without trees: nearest neighbours learn from rows among
    which frauds of an unknown kind go as genuine, and then find these near. Chosen on the same
    weeks, one kind of fraud hidden at a time; see docs/detectors.md.
    """
    return default_weights() | {"tails": 1.5, "deep_svdd": 0.5}


@dataclass(frozen=True)
class EnsembleConfig:
    """What an ensemble is made of.

    Args:
        members: Registry name to detector config.
        weights: Registry name to weight > 0; every member needs one.
        views: Registry name to the features that the member sees; all, where it is not given.
        cardinalities: Categorical feature to its number of codes.
        history_channels: Names of the values of each event of a history.
        preprocessing: How raw columns are scaled.
        calibration: How scores become tail probabilities.
        calibration_share: Share of the held-out rows for calibration; the rest stops training
            early.
    """

    members: Mapping[str, Any] = field(default_factory=default_members)
    weights: Mapping[str, float] = field(default_factory=default_weights)
    views: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cardinalities: Mapping[str, int] = field(default_factory=dict)
    history_channels: Sequence[str] = ()
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
            if window_of(config) and not self.history_channels:
                raise ValueError(f"expected history_channels, since member {name!r} reads them")
        if not 0 < self.calibration_share < 1:
            raise ValueError(f"expected 0 < calibration_share < 1, got {self.calibration_share}")


class FitReports(dict[str, FitReport]):
    """Fit report of each member that was trained; ``failures`` has the others' errors."""

    def __init__(self) -> None:
        """Start with no members."""
        super().__init__()
        self.failures: dict[str, str] = {}


@dataclass(frozen=True)
class TrainingRows:
    """Genuine rows to fit on, raw, and the history of each where a member reads histories.

    Shape:
        x: (rows, features), NaN for missing. history: of as many rows, raw.
    """

    x: Tensor
    history: History | None = None


@dataclass(frozen=True)
class PreparedRows:
    """Rows that preprocessing has gone over, and their scaled history.

    Shape:
        x: (rows, n_outputs), float64. history: of as many rows.
    """

    x: Tensor
    history: History | None

    def take(self, places: Tensor) -> "PreparedRows":
        """Choose rows.

        Shape:
            places: (chosen,), int64.
        """
        history = None if self.history is None else self.history.take(places)
        return PreparedRows(self.x[places], history)

    def seen(self, columns: Tensor, window: int) -> Tensor:
        """Give the matrix that a member sees: its columns and, with a window, the history.

        With a window that is ``WindowedRows``, which detectors of sequences take for a matrix.

        Shape:
            columns: (places,), int64. Returns: (rows, places [+ window * (channels + 1)]).

        Raises:
            ValueError: if there is a window and no history.
        """
        x = self.x[:, columns]
        if not window:
            return x
        if self.history is None:
            raise ValueError("expected a history of each row, since the member reads histories")
        return cast("Tensor", WindowedRows(x, self.history, window))


@dataclass(frozen=True)
class FittedMember:
    """A member that was trained and calibrated."""

    name: str
    detector: Detector
    calibration: Calibration
    report: FitReport


@dataclass(frozen=True)
class FailedMember:
    """A member that could not be trained, and why."""

    name: str
    error: str


class MemberFit(Protocol):
    """Fits the member of a name; see ``Preparation.fit_member``."""

    def __call__(
        self,
        name: str,
        on_epoch: OnMemberEpoch | None = None,
        device: torch.device | None = None,
    ) -> FittedMember | FailedMember:
        """Fit and calibrate it."""


FitEach = Callable[[MemberFit, Sequence[str]], Iterable[FittedMember | FailedMember]]
"""Calls a fit for each name, in any order or side by side; ``map`` does so one by one."""


@dataclass(frozen=True)
class Preparation:
    """All that a member's fit needs; members do not touch each other's parts.

    ``train`` rows teach, ``stopping`` rows stop training early, ``calibrating`` rows, which no
    weight was chosen on, calibrate.
    """

    config: EnsembleConfig
    seed: int
    preprocessor: Preprocessor
    history_scaler: Preprocessor | None
    train: PreparedRows
    stopping: PreparedRows
    calibrating: PreparedRows

    def fit_member(
        self,
        name: str,
        on_epoch: OnMemberEpoch | None = None,
        device: torch.device | None = None,
    ) -> FittedMember | FailedMember:
        """Fit and calibrate one member; a failure is logged and handed back, not raised.

        Args:
            name: Which.
            on_epoch: Called after each epoch.
            device: Where it is fitted; where the rows are, if not given. It comes back to them.
        """
        try:
            return self._fit_member(name, on_epoch, device or self.train.x.device)
        except (RuntimeError, ValueError, ArithmeticError) as error:
            logger.exception("member %s failed to train and is left out", name)
            return FailedMember(name, f"{type(error).__name__}: {error}")

    def _fit_member(
        self, name: str, on_epoch: OnMemberEpoch | None, device: torch.device
    ) -> FittedMember:
        config = self.config.members[name]
        window = window_of(config)
        if window and self.history_scaler is not None:
            config = replace(config, channels=self.history_scaler.n_outputs)
        view = self.config.views.get(name, self.preprocessor.feature_names)
        columns = self.preprocessor.columns_of(view)
        train, stopping, calibrating = (
            part.seen(columns, window).to(device)
            for part in (self.train, self.stopping, self.calibrating)
        )
        detector = get_entry(name).detector(config, train.shape[1])
        report = detector.fit(
            train,
            stopping,
            seed=derive_seed(self.seed, name),
            on_epoch=None if on_epoch is None else partial(on_epoch, name),
        )
        calibration = Calibration(self.config.calibration).to(device)
        calibration.fit(detector.score(calibrating))
        logger.info(
            "%s: best epoch %d of %d, %.1f s",
            name,
            report.best_epoch,
            report.epochs,
            report.seconds,
        )
        home = self.train.x.device
        return FittedMember(name, detector.to(home), calibration.to(home), report)


def prepare_fit(
    train: TrainingRows,
    held_out: TrainingRows,
    feature_names: Sequence[str],
    config: EnsembleConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
) -> Preparation:
    """Fit the preprocessing, and split the held-out rows (later days) at random in two.

    Raises:
        ValueError: if the columns do not match ``feature_names``, or there are no rows.
    """
    target = torch.device(device)
    preprocessor = Preprocessor(config.preprocessing, feature_names, config.cardinalities)
    preprocessor.fit(train.x.to(target))
    scaler = _fit_history_scaler(train, config, target)
    prepared = _prepare(train, preprocessor, scaler)
    later = _prepare(held_out, preprocessor, scaler)
    n_rows = later.x.shape[0]
    places = sample_places(n_rows, n_rows, make_generator(seed, target))
    n_calibration = round(config.calibration_share * n_rows)
    return Preparation(
        config,
        seed,
        preprocessor,
        scaler,
        prepared,
        later.take(places[n_calibration:]),
        later.take(places[:n_calibration]),
    )


def _fit_history_scaler(
    train: TrainingRows, config: EnsembleConfig, device: torch.device
) -> Preprocessor | None:
    if not any(window_of(member) for member in config.members.values()):
        return None
    if train.history is None:
        raise ValueError("expected a history of each training row, since a member reads them")
    scaler = Preprocessor(config.preprocessing, config.history_channels)
    events = train.history.events.to(device)
    return scaler.fit(events if events.shape[0] else events.new_zeros(1, events.shape[1]))


def _prepare(
    rows: TrainingRows, preprocessor: Preprocessor, scaler: Preprocessor | None
) -> PreparedRows:
    device = preprocessor.center.device
    history = None
    if scaler is not None and rows.history is not None:
        history = scale_history(rows.history.to(device), scaler)
    return PreparedRows(preprocessor.transform(rows.x.to(device)), history)


def fit_ensemble(
    train: TrainingRows,
    held_out: TrainingRows,
    feature_names: Sequence[str],
    config: EnsembleConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    fit_each: FitEach = map,
) -> tuple[Ensemble, FitReports]:
    """Fit preprocessing, members and calibrations on rows that are not labelled fraud.

    A member that fails to train is left out; its error is logged and kept in
    ``reports.failures``. The members are fitted by ``fit_each``, one by one unless it is given.

    Raises:
        ValueError: if the columns do not match ``feature_names`` or there are too few rows.
        RuntimeError: if every member fails.
    """
    preparation = prepare_fit(train, held_out, feature_names, config, seed=seed, device=device)
    reports, fitted = FitReports(), dict[str, FittedMember]()
    for member in fit_each(preparation.fit_member, sorted(config.members)):
        if isinstance(member, FailedMember):
            reports.failures[member.name] = member.error
        else:
            fitted[member.name], reports[member.name] = member, member.report
    if not fitted:
        raise RuntimeError(f"expected at least one member to train, got {reports.failures}")
    ensemble = Ensemble(
        preparation.preprocessor,
        {name: member.detector for name, member in fitted.items()},
        {name: member.calibration for name, member in fitted.items()},
        {name: config.weights[name] for name in fitted},
        views={name: view for name, view in config.views.items() if name in fitted},
        history_scaler=preparation.history_scaler,
    )
    return ensemble, reports


def derive_seed(seed: int, name: str) -> int:
    """Give each member a seed of its own, which does not depend on the other members."""
    return (seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63
