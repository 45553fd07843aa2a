"""Read a folder of handbook-like transactions, judge scores by the book's protocol, find the ceiling.

A handbook-like folder has one Parquet file a day with TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID,
TERMINAL_ID, TX_AMOUNT, TX_FRAUD and, for the ceiling alone, TX_FRAUD_SCENARIO.
"""

import argparse
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from models.metrics import average_precision, card_precision_at_k, roc_auc
from tasks.features import compute_features, lookback_days
from tasks.history import account_history

DELAY_DAYS = 7
CAPACITY = 100
WEEKS = "2018-07-11,2018-07-18,2018-07-25"
KNOWN_DAYS = 28  # a merchant with a fraud known in these is one that somebody could have suspected
SCENARIO = "TX_FRAUD_SCENARIO"
MERCHANT_SCENARIO = 2  # of a compromised terminal; the others lie in the amount or the account
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One detector on one week with one seed."""

    week: str
    setting: str
    name: str
    seed: int
    auc: float
    ap: float
    card_precision: float
    fit_seconds: float
    rows_per_second: float


@dataclass(frozen=True)
class Handbook:
    """The transactions, and what was known of them when."""

    transactions: pl.DataFrame
    labels: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Handbook":
        """Read every day of the folder."""
        transactions = read_handbook(folder)
        return cls(transactions, label_statements(transactions))

    @property
    def first_described(self) -> date:
        """Give the first day with a whole history before it."""
        first: date = self.transactions["event_date"].to_list()[0]
        return first + timedelta(days=30)

    def features(self, start: date, end: date) -> pl.DataFrame:
        """Compute the features of the days given, with the truth, whenever it was known."""
        before = start - timedelta(days=lookback_days(DELAY_DAYS))
        near = self.transactions.filter(pl.col("event_date").is_between(before, end))
        features = compute_features(
            near.drop("is_fraud"), self.labels, start=start, end=end, label_delay_days=DELAY_DAYS
        )
        truth = near.select("transaction_id", "is_fraud")
        return features.join(truth, on="transaction_id", how="left", maintain_order="left")

    def test_rows(self, start: date, end: date) -> pl.DataFrame:
        """Describe the days that are judged, less the accounts that the protocol leaves out."""
        known_from = start - timedelta(days=2 * DELAY_DAYS)
        return leave_out_known_accounts(self.features(start, end), self.transactions, known_from)

    def with_history(
        self, rows: pl.DataFrame, window: int
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Find the earlier transactions of the rows' accounts; none for a window of 0."""
        if not window:
            return rows, None
        events, spans = account_history(self.transactions, rows, time_zone="UTC", window=window)
        return rows.hstack(spans.drop("transaction_id")), events


def read_handbook(folder: Path) -> pl.DataFrame:
    """Read the days' files under Nightwarden's names, in order of time."""
    return _read(folder).select(
        event_date=pl.col("TX_DATETIME").dt.date(),
        transaction_id=pl.col("TRANSACTION_ID").cast(pl.String),
        occurred_at=pl.col("TX_DATETIME").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        account_id=pl.col("CUSTOMER_ID").cast(pl.String),
        merchant_id=pl.col("TERMINAL_ID").cast(pl.String),
        amount=pl.col("TX_AMOUNT").cast(pl.Float64),
        is_fraud=pl.col("TX_FRAUD") == 1,
    )


def read_scenarios(folder: Path) -> pl.DataFrame:
    """Read the kind of every transaction, 0 for genuine: for the ceiling, never a feature."""
    frame = _read(folder)
    if SCENARIO not in frame.columns:
        raise SystemExit(f"{folder} has no column {SCENARIO}; the ceiling needs it")
    return frame.select(
        transaction_id=pl.col("TRANSACTION_ID").cast(pl.String),
        scenario=pl.col(SCENARIO).cast(pl.Int8),
    )


def _read(folder: Path) -> pl.DataFrame:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"no *.parquet in {folder}; name the folder of daily files with --data")
    return pl.read_parquet(files).sort("TX_DATETIME", maintain_order=True)


def label_statements(transactions: pl.DataFrame) -> pl.DataFrame:
    """State every label, known after the book's delay."""
    known_at = pl.col("occurred_at") + timedelta(days=DELAY_DAYS)
    return transactions.select(
        "event_date",
        "transaction_id",
        "account_id",
        "merchant_id",
        "is_fraud",
        known_at=known_at,
        recorded_at=known_at,
    )


def leave_out_known_accounts(
    test: pl.DataFrame, history: pl.DataFrame, start: date
) -> pl.DataFrame:
    """Drop, for each test day, the accounts whose fraud since ``start`` was known on that day."""
    first_fraud = (
        history.filter(pl.col("is_fraud") & (pl.col("event_date") >= start))
        .group_by("account_id")
        .agg(first_fraud=pl.col("event_date").min())
    )
    known = pl.col("first_fraud") < pl.col("event_date") - pl.duration(days=DELAY_DAYS)
    joined = test.join(first_fraud, on="account_id", how="left", maintain_order="left")
    return joined.filter(~known.fill_null(value=False)).drop("first_fraud")


def judge_scores(test: pl.DataFrame, scores: Matrix) -> tuple[float, float, float]:
    """Measure AUC, average precision and card precision at 100 of a week's scores."""
    fraud = test["is_fraud"].to_numpy()
    accounts = test["account_id"].rank("dense").to_numpy()
    days = test["event_date"].rank("dense").to_numpy()
    return (
        roc_auc(scores, fraud),
        average_precision(scores, fraud),
        card_precision_at_k(scores, fraud, accounts, days, CAPACITY),
    )


def ceiling_scores(test: pl.DataFrame, scenarios: pl.DataFrame) -> Matrix:
    """Score 1 every fraud that somebody could have known, 0 all else.

    Nobody could know the frauds of a compromised terminal at which no fraud became known in the
    last 28 days; those that lie in the amount or the account count as knowable. Taken to the
    letter, "every fraud at a terminal without a known one" would shut out the latter, too, which
    any model of amounts beats.
    """
    kind = test.join(scenarios, on="transaction_id", how="left", maintain_order="left")
    is_known = pl.col(f"merchant_known_frauds_{KNOWN_DAYS}d") > 0
    is_knowable = pl.col("is_fraud") & ((pl.col("scenario") != MERCHANT_SCENARIO) | is_known)
    return kind.select(is_knowable.cast(pl.Float64)).to_series().to_numpy()


def literal_ceiling_scores(test: pl.DataFrame) -> Matrix:
    """Score 1 the frauds at a merchant with a fraud known in the last 28 days, 0 all else."""
    is_known = pl.col(f"merchant_known_frauds_{KNOWN_DAYS}d") > 0
    return test.select((pl.col("is_fraud") & is_known).cast(pl.Float64)).to_series().to_numpy()


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark on this data has."""
    parser.add_argument("--data", type=Path, required=True, help="folder of daily Parquet files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
