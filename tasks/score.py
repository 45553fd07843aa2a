"""Score one day with a registered model and choose what the analysts see."""

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from tasks.explain import explain_alerts
from tasks.flagging import flag, threshold_basis, warn_of_fallback
from tasks.review_settings import QueueSettings
from tasks.tracking import Bundle, RegisteredModel, score_frame
from warehouse.errors import ModelMissingError
from warehouse.queue_records import NewAlert

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DayScores:
    """A day's scored rows as ``lake.scores`` wants them, and what they come from.

    ``events`` are what the features' ``history_end`` and ``history_count`` point into; None where
    no member reads histories. ``snapshot_id`` is the lake's that the stored scores were
    made from.
    """

    day: date
    scores: pl.DataFrame
    features: pl.DataFrame
    events: pl.DataFrame | None = None
    snapshot_id: int | None = None


def require_model_of_the_past(model: RegisteredModel, day: date) -> None:
    """Refuse a model that was trained on days after the one to score.

    Raises:
        ModelMissingError: if the model's training knew the day's future.
    """
    if model.as_of > day:
        message = (
            f"model version {model.version} was trained as of {model.as_of}, after {day}: it would "
            f"know that day's future; run nightwarden train --as-of {day} first, or backfill with "
            "--retrain weekly"
        )
        raise ModelMissingError(message)


def warn_of_other_threshold(bundle: Bundle, version: str, queue: QueueSettings) -> None:
    """Log it where the settings need another threshold than the one that the model was given.

    ``score`` needs none of the model's, ``cost`` only where the model knows no probability.
    """
    wanted, has_probability = threshold_basis(queue), bundle.ensemble.probability is not None
    is_needed = queue.threshold != "score" and not (queue.threshold == "cost" and has_probability)
    if is_needed and wanted != bundle.policy:
        logger.warning(
            "[queue] wants the threshold for %s, but that of model %s was chosen for %s: more or "
            "fewer are flagged than wanted; train again",
            wanted,
            version,
            bundle.policy,
        )


def score_features(
    features: pl.DataFrame,
    bundle: Bundle,
    *,
    day: date,
    version: str,
    queue: QueueSettings,
    events: pl.DataFrame | None = None,
) -> DayScores:
    """Score a day's features, rank them, and flag what the analysts are to see.

    Equal scores rank by amount, then by transaction id; ``tasks.flagging.flag`` says which rows are
    flagged. The threshold is the one chosen in training, so a night quieter than any validation day
    does not fill the queue.
    """
    keys = features.select("event_date", "transaction_id", "amount")
    scored = keys.hstack(score_frame(bundle, features, events))
    if "probability" not in scored.columns:
        scored = scored.with_columns(pl.lit(None, pl.Float64).alias("probability"))
    ranked = scored.sort(
        ["score", "amount", "transaction_id"], descending=[True, True, False]
    ).with_row_index("rank_of_day", offset=1)
    warn_of_fallback(ranked, queue)
    scores = flag(ranked, bundle.ensemble.threshold or 0.0, queue).with_columns(
        pl.col("rank_of_day").cast(pl.Int32),
        pl.lit(version).alias("model_version"),
        pl.lit(datetime.now(UTC)).alias("scored_at"),
    )
    return DayScores(day, scores.drop("amount"), features, events)


def make_alerts(day_scores: DayScores, bundle: Bundle, chosen: pl.DataFrame) -> list[NewAlert]:
    """Turn rows of a day's scores into alerts with reasons, highest rank first.

    Args:
        day_scores: The day.
        bundle: The model that scored it.
        chosen: Rows of ``day_scores.scores``; with ``inclusion_probability`` where they were drawn.
    """
    ranked = chosen.sort("rank_of_day")
    rows = ranked.select("transaction_id").join(  # not all: an extra column may be named score
        day_scores.features, on="transaction_id", how="left", maintain_order="left"
    )
    reasons = explain_alerts(rows, bundle, day_scores.events)
    names = bundle.ensemble.member_names
    return [
        NewAlert(
            transaction_id=row["transaction_id"],
            occurred_at=row["occurred_at"],
            account_id=row["account_id"],
            merchant_id=row["merchant_id"],
            amount=row["amount"],
            score=scored["score"],
            rank_of_day=scored["rank_of_day"],
            members={name: scored[f"member.{name}"] for name in names},
            reasons=why,
            model_version=scored["model_version"],
            inclusion_probability=scored.get("inclusion_probability", 1.0),
            probability=scored["probability"],
            snapshot_id=day_scores.snapshot_id,
        )
        for row, scored, why in zip(rows.to_dicts(), ranked.to_dicts(), reasons, strict=True)
    ]
