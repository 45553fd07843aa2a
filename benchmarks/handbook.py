"""Detection quality on the Fraud Detection Handbook's transactions, beside named peers.

Trains as of a day on what was known by then, scores a later week, and judges every member, the
ensemble, and scikit-learn's IsolationForest and PCA on the same rows and features. The book's
protocol is kept: accounts whose fraud became known in the two weeks before the test (and, from day
to day, during it) are left out of the test.

Run: python benchmarks/handbook.py --data FOLDER_OF_DAILY_PARQUET_FILES
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from models.metrics import average_precision, card_precision_at_k, roc_auc
from tasks.features import LEAN_FEATURES, compute_features, lookback_days
from tasks.fit import TrainingSpan, fit_frame
from tasks.tracking import Bundle, score_frame
from tasks.train_settings import TrainSettings

DELAY_DAYS = 7
CAPACITY = 100
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One line of the table; ``seed`` is None for a mean over seeds."""

    name: str
    seed: int | None
    auc: float
    ap: float
    card_precision: float
    fit_seconds: float
    rows_per_second: float


def read_handbook(folder: Path, start: date, end: date) -> pl.DataFrame:
    """Read the days' files under Nightwarden's names."""
    days = [start + timedelta(days=n) for n in range((end - start).days + 1)]
    files = [folder / f"{day}.parquet" for day in days]
    return pl.read_parquet([file for file in files if file.exists()]).select(
        event_date=pl.col("TX_DATETIME").dt.date(),
        transaction_id=pl.col("TRANSACTION_ID").cast(pl.String),
        occurred_at=pl.col("TX_DATETIME").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        account_id=pl.col("CUSTOMER_ID").cast(pl.String),
        merchant_id=pl.col("TERMINAL_ID").cast(pl.String),
        amount=pl.col("TX_AMOUNT").cast(pl.Float64),
        is_fraud=pl.col("TX_FRAUD") == 1,
    )


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


def judge(
    name: str, seed: int | None, score: Matrix, test: pl.DataFrame, timing: tuple[float, float]
) -> Line:
    """Measure one detector's scores on the test rows."""
    fraud = test["is_fraud"].to_numpy()
    accounts = test["account_id"].rank("dense").to_numpy()
    days = test["event_date"].rank("dense").to_numpy()
    fit_seconds, score_seconds = timing
    return Line(
        name,
        seed,
        roc_auc(score, fraud),
        average_precision(score, fraud),
        card_precision_at_k(score, fraud, accounts, days, CAPACITY),
        fit_seconds,
        test.height / max(score_seconds, 1e-9),
    )


def peer_scores(
    seed: int, train: Matrix, test: Matrix
) -> list[tuple[str, Matrix, tuple[float, float]]]:
    """Fit and score the peers; higher is more anomalous."""
    forest = IsolationForest(n_estimators=200, random_state=seed, n_jobs=2)
    pca = PCA(n_components=0.9, random_state=seed)

    def residual(x: Matrix) -> Matrix:
        gap: Matrix = x - pca.inverse_transform(pca.transform(x))
        return np.asarray((gap**2).sum(axis=1))

    def isolation(x: Matrix) -> Matrix:
        return np.asarray(-forest.score_samples(x))

    found = []
    fits: Sequence[tuple[str, Callable[[Matrix], object], Callable[[Matrix], Matrix]]] = (
        ("scikit-learn IsolationForest", forest.fit, isolation),
        ("scikit-learn PCA", pca.fit, residual),
    )
    for name, fit, score in fits:
        started = time.perf_counter()
        fit(train)
        fitted = time.perf_counter()
        values = score(test)
        found.append((name, values, (fitted - started, time.perf_counter() - fitted)))
    return found


def own_lines(
    bundle: Bundle, seed: int, test: pl.DataFrame, fit_seconds: dict[str, float]
) -> list[Line]:
    """Judge the ensemble and its members."""
    started = time.perf_counter()
    scores = score_frame(bundle, test)
    seconds = time.perf_counter() - started
    total = sum(fit_seconds.values())
    lines = [judge("ensemble", seed, scores["score"].to_numpy(), test, (total, seconds))]
    for name in bundle.ensemble.member_names:
        values = scores[f"member.{name}"].to_numpy()
        lines.append(judge(name, seed, values, test, (fit_seconds[name], seconds)))
    return lines


def scaled(
    bundle: Bundle, train: pl.DataFrame, test: pl.DataFrame
) -> dict[str, tuple[Matrix, Matrix]]:
    """Give the peers the same features twice: standardised, and scaled as our members get them."""
    x_train, x_test = (bundle.encoding.matrix(frame) for frame in (train, test))
    plain = [np.nan_to_num(x.numpy().astype(np.float64)) for x in (x_train, x_test)]
    scaler = StandardScaler().fit(plain[0])
    tamed = [bundle.ensemble.preprocessor.transform(x).double().numpy() for x in (x_train, x_test)]
    return {
        "standardised": (scaler.transform(plain[0]), scaler.transform(plain[1])),
        "our scaling": (tamed[0], tamed[1]),
    }


def run_seed(
    frame: pl.DataFrame, test: pl.DataFrame, span: TrainingSpan, settings: TrainSettings
) -> list[Line]:
    """Fit everything with one seed and judge it."""
    fitted = fit_frame(frame, span.held_out, settings, capacity=CAPACITY, device="cpu")
    seconds = {name: report.seconds for name, report in fitted.reports.items()}
    lines = own_lines(fitted.bundle, settings.seed, test, seconds)
    genuine = frame.filter(~pl.col("is_fraud") & (pl.col("event_date") < span.held_out))
    for scaling, (x_train, x_test) in scaled(fitted.bundle, genuine, test).items():
        for name, score, timing in peer_scores(settings.seed, x_train, x_test):
            lines.append(judge(f"{name} ({scaling})", settings.seed, score, test, timing))
    return lines


def mean_lines(lines: list[Line]) -> list[tuple[Line, float]]:
    """Average over the seeds; the second value is the standard deviation of AP."""
    found = []
    for name in dict.fromkeys(line.name for line in lines):
        mine = [asdict(line) for line in lines if line.name == name]
        numbers = {
            key: float(np.mean([line[key] for line in mine]))
            for key in mine[0]
            if key not in ("name", "seed")
        }
        found.append((Line(name, None, **numbers), float(np.std([line["ap"] for line in mine]))))
    return found


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--as-of", type=date.fromisoformat, default=date(2018, 7, 11))
    parser.add_argument("--test-from", type=date.fromisoformat, default=date(2018, 7, 18))
    parser.add_argument("--test-to", type=date.fromisoformat, default=date(2018, 7, 24))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    settings = TrainSettings(features=LEAN_FEATURES)
    span = TrainingSpan.of(settings, options.as_of, DELAY_DAYS)
    before = timedelta(days=lookback_days(DELAY_DAYS))
    transactions = read_handbook(options.data, span.first - before, options.test_to)
    truth = transactions.select("transaction_id", "is_fraud")
    statements = label_statements(transactions)

    def features(start: date, end: date) -> pl.DataFrame:
        return compute_features(
            transactions.drop("is_fraud"),
            statements,
            start=start,
            end=end,
            label_delay_days=DELAY_DAYS,
        ).join(truth, on="transaction_id", how="left", maintain_order="left")

    frame = features(span.first, span.last)
    known_from = options.test_from - timedelta(days=2 * DELAY_DAYS)
    test = leave_out_known_accounts(
        features(options.test_from, options.test_to), transactions, known_from
    )
    lines: list[Line] = []
    for seed in range(options.seeds):
        lines += run_seed(frame, test, span, settings.model_copy(update={"seed": seed}))
    report(options, lines, test, frame)


def report(
    options: argparse.Namespace, lines: list[Line], test: pl.DataFrame, frame: pl.DataFrame
) -> None:
    """Print the table, or JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    means = mean_lines(lines)
    if options.json:
        content = {
            "lines": [asdict(line) for line in lines],
            "peak_gib": peak,
            "test_rows": test.height,
            "test_frauds": int(test["is_fraud"].sum()),
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    sys.stdout.write(
        f"Trained as of {options.as_of} on {frame.height:,} rows; tested {options.test_from} to "
        f"{options.test_to}: {test.height:,} rows, {test['is_fraud'].sum():,} frauds; "
        f"{options.seeds} seeds; peak memory {peak:.2f} GiB. Features use labels known by then.\n\n"
    )
    header = f"{'':46} {'AUC':>6} {'AP':>6} {'±':>6} {'CP@100':>7} {'fit s':>7} {'rows/s':>12}\n"
    sys.stdout.write(header)
    for line, spread in means:
        sys.stdout.write(
            f"{line.name:46} {line.auc:6.3f} {line.ap:6.3f} {spread:6.3f} {line.card_precision:7.3f} "
            f"{line.fit_seconds:7.1f} {line.rows_per_second:12,.0f}\n"
        )
    ensemble = means[0][0].ap
    best = max(line.ap for line, _ in means if line.name.startswith("scikit"))
    sys.stdout.write(f"\nEnsemble AP / best peer AP: {ensemble / best:.2f}\n")


if __name__ == "__main__":
    main()
