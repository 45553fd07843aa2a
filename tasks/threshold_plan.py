"""What reviewing more or fewer alerts a day would catch and cost, judged by what became known.

An operating point is a least score: the transactions of all days that reach it are its alerts, so a
busy day has more of them than a quiet one. Every figure has an interval, from drawing whole days
anew.

Not valid where labels come from reviewed alerts alone: then frauds below the old threshold are not
known, recall looks higher than it is and further alerts look useless.
"""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from models.bootstrap import LEAST_DAYS, Estimate, estimate_ratio, resample_days
from tasks.flagging import choose_threshold, flag
from tasks.review_settings import QueueSettings
from warehouse.errors import UserError

LEAST_FRAUDS = 10  # known ones; fewer tell no operating point from another
STEPS = (1, 2, 5)  # alerts a day, times powers of ten
FEWEST_ALERTS = 5
CURVE_POINTS = 40
SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """What a least score gives; None where there is nothing to measure.

    Args:
        name: How it was chosen.
        least_score: Rows from it on are alerts; None where amount and probability decide.
        alerts: A day, on average; and on the quietest and busiest day.
        precision: Frauds of the alerts.
        recall: Caught of the frauds.
        amount_share: Caught of the frauds' amount.
        amount: Caught a day, in units of the amount.
        false_positives: Genuine alerts a day.
        net_value: Amount caught less the cost of review, a day, where a cost is set.
    """

    name: str
    least_score: float | None
    alerts: float
    fewest_alerts: int
    most_alerts: int
    precision: Estimate | None
    recall: Estimate | None
    amount_share: Estimate | None
    amount: Estimate | None
    false_positives: Estimate | None
    net_value: Estimate | None


@dataclass(frozen=True)
class ThresholdPlan:
    """Operating points side by side: fewest alerts first, then what the settings choose.

    ``curve`` are the same figures at more points, for the picture. ``immature_days`` were left out,
    because their frauds are not all known yet.
    """

    first: date
    last: date
    days: int
    immature_days: int
    transactions: int
    frauds: int
    points: tuple[OperatingPoint, ...]
    current: OperatingPoint
    curve: tuple[OperatingPoint, ...] = field(repr=False)


@dataclass(frozen=True)
class _Days:
    """The judged rows as arrays, each day's frauds and their amount, and the resamples of the days.

    Shape:
        score, amount, is_fraud, day: (rows,); day from 0. frauds, losses: (days,).
        counts: (resamples, days).
    """

    score: Floats
    amount: Floats
    is_fraud: NDArray[np.bool_]
    day: NDArray[np.int64]
    frauds: Floats
    losses: Floats
    counts: NDArray[np.int64]

    @property
    def n_days(self) -> int:
        """Count the days."""
        return len(self.frauds)

    def at_alerts(self, alerts: float) -> float:
        """Give the least score that so many rows a day reach, on average over the days."""
        place = max(round(alerts * self.n_days), 1) - 1
        return float(np.partition(self.score, self.score.size - 1 - place)[-1 - place])


def plan_thresholds(
    scored: pl.DataFrame,
    truth: pl.DataFrame,
    queue: QueueSettings,
    *,
    last_mature: date,
    resamples: int = 1000,
) -> ThresholdPlan:
    """Compare operating points on the days whose frauds are known by now.

    What the settings choose is found on these days, as training finds it on the validation days.

    Args:
        scored: Rows of ``warehouse.reads.read_scores``.
        truth: ``transaction_id`` and ``is_fraud``, see ``warehouse.reads.read_truth``; rows of a
            mature day that it does not name count as genuine.
        queue: The policy that is set, with its figures.
        last_mature: The newest day whose frauds count as known.
        resamples: Of the days, for the intervals.

    Raises:
        UserError: if too few days are mature, or too few frauds are known on them.
    """
    rows = (
        scored.filter(pl.col("event_date") <= last_mature)
        .join(truth, on="transaction_id", how="left")
        .with_columns(pl.col("is_fraud").fill_null(value=False))
        .sort("event_date", "rank_of_day")
    )
    days = rows["event_date"].unique().sort()
    immature = scored["event_date"].n_unique() - days.len()
    _require_enough(rows, days.len(), immature, last_mature)
    judged = _as_days(rows, resample_days(days.len(), resamples, SEED))
    wanted = _round_numbers(rows.height / days.len())
    fine = np.geomspace(min(FEWEST_ALERTS, wanted[-1]), wanted[-1], CURVE_POINTS)
    return ThresholdPlan(
        first=rows["event_date"][0],
        last=rows["event_date"][-1],
        days=days.len(),
        immature_days=immature,
        transactions=rows.height,
        frauds=int(judged.is_fraud.sum()),
        points=tuple(_point_at(judged, alerts, queue.review_cost) for alerts in wanted),
        current=_current_point(rows, judged, queue),
        curve=tuple(_point_at(judged, float(alerts), queue.review_cost) for alerts in fine),
    )


def _require_enough(rows: pl.DataFrame, days: int, immature: int, last_mature: date) -> None:
    frauds = int(rows["is_fraud"].sum())
    if days >= LEAST_DAYS and frauds >= LEAST_FRAUDS:
        return
    message = (
        f"planning a threshold needs at least {LEAST_DAYS} scored days up to {last_mature}, the "
        f"newest day whose frauds count as known, with at least {LEAST_FRAUDS} known frauds; "
        f"there are {days} with {frauds} ({immature} scored days are newer); name more days, or "
        "import their labels"
    )
    raise UserError(message)


def _as_days(rows: pl.DataFrame, counts: NDArray[np.int64]) -> _Days:
    day = rows["event_date"].rank("dense").cast(pl.Int64).to_numpy() - 1
    amount, is_fraud = rows["amount"].to_numpy(), rows["is_fraud"].to_numpy()
    return _Days(
        score=rows["score"].to_numpy(),
        amount=amount,
        is_fraud=is_fraud,
        day=day,
        frauds=_sum_by_day(day, is_fraud, counts.shape[1]),
        losses=_sum_by_day(day, amount * is_fraud, counts.shape[1]),
        counts=counts,
    )


def _sum_by_day(day: NDArray[np.int64], values: NDArray[Any], n_days: int) -> Floats:
    return np.bincount(day, weights=values, minlength=n_days).astype(np.float64)


def _round_numbers(rows_a_day: float) -> list[int]:
    """List 5, 10, 20, 50, ... as far as there are so many rows a day; at least the first."""
    powers = range(len(str(int(rows_a_day))) + 1)
    numbers = [step * 10**power for power in powers for step in STEPS]
    return [n for n in numbers if FEWEST_ALERTS <= n <= max(rows_a_day, FEWEST_ALERTS)]


def _point_at(days: _Days, alerts: float, review_cost: float | None) -> OperatingPoint:
    least = days.at_alerts(min(alerts, days.score.size / days.n_days))
    name = f"{round(alerts, 1):,} a day"
    return _judge(name, least, days.score >= least, days, review_cost)


def _current_point(rows: pl.DataFrame, days: _Days, queue: QueueSettings) -> OperatingPoint:
    """Judge what the settings would flag, the capacity kept on every day."""
    scores, day, is_fraud = (
        torch.from_numpy(column.copy()) for column in (days.score, days.day, days.is_fraud)
    )
    threshold = choose_threshold(scores, day, is_fraud, queue)
    by_day = rows.partition_by("event_date", maintain_order=True)
    flags = pl.concat([flag(of_day, threshold, queue)["is_flagged"] for of_day in by_day])
    is_by_gain = queue.threshold == "cost" and rows["probability"].is_not_null().any()
    least = None if is_by_gain else threshold
    name = f"now: {queue.threshold}"
    return _judge(name, least, flags.to_numpy(), days, queue.review_cost)


def _judge(
    name: str,
    least_score: float | None,
    is_alert: NDArray[np.bool_],
    days: _Days,
    review_cost: float | None,
) -> OperatingPoint:
    day, fraud = days.day[is_alert], days.is_fraud[is_alert]  # (alerts,)
    alerts = _sum_by_day(day, np.ones(day.size), days.n_days)  # this and below: (days,)
    caught = _sum_by_day(day, fraud, days.n_days)
    amount = _sum_by_day(day, fraud * days.amount[is_alert], days.n_days)
    ones = np.ones(days.n_days)
    net = None if review_cost is None else amount - review_cost * alerts
    return OperatingPoint(
        name=name,
        least_score=least_score,
        alerts=float(alerts.mean()),
        fewest_alerts=int(alerts.min()),
        most_alerts=int(alerts.max()),
        precision=estimate_ratio(caught, alerts, days.counts),
        recall=estimate_ratio(caught, days.frauds, days.counts),
        amount_share=estimate_ratio(amount, days.losses, days.counts),
        amount=estimate_ratio(amount, ones, days.counts),
        false_positives=estimate_ratio(alerts - caught, ones, days.counts),
        net_value=None if net is None else estimate_ratio(net, ones, days.counts),
    )
