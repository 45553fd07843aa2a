"""Judge scores by what became known: the ensemble, its members, and where they are weak.

Stored scores were each made by a model of their past, so that judging them is honest (prequential:
Dawid, 1984). Judged are the rows of mature days alone, those whose frauds are all reported by now:
there, a transaction that nobody called fraud counts as genuine. On younger days frauds are still
missing, and early reports are not like late ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.bootstrap import (
    LEAST_DAYS,
    Estimate,
    Interval,
    estimate_ratio,
    interval,
    resample_days,
    resampled_average_precision,
    resampled_mean,
    resampled_ratio,
    resampled_roc_auc,
)
from models.metrics import (
    FloatArray,
    average_precision,
    brier_score,
    daily_card_precision,
    daily_caught,
    expected_calibration_error,
    precision_recall,
    probability_bins,
    rank_within_day,
    reliability,
    roc_auc,
)
from tasks.evaluation import (
    QUANTILES,
    CapacityPoint,
    DayFigures,
    Evaluation,
    GroupQuality,
    ProbabilityQuality,
    Quality,
    ReliabilityBin,
)
from warehouse.connection import Lake
from warehouse.errors import UserError
from warehouse.reads import read_transactions

SEED = 0  # of the resamples
MOST_VALUES = 12  # of a segment column; the rarer ones are judged together
NO_VALUE, OTHERS = "none", "all others"
CURVE_POINTS = 250
CAPACITY_POINTS = 30
CAPACITY_REACH = 5  # curves by capacity go up to so many times the capacity
BINS = 10


@dataclass(frozen=True)
class Criteria:
    """What is judged, and how.

    Args:
        capacity: Accounts, or alerts, that the analysts review a day.
        last_mature: The newest day whose frauds count as known.
        segments: Columns whose values are judged apart.
        amount_bands: Where bands of amounts begin, ascending, above 0.
        resamples: Of the days, for intervals.
    """

    capacity: int
    last_mature: date
    segments: tuple[str, ...] = ()
    amount_bands: tuple[float, ...] = ()
    resamples: int = 1000


@dataclass(frozen=True)
class _Rows:
    """Rows as arrays, (rows,) each; ``day`` counts the days that there are, from 0."""

    score: FloatArray
    is_fraud: NDArray[np.bool_]
    day: NDArray[np.int64]
    account: NDArray[np.int64]
    amount: FloatArray
    resamples: int

    @classmethod
    def of(cls, frame: pl.DataFrame, column: str, resamples: int) -> "_Rows":
        return cls(
            frame[column].to_numpy(),
            frame["is_fraud"].to_numpy(),
            frame["event_date"].rank("dense").cast(pl.Int64).to_numpy() - 1,
            frame["account_id"].rank("dense").cast(pl.Int64).to_numpy(),
            frame["amount"].to_numpy(),
            resamples,
        )

    @property
    def n_days(self) -> int:
        return int(self.day.max()) + 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Give the same resamples for the same number of days, so that columns compare."""
        return resample_days(self.n_days, self.resamples, SEED)

    def by_day(self, values: NDArray[Any]) -> FloatArray:
        sums = np.bincount(self.day, weights=values, minlength=self.n_days)
        return sums.astype(np.float64)

    def interval(self, resampled: FloatArray) -> Interval | None:
        return interval(resampled) if self.n_days >= LEAST_DAYS else None


def read_segments(
    lake: Lake, scored: pl.DataFrame, segments: Sequence[str], start: date, end: date
) -> pl.DataFrame:
    """Add the transactions' columns that are to be judged apart.

    Raises:
        UserError: if the transactions have no such column.
    """
    wanted = [name for name in segments if name not in scored.columns]
    if not wanted:
        return scored
    transactions = read_transactions(lake, start, end)
    missing = [name for name in wanted if name not in transactions.columns]
    if missing:
        there = sorted(set(transactions.columns) - {"transaction_id", "event_date", "occurred_at"})
        message = (
            f"[evaluate] segments names {', '.join(missing)}, but the transactions have only "
            f"{', '.join(there)}; name one of these, or keep the column in [source.extra] and "
            "ingest the days again"
        )
        raise UserError(message)
    keys = ["event_date", "transaction_id"]
    return scored.join(transactions.select(*keys, *wanted), on=keys, how="left")


def evaluate_scores(scored: pl.DataFrame, truth: pl.DataFrame, criteria: Criteria) -> Evaluation:
    """Judge the rows of mature days.

    Args:
        scored: Rows of ``warehouse.reads.read_scores``, with the segments' columns.
        truth: ``transaction_id`` and ``is_fraud``, see ``warehouse.reads.read_truth``; rows of a
            mature day that it does not name count as genuine.
        criteria: What is judged, and how.

    Raises:
        UserError: if no fraud is known on the mature days, or nothing else.
    """
    known = scored.join(truth, on="transaction_id", how="left").sort(
        "event_date", "transaction_id"
    )
    judged = known.filter(pl.col("event_date") <= criteria.last_mature)
    _require_both_classes(known, judged, criteria.last_mature)
    judged = judged.with_columns(pl.col("is_fraud").fill_null(value=False))
    columns = ["score", *(name for name in judged.columns if name.startswith("member."))]
    rows = {
        _name(column): _Rows.of(judged.drop_nulls(column), column, criteria.resamples)
        for column in columns
        if judged.drop_nulls(column)["is_fraud"].n_unique() == 2
    }
    ensemble = rows["ensemble"]
    return Evaluation(
        capacity=criteria.capacity,
        last_mature=criteria.last_mature,
        resamples=criteria.resamples,
        rows_scored=known.height,
        rows_immature=known.height - judged.height,
        rows_labelled=judged.join(truth, on="transaction_id", how="semi").height,
        frauds=int(ensemble.is_fraud.sum()),
        qualities=[_quality(name, one, criteria.capacity) for name, one in rows.items()],
        groups=_judge_groups(judged, ensemble, criteria),
        probability=_judge_probability(judged, criteria.resamples),
        days=_judge_days(known, ensemble, criteria),
        by_capacity=_judge_capacities(ensemble, criteria.capacity),
        curves={name: _thin_curve(one) for name, one in rows.items()},
    )


def _name(column: str) -> str:
    return "ensemble" if column == "score" else column.removeprefix("member.")


def _require_both_classes(known: pl.DataFrame, judged: pl.DataFrame, last_mature: date) -> None:
    frauds = int(judged["is_fraud"].sum())
    if 0 < frauds < judged.height:
        return
    labelled = judged["is_fraud"].is_not_null().sum()
    message = (
        f"evaluating needs known frauds and known genuine transactions; of {known.height:,} scored "
        f"rows {labelled:,} have a label, {frauds:,} of them fraud, and "
        f"{known.height - judged.height:,} are of days after {last_mature}, the newest whose "
        "frauds count as known; name older days, or import labels"
    )
    raise UserError(message)


def _quality(name: str, rows: _Rows, capacity: int) -> Quality:
    score, fraud, day, counts = rows.score, rows.is_fraud, rows.day, rows.counts
    (daily,) = daily_card_precision(score, fraud, rows.account, day, [capacity])
    return Quality(
        name=name,
        auc=roc_auc(score, fraud),
        ap=average_precision(score, fraud),
        card_precision=float(daily.mean()),
        auc_interval=rows.interval(resampled_roc_auc(score, fraud, day, counts)),
        ap_interval=rows.interval(resampled_average_precision(score, fraud, day, counts)),
        card_precision_interval=rows.interval(resampled_mean(daily, counts)),
    )


def _judge_groups(judged: pl.DataFrame, rows: _Rows, criteria: Criteria) -> list[GroupQuality]:
    """Judge each value of each column, then each band of amounts."""
    is_alert = rank_within_day(rows.score, rows.day) <= criteria.capacity
    values = {name: _segment_values(judged[name]) for name in criteria.segments}
    if criteria.amount_bands:
        values["amount"] = _amount_bands(judged["amount"], criteria.amount_bands)
    return [
        _group_quality(column, value, (texts == value).to_numpy(), rows, is_alert)
        for column, texts in values.items()
        for value in texts.unique().sort()
    ]


def _segment_values(column: pl.Series) -> pl.Series:
    """Give a column's values as texts, the rare ones together; sorted by how many rows have them."""
    numbers = column.dtype.is_numeric() and (column == column.round()).all()
    texts = (column.cast(pl.Int64) if numbers else column).cast(pl.String).fill_null(NO_VALUE)
    counted = texts.value_counts(sort=True)[column.name]
    frequent = counted.head(MOST_VALUES).to_list()
    names = [*frequent, *([OTHERS] if counted.len() > MOST_VALUES else [])]
    return texts.replace_strict(frequent, frequent, default=OTHERS).cast(pl.Enum(names))


def _amount_bands(amounts: pl.Series, begins: Sequence[float]) -> pl.Series:
    shown = [f"{begin:,g}" for begin in begins]
    middle = [f"{low} to {high}" for low, high in pairwise(shown)]
    names = [f"under {shown[0]}", *middle, f"{shown[-1]} and more"]
    band = np.searchsorted(begins, amounts.to_numpy(), side="right")
    return pl.Series(names, dtype=pl.Enum(names)).gather(band)


def _group_quality(
    column: str,
    value: str,
    is_member: NDArray[np.bool_],
    rows: _Rows,
    is_alert: NDArray[np.bool_],
) -> GroupQuality:
    fraud = rows.is_fraud & is_member
    caught, alerts = fraud & is_alert, is_member & is_alert
    daily = {
        name: rows.by_day(values)
        for name, values in (
            ("frauds", fraud),
            ("caught", caught),
            ("alerts", alerts),
            ("amount", fraud * rows.amount),
            ("amount_caught", caught * rows.amount),
        )
    }
    counts = rows.counts
    precision = estimate_ratio(daily["caught"], daily["alerts"], counts)
    return GroupQuality(
        column=column,
        value=value,
        rows=int(is_member.sum()),
        frauds=int(fraud.sum()),
        alerts=int(alerts.sum()),
        precision=None if fraud.sum() == is_member.sum() else precision,
        recall=estimate_ratio(daily["caught"], daily["frauds"], counts),
        amount_share=estimate_ratio(daily["amount_caught"], daily["amount"], counts),
        ap=_group_ap(rows, is_member, counts),
    )


def _group_ap(
    rows: _Rows, is_member: NDArray[np.bool_], counts: NDArray[np.int64]
) -> Estimate | None:
    """Rank a group's rows among themselves; all frauds, or none, leave nothing to rank."""
    score, fraud, day = rows.score[is_member], rows.is_fraud[is_member], rows.day[is_member]
    if not 0 < fraud.sum() < fraud.size:
        return None
    resampled = resampled_average_precision(score, fraud, day, counts)
    return Estimate(average_precision(score, fraud), rows.interval(resampled))


def _judge_probability(judged: pl.DataFrame, resamples: int) -> ProbabilityQuality | None:
    if "probability" not in judged.columns:
        return None
    known = judged.drop_nulls("probability")
    if known["is_fraud"].n_unique() < 2:
        return None
    rows = _Rows.of(known, "probability", resamples)
    share = float(rows.is_fraud.mean())
    distances = rows.by_day((rows.score - rows.is_fraud) ** 2)
    brier = resampled_ratio(distances, rows.by_day(np.ones(rows.day.size)), rows.counts)
    return ProbabilityQuality(
        rows=known.height,
        frauds=int(rows.is_fraud.sum()),
        mean_probability=float(rows.score.mean()),
        fraud_share=share,
        brier=Estimate(brier_score(rows.score, rows.is_fraud), rows.interval(brier)),
        brier_of_share=share * (1 - share),
        calibration_error=expected_calibration_error(rows.score, rows.is_fraud, BINS),
        bins=_reliability_bins(rows),
    )


def _reliability_bins(rows: _Rows) -> tuple[ReliabilityBin, ...]:
    numbers = probability_bins(rows.score, BINS, by_frauds=True)
    found = reliability(rows.score, rows.is_fraud, BINS, by_frauds=True)
    bins = []
    for number, one in enumerate(found):
        inside = numbers == number
        share = estimate_ratio(
            rows.by_day(rows.is_fraud & inside), rows.by_day(inside), rows.counts
        )
        if share is not None:
            bins.append(ReliabilityBin(one.rows, one.frauds, one.mean_probability, share))
    return tuple(bins)


def _judge_days(known: pl.DataFrame, ensemble: _Rows, criteria: Criteria) -> list[DayFigures]:
    """Describe each day's scores, and judge the mature ones."""
    by_capacity = (pl.col("score").top_k(criteria.capacity).min()).alias("cut")
    quantiles = [pl.col("score").quantile(q).alias(f"q{q}") for q in QUANTILES]
    days = known.group_by("event_date", maintain_order=True).agg(
        pl.col("model_version").unique(maintain_order=True).str.join(", "),
        pl.len(),
        by_capacity,
        *quantiles,
    )
    described = [
        DayFigures(day, version, rows, tuple(rest), cut, is_mature=day <= criteria.last_mature)
        for day, version, rows, cut, *rest in days.iter_rows()
    ]
    judged = [one for one in described if one.is_mature]
    return [
        *_judged_days(judged, ensemble, criteria.capacity),
        *(one for one in described if not one.is_mature),
    ]


def _judged_days(days: list[DayFigures], rows: _Rows, capacity: int) -> list[DayFigures]:
    is_alert = rank_within_day(rows.score, rows.day) <= capacity
    frauds, caught = rows.by_day(rows.is_fraud), rows.by_day(rows.is_fraud & is_alert)
    (precision,) = daily_card_precision(
        rows.score, rows.is_fraud, rows.account, rows.day, [capacity]
    )
    alone = np.eye(rows.n_days)  # each day drawn alone
    ap = resampled_average_precision(rows.score, rows.is_fraud, rows.day, alone)
    return [
        replace(
            day,
            frauds=int(frauds[n]),
            caught=int(caught[n]),
            ap=None if np.isnan(ap[n]) else float(ap[n]),
            card_precision=float(precision[n]),
        )
        for n, day in enumerate(days)
    ]


def _judge_capacities(rows: _Rows, capacity: int) -> list[CapacityPoint]:
    """Judge the ensemble at fewer and more reviews a day than the analysts can do."""
    most = max(1, min(CAPACITY_REACH * capacity, rows.score.size // rows.n_days))
    spread = np.geomspace(1, most, CAPACITY_POINTS).round().astype(int)
    capacities = sorted({*spread.tolist(), min(capacity, most)})
    ranks, counts = rank_within_day(rows.score, rows.day), rows.counts
    ones = np.ones(rows.score.size)
    cards = daily_card_precision(rows.score, rows.is_fraud, rows.account, rows.day, capacities)
    frauds, amounts = (
        daily_caught(ranks, rows.is_fraud, rows.day, values, capacities)
        for values in (ones, rows.amount)
    )
    all_frauds, all_amounts = (
        rows.by_day(rows.is_fraud * values) for values in (ones, rows.amount)
    )
    return [
        CapacityPoint(
            k,
            Estimate(float(cards[n].mean()), rows.interval(resampled_mean(cards[n], counts))),
            estimate_ratio(frauds[n], all_frauds, counts),
            estimate_ratio(amounts[n], all_amounts, counts),
        )
        for n, k in enumerate(capacities)
    ]


def _thin_curve(rows: _Rows) -> tuple[FloatArray, FloatArray]:
    """Give recall and precision at steps that a picture can tell apart."""
    precision, recall = precision_recall(rows.score, rows.is_fraud)
    steps = np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS)).clip(max=recall.size - 1)
    kept = np.unique(steps)
    return recall[kept], precision[kept]
