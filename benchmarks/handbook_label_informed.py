"""Detectors that learn from labels, on handbook-like weeks: ours, LightGBM, and what is knowable."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import lightgbm as lgb
import numpy as np
import polars as pl
import torch
from handbook_data import (
    CAPACITY,
    DELAY_DAYS,
    Handbook,
    Line,
    Matrix,
    ceiling_scores,
    judge_scores,
    literal_ceiling_scores,
)

from tasks.feature_catalog import BOOK_FEATURES, BOOSTED_FEATURES
from tasks.fit import fit_data, window_for
from tasks.labelled_rows import choose_labelled_rows
from tasks.review_settings import QueueSettings
from tasks.tensors import history_of
from tasks.tracking import Bundle
from tasks.train_settings import EnsembleSettings, TrainSettings
from tasks.training_data import TrainingData

SETTING = "labels"
OURS, BOOSTED, LABEL_FREE = "ours", "ours: boosted alone", "ours: members alone"
CEILING, LITERAL = "ceiling", "ceiling, to the letter"
LEAST_DAYS = 15  # to learn from: the product holds out 14
CAREFUL = {  # a peer as one would set it up after reading what matters on this data
    "num_leaves": 15,
    "learning_rate": 0.05,
    "max_bin": 1023,
    "min_data_in_bin": 1,
    "min_data_in_leaf": 100,
    "num_iterations": 200,
}
Scorer = Callable[[pl.DataFrame], Matrix]


@dataclass(frozen=True)
class Span:
    """Days to learn from, all of whose labels are known by the first day that is judged."""

    train_from: date
    train_to: date
    test_from: date
    test_to: date

    @classmethod
    def of_week(cls, handbook: Handbook, start: date) -> "Span":
        """Lay out a week: trained as of its first day, on all days with a whole history."""
        last_known = start - timedelta(days=1 + DELAY_DAYS)
        return cls(handbook.first_described, last_known, start, start + timedelta(days=6))

    def check(self, handbook: Handbook) -> None:
        """Refuse days that overlap, peep or are not there.

        Raises:
            SystemExit: saying which.
        """
        if self.train_to > self.test_from - timedelta(days=1 + DELAY_DAYS):
            raise SystemExit(
                f"labels are known after {DELAY_DAYS} days: training may end on "
                f"{self.test_from - timedelta(days=1 + DELAY_DAYS)} at the latest for tests from "
                f"{self.test_from}, not on {self.train_to}"
            )
        if self.test_to < self.test_from:
            raise SystemExit(f"tests end on {self.test_to}, before they begin ({self.test_from})")
        if self.train_to < self.train_from + timedelta(days=LEAST_DAYS - 1):
            raise SystemExit(
                f"training needs at least {LEAST_DAYS} days, "
                f"got {self.train_from} to {self.train_to}"
            )
        days = set(handbook.transactions["event_date"].unique())
        for day in (self.train_from, self.train_to, self.test_from, self.test_to):
            if day not in days:
                raise SystemExit(f"no transactions on {day}; there are {min(days)} to {max(days)}")


def label_informed_lines(
    handbook: Handbook,
    scenarios: pl.DataFrame,
    span: Span,
    members: Sequence[str],
    seeds: Sequence[int],
) -> list[Line]:
    """Fit and judge everything on one span of days."""
    train = handbook.features(span.train_from, span.train_to)
    test = handbook.test_rows(span.test_from, span.test_to)
    names = [name for name in BOOSTED_FEATURES if train[name].null_count() < train.height]
    lines = [
        judge(test, span, LITERAL, 0, literal_ceiling_scores(test), (0.0, 0.0)),
        judge(test, span, CEILING, 0, ceiling_scores(test, scenarios), (0.0, 0.0)),
    ]
    for seed in seeds:
        lines += own_lines(handbook, test, span, members, seed)
        fits: dict[str, Callable[[], Scorer]] = {
            "LightGBM, same features, careful": lambda seed=seed: fit_lightgbm(
                choose_labelled_rows(train), names, CAREFUL, seed
            ),
            "LightGBM, same features, defaults": lambda seed=seed: fit_lightgbm(
                choose_labelled_rows(train), names, {}, seed
            ),
            "LightGBM, the book's 15, careful": lambda seed=seed: fit_lightgbm(
                train, BOOK_FEATURES, CAREFUL, seed
            ),
            "LightGBM, the book's 15, defaults": lambda seed=seed: fit_lightgbm(
                train, BOOK_FEATURES, {}, seed
            ),
        }
        for name, fit in fits.items():
            started = time.perf_counter()
            score = fit()
            fitted = time.perf_counter()
            scores = score(test)
            timing = (fitted - started, time.perf_counter() - fitted)
            lines.append(judge(test, span, name, seed, scores, timing))
    return lines


def own_lines(
    handbook: Handbook, test: pl.DataFrame, span: Span, members: Sequence[str], seed: int
) -> list[Line]:
    """Fit the product's ensemble, and judge its score, its trees alone, and its members alone."""
    settings = TrainSettings(
        members=tuple(members), seed=seed, ensemble=EnsembleSettings(mode="stacked")
    )
    started = time.perf_counter()
    bundle = learn(handbook, span, settings)
    fitted = time.perf_counter()
    scores = score(bundle, handbook, test)
    timing = (fitted - started, time.perf_counter() - fitted)
    return [
        judge(test, span, name, seed, tensor.double().numpy(), timing)
        for name, tensor in scores.items()
    ]


def learn(handbook: Handbook, span: Span, settings: TrainSettings) -> Bundle:
    """Fit everything as of the first day that is judged, as ``nightwarden train`` does.

    Raises:
        RuntimeError: if the trees could not be fitted.
    """
    held_out = span.train_to - timedelta(days=settings.held_out_days - 1)
    frame = handbook.features(span.train_from, span.train_to)
    data = TrainingData.choose(frame, settings, held_out)
    rows, events = handbook.with_history(data.frame, window_for(settings))
    data = replace(data, frame=rows, events=events)
    queue = QueueSettings(capacity=CAPACITY)
    fitted = fit_data(data, settings, queue=queue, device="cpu")
    if fitted.bundle.ensemble.stack is None:
        raise RuntimeError(f"expected boosted trees beside the members: {fitted.trial.reason}")
    return fitted.bundle


def score(bundle: Bundle, handbook: Handbook, test: pl.DataFrame) -> dict[str, torch.Tensor]:
    """Score rows by the rule that joins both, by the trees alone, and by the members alone."""
    ensemble = bundle.ensemble
    rows, events = handbook.with_history(test, ensemble.window)
    history = history_of(rows, events)
    members = ensemble.member_scores(bundle.encoding.matrix(rows), history=history)
    return {
        OURS: ensemble.combine(members),
        BOOSTED: members[:, -1],
        LABEL_FREE: ensemble.average(members),
    }


def fit_lightgbm(
    train: pl.DataFrame, names: Sequence[str], parameters: dict[str, float], seed: int
) -> Scorer:
    """Fit LightGBM on all of the rows."""
    options = {"objective": "binary", "verbosity": -1, "seed": seed, **parameters}
    options["num_threads"] = torch.get_num_threads()
    data = lgb.Dataset(_matrix(train, names), train["is_fraud"].to_numpy(), params=options)
    booster = lgb.train(options, data)
    return lambda test: np.asarray(booster.predict(_matrix(test, names)), np.float64)


def _matrix(frame: pl.DataFrame, names: Sequence[str]) -> Matrix:
    return frame.select(pl.col(names).cast(pl.Float64).fill_null(np.nan)).to_numpy(writable=True)


def judge(
    test: pl.DataFrame,
    span: Span,
    name: str,
    seed: int,
    scores: Matrix,
    timing: tuple[float, float],
) -> Line:
    """Measure one detector's scores on the days judged; ``timing`` is of fit and scoring."""
    week, quality = span.test_from.isoformat(), judge_scores(test, scores)
    speed = test.height / timing[1] if timing[1] else 0.0
    return Line(week, SETTING, name, seed, *quality, timing[0], speed)


def ceiling_ratios(lines: list[Line]) -> str:
    """Compare ours with the ceiling, on average, and with LightGBM on the same rows, by week."""
    measures = {"AUC": "auc", "AP": "ap", "CP@100": "card_precision"}
    weeks = sorted({line.week for line in lines})
    text = ""
    for label, field in measures.items():
        ours, ceiling = (
            np.mean([_mean(lines, week, name, field) for week in weeks])
            for name in (OURS, CEILING)
        )
        text += f"{label}: ours {ours:.4f}, ceiling {ceiling:.4f}, ratio {ours / ceiling:.4f}\n"
    for week in weeks:
        ours = _mean(lines, week, OURS, "ap")
        for peer in ("careful", "defaults"):
            theirs = _mean(lines, week, f"LightGBM, same features, {peer}", "ap")
            text += f"{week}: ours AP / LightGBM on the same features ({peer}) = "
            text += f"{ours / theirs:.4f}\n"
    return text


def _mean(lines: list[Line], week: str, name: str, field: str) -> float:
    wanted = [li for li in lines if (li.week, li.name) == (week, name)]
    return float(np.mean([getattr(line, field) for line in wanted]))
