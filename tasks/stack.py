"""Whether boosted trees that learn from labels join the ensemble, and what a score then means."""

import logging
from dataclasses import dataclass, field
from datetime import date

import polars as pl
import torch
from torch import Tensor

from models.boosted import TooFewLabelsError
from models.ensemble import Ensemble
from models.ensemble_fit import weights_beside_trees
from models.metrics import average_precision
from models.probability import LEAST_FRAUDS, Probability
from models.stack_fit import LabelledRows, StackConfig, fit_stack
from models.stacking import Stack
from models.weights import LEAST_FRAUDS as LEAST_FRAUDS_TO_WEIGH
from models.weights import learn_weights
from tasks.labelled_rows import choose_labelled_rows
from tasks.tensors import Encoding, history_of
from tasks.train_settings import TrainSettings
from tasks.training_data import TrainingData

EPOCH = date(1970, 1, 1)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows, and which of them are of the later days.

    Shape:
        is_later: (rows,), boolean.
    """

    all: LabelledRows
    is_later: Tensor

    @property
    def tuning(self) -> LabelledRows:
        """The rows of the earlier days; a single held-out day both tunes and validates."""
        return self.all if bool(self.is_later.all()) else self.all.where(~self.is_later)

    @property
    def validation(self) -> LabelledRows:
        """The rows of the later days."""
        return self.all.where(self.is_later)


@dataclass(frozen=True)
class Trial:
    """Which mode was chosen and why; ``member_scores`` are the held-out rows' in that mode.

    Shape:
        member_scores: (held-out rows, members).
    """

    mode: str
    reason: str
    member_scores: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


def held_out_rows(data: TrainingData, encoding: Encoding, ensemble: Ensemble) -> HeldOut:
    """Score the held-out rows with the label-free members, and tell the later days' apart."""
    rows = _labelled_rows(data.held_out, data, encoding, ensemble)
    return HeldOut(rows, rows.days >= (data.validation[0] - EPOCH).days)


def try_stack(
    data: TrainingData,
    settings: TrainSettings,
    encoding: Encoding,
    ensemble: Ensemble,
    rows: HeldOut,
    config: StackConfig,
) -> Trial:
    """Let labels in as the settings say: boosted trees where they win, else the members' weights.

    In mode ``auto`` the trees join where the average precision on the validation days is higher
    with them. Where only alerts were looked at, it is that of the rows that somebody decided: all
    others seem genuine, and a model that finds other frauds than the last one did would be blamed
    for them. Too few labels fall back to the members alone.
    """
    mode = settings.ensemble.mode
    alone = learned_weights(data, settings, ensemble, rows)
    if mode == "unsupervised":
        ensemble.weights = alone
        return Trial(mode, "as the settings say", rows.all.members)
    if not data.is_mature:
        return _fall_back("too few frauds are known yet to learn from", rows)
    beside = weights_beside_trees() | settings.weights
    ensemble.weights = {name: beside.get(name, 1.0) for name in ensemble.members}
    try:
        stack, seconds = _fit(data, settings.seed, encoding, ensemble, rows, config)
    except TooFewLabelsError as error:
        ensemble.weights = alone
        return _fall_back(f"no boosted trees: {error}", rows)
    judged = rows.validation
    if data.is_selective:
        judged = judged.where(judged.is_labelled)
    ensemble.stack = stack
    members = _with_trees(ensemble, rows.all)
    with_trees = _precision(ensemble, _with_trees(ensemble, judged), judged.is_fraud)
    joined, ensemble.stack, ensemble.weights = ensemble.weights, None, alone
    without = _precision(ensemble, judged.members, judged.is_fraud)
    metrics = {
        "validation.ap.unsupervised": without,
        "validation.ap.stacked": with_trees,
        "seconds.boosted": seconds,
    }
    figures = f"average precision on the validation days {with_trees:.3f}, without {without:.3f}"
    if mode == "auto" and not with_trees > without:
        reason = f"boosted trees do not win: {figures}"
        return Trial("unsupervised", reason, rows.all.members, metrics)
    ensemble.stack, ensemble.weights = stack, joined
    return Trial("stacked", figures, members, metrics)


def learned_weights(
    data: TrainingData, settings: TrainSettings, ensemble: Ensemble, rows: HeldOut
) -> dict[str, float]:
    """Learn the members' weights, if the settings want it and enough frauds are known."""
    tuning = rows.tuning
    enough = int(tuning.is_fraud.sum()) >= LEAST_FRAUDS_TO_WEIGH
    if not (data.are_all_judged and settings.weighting == "learned" and enough):
        return ensemble.weights
    weights = learn_weights(tuning.members, tuning.is_fraud)
    return dict(zip(ensemble.members, weights.tolist(), strict=True))


def add_probability(ensemble: Ensemble, data: TrainingData, rows: HeldOut, scores: Tensor) -> None:
    """Learn what probability of fraud a score stands for, from enough frauds of validation days.

    Where only alerts were looked at, nobody can tell.

    Shape:
        scores: (held-out rows,).
    """
    is_fraud = rows.all.is_fraud[rows.is_later]
    if data.are_all_judged and int(is_fraud.sum()) >= LEAST_FRAUDS:
        ensemble.probability = Probability.fit(scores[rows.is_later], is_fraud)


def _fit(
    data: TrainingData,
    seed: int,
    encoding: Encoding,
    ensemble: Ensemble,
    rows: HeldOut,
    config: StackConfig,
) -> tuple[Stack, float]:
    labelled = choose_labelled_rows(data.labelled)
    scorer = ensemble if config.member_scores else None
    train = _labelled_rows(labelled, data, encoding, scorer)
    stack, report = fit_stack(ensemble, train, rows.tuning, rows.all, config, seed=seed)
    logger.info(
        "boosted: %d trees from %d rows, %d of them fraud, %.1f s",
        report.best_round,
        labelled.height,
        int(train.is_fraud.sum()),
        report.seconds,
    )
    return stack, report.seconds


def _labelled_rows(
    frame: pl.DataFrame, data: TrainingData, encoding: Encoding, scorer: Ensemble | None
) -> LabelledRows:
    """Turn rows into tensors, with the members' scores where there is a scorer."""
    x = encoding.matrix(frame)
    if scorer is None:
        members = torch.empty(x.shape[0], 0)
    else:
        members = scorer.member_scores(x, history=history_of(frame, data.events))
    is_fraud, is_labelled = (
        torch.from_numpy(frame[name].to_numpy(writable=True))
        for name in ("is_fraud", "is_labelled")
    )
    days = torch.from_numpy(frame["event_date"].to_physical().to_numpy(writable=True))
    return LabelledRows(x, members, is_fraud, is_labelled, days)


def _with_trees(ensemble: Ensemble, rows: LabelledRows) -> Tensor:
    if ensemble.stack is None:
        return rows.members
    boosted = ensemble.stack.surprises(
        rows.x, ensemble.feature_names, rows.members, tuple(ensemble.members)
    )
    return torch.cat([rows.members, boosted.unsqueeze(1)], dim=1)


def _precision(ensemble: Ensemble, members: Tensor, is_fraud: Tensor) -> float:
    """Give the average precision of the ensemble's score; 0 where no fraud is known."""
    if not bool(is_fraud.any()):
        return 0.0
    return average_precision(ensemble.combine(members).numpy(), is_fraud.numpy())


def _fall_back(reason: str, rows: HeldOut) -> Trial:
    logger.warning("the members score alone: %s", reason)
    return Trial("unsupervised", reason, rows.all.members)
