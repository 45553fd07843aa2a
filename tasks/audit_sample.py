"""Draw the night's audit sample: random transactions below the threshold, for analysts to judge.

Analysts decide on flagged transactions only, so their verdicts say nothing of the frauds that were
missed. A few rows drawn at random from the rest, with a known chance, do (``tasks.selective``).
"""

import duckdb
import polars as pl


def choose_audit_sample(
    scores: pl.DataFrame, *, capacity: int, audit_share: float, seed: int
) -> pl.DataFrame:
    """Draw rows that are not flagged, each with the same chance.

    The rows with the smallest SHA-256 of seed and transaction id are taken: the same ones on every
    machine, in whatever order the rows come. A day that is scored anew draws by the same order, so
    its sample changes only by the rows that became flagged or no longer are. Whoever knows the seed
    and chooses transaction ids can stay out of the sample.

    Args:
        scores: One day's scores, with ``event_date``, ``transaction_id``, ``rank_of_day`` and
            ``is_flagged`` among the columns.
        capacity: Alerts a day, at most.
        audit_share: Rows to draw, of the capacity; at least one row unless it is 0.
        seed: Draws another sample of the same day.

    Returns:
        The rows drawn, by rank, with ``inclusion_probability``: rows drawn over rows that are not
        flagged. It is empty where nothing is to be drawn.

    Raises:
        ValueError: if the rows are of several days.

    Source: Sunter, 1977, "List Sequential Sampling with Equal or Unequal Probabilities without
        Replacement": the n smallest of independent uniform numbers are a simple random sample.
        Departure: the numbers are hashes.
    """
    days = scores["event_date"].n_unique()
    if days > 1:
        raise ValueError(f"expected the scores of one day, got {days} days; draw day by day")
    below = scores.filter(~pl.col("is_flagged"))
    rows = min(audit_rows(capacity, audit_share), below.height)
    drawn = below.join(_first_by_hash(below, rows, seed), on="transaction_id", how="semi")
    chance = rows / below.height if rows else 1.0
    return drawn.sort("rank_of_day").with_columns(pl.lit(chance).alias("inclusion_probability"))


def audit_rows(capacity: int, audit_share: float) -> int:
    """Give how many rows a night's audit sample has, on a day with enough of them.

    Example:
        >>> audit_rows(100, 0.02), audit_rows(10, 0.02), audit_rows(10, 0.0)
        (2, 1, 0)
    """
    return max(1, round(capacity * audit_share)) if audit_share else 0


def _first_by_hash(below: pl.DataFrame, rows: int, seed: int) -> pl.DataFrame:
    with duckdb.connect() as connection:  # Polars' own hash changes with its version
        connection.register("below", below.select("transaction_id").to_arrow())
        return connection.execute(
            "SELECT transaction_id FROM below "
            "ORDER BY sha256(concat(?, ':', transaction_id)) LIMIT ?",
            [str(seed), rows],
        ).pl()
