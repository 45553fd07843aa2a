"""The loop: a queue, an analyst, labels, the next model; each week's alerts get better."""

import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.ingest import ingest
from flows.nightly import nightly
from flows.settings import Settings
from flows.train import train
from models.bootstrap import Interval, interval, resample_days
from tasks.promotion import promote
from tasks.simulate import simulate_transactions, write_days
from tasks.tracking import Registry
from warehouse.queue import Queue

pytestmark = pytest.mark.slow
FIRST_DAY = date(2026, 1, 1)
HISTORY = 40
START = FIRST_DAY + timedelta(days=HISTORY)
WEEKS = 3
CAPACITY = 40
CONFIG = f"""
[source]
format = "csv"
path = "in/{{date}}.csv"
drop = ["fraud_scenario", "is_fraud", "card_number"]
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "account_id"
merchant_id = "merchant_id"
amount = "amount"
category = "category"
[train]
history_days = 40
held_out_days = 4
members = ["gaussian", "tails"]
[labels]
mature_after_days = 1
[queue]
capacity = {CAPACITY}
[warehouse]
threads = 1
"""


@pytest.fixture(scope="module")
def frauds_and_project(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[set[str], Path]:
    """Days without a label, and what the oracle knows of them."""
    assert prefect_server
    folder = tmp_path_factory.mktemp("loop")
    frame = simulate_transactions(
        start=FIRST_DAY,
        days=HISTORY + 7 * WEEKS,
        accounts=800,
        merchants=200,
        seed=11,
        fraud_share=0.03,
    )
    write_days(frame, folder / "in", format="csv")
    config = folder / "nightwarden.toml"
    config.write_text(CONFIG)
    frauds = frame.filter(pl.col("is_fraud") == 1)["transaction_id"].cast(pl.String)
    return set(frauds), config


def decide_as_oracle(config: Path, day: date, frauds: set[str]) -> tuple[int, int]:
    """Decide the day's alerts the next morning; give how many were flagged, and frauds of them."""
    morning = datetime.combine(day + timedelta(days=1), time(9), UTC)
    path = config.parent / "warehouse-data" / "queue.sqlite"
    with Queue.open(path, create=False, clock=lambda: morning) as queue:
        alerts = queue.alerts_of_day(day)
        for alert in alerts:
            verdict = "fraud" if alert.transaction_id in frauds else "genuine"
            queue.decide(alert.id, verdict, "oracle")
    flagged = [alert for alert in alerts if alert.lane == "nightly"]
    assert len(alerts) > len(flagged), "the audit sample was decided, too"
    return len(flagged), sum(alert.transaction_id in frauds for alert in flagged)


def make_champion(config: Path, version: str) -> None:
    """Promote a version without the gate: the loop is what is tested."""
    with Settings.read(config).context().closing() as context:
        registry = Registry(context.warehouse)
        options = {"actor": "oracle", "reason": "a week of decisions", "force": True}
        promote(registry, context.lake(), version, None, **options)


def precision(nights: list[tuple[int, int]]) -> tuple[float, Interval]:
    """Give the share of frauds among a week's alerts, and its interval over days."""
    flagged, found = np.array(nights).T
    counts = resample_days(len(nights), 1000, seed=0)
    return found.sum() / flagged.sum(), interval(counts @ found / (counts @ flagged))


def test_decisions_make_the_next_weeks_queue_better(
    frauds_and_project: tuple[set[str], Path], capsys: pytest.CaptureFixture[str]
):
    frauds, config = frauds_and_project
    ingest(config, FIRST_DAY, START - timedelta(days=1))
    weeks, modes = [], []
    for week in range(WEEKS):
        first = START + timedelta(days=7 * week)
        trained = train(config, first)
        modes.append(trained.mode)
        if week:
            make_champion(config, trained.version)
        nights = []
        for number in range(7):
            day = first + timedelta(days=number)
            nightly(config, day)
            nights.append(decide_as_oracle(config, day, frauds))
        weeks.append(precision(nights))
    with capsys.disabled():
        for (share, at), mode in zip(weeks, modes, strict=True):
            text = f"\n{mode}: precision {share:.2f} ({at.low:.2f} to {at.high:.2f} over days)"
            sys.stdout.write(text)
    assert modes[0] == "unsupervised"
    assert modes[-1] == "stacked"
    assert weeks[-1][0] >= 1.5 * weeks[0][0]
