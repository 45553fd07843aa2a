"""Fit the ensemble as of a day: on the days whose labels are known by then, and on nothing later."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import torch

from models.ensemble import (
    Ensemble,
    EnsembleConfig,
    FitReports,
    OnMemberEpoch,
    default_weights,
    fit_ensemble,
)
from models.registry import REGISTRY
from models.threshold import split_by_day, threshold_for_capacity
from tasks.explain import usual_values
from tasks.features import compute_features, lookback_days
from tasks.tensors import Encoding, frame_digest
from tasks.tracking import Bundle, TrainingRecord
from tasks.train_settings import TrainSettings
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, SettingsError
from warehouse.ledger import code_version
from warehouse.reads import read_label_statements, read_transactions, read_truth

LEAST_HELD_OUT_ROWS = 50  # fewer calibrate no detector and choose no threshold
NO_FEATURES = {"event_date", "transaction_id", "occurred_at", "is_fraud"}


@dataclass(frozen=True)
class TrainingSpan:
    """The days of a training: rows from ``first`` to ``last``, the held-out ones from ``held_out``.

    ``last`` is the newest day all of whose labels are known at the start of ``as_of``.
    """

    as_of: date
    first: date
    held_out: date
    last: date

    @classmethod
    def of(cls, settings: TrainSettings, as_of: date, known_after_days: int) -> "TrainingSpan":
        """Lay the span back from ``as_of``; without labels it ends the day before."""
        last = as_of - timedelta(days=1 + known_after_days)
        first = last - timedelta(days=settings.history_days - 1)
        held_out = last - timedelta(days=settings.held_out_days - 1)
        return cls(as_of, first, held_out, last)


@dataclass(frozen=True)
class FeatureRequest:
    """What ``load_features`` needs to know besides the days."""

    label_delay_days: int
    time_zone: str
    has_labels: bool

    @property
    def known_after_days(self) -> int:
        """Days after which a day's labels can all be known; 0 where there are none to wait for."""
        return self.label_delay_days if self.has_labels else 0

    def start_of(self, day: date) -> datetime:
        """Give the moment at which a business day begins where the source is."""
        return datetime.combine(day, time.min, ZoneInfo(self.time_zone)).astimezone(UTC)


@dataclass(frozen=True)
class Training:
    """A fitted bundle, the record of its training, and example rows of its input."""

    bundle: Bundle
    record: TrainingRecord
    example: pl.DataFrame


def load_features(lake: Lake, start: date, end: date, request: FeatureRequest) -> pl.DataFrame:
    """Compute the features of the days given, reading no more history than they look back on.

    Returns:
        See ``tasks.features.compute_features``; the user's extra columns are joined.
    """
    before = start - timedelta(days=lookback_days(request.label_delay_days))
    next_day = end + timedelta(days=1)  # west of Greenwich the day ends in UTC's next one
    transactions = read_transactions(lake, before, end)
    features = compute_features(
        transactions,
        read_label_statements(lake, before, next_day),
        start=start,
        end=end,
        label_delay_days=request.label_delay_days,
        time_zone=request.time_zone,
    )
    extras = [name for name in transactions.columns if name not in features.columns]
    days = transactions.filter(pl.col("event_date") >= start)
    return features.join(
        days.select("transaction_id", *extras),
        on="transaction_id",
        how="left",
        maintain_order="left",
    )


def fit_as_of(
    lake: Lake,
    settings: TrainSettings,
    as_of: date,
    request: FeatureRequest,
    *,
    capacity: int,
    device: str,
    on_epoch: OnMemberEpoch | None = None,
) -> Training:
    """Fit the ensemble as of the start of a day.

    Raises:
        ModelMissingError: if the lake has too few days before ``as_of``.
        SettingsError: if a feature or member is not known.
    """
    snapshot = lake.snapshot_id()
    span = TrainingSpan.of(settings, as_of, request.known_after_days)
    frame = _training_frame(lake, span, request)
    split = _held_out_start(frame, span)
    fitted = fit_frame(frame, split, settings, capacity=capacity, device=device, on_epoch=on_epoch)
    parameters = {
        **settings.model_dump(mode="json"),
        "first_day": span.first,
        "first_held_out_day": split,
        "last_day": span.last,
        "snapshot_id": snapshot,
        "weights": fitted.bundle.ensemble.weights,
    }
    record = _record(span.as_of, parameters, frame, fitted)
    return Training(fitted.bundle, record, frame.tail(5))


@dataclass(frozen=True)
class Fitted:
    """A bundle and the report of each member's training."""

    bundle: Bundle
    reports: FitReports


def fit_frame(
    frame: pl.DataFrame,
    split: date,
    settings: TrainSettings,
    *,
    capacity: int,
    device: str,
    on_epoch: OnMemberEpoch | None = None,
) -> Fitted:
    """Fit the ensemble on a frame of features and ``is_fraud`` (as known).

    Members learn from the genuine rows before ``split``; the days from it on are held out, to stop
    training, to calibrate, and to choose the threshold that fills the daily capacity.

    Raises:
        ModelMissingError: if there are too few rows.
        SettingsError: if a feature or member is not known, or a weight is not positive.
    """
    normal = frame.filter(~pl.col("is_fraud"))
    train = _sample(normal.filter(pl.col("event_date") < split), settings)
    held_out = normal.filter(pl.col("event_date") >= split)
    _require_rows(train, held_out, split)
    encoding = _encode(train, settings.features)
    ensemble, reports = fit_ensemble(
        encoding.matrix(train),
        encoding.matrix(held_out),
        encoding.feature_names,
        _ensemble_config(settings, encoding),
        seed=settings.seed,
        device=device,
        on_epoch=on_epoch,
    )
    ensemble.to("cpu")
    ensemble.threshold = _threshold(
        ensemble, encoding, frame.filter(pl.col("event_date") >= split), capacity
    )
    usual = usual_values(train, encoding.feature_names, set(encoding.vocabularies))
    return Fitted(Bundle(ensemble, encoding, usual, capacity), reports)


def _training_frame(lake: Lake, span: TrainingSpan, request: FeatureRequest) -> pl.DataFrame:
    """Compute the features of the span's days, with what was known of them at ``as_of``."""
    features = load_features(lake, span.first, span.last, request)
    if features["event_date"].n_unique() < 2:
        message = (
            f"training as of {span.as_of} needs at least two days from {span.first} to {span.last} "
            f"(their labels are known by then); the lake has {features['event_date'].n_unique()}; "
            "ingest more days, or train as of a later day"
        )
        raise ModelMissingError(message)
    as_of = request.start_of(span.as_of)
    # where clocks go forward meanwhile, the last day's last hour is labelled an hour too late
    known = features.filter(
        pl.col("occurred_at") <= as_of - timedelta(days=request.known_after_days)
    )
    truth = read_truth(lake, span.first, span.last, as_of)
    joined = known.join(truth, on="transaction_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("is_fraud").fill_null(value=False))


def _held_out_start(frame: pl.DataFrame, span: TrainingSpan) -> date:
    """Choose the first held-out day; of a short history a third of the days is held out."""
    days: list[date] = frame["event_date"].unique().sort().to_list()
    least = days[len(days) - max(1, len(days) // 3)]
    return max(span.held_out, least) if span.held_out > days[0] else least


def _sample(train: pl.DataFrame, settings: TrainSettings) -> pl.DataFrame:
    if train.height <= settings.max_rows:
        return train
    return train.sample(settings.max_rows, seed=settings.seed, shuffle=False)


def _require_rows(train: pl.DataFrame, held_out: pl.DataFrame, split: date) -> None:
    if train.height < 2 or held_out.height < LEAST_HELD_OUT_ROWS:
        message = (
            f"training needs at least 2 genuine transactions before {split} and "
            f"{LEAST_HELD_OUT_ROWS} from it on; there are {train.height} and {held_out.height}; "
            "ingest more days, or train as of a later day"
        )
        raise ModelMissingError(message)


def _encode(train: pl.DataFrame, names: tuple[str, ...]) -> Encoding:
    known = sorted(set(train.columns) - NO_FEATURES)
    unusable = sorted(set(names) - set(known))
    if unusable:
        message = f"[train] features: {unusable} cannot be used; choose from {known}"
        raise SettingsError(message)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"[train] features: {twice} are named twice; name each once"
        raise SettingsError(message)
    return Encoding.fit(train, names)


def _ensemble_config(settings: TrainSettings, encoding: Encoding) -> EnsembleConfig:
    for key, names in (("members", settings.members), ("weights", tuple(settings.weights))):
        unknown = sorted(set(names) - set(REGISTRY))
        if unknown:
            message = f"[train] {key}: {unknown} are not detectors; choose from {sorted(REGISTRY)}"
            raise SettingsError(message)
    wrong = {name: w for name, w in settings.weights.items() if not (w > 0 and math.isfinite(w))}
    if wrong:
        message = f"[train] weights must be positive numbers, not {wrong}; leave a member out"
        raise SettingsError(message)
    weights = default_weights() | settings.weights
    return EnsembleConfig(
        members={name: REGISTRY[name].config() for name in settings.members},
        weights={name: weights.get(name, 1.0) for name in settings.members},
        cardinalities=encoding.cardinalities(),
    )


def _threshold(
    ensemble: Ensemble, encoding: Encoding, held_out: pl.DataFrame, capacity: int
) -> float:
    days = torch.from_numpy(held_out["event_date"].to_physical().to_numpy(writable=True))
    scores = ensemble.score(encoding.matrix(held_out))
    return threshold_for_capacity(split_by_day(scores, days), capacity)


def _record(
    as_of: date, parameters: dict[str, object], frame: pl.DataFrame, fitted: Fitted
) -> TrainingRecord:
    reports = fitted.reports
    metrics = {
        "rows": frame.height,
        "known_frauds": int(frame["is_fraud"].sum()),
        "threshold": fitted.bundle.ensemble.threshold or 0.0,
    } | {f"seconds.{name}": report.seconds for name, report in reports.items()}
    curves = {
        f"{kind}_loss.{name}": getattr(report, f"{kind}_losses")
        for name, report in reports.items()
        for kind in ("train", "validation")
    }
    tags = {"code_version": code_version(), "data_digest": frame_digest(frame)}
    if reports.failures:
        tags["failed_members"] = "; ".join(f"{k}: {v}" for k, v in reports.failures.items())
    return TrainingRecord(as_of, parameters, metrics, curves, tags)
