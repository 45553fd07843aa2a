"""Detectors that learn without labels, on the handbook's weeks: ours beside PyOD's."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import polars as pl
from handbook_data import CAPACITY, DELAY_DAYS, Handbook, Line, Matrix, judge_scores
from sklearn.preprocessing import StandardScaler

from models.ensemble import Ensemble
from models.ensemble_fit import FitReports, TrainingRows
from tasks.feature_catalog import BOOK_FEATURES, FEATURES
from tasks.fit import fit_data, window_for
from tasks.review_settings import QueueSettings
from tasks.tensors import history_of
from tasks.train_settings import EnsembleSettings, TrainSettings
from tasks.training_data import TrainingData, TrainingSpan

PEER_EPOCHS = 20  # of PyOD's networks, as in earlier measurements
PEERS = "IForest,PCA,KNN,INNE,LODA,AutoEncoder,VAE,DeepSVDD,ALAD"


@dataclass(frozen=True)
class Week:
    """A week to judge on, and the rows that may be learned from."""

    start: date
    setting: str
    settings: TrainSettings
    data: TrainingData
    genuine: pl.DataFrame
    test: pl.DataFrame
    events: pl.DataFrame | None


def prepare_week(handbook: Handbook, start: date, setting: str, members: Sequence[str]) -> Week:
    """Compute what is learned from as of a day, and the week from it on that is judged."""
    settings = TrainSettings(
        members=tuple(members),
        weighting="fixed",
        history_days=100,
        ensemble=EnsembleSettings(mode="unsupervised"),
    )
    if setting == "without":
        labelled = {feature.name for feature in FEATURES if feature.uses_labels}
        lean = tuple(name for name in settings.features if name not in labelled)
        settings = settings.model_copy(update={"features": lean})
    span = TrainingSpan.of(settings, start, DELAY_DAYS)
    first = max(span.first, handbook.first_described)
    frame = handbook.features(first, span.last)
    window = window_for(settings)
    data = TrainingData.choose(frame, settings, span.held_out)
    rows, events = handbook.with_history(data.frame, window)
    end = start + timedelta(days=6)
    test, test_events = handbook.with_history(handbook.test_rows(start, end), window)
    genuine = frame.filter(~pl.col("is_fraud"))
    data = replace(data, frame=rows, events=events)
    return Week(start, setting, settings, data, genuine, test, test_events)


def judge(
    week: Week, name: str, seed: int, scores: Matrix, fit_seconds: float, score_seconds: float
) -> Line:
    """Measure one detector's scores on the week."""
    return Line(
        week.start.isoformat(),
        week.setting,
        name,
        seed,
        *judge_scores(week.test, scores),
        fit_seconds,
        week.test.height / max(score_seconds, 1e-9),
    )


def own_lines(week: Week, seed: int) -> list[Line]:
    """Fit and judge the ensemble, its members, and the ensemble without each."""
    settings = week.settings.model_copy(update={"seed": seed})
    fitted = fit_data(week.data, settings, queue=QueueSettings(capacity=CAPACITY), device="cpu")
    ensemble, reports = fitted.bundle.ensemble, fitted.reports
    x = fitted.bundle.encoding.matrix(week.test)
    rows = TrainingRows(x, history_of(week.test, week.events))
    started = time.perf_counter()
    surprises = ensemble.member_scores(rows.x, history=rows.history)  # (rows, members)
    seconds = time.perf_counter() - started
    lines = member_lines(week, seed, ensemble, reports, rows)
    weights, total = ensemble.weights, sum(report.seconds for report in reports.values())
    for left_out in (None, *weights):
        ensemble.weights = weights if left_out is None else weights | {left_out: 0.0}
        if sum(ensemble.weights.values()) == 0:
            continue
        name = "ensemble" if left_out is None else f"ensemble without {left_out}"
        scores = ensemble.combine(surprises).double().numpy()
        lines.append(judge(week, name, seed, scores, total, seconds))
    return lines


def member_lines(
    week: Week, seed: int, ensemble: Ensemble, reports: FitReports, rows: TrainingRows
) -> list[Line]:
    """Judge each member by itself."""
    lines = []
    for name, member in ensemble.members.items():
        alone = Ensemble(
            ensemble.preprocessor,
            {name: member},
            {name: ensemble.calibrations[name]},
            {name: 1.0},
            views={name: ensemble.views[name]},
            history_scaler=ensemble.history_scaler,
        )
        started = time.perf_counter()
        scores = alone.score(rows.x, history=rows.history).double().numpy()
        seconds = time.perf_counter() - started
        lines.append(judge(week, name, seed, scores, reports[name].seconds, seconds))
    return lines


def peer_lines(week: Week, seed: int, names: Sequence[str], features: str) -> list[Line]:
    """Fit and judge PyOD's detectors on the features that they are to see."""
    from peers import make_peer  # ours can be judged without PyOD

    columns = peer_features(week, features)
    x_train, x_test = (
        np.nan_to_num(frame.select(pl.col(columns).cast(pl.Float64)).to_numpy())
        for frame in (week.genuine, week.test)
    )
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    lines = []
    for name in names:
        peer = make_peer(name, seed, PEER_EPOCHS)
        started = time.perf_counter()
        peer.fit(x_train)
        fitted = time.perf_counter()
        scores = peer.score(x_test)
        timing = (fitted - started, time.perf_counter() - fitted)
        lines.append(judge(week, f"PyOD {name}", seed, scores, *timing))
    return lines


def peer_features(week: Week, features: str) -> list[str]:
    """Choose what the peers see, in the week's setting."""
    if features == "same":
        return list(week.settings.features)
    declared = {feature.name: feature for feature in FEATURES}
    wanted = BOOK_FEATURES if features == "book" else tuple(declared)
    return [
        name
        for name in wanted
        if name in week.genuine.columns and week.genuine[name].null_count() < week.genuine.height
        if week.setting == "with" or not declared[name].uses_labels
    ]
