"""Judge the detector by the review queue alone, although analysts saw hardly any unflagged row.

Every flagged transaction is queued; of the others a few are, drawn at random with a known chance
(``tasks.audit_sample``). Fraud among all decided rows is therefore far more common than among all
transactions, and the share of frauds that were caught cannot be read from the queue at all, unless
each audit row stands for the 1 / p rows that it was drawn from.

Method. Two strata. Of the flagged, the share of fraud among those decided holds for those not
decided; the interval is the exact one for drawing without replacement, so it has no width where all
are decided. Below the threshold the fraud rate is the mean over the decided audit rows, weighted by
1 / p (the Hajek estimator; times the number of rows it is the Horvitz-Thompson total where all are
decided). Its interval is that of Clopper and Pearson at the effective number of rows, (sum w)^2 /
sum w^2, as Korn and Graubard do it: exact on the safe side where p is the same on all days, an
approximation where days differ in size. Recall and prevalence are monotone in the number of frauds
of each stratum, so the ends of their intervals come from the ends of those numbers; where both
numbers are uncertain each gets half of the error.

Assumptions. Within a stratum, rows without a verdict, or with ``unsure``, are like the decided ones:
analysts who work from the highest score down break this for the flagged, and the precision is then
too high. Days are pooled: two rows a day say nothing of that day, and days without a decided audit
row count as like the others. The intervals speak of the days given, not of days to come, and of what
the analysts would say, right or wrong.

Source: Horvitz & Thompson, 1952, "A Generalization of Sampling Without Replacement From a Finite
    Universe"; Hajek, 1971, comment on Basu, "An Essay on the Logical Foundations of Survey Sampling";
    Clopper & Pearson, 1934, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the
    Binomial"; Korn & Graubard, 1998, "Confidence Intervals for Proportions With Small Expected Number
    of Positive Counts Estimated From Survey Data".
"""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import date

import polars as pl
from scipy.stats import beta, hypergeom

from warehouse.connection import Lake
from warehouse.errors import UserError
from warehouse.queue import Queue

ERROR = 0.05
ALERT_SCHEMA = {
    "event_date": pl.Date,
    "transaction_id": pl.String,
    "lane": pl.String,
    "inclusion_probability": pl.Float64,
    "verdict": pl.String,
}


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; ``value`` is None where no decided row tells of it."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """What became of a part of the scored rows.

    ``rows`` of them were scored and ``queued`` put before analysts, who called ``frauds`` of them
    fraud, ``genuine`` genuine, and were ``unsure`` of some; the others wait.
    """

    rows: int
    queued: int
    frauds: int
    genuine: int
    unsure: int

    @property
    def decided(self) -> int:
        """Rows that are fraud or genuine by verdict."""
        return self.frauds + self.genuine

    @property
    def waiting(self) -> int:
        """Queued rows without a verdict."""
        return self.queued - self.decided - self.unsure


@dataclass(frozen=True)
class SelectiveEstimate:
    """How good the detector was on the days given, as far as the queue tells.

    Attributes:
        days: Days with scores.
        audited_days: Of these, days with a decided audit row.
        flagged: The rows that were flagged.
        below: The rows below the threshold; those queued are the audit sample.
        effective_rows: Audit rows of one equal weight that would say as much as the decided ones.
        precision: Share of fraud among the flagged.
        rate_below: Share of fraud below the threshold.
        missed: Number of frauds below the threshold.
        recall: Share of all frauds that were flagged.
        prevalence: Share of fraud among all rows.
        naive_prevalence: Frauds over decided rows without weights: wrong, for comparison; None
            where no row is decided.
    """

    days: int
    audited_days: int
    flagged: Stratum
    below: Stratum
    effective_rows: float
    precision: Estimate
    rate_below: Estimate
    missed: Estimate
    recall: Estimate
    prevalence: Estimate
    naive_prevalence: float | None


def read_reviewed(
    queue: Queue, lake: Lake, start: date, end: date
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the alerts of the days from ``start`` to ``end`` with verdicts, and count what was scored.

    A row counts as flagged if it is now, or was when it was queued: a day that was scored anew may
    have queued rows that are below the threshold today. An alert whose transaction is no longer
    scored is left out.

    Returns:
        alerts: One row per alert: ``event_date``, ``is_flagged``, ``inclusion_probability``,
            ``verdict`` (null while it waits).
        totals: One row per day: ``event_date``, ``scored`` and ``flagged`` rows.

    Raises:
        UserError: if no day of the range is scored.
    """
    queued = pl.DataFrame(
        [
            {name: getattr(alert, name) for name in ALERT_SCHEMA}
            for alert in queue.alerts_between(start, end)
        ],
        schema=ALERT_SCHEMA,
    )
    lake.connection.register("queued", queued.to_arrow())
    try:
        alerts = lake.connection.execute(
            "SELECT event_date, is_flagged OR lane <> 'audit' AS is_flagged, "
            "inclusion_probability, verdict "
            "FROM lake.scores JOIN queued USING (event_date, transaction_id) "
            "WHERE event_date BETWEEN ? AND ? ORDER BY event_date, transaction_id",
            [start, end],
        ).pl()
        totals = lake.connection.execute(
            "SELECT event_date, count(*) AS scored, "
            "count(*) FILTER (is_flagged OR coalesce(lane <> 'audit', false)) AS flagged "
            "FROM lake.scores LEFT JOIN queued USING (event_date, transaction_id) "
            "WHERE event_date BETWEEN ? AND ? GROUP BY 1 ORDER BY 1",
            [start, end],
        ).pl()
    finally:
        lake.connection.unregister("queued")
    if totals.is_empty():
        message = (
            f"judging by the queue needs scored days, and none from {start} to {end} is; "
            f"run: nightwarden score --date {start}"
        )
        raise UserError(message)
    return alerts, totals


def estimate_from_queue(alerts: pl.DataFrame, totals: pl.DataFrame) -> SelectiveEstimate:
    """Estimate precision, recall and the fraud rate of all rows from the verdicts in the queue.

    The module's docstring gives method and assumptions.

    Args:
        alerts: One row per alert, as ``read_reviewed`` gives them.
        totals: One row per day, as ``read_reviewed`` gives them.

    Raises:
        ValueError: if an alert is of a day without totals, or more alerts are flagged than rows.
    """
    rows, flagged_rows = int(totals["scored"].sum()), int(totals["flagged"].sum())
    flagged_alerts = alerts.filter("is_flagged")
    check_totals(alerts, totals, flagged_alerts.height, flagged_rows)
    sample = alerts.filter(~pl.col("is_flagged"))
    flagged = count_verdicts(flagged_alerts, flagged_rows)
    below = count_verdicts(sample, rows - flagged_rows)
    decided = sample.filter(pl.col("verdict").is_in(["fraud", "genuine"]))
    rate, effective = weighted_rate(decided)

    caught, missed = bound_caught(flagged, ERROR), bound_missed(below, rate, effective, ERROR)
    half = ERROR / 2 if caught.low < caught.high and missed.low < missed.high else ERROR
    caught_jointly = bound_caught(flagged, half)
    missed_jointly = bound_missed(below, rate, effective, half)
    verdicts = flagged.decided + below.decided
    return SelectiveEstimate(
        days=totals.height,
        audited_days=decided["event_date"].n_unique(),
        flagged=flagged,
        below=below,
        effective_rows=effective,
        precision=divide(caught, flagged.rows),
        rate_below=divide(missed, below.rows),
        missed=missed,
        recall=recall_of(caught_jointly, missed_jointly),
        prevalence=divide(add(caught_jointly, missed_jointly), rows),
        naive_prevalence=(flagged.frauds + below.frauds) / verdicts if verdicts else None,
    )


def check_totals(
    alerts: pl.DataFrame, totals: pl.DataFrame, flagged_alerts: int, flagged_rows: int
) -> None:
    """Refuse alerts that the totals do not know of."""
    unknown = alerts.join(totals, on="event_date", how="anti")["event_date"].unique().sort()
    if unknown.len():
        raise ValueError(
            f"expected totals of each day with alerts, got none of {unknown.len()} days, such as "
            f"{unknown[0]}; read both by read_reviewed"
        )
    if flagged_alerts > flagged_rows:
        raise ValueError(
            f"expected at most {flagged_rows} flagged alerts, as many as rows are flagged, got "
            f"{flagged_alerts}; read both by read_reviewed"
        )


def count_verdicts(alerts: pl.DataFrame, rows: int) -> Stratum:
    """Count a stratum's alerts by verdict."""
    frauds, genuine, unsure = (
        int((alerts["verdict"] == verdict).sum()) for verdict in ("fraud", "genuine", "unsure")
    )
    return Stratum(rows, alerts.height, frauds, genuine, unsure)


def weighted_rate(decided: pl.DataFrame) -> tuple[float | None, float]:
    """Give the fraud rate weighted by 1 / p, and how many rows of equal weight say as much.

    Example:
        >>> verdicts = ["fraud", "genuine", "genuine"]
        >>> rows = pl.DataFrame({"inclusion_probability": [0.1, 0.1, 0.05], "verdict": verdicts})
        >>> rate, effective = weighted_rate(rows)
        >>> round(rate, 3), round(effective, 3)
        (0.25, 2.667)
    """
    if decided.is_empty():
        return None, 0.0
    weights = 1 / decided["inclusion_probability"]
    total = float(weights.sum())
    frauds = float(weights.filter(decided["verdict"] == "fraud").sum())
    return frauds / total, total**2 / float((weights**2).sum())


def bound_caught(flagged: Stratum, error: float) -> Estimate:
    """Give the number of frauds among the flagged: known where all of them are decided."""
    low, high = finite_bounds(flagged.frauds, flagged.decided, flagged.rows, error)
    if flagged.rows == 0:
        return Estimate(0.0, low, high)
    share = flagged.frauds / flagged.decided if flagged.decided else None
    return Estimate(None if share is None else share * flagged.rows, low, high)


def bound_missed(below: Stratum, rate: float | None, effective: float, error: float) -> Estimate:
    """Give the number of frauds below the threshold; no fewer than the audit itself found."""
    if below.rows == 0:
        return Estimate(0.0, 0.0, 0.0)
    if rate is None:
        return Estimate(None, 0.0, float(below.rows))
    low, high = binomial_bounds(rate, effective, error)
    least, most = below.frauds, below.rows - below.genuine
    ends = (min(max(end * below.rows, least), most) for end in (low, high))
    return Estimate(min(max(rate * below.rows, least), most), *ends)


def binomial_bounds(rate: float, rows: float, error: float) -> tuple[float, float]:
    """Give the Clopper-Pearson interval of a rate; the number of rows need not be whole.

    Example:
        >>> [round(end, 4) for end in binomial_bounds(0.0, 100, 0.05)]
        [0.0, 0.0362]
    """
    frauds = rate * rows
    low = float(beta.ppf(error / 2, frauds, rows - frauds + 1)) if frauds > 0 else 0.0
    high = float(beta.ppf(1 - error / 2, frauds + 1, rows - frauds)) if frauds < rows else 1.0
    return low, high


def finite_bounds(frauds: int, decided: int, rows: int, error: float) -> tuple[float, float]:
    """Give the exact interval of the frauds among ``rows``, of which some were drawn and decided.

    All numbers of frauds are kept under which neither as few nor as many frauds among the decided
    are rarer than half of the error.

    Example:
        >>> finite_bounds(30, 100, 100, 0.05), finite_bounds(0, 0, 100, 0.05)
        ((30.0, 30.0), (0.0, 100.0))
    """
    if decided == rows:
        return float(frauds), float(frauds)
    possible = range(frauds, rows - decided + frauds + 1)
    tail = error / 2
    low = bisect_left(
        possible, True, key=lambda total: hypergeom.sf(frauds - 1, rows, total, decided) > tail
    )
    above = bisect_left(
        possible, True, key=lambda total: hypergeom.cdf(frauds, rows, total, decided) <= tail
    )
    return float(possible[low]), float(possible[above - 1])


def divide(number: Estimate, rows: int) -> Estimate:
    """Turn a number of frauds among rows into a share; without rows nothing is known."""
    if rows == 0:
        return Estimate(None, 0.0, 1.0)
    value = None if number.value is None else number.value / rows
    return Estimate(value, number.low / rows, number.high / rows)


def add(first: Estimate, second: Estimate) -> Estimate:
    """Add two numbers of frauds and the ends of their intervals."""
    known = first.value is not None and second.value is not None
    value = (first.value or 0.0) + (second.value or 0.0) if known else None
    return Estimate(value, first.low + second.low, first.high + second.high)


def recall_of(caught: Estimate, missed: Estimate) -> Estimate:
    """Give the share of frauds that were caught; it grows with those caught, falls with those missed."""
    frauds = add(caught, missed).value
    value = (caught.value or 0.0) / frauds if frauds else None
    low = caught.low / (caught.low + missed.high) if caught.low + missed.high else 0.0
    high = caught.high / (caught.high + missed.low) if caught.high + missed.low else 1.0
    return Estimate(value, low, high)


def describe(estimate: SelectiveEstimate) -> list[str]:
    """Write an estimate as lines for a person: each figure with its interval, then the doubts."""
    flagged, below, missed = estimate.flagged, estimate.below, estimate.missed
    expected = "unknown" if missed.value is None else f"{missed.value:,.0f}"
    lines = [
        f"{estimate.days} scored days, {flagged.rows + below.rows:,} rows; "
        "95 % intervals in brackets",
        f"Flagged: {flagged.rows:,} rows, {_verdicts(flagged)}",
        f"Below the threshold: {below.rows:,} rows, {_verdicts(below)}",
        f"Precision of the flagged: {_share(estimate.precision)}",
        f"Recall: {_share(estimate.recall)}",
        f"Frauds missed: {expected} ({missed.low:,.0f} to {missed.high:,.0f})",
        f"Fraud rate below the threshold: {_share(estimate.rate_below)}",
        f"Fraud rate of all rows: {_share(estimate.prevalence)}",
    ]
    if estimate.naive_prevalence is not None:
        lines.append(
            f"Fraud rate of the decided rows, unweighted: {_percent(estimate.naive_prevalence)}, "
            "which stands for the flagged and not for all rows"
        )
    return lines + _doubts(estimate)


def _doubts(estimate: SelectiveEstimate) -> list[str]:
    flagged, below = estimate.flagged, estimate.below
    undecided, unaudited = flagged.rows - flagged.decided, estimate.days - estimate.audited_days
    doubts = {
        "no audit row is decided, so nothing is known below the threshold; set [queue] "
        "audit_share above 0 and decide lane audit": below.rows and not below.decided,
        f"the audit sample holds no fraud; the far ends are what {below.decided:,} rows cannot "
        "rule out": below.decided and not below.frauds,
        f"{unaudited} of {estimate.days} days have no decided audit row and count as like the "
        "others": below.decided and unaudited,
        f"{undecided:,} flagged rows are not decided and count as like the decided ones; where "
        "analysts begin with the highest scores, the precision is too high": undecided,
    }
    return [f"Note: {text}" for text, applies in doubts.items() if applies]


def _verdicts(stratum: Stratum) -> str:
    return (
        f"{stratum.queued:,} queued, {stratum.frauds:,} fraud, {stratum.genuine:,} genuine, "
        f"{stratum.unsure:,} unsure, {stratum.waiting:,} waiting"
    )


def _share(estimate: Estimate) -> str:
    value = "unknown" if estimate.value is None else _percent(estimate.value)
    return f"{value} ({_percent(estimate.low)} to {_percent(estimate.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
