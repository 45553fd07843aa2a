"""What an evaluation found: figures, each with the interval that drawing the days anew gives."""

from dataclasses import dataclass, field
from datetime import date

from models.bootstrap import Estimate, Interval
from models.metrics import FloatArray

QUANTILES = (0.5, 0.9, 0.99, 0.999)  # of a day's scores


@dataclass(frozen=True)
class Quality:
    """One line of the evaluation, with 95 % intervals; None where there were too few days.

    ``auc`` is the area under the ROC curve, ``ap`` the average precision, and ``card_precision``
    the mean share of compromised accounts among a day's ``capacity`` highest ones, accounts that
    were caught being left out on later days (Fraud Detection Handbook, chapter 4).
    """

    name: str
    auc: float
    ap: float
    card_precision: float
    auc_interval: Interval | None
    ap_interval: Interval | None
    card_precision_interval: Interval | None


@dataclass(frozen=True)
class GroupQuality:
    """How the ensemble does on one value of a column, or one band of amounts.

    ``alerts`` are its rows among each day's ``capacity`` highest of all groups, and ``precision``
    the frauds among these. ``recall`` and ``amount_share`` are what they catch of its frauds and of
    their amount. ``ap`` ranks its rows among themselves. None where there is nothing to measure, as
    the precision of a group of frauds alone.
    """

    column: str
    value: str
    rows: int
    frauds: int
    alerts: int
    precision: Estimate | None
    recall: Estimate | None
    amount_share: Estimate | None
    ap: Estimate | None


@dataclass(frozen=True)
class DayFigures:
    """One day: its scores, and, if it is mature, what they caught.

    ``quantiles`` are those of ``QUANTILES``; ``cut`` is the score that the last of the day's
    ``capacity`` alerts had.
    """

    day: date
    model_version: str
    rows: int
    quantiles: tuple[float, ...]
    cut: float
    is_mature: bool
    frauds: int | None = None
    caught: int | None = None
    ap: float | None = None
    card_precision: float | None = None


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of like probability: what was said of them, and what was found."""

    rows: int
    frauds: int
    mean_probability: float
    fraud_share: Estimate


@dataclass(frozen=True)
class ProbabilityQuality:
    """How far the probability can be taken at its word.

    ``brier`` is to be read against ``brier_of_share``, what always saying the share of frauds would
    score; ``calibration_error`` against that share. The bins each expect as many frauds.
    """

    rows: int
    frauds: int
    mean_probability: float
    fraud_share: float
    brier: Estimate
    brier_of_share: float
    calibration_error: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CapacityPoint:
    """What reviewing so many a day catches."""

    capacity: int
    card_precision: Estimate
    recall: Estimate | None
    amount_share: Estimate | None


@dataclass(frozen=True)
class Evaluation:
    """What the stored scores were worth, on the mature ones of the days that were asked for."""

    capacity: int
    last_mature: date
    resamples: int
    rows_scored: int
    rows_immature: int
    rows_labelled: int
    frauds: int
    qualities: list[Quality]
    groups: list[GroupQuality]
    probability: ProbabilityQuality | None
    days: list[DayFigures]
    by_capacity: list[CapacityPoint]
    curves: dict[str, tuple[FloatArray, FloatArray]] = field(repr=False, compare=False)
    """Each name's recall and precision, from the highest score down."""

    @property
    def judged_days(self) -> list[DayFigures]:
        """Give the days that count."""
        return [day for day in self.days if day.is_mature]

    @property
    def rows_judged(self) -> int:
        """Count the rows that count."""
        return self.rows_scored - self.rows_immature
