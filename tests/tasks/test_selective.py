"""Judging by the queue: the naive figure is biased, ours is not, and its interval holds the truth."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from tasks.audit_sample import choose_audit_sample
from tasks.selective import (
    Estimate,
    binomial_bounds,
    describe,
    estimate_from_queue,
    finite_bounds,
    read_reviewed,
)
from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import UserError
from warehouse.ledger import PartitionRun
from warehouse.queue import NewAlert, Queue
from warehouse.scores import replace_scores

START = date(2026, 3, 2)
ALERTS = {
    "event_date": pl.Date,
    "is_flagged": pl.Boolean,
    "inclusion_probability": pl.Float64,
    "verdict": pl.String,
}


@dataclass(frozen=True)
class World:
    """A population of ``days`` times ``rows``; the nights' numbers of rows may differ."""

    fraud_rate: float
    audit: int
    days: int = 20
    rows: int = 600
    capacity: int = 20
    signal: float = 2.5
    decided: float = 1.0
    least_rows: int = 600


REPLICATIONS = 250


@dataclass(frozen=True)
class Truth:
    """What the population holds."""

    prevalence: float
    precision: float
    rate_below: float
    missed: float
    recall: float


def simulate(world, random):
    """Draw a population, flag and audit it, let analysts decide; give what they see, and the truth."""
    shape = (world.days, world.rows)
    sizes = random.integers(world.least_rows, world.rows, world.days, endpoint=True)
    exists = np.arange(world.rows) < sizes[:, None]
    fraud = (random.random(shape) < world.fraud_rate) & exists
    score = np.where(exists, random.normal(size=shape) + world.signal * fraud, -np.inf)
    flagged = np.zeros(shape, dtype=bool)
    top = np.argpartition(-score, world.capacity, axis=1)[:, : world.capacity]
    np.put_along_axis(flagged, top, True, axis=1)
    chance = np.where(exists & ~flagged, random.random(shape), np.inf)
    drawn = np.argpartition(chance, world.audit, axis=1)[:, : world.audit]
    sampled = np.zeros(shape, dtype=bool)
    np.put_along_axis(sampled, drawn, True, axis=1)

    day, place = np.nonzero(flagged | sampled)
    is_flagged, is_fraud = flagged[day, place], fraud[day, place]
    verdict = np.where(is_fraud, "fraud", "genuine").astype(object)
    verdict[random.random(day.size) >= world.decided] = None
    below = sizes - world.capacity
    alerts = pl.DataFrame(
        {
            "event_date": day,
            "is_flagged": is_flagged,
            "inclusion_probability": np.where(is_flagged, 1.0, world.audit / below[day]),
            "verdict": pl.Series(verdict.tolist(), dtype=pl.String),
        }
    )
    totals = pl.DataFrame(
        {"event_date": np.arange(world.days), "scored": sizes, "flagged": world.capacity}
    )
    missed, caught = int((fraud & ~flagged).sum()), int((fraud & flagged).sum())
    truth = Truth(
        (missed + caught) / int(sizes.sum()),
        caught / (world.days * world.capacity),
        missed / int(below.sum()),
        missed,
        caught / (missed + caught) if missed + caught else np.nan,
    )
    return alerts, totals, truth


WORLDS = [
    pytest.param(World(0.02, audit=4), id="common-twenty-percent-of-capacity"),
    pytest.param(World(0.005, audit=1, capacity=50), id="rare-two-percent-of-capacity"),
    pytest.param(World(0.0005, audit=2), id="very-rare"),
    pytest.param(World(0.05, audit=3, signal=1.0), id="detector-misses-most"),
    pytest.param(World(0.02, audit=2, decided=0.6), id="many-undecided"),
    pytest.param(World(0.02, audit=2, least_rows=200), id="nights-of-unequal-size"),
]


@pytest.mark.parametrize("world", WORLDS)
def test_estimates_are_unbiased_and_intervals_hold_the_truth_while_the_naive_figure_misleads(
    world,
):
    random = np.random.default_rng(11)
    names = ("prevalence", "precision", "rate_below", "missed", "recall")
    errors, covered, naive_errors = {name: [] for name in names}, {name: [] for name in names}, []
    for _ in range(REPLICATIONS):
        alerts, totals, truth = simulate(world, random)
        estimate = estimate_from_queue(alerts, totals)
        naive_errors.append(estimate.naive_prevalence - truth.prevalence)
        for name in names:
            found, true = getattr(estimate, name), getattr(truth, name)
            errors[name].append((found.value if found.value is not None else true) - true)
            covered[name].append(np.isnan(true) or found.low - 1e-9 <= true <= found.high + 1e-9)
    for name in names:
        assert np.mean(covered[name]) >= 0.93, name
    for name in ("prevalence", "rate_below", "missed"):
        noise = np.std(errors[name]) / np.sqrt(REPLICATIONS)
        assert abs(np.mean(errors[name])) <= 3.5 * noise + 1e-12, name
    naive_noise = np.std(naive_errors) / np.sqrt(REPLICATIONS)
    assert np.mean(naive_errors) > max(10 * naive_noise, world.fraud_rate)


@pytest.mark.parametrize("rows", [1, 7, 58, 300])
def test_binomial_interval_covers_every_rate_at_least_nineteen_times_in_twenty(rows):
    ends = np.array([binomial_bounds(x / rows, rows, 0.05) for x in range(rows + 1)])
    for rate in (0.0, 1e-4, 0.003, 0.02, 0.1, 0.5, 0.97, 1.0):
        holds = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
        assert binom.pmf(np.arange(rows + 1)[holds], rows, rate).sum() >= 0.95


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_finite_interval_covers_every_number_of_frauds_at_least_nineteen_times_in_twenty(data):
    rows = data.draw(st.integers(0, 60))
    decided, frauds = data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))
    seen = np.arange(max(0, decided + frauds - rows), min(decided, frauds) + 1)
    ends = np.array([finite_bounds(int(x), decided, rows, 0.05) for x in seen])
    holds = (ends[:, 0] <= frauds) & (frauds <= ends[:, 1])
    chance = hypergeom.pmf(seen, rows, frauds, decided) if rows else np.ones(1)
    assert chance[holds].sum() >= 0.95


def frames(flagged, audit, *, rows=1000, flagged_rows=None, probability=0.01):
    """One day's alerts with the given verdicts, and its totals."""
    lanes = [True] * len(flagged) + [False] * len(audit)
    chances = [1.0] * len(flagged) + [probability] * len(audit)
    data = [[START] * len(lanes), lanes, chances, [*flagged, *audit]]
    alerts = pl.DataFrame(dict(zip(ALERTS, data, strict=True)), schema=ALERTS)
    counted = len(flagged) if flagged_rows is None else flagged_rows
    totals = pl.DataFrame({"event_date": [START], "scored": [rows], "flagged": [counted]})
    return alerts, totals


def test_figures_of_a_small_queue_are_those_of_a_hand_calculation():
    flagged = ["fraud"] * 30 + ["genuine"] * 70
    found = estimate_from_queue(*frames(flagged, ["fraud"] + ["genuine"] * 8, rows=1000))
    assert found.precision == Estimate(0.3, 0.3, 0.3)
    assert found.rate_below.value == pytest.approx(1 / 9)
    assert found.missed.value == pytest.approx(100)
    assert (found.missed.low, found.missed.high) == pytest.approx((2.53, 434.25), abs=0.01)
    assert found.recall.value == pytest.approx(30 / 130)
    assert (found.recall.low, found.recall.high) == pytest.approx(
        (30 / 464.25, 30 / 32.53), rel=1e-4
    )
    assert found.prevalence.value == pytest.approx(0.13)
    assert found.naive_prevalence == pytest.approx(31 / 109)
    assert found.effective_rows == pytest.approx(9)


def test_audit_without_a_fraud_still_leaves_room_for_missed_ones():
    found = estimate_from_queue(*frames(["fraud"] * 10, ["genuine"] * 50, rows=1010))
    assert (found.missed.value, found.missed.low) == (0, 0)
    assert found.missed.high == pytest.approx(1000 * (1 - 0.025 ** (1 / 50)))
    assert found.recall.value == found.recall.high == 1
    assert found.recall.low == pytest.approx(10 / (10 + found.missed.high))
    assert any("holds no fraud" in line for line in describe(found))


def test_missed_frauds_are_no_fewer_than_the_audit_found():
    found = estimate_from_queue(*frames([], ["fraud"] * 3 + ["genuine"] * 5, rows=10))
    assert (found.missed.low, found.missed.high) == (3.0, 5.0)
    everything = estimate_from_queue(*frames([], ["fraud"] * 3 + ["genuine"] * 5, rows=8))
    assert everything.missed == Estimate(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    "audit", [[], [None, None], ["unsure"]], ids=["none", "waiting", "unsure"]
)
def test_without_a_decided_audit_row_nothing_is_known_below_the_threshold(audit):
    found = estimate_from_queue(*frames(["fraud", "genuine"], audit, rows=102))
    assert found.rate_below == Estimate(None, 0, 1)
    assert found.recall.value is None
    assert (found.recall.low, found.recall.high) == pytest.approx((1 / 101, 1))
    assert found.prevalence.value is None
    assert found.audited_days == 0
    assert any("nothing is known below" in line for line in describe(found))


def test_undecided_and_unsure_rows_are_counted_apart_and_widen_the_intervals():
    decided = ["fraud"] * 10 + ["genuine"] * 10
    whole = estimate_from_queue(*frames(decided, ["genuine"] * 20))
    some = estimate_from_queue(
        *frames([*decided, "unsure", None, None], ["genuine"] * 20 + ["unsure"], flagged_rows=25)
    )
    assert (some.flagged.unsure, some.flagged.waiting, some.flagged.queued) == (1, 2, 23)
    assert (some.below.unsure, some.below.decided) == (1, 20)
    assert some.precision.value == whole.precision.value == 0.5
    assert some.precision.low < 0.5 < some.precision.high
    assert some.recall.low < whole.recall.low
    assert any("5 flagged rows are not decided" in line for line in describe(some))


def test_empty_queue_says_that_nothing_is_known():
    found = estimate_from_queue(*frames([], [], flagged_rows=5))
    assert found.precision == found.recall == found.prevalence == Estimate(None, 0, 1)
    assert found.naive_prevalence is None
    assert "Recall: unknown (0 % to 100 %)" in describe(found)


def test_day_with_everything_flagged_misses_nothing():
    found = estimate_from_queue(*frames(["fraud", "genuine"], [], rows=2))
    assert found.missed == Estimate(0, 0, 0)
    assert found.recall == Estimate(1, 1, 1)
    assert found.prevalence == Estimate(0.5, 0.5, 0.5)


def test_description_shows_each_figure_with_its_interval():
    found = estimate_from_queue(*frames(["fraud"] * 30 + ["genuine"] * 70, ["genuine"] * 9))
    assert describe(found)[:8] == [
        "1 scored days, 1,000 rows; 95 % intervals in brackets",
        "Flagged: 100 rows, 100 queued, 30 fraud, 70 genuine, 0 unsure, 0 waiting",
        "Below the threshold: 900 rows, 9 queued, 0 fraud, 9 genuine, 0 unsure, 0 waiting",
        "Precision of the flagged: 30 % (30 % to 30 %)",
        "Recall: 100 % (9.02 % to 100 %)",
        "Frauds missed: 0 (0 to 303)",
        "Fraud rate below the threshold: 0 % (0 % to 33.6 %)",
        "Fraud rate of all rows: 3 % (3 % to 33.3 %)",
    ]


def test_alerts_that_the_totals_do_not_know_of_are_refused():
    alerts, totals = frames(["fraud"] * 3, [])
    with pytest.raises(ValueError, match="none of 1 days, such as 2026-03-02"):
        estimate_from_queue(alerts, totals.clear())
    with pytest.raises(ValueError, match=r"at most 2 flagged alerts.*got 3"):
        estimate_from_queue(alerts, totals.with_columns(flagged=pl.lit(2)))


@pytest.fixture
def lake(tmp_path):
    opened = Lake.open(WarehouseSettings(path=tmp_path / "warehouse", threads=1))
    yield opened
    opened.close()


@pytest.fixture
def queue(tmp_path):
    with Queue.open(tmp_path / "queue.sqlite", create=True) as opened:
        yield opened


def score(lake, day, order, capacity, version="1"):
    """Store a day's scores: the transactions ranked as given, the first ones flagged."""
    ranks = pl.int_range(1, len(order) + 1, eager=True, dtype=pl.Int32)
    now = datetime.combine(day, time(3), UTC)
    scores = pl.DataFrame(
        {
            "event_date": [day] * len(order),
            "transaction_id": [f"{day}-{number}" for number in order],
            "score": (len(order) - ranks).cast(pl.Float64),
            "member.vae": [1.0] * len(order),
            "rank_of_day": ranks,
            "is_flagged": ranks <= capacity,
            "model_version": [version] * len(order),
            "scored_at": [now] * len(order),
            "probability": pl.Series([None] * len(order), dtype=pl.Float64),
        }
    )
    replace_scores(lake, scores, PartitionRun(day, "score", "done", now, "digest"))
    return scores


def enqueue(queue, day, lane, rows):
    return queue.enqueue(
        day,
        lane,
        [
            NewAlert(
                transaction_id=row["transaction_id"],
                occurred_at=row["scored_at"],
                account_id=row["transaction_id"],
                merchant_id="m",
                amount=1.0,
                score=row["score"],
                rank_of_day=row["rank_of_day"],
                members={"vae": 1.0},
                reasons=[],
                model_version=row["model_version"],
                inclusion_probability=row["inclusion_probability"],
            )
            for row in rows.to_dicts()
        ],
    )


def queue_night(queue, day, scores, *, capacity, share=0.5):
    flagged = scores.filter("is_flagged").with_columns(inclusion_probability=pl.lit(1.0))
    drawn = choose_audit_sample(scores, capacity=capacity, audit_share=share, seed=3)
    return enqueue(queue, day, "nightly", flagged), enqueue(queue, day, "audit", drawn)


def test_nights_on_disk_are_read_with_verdicts_and_totals(lake, queue):
    days = [START + timedelta(n) for n in range(3)]
    for day in days:
        scores = score(lake, day, range(50), capacity=4)
        first = queue_night(queue, day, scores, capacity=4)
        again = queue_night(queue, day, scores, capacity=4)
        assert [r.added for r in first] == [4, 2]
        assert [r.added for r in again] == [0, 0]
    for alert in queue.alerts_between(days[0], days[1]):
        queue.decide(alert.id, "fraud" if alert.rank_of_day <= 3 else "genuine", "ana")
    alerts, totals = read_reviewed(queue, lake, days[0], days[2])
    assert totals.rows() == [(day, 50, 4) for day in days]
    assert alerts.group_by("is_flagged", "inclusion_probability").len().sort("len").rows() == [
        (False, 2 / 46, 6),
        (True, 1.0, 12),
    ]
    found = estimate_from_queue(alerts, totals)
    assert (found.flagged.frauds, found.flagged.genuine, found.flagged.waiting) == (6, 2, 4)
    assert (found.below.genuine, found.below.waiting, found.audited_days) == (4, 2, 2)
    only = estimate_from_queue(*read_reviewed(queue, lake, days[0], days[0]))
    assert (only.days, only.flagged.rows, only.flagged.queued) == (1, 4, 4)
    with pytest.raises(UserError, match="none from 2026-04-01 to 2026-04-02 is"):
        read_reviewed(queue, lake, date(2026, 4, 1), date(2026, 4, 2))


def test_day_scored_anew_counts_rows_flagged_by_either_model_once(lake, queue):
    queue_night(queue, START, score(lake, START, range(50), capacity=4), capacity=4)
    drawn = [a.transaction_id for a in queue.alerts_of_day(START) if a.lane == "audit"]
    audited = int(drawn[0].rsplit("-", 1)[1])
    order = [0, audited, 48, 49, *sorted(set(range(50)) - {0, audited, 48, 49})]
    again = queue_night(
        queue, START, score(lake, START, order, capacity=4, version="2"), capacity=4
    )
    assert again[1].added == 0
    alerts, totals = read_reviewed(queue, lake, START, START)
    flagged = {0, 1, 2, 3, 48, 49, audited}
    assert totals.rows() == [(START, 50, len(flagged))]
    assert alerts["is_flagged"].sum() == len(flagged)
    assert alerts.filter(~pl.col("is_flagged")).height == 1


def test_estimate_does_not_depend_on_the_order_of_the_alerts():
    alerts, totals, _ = simulate(World(0.02, audit=4, decided=0.8), np.random.default_rng(1))
    mixed = estimate_from_queue(alerts.sample(fraction=1, shuffle=True, seed=2), totals)
    plain = estimate_from_queue(alerts, totals)
    assert mixed.missed.value == pytest.approx(plain.missed.value)
    assert (mixed.flagged, mixed.below) == (plain.flagged, plain.below)
