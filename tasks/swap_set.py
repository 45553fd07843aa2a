"""What becomes of the queue when another model scores: who stays, who enters, who leaves."""

from dataclasses import dataclass
from datetime import date

import polars as pl

EXAMPLES = 20  # of each part


@dataclass(frozen=True)
class Flagged:
    """A flagged transaction and its rank by both models; ``is_fraud`` is None where not known."""

    event_date: date
    transaction_id: str
    account_id: str
    amount: float
    champion_rank: int
    challenger_rank: int
    is_fraud: bool | None


@dataclass(frozen=True)
class Movement:
    """Flagged transactions: how many, how many of them known to be frauds, and the amounts."""

    transactions: int
    frauds: int
    amount: float
    fraud_amount: float
    examples: tuple[Flagged, ...]


@dataclass(frozen=True)
class SwapSet:
    """What the queue would be: what both models flag, what enters, and what leaves it."""

    stay: Movement
    enter: Movement
    leave: Movement


def swap_set(rows: pl.DataFrame) -> SwapSet:
    """Tell apart the rows of ``tasks.gate.score_both`` that both models flag, or one of them.

    Args:
        rows: With ``is_fraud``, null where not known.
    """
    old, new = pl.col("champion_flagged"), pl.col("challenger_flagged")
    return SwapSet(
        _movement(rows.filter(old & new), "challenger_rank"),
        _movement(rows.filter(new & ~old), "challenger_rank"),
        _movement(rows.filter(old & ~new), "champion_rank"),
    )


def _movement(rows: pl.DataFrame, rank: str) -> Movement:
    frauds = rows.filter("is_fraud")
    chosen = rows.sort(rank, "event_date", "transaction_id").head(EXAMPLES)
    names = list(Flagged.__dataclass_fields__)
    return Movement(
        rows.height,
        frauds.height,
        float(rows["amount"].sum()),
        float(frauds["amount"].sum()),
        tuple(Flagged(**row) for row in chosen.select(names).to_dicts()),
    )


def movement_rows(swap: SwapSet) -> list[tuple[str, Movement]]:
    """Give each part of a swap set with its name, for a table."""
    return [("stays", swap.stay), ("enters", swap.enter), ("leaves", swap.leave)]
