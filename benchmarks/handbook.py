"""Detection quality on the Fraud Detection Handbook's transactions, beside PyOD's detectors.

    python benchmarks/handbook.py --data FOLDER_OF_DAILY_PARQUET_FILES --label-free
        [--weeks 2018-07-11,2018-07-18,2018-07-25] [--seeds 0,1,2] [--threads 2] [--members a,b]
        [--peers A,B] [--peer-features same|book|all] [--settings with,without] [--json]

For each week everything is fitted as of its first day: on days whose labels were known then, which
end eight days before. The week is then scored and judged by the book's protocol: accounts whose
fraud became known in the two weeks before (and, from day to day, during the week) are left out.

``--label-free``: the detectors that learn without labels; every member, the ensemble with its
fixed weights, the ensemble without each member (the ablation), and PyOD's detectors. Two settings:
``with`` the features that are derived from known labels (shares of frauds at the merchant) and
``without`` them. Ours learn from genuine rows and hold out the last 14 days of them to stop and
calibrate; peers get a sample of all of these rows, standardised, and the same features
(``--peer-features book``: the book's 15; ``all``: every declared feature that the data allow).
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from sklearn.preprocessing import StandardScaler

from models.ensemble import Ensemble
from models.ensemble_fit import FitReports, TrainingRows
from models.metrics import average_precision, card_precision_at_k, roc_auc
from tasks.feature_catalog import BOOK_FEATURES, FEATURES
from tasks.features import compute_features, lookback_days
from tasks.fit import fit_data, window_for
from tasks.history import account_history
from tasks.tensors import history_of
from tasks.train_settings import TrainSettings
from tasks.training_data import TrainingData, TrainingSpan

DELAY_DAYS = 7
CAPACITY = 100
WEEKS = "2018-07-11,2018-07-18,2018-07-25"
PEER_EPOCHS = 20  # of PyOD's networks, as in earlier measurements
PEERS = "IForest,PCA,KNN,INNE,LODA,AutoEncoder,VAE,DeepSVDD,ALAD"
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

    def features(self, start: date, end: date) -> pl.DataFrame:
        """Compute the features of the days given, with the truth, whenever it was known."""
        before = start - timedelta(days=lookback_days(DELAY_DAYS))
        near = self.transactions.filter(pl.col("event_date").is_between(before, end))
        features = compute_features(
            near.drop("is_fraud"), self.labels, start=start, end=end, label_delay_days=DELAY_DAYS
        )
        truth = near.select("transaction_id", "is_fraud")
        return features.join(truth, on="transaction_id", how="left", maintain_order="left")

    def with_history(
        self, rows: pl.DataFrame, window: int
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Find the earlier transactions of the rows' accounts; none for a window of 0."""
        if not window:
            return rows, None
        events, spans = account_history(self.transactions, rows, time_zone="UTC", window=window)
        return rows.hstack(spans.drop("transaction_id")), events


@dataclass(frozen=True)
class Week:
    """A week to judge on, and the rows that may be learned from."""

    start: date
    setting: str
    settings: TrainSettings
    data: TrainingData
    genuine: pl.DataFrame
    test: pl.DataFrame
    events: pl.DataFrame | None


def read_handbook(folder: Path) -> pl.DataFrame:
    """Read the days' files under Nightwarden's names."""
    return pl.read_parquet(sorted(folder.glob("2018-*.parquet"))).select(
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


def prepare_week(handbook: Handbook, start: date, setting: str, members: Sequence[str]) -> Week:
    """Compute what is learned from as of a day, and the week from it on that is judged."""
    settings = TrainSettings(members=tuple(members), weighting="fixed", history_days=100)
    if setting == "without":
        labelled = {feature.name for feature in FEATURES if feature.uses_labels}
        lean = tuple(name for name in settings.features if name not in labelled)
        settings = settings.model_copy(update={"features": lean})
    span = TrainingSpan.of(settings, start, DELAY_DAYS)
    first = max(span.first, handbook.transactions["event_date"].min() + timedelta(days=30))
    frame = handbook.features(first, span.last)
    window = window_for(settings)
    data = TrainingData.choose(frame, settings, span.held_out)
    rows, events = handbook.with_history(data.frame, window)
    end = start + timedelta(days=6)
    known_from = start - timedelta(days=2 * DELAY_DAYS)
    test = leave_out_known_accounts(
        handbook.features(start, end), handbook.transactions, known_from
    )
    test, test_events = handbook.with_history(test, window)
    genuine = frame.filter(~pl.col("is_fraud"))
    data = replace(data, frame=rows, events=events)
    return Week(start, setting, settings, data, genuine, test, test_events)


def judge(
    week: Week, name: str, seed: int, scores: Matrix, fit_seconds: float, score_seconds: float
) -> Line:
    """Measure one detector's scores on the week."""
    fraud = week.test["is_fraud"].to_numpy()
    accounts = week.test["account_id"].rank("dense").to_numpy()
    days = week.test["event_date"].rank("dense").to_numpy()
    return Line(
        week.start.isoformat(),
        week.setting,
        name,
        seed,
        roc_auc(scores, fraud),
        average_precision(scores, fraud),
        card_precision_at_k(scores, fraud, accounts, days, CAPACITY),
        fit_seconds,
        week.test.height / max(score_seconds, 1e-9),
    )


def own_lines(week: Week, seed: int) -> list[Line]:
    """Fit and judge the ensemble, its members, and the ensemble without each."""
    settings = week.settings.model_copy(update={"seed": seed})
    fitted = fit_data(week.data, settings, capacity=CAPACITY, device="cpu")
    ensemble, reports = fitted.bundle.ensemble, fitted.reports
    x = fitted.bundle.encoding.matrix(week.test)
    rows = TrainingRows(x, history_of(week.test, week.events))
    started = time.perf_counter()
    surprises = ensemble.member_scores(rows.x, history=rows.history)  # (rows, members)
    seconds = time.perf_counter() - started
    lines = member_lines(week, seed, ensemble, reports, rows)
    weights, total = ensemble.weights, sum(report.seconds for report in reports.values())
    for left_out in (None, *weights):
        ensemble.weights = weights if left_out is None else weights | {left_out: 0.0}
        if sum(ensemble.weights.values()) == 0:
            continue
        name = "ensemble" if left_out is None else f"ensemble without {left_out}"
        scores = ensemble.combine(surprises).double().numpy()
        lines.append(judge(week, name, seed, scores, total, seconds))
    return lines


def member_lines(
    week: Week, seed: int, ensemble: Ensemble, reports: FitReports, rows: TrainingRows
) -> list[Line]:
    """Judge each member by itself."""
    lines = []
    for name, member in ensemble.members.items():
        alone = Ensemble(
            ensemble.preprocessor,
            {name: member},
            {name: ensemble.calibrations[name]},
            {name: 1.0},
            views={name: ensemble.views[name]},
            history_scaler=ensemble.history_scaler,
        )
        started = time.perf_counter()
        scores = alone.score(rows.x, history=rows.history).double().numpy()
        seconds = time.perf_counter() - started
        lines.append(judge(week, name, seed, scores, reports[name].seconds, seconds))
    return lines


def peer_lines(week: Week, seed: int, names: Sequence[str], features: str) -> list[Line]:
    """Fit and judge PyOD's detectors on the features that they are to see."""
    from peers import make_peer  # ours can be judged without PyOD

    columns = peer_features(week, features)
    x_train, x_test = (
        np.nan_to_num(frame.select(pl.col(columns).cast(pl.Float64)).to_numpy())
        for frame in (week.genuine, week.test)
    )
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    lines = []
    for name in names:
        peer = make_peer(name, seed, PEER_EPOCHS)
        started = time.perf_counter()
        peer.fit(x_train)
        fitted = time.perf_counter()
        scores = peer.score(x_test)
        timing = (fitted - started, time.perf_counter() - fitted)
        lines.append(judge(week, f"PyOD {name}", seed, scores, *timing))
    return lines


def peer_features(week: Week, features: str) -> list[str]:
    """Choose what the peers see, in the week's setting."""
    if features == "same":
        return list(week.settings.features)
    declared = {feature.name: feature for feature in FEATURES}
    wanted = BOOK_FEATURES if features == "book" else tuple(declared)
    return [
        name
        for name in wanted
        if name in week.genuine.columns and week.genuine[name].null_count() < week.genuine.height
        if week.setting == "with" or not declared[name].uses_labels
    ]


def tabulate(lines: list[Line], setting: str) -> str:
    """Average over the seeds, and write one line a detector, the best mean AP first."""
    weeks = sorted({line.week for line in lines})
    names = dict.fromkeys(line.name for line in lines if line.setting == setting)
    head = "".join(f"  AUC {w[5:]}   AP     ±    CP" for w in weeks)
    text = f"{setting + ' label-derived features':34}{head}  mean AP   fit s      rows/s\n"
    rows = []
    for name in names:
        mine = [line for line in lines if line.setting == setting and line.name == name]
        cells, means = "", []
        for week in weeks:
            here = [line for line in mine if line.week == week]
            ap = [line.ap for line in here]
            auc, card = (
                np.mean([getattr(li, k) for li in here]) for k in ("auc", "card_precision")
            )
            cells += f"  {auc:9.3f} {np.mean(ap):.3f} {np.std(ap):.3f} {card:.3f}"
            means.append(float(np.mean(ap)))
        seconds, speed = (
            np.mean([getattr(li, k) for li in mine]) for k in ("fit_seconds", "rows_per_second")
        )
        line = f"{name:34}{cells} {np.mean(means):8.3f} {seconds:7.1f} {speed:11,.0f}\n"
        rows.append((float(np.mean(means)), line))
    return text + "".join(line for _, line in sorted(rows, reverse=True)) + "\n"


def ratios(lines: list[Line], setting: str) -> str:
    """Compare the ensemble with the best peer of each week, and with the best on average."""
    text = ""
    for week in sorted({line.week for line in lines}):
        here = [line for line in lines if (line.week, line.setting) == (week, setting)]
        means = {
            n: np.mean([li.ap for li in here if li.name == n]) for n in {li.name for li in here}
        }
        peers = {name: ap for name, ap in means.items() if name.startswith("PyOD")}
        if peers:
            best = max(peers, key=lambda name: peers[name])
            ratio = means["ensemble"] / peers[best]
            text += f"{week} {setting}: ensemble AP / best peer AP ({best}) = {ratio:.2f}\n"
    return text


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--label-free", action="store_true", required=True)
    parser.add_argument("--weeks", default=WEEKS, help="first days, with commas")
    parser.add_argument("--settings", default="with,without", help="with, without or both")
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--members", default=",".join(TrainSettings().members))
    parser.add_argument("--peers", default=PEERS, help="PyOD's, with commas; may be ''")
    parser.add_argument("--peer-features", choices=("same", "book", "all"), default="same")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the tables."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    handbook = Handbook.read(options.data)
    members = [name for name in options.members.split(",") if name]
    peers = [name for name in options.peers.split(",") if name]
    lines: list[Line] = []
    for start in map(date.fromisoformat, options.weeks.split(",")):
        for setting in options.settings.split(","):
            week = prepare_week(handbook, start, setting, members)
            for seed in map(int, options.seeds.split(",")):
                lines += own_lines(week, seed)
                lines += peer_lines(week, seed, peers, options.peer_features) if peers else []
                sys.stderr.write(f"{start} {setting} seed {seed} done\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.json:
        content = {"lines": [asdict(line) for line in lines], "peak_gib": peak}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    for setting in options.settings.split(","):
        sys.stdout.write(tabulate(lines, setting) + ratios(lines, setting) + "\n")
    sys.stdout.write(f"Peak memory {peak:.2f} GiB; {options.threads} threads.\n")


if __name__ == "__main__":
    main()
