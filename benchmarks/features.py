"""Time the features against pandas, Polars and DuckDB on the handbook's transactions.

    python -m benchmarks.features --data FOLDER [--days N] [--book] [--json]

Every implementation runs in a fresh process and starts from the same frame in memory. ``--book``
adds the textbook's way, pandas ``groupby.apply`` with rolling windows, which takes minutes.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl

from tasks.features import BOOK_FEATURES, compute_features, lookback_days

DELAY_DAYS = 7
WINDOWS = (1, 7, 30)
KEYS = ["event_date", "transaction_id", "occurred_at", "account_id", "merchant_id", "amount"]
Report = dict[str, Any]


def load(folder: Path, days: int | None) -> pl.DataFrame:
    """Read the newest days in the canonical schema, with the label beside."""
    files = sorted(folder.glob("*.parquet"))[-(days or 0) :]
    at = pl.col("TX_DATETIME").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.read_parquet(files).select(
        event_date=pl.col("TX_DATETIME").dt.date(),
        transaction_id=pl.col("TRANSACTION_ID").cast(pl.String),
        occurred_at=at,
        account_id=pl.col("CUSTOMER_ID").cast(pl.String),
        merchant_id=pl.col("TERMINAL_ID").cast(pl.String),
        amount=pl.col("TX_AMOUNT"),
        is_fraud=pl.col("TX_FRAUD") == 1,
    )


def labels_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Give one statement per transaction, known when the delay is over."""
    known = pl.col("occurred_at") + pl.duration(days=DELAY_DAYS)
    return frame.select(
        "event_date",
        "transaction_id",
        "account_id",
        "merchant_id",
        "is_fraud",
        known_at=known,
        recorded_at=known,
    )


def span_of(frame: pl.DataFrame) -> tuple[date, date]:
    """Give the first and the last day."""
    first, last = frame["event_date"].min(), frame["event_date"].max()
    if not isinstance(first, date) or not isinstance(last, date):
        raise TypeError("the frame must hold transactions, however it is empty")
    return first, last


def nightwarden_book(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare Nightwarden's 15 book features."""
    return _nightwarden(frame, BOOK_FEATURES)


def nightwarden_all(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare Nightwarden's full feature set."""
    return _nightwarden(frame, None)


def _nightwarden(frame: pl.DataFrame, names: tuple[str, ...] | None) -> Callable[[], pl.DataFrame]:
    first, last = span_of(frame)
    transactions, labels = frame.select(KEYS), labels_of(frame)
    return lambda: compute_features(
        transactions, labels, start=first, end=last, label_delay_days=DELAY_DAYS, names=names
    )


def polars_rolling(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare plain Polars: rolling sums by time over each entity."""

    def rolling(value: str, days: int, entity: str) -> pl.Expr:
        return pl.col(value).rolling_sum_by("occurred_at", f"{days}d").over(entity)

    def run() -> pl.DataFrame:
        ready = frame.sort("occurred_at").with_columns(
            one=pl.lit(1.0), fraud=pl.col("is_fraud").cast(pl.Float64)
        )
        columns: dict[str, pl.Expr] = {}
        for days in WINDOWS:
            count = rolling("one", days, "account_id")
            columns[f"account_count_{days}d"] = count
            columns[f"account_mean_amount_{days}d"] = rolling("amount", days, "account_id") / count
            tx, fraud = (
                rolling(value, days + DELAY_DAYS, "merchant_id")
                - rolling(value, DELAY_DAYS, "merchant_id")
                for value in ("one", "fraud")
            )
            columns[f"merchant_count_{days}d"] = tx
            columns[f"merchant_fraud_share_{days}d"] = (
                pl.when(tx > 0).then(fraud / tx).otherwise(0.0)
            )
        return ready.select(*KEYS, *_calendar(), **columns)

    return run


def _calendar() -> list[pl.Expr]:
    at = pl.col("occurred_at")
    return [
        (at.dt.weekday() >= 6).cast(pl.Float64).alias("is_weekend"),
        (at.dt.hour() <= 6).cast(pl.Float64).alias("is_night"),
    ]


def duckdb_windows(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare DuckDB window functions over ranges of time."""
    columns = []
    for days in WINDOWS:
        account = _sql_window("account_id", days, 0)
        merchant = _sql_window("merchant_id", days, DELAY_DAYS)
        columns += [
            f"count(*) OVER {account} AS account_count_{days}d",
            f"avg(amount) OVER {account} AS account_mean_amount_{days}d",
            f"count(*) OVER {merchant} AS merchant_count_{days}d",
            f"coalesce(avg(is_fraud::DOUBLE) OVER {merchant}, 0) AS merchant_fraud_share_{days}d",
        ]
    calendar = (
        "(isodow(occurred_at) >= 6)::DOUBLE AS is_weekend, "
        "(hour(occurred_at) <= 6)::DOUBLE AS is_night"
    )
    query = f"SELECT {', '.join(KEYS)}, {calendar}, {', '.join(columns)} FROM source"  # noqa: S608 (constants only)
    # DuckDB ranges over plain timestamps
    source = frame.with_columns(pl.col("occurred_at").dt.replace_time_zone(None)).to_arrow()

    def run() -> pl.DataFrame:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2")
            connection.register("source", source)
            return connection.execute(query).pl()

    return run


def _sql_window(entity: str, days: int, delay: int) -> str:
    start = f"INTERVAL '{days + delay - 1} days 23:59:59.999999'"
    return (
        f"(PARTITION BY {entity} ORDER BY occurred_at "
        f"RANGE BETWEEN {start} PRECEDING AND INTERVAL '{delay} days' PRECEDING)"
    )


def pandas_vectorised(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare pandas with one grouped rolling window for all entities at once."""
    source = frame.to_pandas()

    def rolled(ordered: pd.DataFrame, entity: str, value: str, days: int) -> pd.Series:
        groups = ordered.groupby(entity, sort=True)
        sums = groups.rolling(f"{days}D", on="occurred_at")[value].sum()
        return sums.reset_index(drop=True)

    def run() -> pl.DataFrame:
        out = source.sort_values("occurred_at", kind="stable").reset_index(drop=True)
        out["one"] = 1.0
        out["fraud"] = out["is_fraud"].astype(float)
        for entity, kind in (("account_id", "account"), ("merchant_id", "merchant")):
            out = out.sort_values([entity, "occurred_at"], kind="stable").reset_index(drop=True)
            for days in WINDOWS:
                if kind == "account":
                    count = rolled(out, entity, "one", days)
                    out[f"account_count_{days}d"] = count
                    total = rolled(out, entity, "amount", days)
                    out[f"account_mean_amount_{days}d"] = total / count
                else:
                    reach = days + DELAY_DAYS
                    tx, fraud = (
                        rolled(out, entity, value, reach) - rolled(out, entity, value, DELAY_DAYS)
                        for value in ("one", "fraud")
                    )
                    out[f"merchant_count_{days}d"] = tx
                    out[f"merchant_fraud_share_{days}d"] = (fraud / tx).fillna(0.0)
        return _from_pandas(out)

    return run


def pandas_book(frame: pl.DataFrame) -> Callable[[], pl.DataFrame]:
    """Prepare the textbook's way: a Python function per customer and per terminal."""
    source = frame.to_pandas()

    def of_account(group: pd.DataFrame) -> pd.DataFrame:
        group = group.sort_values("occurred_at")
        amounts = pd.Series(group["amount"].to_numpy(), index=group["occurred_at"])
        for days in WINDOWS:
            window = amounts.rolling(f"{days}D")
            count = window.count()
            group[f"account_count_{days}d"] = count.to_numpy()
            group[f"account_mean_amount_{days}d"] = (window.sum() / count).to_numpy()
        return group

    def of_merchant(group: pd.DataFrame) -> pd.DataFrame:
        group = group.sort_values("occurred_at")
        frauds = pd.Series(group["is_fraud"].to_numpy(float), index=group["occurred_at"])
        delay = frauds.rolling(f"{DELAY_DAYS}D")
        fraud_delay, count_delay = delay.sum(), delay.count()
        for days in WINDOWS:
            window = frauds.rolling(f"{days + DELAY_DAYS}D")
            count = window.count() - count_delay
            share = (window.sum() - fraud_delay) / count
            group[f"merchant_count_{days}d"] = count.to_numpy()
            group[f"merchant_fraud_share_{days}d"] = share.fillna(0.0).to_numpy()
        return group

    def run() -> pl.DataFrame:
        out = source.copy()
        out["is_weekend"] = out["occurred_at"].map(lambda at: int(at.weekday() >= 5))
        out["is_night"] = out["occurred_at"].map(lambda at: int(at.hour <= 6))
        out = out.groupby("account_id").apply(of_account).reset_index(level=0)
        out = out.groupby("merchant_id").apply(of_merchant).reset_index(level=0)
        return _from_pandas(out.reset_index(drop=True))

    return run


def _from_pandas(out: pd.DataFrame) -> pl.DataFrame:
    frame = pl.from_pandas(out)
    calendar = [] if "is_night" in frame.columns else _calendar()
    return frame.with_columns(*calendar).select(*KEYS, *BOOK_FEATURES[1:])


IMPLEMENTATIONS: dict[str, Callable[[pl.DataFrame], Callable[[], pl.DataFrame]]] = {
    "nightwarden, 15 features": nightwarden_book,
    "Polars rolling_sum_by": polars_rolling,
    "DuckDB windows": duckdb_windows,
    "pandas grouped rolling": pandas_vectorised,
    "pandas, textbook": pandas_book,
    "nightwarden, all features": nightwarden_all,
}


def measure(name: str, folder: Path, days: int | None, repeats: int) -> tuple[Report, bytes]:
    """Run one implementation in this (fresh) process; give times, memory and the sorted result."""
    run = IMPLEMENTATIONS[name](load(folder, days))
    base = _reset_peak()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = run()
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - begin_cpu)
        if len(seconds) == 1:  # later runs find memory that the allocators kept
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        height = result.height
        if len(seconds) < repeats:
            del result
    report = {
        "name": name,
        "rows": height,
        "columns": result.width,
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "first_seconds": seconds[0],
        "rows_per_second": height / min(seconds),
        "peak_mib_over_base": (peak - base) / 2**20,
    }
    book = result.select("transaction_id", *BOOK_FEATURES).sort("transaction_id")
    return report, book.cast(dict.fromkeys(BOOK_FEATURES, pl.Float32)).serialize()


def _reset_peak() -> int:
    """Start the peak of memory anew (Linux) and give the bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def compare(found: pl.DataFrame, other: pl.DataFrame, frame: pl.DataFrame) -> Report:
    """Count the rows that differ by more than 1e-6 (relative; absolute below 1), and their ties.

    A tie is a row that shares its account and instant with another one: pandas counts only those
    before it in the file.
    """
    differs = pl.lit(False)
    for name in BOOK_FEATURES:
        gap = (found[name].cast(pl.Float64) - other[name].cast(pl.Float64)).abs()
        scale = other[name].cast(pl.Float64).abs().clip(1.0)
        differs = differs | pl.lit(gap > 1e-6 * scale)
    ids = found.select("transaction_id", differs=differs).filter("differs")["transaction_id"]
    together = pl.len().over("account_id", "occurred_at") > 1
    tied = frame.filter(together)["transaction_id"]
    return {
        "differing_rows": len(ids),
        "of_which_ties_of_one_account": int(ids.is_in(tied.implode()).sum()),
    }


def measure_nights(frame: pl.DataFrame, repeats: int) -> list[Report]:
    """Time one night's full feature set, cut from all history and from the lookback alone."""
    day = span_of(frame)[1]
    since = day - timedelta(days=lookback_days(DELAY_DAYS))
    labels = labels_of(frame)
    recent = frame.filter(pl.col("event_date") >= since)
    inputs = {
        f"night from {frame['event_date'].n_unique()} days": (frame.select(KEYS), labels),
        f"night from {recent['event_date'].n_unique()} days": (
            recent.select(KEYS),
            labels.filter(pl.col("known_at").dt.date() >= since),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(repeats):  # alternating, so that the machine's other load hits both
        for name, (transactions, statements) in inputs.items():
            begin = time.perf_counter()
            night = compute_features(
                transactions.filter(pl.col("event_date").is_between(since, day)),
                statements.filter(pl.col("known_at").dt.date() >= since),
                start=day,
                end=day,
                label_delay_days=DELAY_DAYS,
            )
            seconds[name].append(time.perf_counter() - begin)
    return [
        {
            "name": name,
            "rows": night.height,
            "columns": night.width,
            "seconds": min(times),
            "median_seconds": sorted(times)[len(times) // 2],
            "first_seconds": times[0],
            "rows_per_second": night.height / min(times),
        }
        for name, times in seconds.items()
    ]


def run_all(folder: Path, days: int | None, *, book: bool) -> list[Report]:
    """Measure every implementation, one process each, then the nights."""
    frame = load(folder, days)
    reports: list[Report] = []
    results: dict[str, pl.DataFrame] = {}
    spawn = multiprocessing.get_context("spawn")
    for name in IMPLEMENTATIONS:
        is_slow = name.startswith("pandas")
        if name == "pandas, textbook" and not book:
            continue
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            report, data = pool.submit(measure, name, folder, days, 1 if is_slow else 9).result()
        results[name] = pl.DataFrame.deserialize(data)
        reports.append(report)
    own = reports[0]
    for report in reports[1:]:
        if report["name"].startswith("nightwarden"):
            continue
        report["times_nightwarden_cpu"] = report["cpu_seconds"] / own["cpu_seconds"]
        report["times_nightwarden"] = report["seconds"] / own["seconds"]
        report |= compare(results[own["name"]], results[report["name"]], frame)
    return reports + measure_nights(frame, 7)


def describe(report: Report) -> str:
    """Write one measurement as a line."""
    parts = [
        f"{report['name']:28s} {report['seconds']:8.3f} s (first {report['first_seconds']:.3f})",
        f"{report['rows_per_second']:12,.0f} rows/s",
    ]
    if "cpu_seconds" in report:
        parts.append(f"CPU {report['cpu_seconds']:.2f} s")
    if "median_seconds" in report:
        parts.append(f"median {report['median_seconds']:.3f} s")
    if "peak_mib_over_base" in report:
        parts.append(f"+{report['peak_mib_over_base']:,.0f} MiB")
    if "times_nightwarden" in report:
        parts.append(f"{report['times_nightwarden']:.1f} x our time")
        parts.append(f"{report['times_nightwarden_cpu']:.1f} x our CPU")
        ties = report["of_which_ties_of_one_account"]
        parts.append(f"{report['differing_rows']} rows differ, {ties} of them ties")
    return ", ".join(parts)


def main() -> None:
    """Read the arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of YYYY-MM-DD.parquet")
    parser.add_argument("--days", type=int, help="the newest days only")
    parser.add_argument("--book", action="store_true", help="run the textbook's way, too: minutes")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    arguments = parser.parse_args()
    reports = run_all(arguments.data, arguments.days, book=arguments.book)
    lines = [json.dumps(reports, indent=2)] if arguments.json else map(describe, reports)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
