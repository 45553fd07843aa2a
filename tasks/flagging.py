"""From [queue] threshold to flags: which of a day's ranked transactions the analysts see."""

import logging

import polars as pl
from torch import Tensor

from models.threshold import (
    split_by_day,
    threshold_for_capacity,
    threshold_for_false_positives,
)
from tasks.review_settings import QueueSettings

logger = logging.getLogger(__name__)


def choose_threshold(
    scores: Tensor, days: Tensor, is_fraud: Tensor, queue: QueueSettings
) -> float:
    """Choose the least score that is flagged, on the held-out days.

    Under ``cost`` no score decides but amount and probability; what is given then is the threshold
    for the capacity, which serves a model that knows no probabilities.

    Args:
        scores: The ensemble's scores.
        days: The day of each.
        is_fraud: Whether it is known to be a fraud; what is not known counts as genuine.
        queue: The policy and its figures.

    Shape:
        scores, days, is_fraud: (rows,); floating, whole numbers, boolean.

    Raises:
        ValueError: if the shapes differ, there is no row, or a score is not finite.
    """
    if queue.threshold == "false_positives" and queue.false_positives is not None:
        return threshold_for_false_positives(scores, days, is_fraud, queue.false_positives)
    if queue.threshold == "score" and queue.least_score is not None:
        return queue.least_score
    return threshold_for_capacity(split_by_day(scores, days), queue.capacity)


def threshold_basis(queue: QueueSettings) -> str:
    """Say what ``choose_threshold`` chooses by.

    Example:
        >>> threshold_basis(QueueSettings(threshold="false_positives", false_positives=5))
        'false_positives 5.0 a day'
    """
    if queue.threshold == "false_positives":
        return f"false_positives {queue.false_positives} a day"
    if queue.threshold == "score":
        return f"score {queue.least_score}"
    return f"capacity {queue.capacity}"


def flag(ranked: pl.DataFrame, threshold: float, queue: QueueSettings) -> pl.DataFrame:
    """Add ``is_flagged``: whether a row passes by itself and is within the day's capacity.

    A row passes where its score reaches the threshold (under ``score``, the setting's own, which
    needs no new training). Of those that pass, the ``capacity`` highest are flagged.

    Under ``cost`` a row passes where reviewing it is expected to pay, amount x probability >
    review cost, and the highest expected gains are taken first, so flagged rows need not have the
    first ranks: a rank is the score's. A row without a probability passes by the threshold, after
    those that have one; so a model that knows too few frauds flags as under ``capacity``.

    Args:
        ranked: Rows of one day: ``rank_of_day``, ``score``, ``amount``, ``probability``.
        threshold: Least score, see ``choose_threshold``.
        queue: The policy and its figures.
    """
    least = queue.least_score if queue.threshold == "score" else threshold
    passes, gain = pl.col("score") >= least, pl.lit(None, pl.Float64)
    if queue.threshold == "cost":
        gain = pl.col("amount") * pl.col("probability") - queue.review_cost
        passes = pl.when(gain.is_not_null()).then(gain > 0).otherwise(passes)
    in_order = ranked.with_columns(passes.alias("_passes"), gain.alias("_gain")).sort(
        "_passes", "_gain", "rank_of_day", descending=[True, True, False], nulls_last=True
    )
    place = pl.int_range(pl.len())
    return (
        in_order.with_columns((pl.col("_passes") & (place < queue.capacity)).alias("is_flagged"))
        .sort("rank_of_day")
        .drop("_passes", "_gain")
    )


def warn_of_fallback(ranked: pl.DataFrame, queue: QueueSettings) -> None:
    """Log it where ``cost`` is set, but the model gives no probability to decide by."""
    unknown = ranked["probability"].null_count()
    if queue.threshold == "cost" and unknown:
        logger.warning(
            "[queue] threshold is cost, but %d of %d transactions have no probability: the model "
            "knew too few frauds; these are flagged by capacity",
            unknown,
            ranked.height,
        )
