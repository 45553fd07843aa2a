"""The gate: whether a challenger is shown to be better than the champion.

Both score the challenger's validation days, from the same features, and are judged by what was
known when the challenger was trained. The champion must have learned from none of these days. The
challenger's members and trees have not learned from them either, but other things of it were chosen
on them; ``NOTE`` names them beside the figures.

Where analysts found most of the days' known frauds, nobody knows what the rows are that no model
flagged: they are not judged, for a challenger that finds frauds among them would be scored down.
What is left was flagged by the champion, but for the audit sample, so that the verdict tells how
the models order these rows, and nothing of frauds that analysts never saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from models.bootstrap import (
    LEAST_DAYS,
    Interval,
    interval,
    resample_days,
    resampled_average_precision,
)
from models.metrics import average_precision, card_precision_at_k, roc_auc
from tasks.context import Context
from tasks.review_settings import QueueSettings
from tasks.score import score_features
from tasks.swap_set import SwapSet, movement_rows, swap_set
from tasks.tracking import Bundle, RegisteredModel, Registry
from tasks.training_data import (
    BLOCK_ROWS,
    FeatureRequest,
    load_rows,
    plan_blocks,
)
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, SourceError, UserError
from warehouse.maturity import last_mature_day
from warehouse.reads import (
    are_selective,
    count_frauds_by_source,
    count_transactions,
    read_truth,
)

Verdict = Literal["better", "not shown to be better", "not comparable"]

ROLES = ("champion", "challenger")
SEED = 0  # of the resampled days, so that the same models get the same verdict
LEAST_DECIDED = 100  # transactions that analysts judged; fewer tell too little of a model
NOTE = (
    "The challenger was calibrated on these days and the tuning days before them; its threshold "
    "was chosen on both, its probability was fitted and whether its trees join was decided on "
    "these days, the hybrid's reserve was chosen on the tuning days. Of the champion none of this "
    "is true, so that a small gain may be that alone."
)


@dataclass(frozen=True)
class GateSettings:
    """What the gate demands: the analysts' queue, the least gain, and how many resamples."""

    queue: QueueSettings
    least_gain: float
    resamples: int

    @classmethod
    def of(cls, context: Context) -> "GateSettings":
        """Take them from the settings file's sections."""
        return cls(context.queue, context.promotion.least_gain, context.evaluate.resamples)


@dataclass(frozen=True)
class Figures:
    """How a model ranked the judged transactions; see ``models.metrics``."""

    average_precision: float
    card_precision: float
    roc_auc: float


@dataclass(frozen=True)
class Measured:
    """Both models on the same transactions.

    ``gain`` is the challenger's average precision less the champion's, ``gain_interval`` the same
    on resampled days, drawn for both alike. Transactions whose truth is not known count in the
    swap set only.
    """

    days: int
    transactions: int
    frauds: int
    champion: Figures
    challenger: Figures
    gain: float
    gain_interval: Interval
    swap: SwapSet


@dataclass(frozen=True)
class Comparison:
    """The gate's verdict, its reason in a sentence, and what was measured if anything could be.

    ``as_of`` is the challenger's: its start is when the labels had to be known.
    """

    champion_version: str
    challenger_version: str
    first: date
    last: date
    as_of: date
    verdict: Verdict
    reason: str
    measured: Measured | None = None

    @property
    def passed(self) -> bool:
        """Whether the challenger may become champion."""
        return self.verdict == "better"


def validation_days(model: RegisteredModel) -> tuple[date, date]:
    """Give the first and last of the days on which a model was validated.

    Raises:
        ModelMissingError: if its training did not write them down.
    """
    try:
        first, last = (model.tags[f"validation_{end}_day"] for end in ("first", "last"))
    except KeyError as error:
        message = (
            f"model version {model.version} does not tell on which days it was validated; run "
            f"nightwarden train --as-of {model.as_of} to train it again"
        )
        raise ModelMissingError(message) from error
    return date.fromisoformat(first), date.fromisoformat(last)


def learned_until(model: RegisteredModel) -> date:
    """Give the last day that a model may have learned from: its last validation day.

    Where training did not write that down it is the day before ``as_of``.
    """
    told = model.tags.get("validation_last_day")
    return date.fromisoformat(told) if told else model.as_of - timedelta(days=1)


def run_gate(
    registry: Registry,
    lake: Lake,
    challenger: RegisteredModel,
    request: FeatureRequest,
    settings: GateSettings,
    device: str,
) -> Comparison:
    """Compare a version with the champion on the version's validation days.

    Raises:
        ModelMissingError: if there is no champion, a model cannot be loaded, or the version does
            not tell its validation days.
        UserError: if the version is the champion.
    """
    champion = registry.find("champion")
    if champion is None:
        message = (
            f"there is no champion to compare version {challenger.version} with; nightwarden models "
            f"promote {challenger.version} --force --reason TEXT makes it champion"
        )
        raise ModelMissingError(message)
    if champion.version == challenger.version:
        message = (
            f"a challenger is compared with the champion, but version {champion.version} is the "
            "champion; name another, see nightwarden models list"
        )
        raise UserError(message)
    first, last = validation_days(challenger)
    pair = [(model, registry.load(model, device)) for model in (champion, challenger)]
    return compare(lake, pair[0], pair[1], first, last, request, settings)


def compare(
    lake: Lake,
    champion: tuple[RegisteredModel, Bundle],
    challenger: tuple[RegisteredModel, Bundle],
    first: date,
    last: date,
    request: FeatureRequest,
    settings: GateSettings,
) -> Comparison:
    """Judge both models on the days from ``first`` to ``last``, as far as these are mature.

    The challenger passes when the lower end of the 95 % interval of its gain in average precision,
    over resampled days, exceeds ``settings.least_gain``. Where analysts found most of the frauds,
    the rows without a decision are unknown, and too few decided ones are not comparable.
    """
    as_of = challenger[0].as_of
    judged_at = request.start_of(as_of)
    mature = min(last, last_mature_day(judged_at, request.time_zone, request.maturity_days))

    def conclude(verdict: Verdict, reason: str, measured: Measured | None = None) -> Comparison:
        old, new = champion[0].version, challenger[0].version
        return Comparison(old, new, first, mature, as_of, verdict, reason, measured)

    obstacle = _find_obstacle(champion[0], first, last, mature, as_of, request)
    if obstacle:
        return conclude("not comparable", obstacle)
    bundles = {"champion": champion[1], "challenger": challenger[1]}
    scored = score_both(lake, bundles, first, mature, request, settings.queue)
    is_selective = not request.is_labelled and are_selective(
        count_frauds_by_source(lake, first, mature, judged_at)
    )
    waited = None if is_selective else request.maturity_days
    rows = add_truth(lake, scored, first, mature, judged_at, waited)
    gap = _find_gap(rows, first, mature, as_of, is_selective=is_selective)
    if gap:
        return conclude("not comparable", gap)
    measured = measure(rows, settings)
    verdict, reason = _judge(measured, settings.least_gain)
    if is_selective:
        reason += (
            f"; judged on the {measured.transactions:,} of {rows.height:,} transactions that "
            "somebody decided on, since analysts found most of the frauds: what they never saw "
            "does not count"
        )
    return conclude(verdict, reason, measured)


def _find_obstacle(
    champion: RegisteredModel,
    first: date,
    last: date,
    mature: date,
    as_of: date,
    request: FeatureRequest,
) -> str | None:
    """Say why the champion cannot be judged on the days up to ``mature``, if it cannot."""
    learned = learned_until(champion)
    if learned >= first:
        return (
            f"the champion, version {champion.version}, learned from days up to {learned}, and the "
            f"challenger's validation days begin on {first}: the champion would be judged on what "
            "it was taught; train a challenger as of a later day"
        )
    if mature < first:
        return (
            f"none of the days from {first} to {last} was mature on {as_of}: their labels may come "
            f"for {request.maturity_days} days; train a challenger as of a later day"
        )
    return None


def _find_gap(
    rows: pl.DataFrame, first: date, last: date, as_of: date, *, is_selective: bool
) -> str | None:
    """Say what is not known of the rows that judging them needs, if anything."""
    judged, frauds = rows["is_fraud"].count(), rows["is_fraud"].sum()
    if is_selective and judged < LEAST_DECIDED:
        return (
            f"analysts found most of the frauds known from {first} to {last}, so that only what "
            f"was decided on by {as_of} can be judged: {judged:,} transactions, and "
            f"{LEAST_DECIDED} are needed"
        )
    if frauds in (0, judged):
        return (
            f"of {rows.height:,} transactions from {first} to {last}, {frauds:,} were known to "
            f"be frauds on {as_of}, and both frauds and others are needed"
        )
    return None


def score_both(
    lake: Lake,
    bundles: Mapping[str, Bundle],
    first: date,
    last: date,
    request: FeatureRequest,
    queue: QueueSettings,
) -> pl.DataFrame:
    """Score days with several models; a block of days is read once for all of them.

    Returns:
        ``event_date``, ``transaction_id``, ``account_id``, ``amount`` and ``occurred_at``; for
        each name of ``bundles`` ``NAME_score``, ``NAME_rank`` and ``NAME_flagged``, as nights give
        them.

    Raises:
        SourceError: if there are no transactions on these days.
    """
    window = max(bundle.ensemble.window for bundle in bundles.values())
    days: list[pl.DataFrame] = []
    counts = count_transactions(lake, first, last)
    if not counts:
        message = (
            f"models are compared on the days from {first} to {last}, but these have no published "
            f"transactions: run nightwarden ingest --from {first} --to {last}"
        )
        raise SourceError(message)
    for start, end in plan_blocks(counts, BLOCK_ROWS):
        features, events = load_rows(lake, start, end, request, window)
        days += [
            _score_day(rows, events, bundles, queue)
            for rows in features.partition_by("event_date", maintain_order=True)
        ]
    return pl.concat(days)


def _score_day(
    features: pl.DataFrame,
    events: pl.DataFrame | None,
    bundles: Mapping[str, Bundle],
    queue: QueueSettings,
) -> pl.DataFrame:
    keys = ("event_date", "transaction_id", "account_id", "amount", "occurred_at")
    rows = features.select(keys)
    for name, bundle in bundles.items():
        day = rows["event_date"][0]
        found = score_features(
            features, bundle, day=day, version=name, queue=queue, events=events
        ).scores.select(
            "transaction_id",
            pl.col("score").alias(f"{name}_score"),
            pl.col("rank_of_day").alias(f"{name}_rank"),
            pl.col("is_flagged").alias(f"{name}_flagged"),
        )
        rows = rows.join(found, on="transaction_id", maintain_order="left")
    return rows


def add_truth(
    lake: Lake,
    rows: pl.DataFrame,
    first: date,
    last: date,
    judged_at: datetime,
    maturity_days: int | None,
) -> pl.DataFrame:
    """Add ``is_fraud`` as known at a moment.

    What nobody has called a fraud within the time to maturity is genuine; before, it is null. It
    stays null where ``maturity_days`` is None: there silence says nothing.
    """
    truth = read_truth(lake, first, last, judged_at)
    joined = rows.join(truth, on="transaction_id", how="left", maintain_order="left")
    if maturity_days is None:
        return joined
    is_mature = pl.col("occurred_at") <= judged_at - timedelta(days=maturity_days)
    genuine = pl.when(is_mature).then(pl.lit(value=False))
    return joined.with_columns(pl.col("is_fraud").fill_null(genuine))


def measure(rows: pl.DataFrame, settings: GateSettings) -> Measured:
    """Measure both models on rows of ``score_both`` with their truth.

    Raises:
        ValueError: if no fraud is known among them, or nothing else.
    """
    known = rows.drop_nulls("is_fraud")
    fraud = known["is_fraud"].to_numpy()
    accounts, days = (
        known[column].rank("dense").cast(pl.Int64).to_numpy() - 1
        for column in ("account_id", "event_date")
    )
    n_days = int(days.max()) + 1
    counts = resample_days(n_days, settings.resamples, SEED)
    figures, resampled = [], []
    for role in ROLES:
        score = known[f"{role}_score"].to_numpy()
        cards = card_precision_at_k(score, fraud, accounts, days, settings.queue.capacity)
        figures.append(Figures(average_precision(score, fraud), cards, roc_auc(score, fraud)))
        resampled.append(resampled_average_precision(score, fraud, days, counts))
    champion, challenger = figures
    return Measured(
        n_days,
        known.height,
        int(np.count_nonzero(fraud)),
        champion,
        challenger,
        challenger.average_precision - champion.average_precision,
        interval(resampled[1] - resampled[0]),
        swap_set(rows),
    )


def _judge(measured: Measured, least_gain: float) -> tuple[Verdict, str]:
    low, high = measured.gain_interval.low, measured.gain_interval.high
    told = (
        f"average precision {measured.champion.average_precision:.3f} to "
        f"{measured.challenger.average_precision:.3f}, a gain of {measured.gain:+.3f} "
        f"(95 % of resampled days: {low:+.3f} to {high:+.3f})"
    )
    if measured.days < LEAST_DAYS:
        return (
            "not shown to be better",
            f"{told}, but {measured.days} days are too few for the gate, which needs {LEAST_DAYS}",
        )
    if low > least_gain:
        return "better", f"{told}, all of it above {least_gain:g}"
    return "not shown to be better", f"{told}, not all of it above {least_gain:g}"


def gate_markdown(comparison: Comparison) -> str:
    """Write a comparison as Markdown, for an artifact of the training."""
    lines = [
        f"**Version {comparison.challenger_version} against champion "
        f"{comparison.champion_version}: {comparison.verdict}**: {comparison.reason}.",
    ]
    measured = comparison.measured
    if measured is None:
        return lines[0]
    lines += [
        "",
        f"{comparison.first} to {comparison.last}, as known on {comparison.as_of}: "
        f"{measured.days} days, {measured.transactions:,} transactions, "
        f"{measured.frauds:,} frauds. {NOTE}",
        "",
        "| | champion | challenger |",
        "| --- | --- | --- |",
        *(f"| {name} | {old:.3f} | {new:.3f} |" for name, old, new in figure_rows(measured)),
        "",
        "| queue | transactions | frauds | amount | amount of frauds |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {part.transactions:,} | {part.frauds:,} | {part.amount:,.2f} "
            f"| {part.fraud_amount:,.2f} |"
            for name, part in movement_rows(measured.swap)
        ),
    ]
    return "\n".join(lines)


def figure_rows(measured: Measured) -> list[tuple[str, float, float]]:
    """Give each figure's name with the champion's and the challenger's, for a table."""
    names = {
        "average_precision": "average precision",
        "card_precision": "card precision",
        "roc_auc": "AUC",
    }
    return [
        (name, getattr(measured.champion, key), getattr(measured.challenger, key))
        for key, name in names.items()
    ]
