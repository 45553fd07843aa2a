"""Judge scores by what became known: ranking quality of the ensemble and of each member."""

from dataclasses import dataclass

import polars as pl

from models.metrics import average_precision, card_precision_at_k, roc_auc
from warehouse.errors import UserError


@dataclass(frozen=True)
class Quality:
    """One line of the evaluation.

    ``auc`` is the area under the ROC curve, ``ap`` the average precision, and ``card_precision``
    the mean share of compromised accounts among a day's ``capacity`` highest ones, accounts that
    were caught being left out on later days (Fraud Detection Handbook, chapter 4).
    """

    name: str
    auc: float
    ap: float
    card_precision: float


def evaluate_scores(scored: pl.DataFrame, truth: pl.DataFrame, capacity: int) -> list[Quality]:
    """Judge the rows whose label is known.

    Args:
        scored: Rows of ``warehouse.reads.read_scores``.
        truth: ``transaction_id`` and ``is_fraud``, see ``warehouse.reads.read_truth``.
        capacity: Accounts that the analysts review a day.

    Raises:
        UserError: if no label is known, or all known ones are the same.
    """
    known = scored.join(truth, on="transaction_id").sort("event_date", "transaction_id")
    if known.is_empty() or known["is_fraud"].n_unique() < 2:
        message = (
            f"evaluating needs known frauds and known genuine transactions; of {scored.height:,} "
            f"scored rows {known.height:,} have a label, {known['is_fraud'].sum():,} of them fraud"
        )
        raise UserError(message)
    names = ["score", *(name for name in known.columns if name.startswith("member."))]
    judged = {name: known.drop_nulls(name) for name in names}
    return [
        _quality(rows, name, capacity)
        for name, rows in judged.items()
        if rows["is_fraud"].n_unique() == 2
    ]


def _quality(known: pl.DataFrame, name: str, capacity: int) -> Quality:
    score, fraud = known[name].to_numpy(), known["is_fraud"].to_numpy()
    accounts, days = (
        known[column].rank("dense").to_numpy() for column in ("account_id", "event_date")
    )
    return Quality(
        "ensemble" if name == "score" else name.removeprefix("member."),
        roc_auc(score, fraud),
        average_precision(score, fraud),
        card_precision_at_k(score, fraud, accounts, days, capacity),
    )
