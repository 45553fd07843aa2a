"""Fit the ensemble as of a day: on the days whose labels are known by then, and on nothing later."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from models.ensemble import window_of
from models.ensemble_fit import (
    EnsembleConfig,
    FitEach,
    FitReports,
    TrainingRows,
    default_weights,
    fit_ensemble,
)
from models.registry import REGISTRY
from models.stack_fit import StackConfig
from tasks.explain import usual_values
from tasks.feature_catalog import feature_names
from tasks.flagging import choose_threshold, threshold_basis
from tasks.history import HISTORY_CHANNELS
from tasks.review_settings import QueueSettings
from tasks.stack import Trial, add_probability, held_out_rows, try_stack
from tasks.tensors import Encoding, history_of
from tasks.tracking import Bundle, TrainingRecord
from tasks.train_settings import TrainSettings
from tasks.training_data import (
    FeatureRequest,
    TrainingData,
    choose_span,
    load_training_data,
    require_no_disguise,
    tree_features,
)
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, SettingsError
from warehouse.ledger import code_version

LEAST_HELD_OUT_ROWS = 50  # fewer calibrate no detector and choose no threshold


@dataclass(frozen=True)
class Training:
    """A fitted bundle, the record of its training, and example rows of its input."""

    bundle: Bundle
    record: TrainingRecord
    example: pl.DataFrame


@dataclass(frozen=True)
class Fitted:
    """A bundle, the report of each member's training, and whether boosted trees joined them."""

    bundle: Bundle
    reports: FitReports
    trial: Trial


def fit_as_of(
    lake: Lake,
    settings: TrainSettings,
    as_of: date,
    request: FeatureRequest,
    *,
    queue: QueueSettings,
    device: str,
    fit_each: FitEach = map,
) -> Training:
    """Fit the ensemble as of the start of a day.

    Raises:
        ModelMissingError: if the lake has too few days before ``as_of``.
        SettingsError: if a feature or member is not known.
    """
    snapshot = lake.snapshot_id()
    require_meaning(settings)
    span = choose_span(lake, settings, as_of, request)
    data = load_training_data(lake, settings, span, request, window=window_for(settings))
    fitted = fit_data(data, settings, queue=queue, device=device, fit_each=fit_each)
    parameters = {
        **settings.model_dump(mode="json"),
        "first_day": span.first,
        "first_held_out_day": data.split,
        "first_validation_day": data.validation[0],
        "last_day": span.last,
        "snapshot_id": snapshot,
        "weights": fitted.bundle.ensemble.weights,
    }
    record = _record(as_of, parameters, data, fitted)
    return Training(fitted.bundle, record, data.held_out.tail(5))


def window_for(settings: TrainSettings) -> int:
    """Give how many earlier transactions the members look at, at most."""
    return max(window_of(REGISTRY[name].config()) for name in settings.members)


def fit_data(
    data: TrainingData,
    settings: TrainSettings,
    *,
    queue: QueueSettings,
    device: str,
    fit_each: FitEach = map,
) -> Fitted:
    """Fit the ensemble, its weights, its threshold and, where labels allow, its boosted trees.

    Members learn from the training rows. The genuine held-out rows stop training and calibrate.
    The earlier half of the held-out days tunes what learns from labels: the members' weights, once
    enough frauds are known, and the trees. The later half, the validation days, says whether the
    trees join, and what probability a score stands for. All held-out rows choose the threshold.

    Raises:
        ModelMissingError: if there are too few rows.
        SettingsError: if a feature or member is not known, or a weight is not positive.
    """
    require_meaning(settings)
    train, held_out = data.train, data.held_out
    genuine = held_out.filter(~pl.col("is_fraud"))
    _require_rows(train, genuine, data.split)
    trees = _trees(data, settings)
    names = list(dict.fromkeys([*settings.all_features(), *trees]))
    require_no_disguise(data.frame, sorted(set(names) - set(feature_names())))
    encoding = Encoding.fit(train, names)
    ensemble, reports = fit_ensemble(
        _training_rows(encoding, train, data.events),
        _training_rows(encoding, genuine, data.events),
        encoding.feature_names,
        _ensemble_config(settings, encoding),
        seed=settings.seed,
        device=device,
        fit_each=fit_each,
    )
    rows = held_out_rows(data, encoding, ensemble)
    ensemble.to("cpu")
    config = _stack_config(data, settings, encoding, trees, queue.capacity)
    trial = try_stack(data, settings, encoding, ensemble, rows, config)
    scores = ensemble.combine(trial.member_scores)
    add_probability(ensemble, data, rows, scores)
    ensemble.threshold = choose_threshold(scores, rows.all.days, rows.all.is_fraud, queue)
    usual = usual_values(train, encoding)
    return Fitted(Bundle(ensemble, encoding, usual, threshold_basis(queue)), reports, trial)


def _trees(data: TrainingData, settings: TrainSettings) -> list[str]:
    """Give what the boosted trees see: what some row has a value of."""
    names = tree_features(data.frame, settings)
    return [name for name in names if data.frame[name].null_count() < data.frame.height]


def _stack_config(
    data: TrainingData,
    settings: TrainSettings,
    encoding: Encoding,
    trees: Sequence[str],
    capacity: int,
) -> StackConfig:
    return StackConfig(
        features=trees,
        categorical=sorted(set(encoding.vocabularies) & set(trees)),
        member_scores=settings.ensemble.member_scores,
        capacity=capacity,
        are_all_labelled=not data.is_selective,
        reserved_share=settings.ensemble.reserved_share,
    )


def _training_rows(
    encoding: Encoding, frame: pl.DataFrame, events: pl.DataFrame | None
) -> TrainingRows:
    return TrainingRows(encoding.matrix(frame), history_of(frame, events))


def _require_rows(train: pl.DataFrame, held_out: pl.DataFrame, split: date) -> None:
    if train.height < 2 or held_out.height < LEAST_HELD_OUT_ROWS:
        message = (
            f"training needs at least 2 genuine transactions before {split} and "
            f"{LEAST_HELD_OUT_ROWS} from it on; there are {train.height} and {held_out.height}; "
            "ingest more days, or train as of a later day"
        )
        raise ModelMissingError(message)


def require_meaning(settings: TrainSettings) -> None:
    """Refuse members that there are not, features named twice, and weights that mean nothing.

    Raises:
        SettingsError: naming them, and what can be used.
    """
    trees = settings.ensemble.features
    for names in (settings.features, trees, *settings.member_features.values()):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"[train] features: {twice} are named twice; name each once"
            raise SettingsError(message)
    named = {
        "members": settings.members,
        "weights": tuple(settings.weights),
        "member_features": tuple(settings.member_features),
    }
    for key, names in named.items():
        unknown = sorted(set(names) - set(REGISTRY))
        if unknown:
            message = f"[train] {key}: {unknown} are not detectors; choose from {sorted(REGISTRY)}"
            raise SettingsError(message)
    wrong = {name: w for name, w in settings.weights.items() if not (w > 0 and math.isfinite(w))}
    if wrong:
        message = f"[train] weights must be positive numbers, not {wrong}; leave a member out"
        raise SettingsError(message)


def _ensemble_config(settings: TrainSettings, encoding: Encoding) -> EnsembleConfig:
    weights = default_weights() | settings.weights
    return EnsembleConfig(
        members={name: REGISTRY[name].config() for name in settings.members},
        weights={name: weights.get(name, 1.0) for name in settings.members},
        views={
            name: settings.member_features.get(name, settings.features)
            for name in settings.members
        },
        cardinalities=encoding.cardinalities(),
        history_channels=HISTORY_CHANNELS,
    )


def _record(
    as_of: date, parameters: dict[str, object], data: TrainingData, fitted: Fitted
) -> TrainingRecord:
    reports = fitted.reports
    metrics = {
        "rows": data.rows,
        "known_frauds": data.known_frauds,
        "threshold": fitted.bundle.ensemble.threshold or 0.0,
        **fitted.trial.metrics,
    } | {f"seconds.{name}": report.seconds for name, report in reports.items()}
    curves = {
        f"{kind}_loss.{name}": getattr(report, f"{kind}_losses")
        for name, report in reports.items()
        for kind in ("train", "validation")
    }
    tags = {
        "code_version": code_version(),
        "data_digest": data.digest,
        "validation_first_day": data.validation[0].isoformat(),
        "validation_last_day": data.validation[-1].isoformat(),
        "mode": fitted.trial.mode,
        "mode_reason": fitted.trial.reason,
    }
    if reports.failures:
        tags["failed_members"] = "; ".join(f"{k}: {v}" for k, v in reports.failures.items())
    return TrainingRecord(as_of, parameters, metrics, curves, tags)
