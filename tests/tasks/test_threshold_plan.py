"""Operating points against a plain count, their intervals, and the picture."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.flagging import flag
from tasks.review_settings import QueueSettings
from tasks.threshold_picture import draw_plan
from tasks.threshold_plan import plan_thresholds
from warehouse.errors import UserError

START = date(2026, 1, 1)
DAYS, ROWS_A_DAY = 12, 60
LAST = START + timedelta(days=DAYS - 1)
QUEUE = QueueSettings(capacity=6)


def make(seed=0, days=DAYS, rows_a_day=ROWS_A_DAY, share=0.08):
    """Scored days with their truth; frauds score higher and are dearer, and some days have more."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows_a_day)
    fraud = random.random(day.size) < (share * random.gamma(2, 0.5, days))[day]
    score = random.exponential(1, day.size) + fraud * random.exponential(2, day.size)
    scored = pl.DataFrame(
        {
            "event_date": pl.Series([START + timedelta(days=int(d)) for d in day]),
            "transaction_id": [f"t{place}" for place in range(day.size)],
            "account_id": [f"a{place % 17}" for place in range(day.size)],
            "score": score.astype(np.float32).astype(np.float64),
            "amount": np.round(random.exponential(40, day.size) + 60 * fraud, 2),
            "probability": 1 / (1 + np.exp(3 - score)),
        }
    ).with_columns(
        pl.col("score").rank("ordinal", descending=True).over("event_date").alias("rank_of_day")
    )
    truth = scored.select("transaction_id", is_fraud=pl.Series(fraud))
    return scored.sort("event_date", "rank_of_day"), truth


def plan_of(scored, truth, queue=QUEUE, *, last_mature=LAST, resamples=100):
    return plan_thresholds(scored, truth, queue, last_mature=last_mature, resamples=resamples)


@pytest.fixture(scope="module")
def rows():
    return make()


@pytest.fixture(scope="module")
def plan(rows):
    return plan_of(*rows, QueueSettings(capacity=6, review_cost=5.0))


def count(scored, truth, is_alert):
    """Count a point's figures row by row."""
    known = scored.with_columns(is_alert).join(truth, on="transaction_id", how="left")
    known = known.with_columns(pl.col("is_fraud").fill_null(value=False))
    alerts = known.filter("is_alert")
    hits, frauds = alerts.filter("is_fraud"), known.filter("is_fraud")
    days = known["event_date"].n_unique()
    of_day = known.group_by("event_date").agg(pl.sum("is_alert"))["is_alert"]
    return {
        "alerts": alerts.height / days,
        "fewest_alerts": of_day.min(),
        "most_alerts": of_day.max(),
        "precision": hits.height / alerts.height,
        "recall": hits.height / frauds.height,
        "amount_share": hits["amount"].sum() / frauds["amount"].sum(),
        "amount": hits["amount"].sum() / days,
        "false_positives": (alerts.height - hits.height) / days,
        "net_value": (hits["amount"].sum() - 5 * alerts.height) / days,
    }


def figures(point):
    found = {name: getattr(point, name) for name in count_names(point)}
    return {name: getattr(figure, "value", figure) for name, figure in found.items()}


def count_names(point):
    left_out = {"name", "least_score"} | ({"net_value"} if point.net_value is None else set())
    return [name for name in vars(point) if name not in left_out]


def test_every_point_equals_a_plain_count(rows, plan):
    assert [point.name for point in plan.points] == [f"{n} a day" for n in (5, 10, 20, 50)]
    for wanted, point in zip((5, 10, 20, 50), plan.points, strict=True):
        expected = count(*rows, (pl.col("score") >= point.least_score).alias("is_alert"))
        assert figures(point) == pytest.approx(expected)
        assert point.alerts == wanted
    assert plan.transactions == DAYS * ROWS_A_DAY
    assert plan.frauds == rows[1]["is_fraud"].sum()


@pytest.mark.parametrize(
    "queue",
    [
        QueueSettings(capacity=6),
        QueueSettings(capacity=6, threshold="false_positives", false_positives=1.5),
        QueueSettings(capacity=40, threshold="score", least_score=2.5),
        QueueSettings(capacity=4, threshold="cost", review_cost=5.0),
    ],
    ids=lambda queue: queue.threshold,
)
def test_current_point_is_what_the_settings_flag(rows, queue):
    scored, truth = rows
    current = plan_of(scored, truth, queue).current
    flags = pl.concat(
        flag(day, current.least_score or 0.0, queue)
        for day in scored.partition_by("event_date", maintain_order=True)
    )
    expected = count(scored, truth, flags["is_flagged"].alias("is_alert"))
    assert figures(current) == pytest.approx({n: expected[n] for n in count_names(current)})
    assert current.most_alerts <= queue.capacity
    assert current.name == f"now: {queue.threshold}"
    assert (current.least_score is None) == (queue.threshold == "cost")
    if queue.threshold == "capacity":
        assert current.fewest_alerts == current.most_alerts == 6
    if queue.threshold == "false_positives":
        assert 1 < current.false_positives.value <= 1.5


def test_cost_without_probabilities_is_judged_by_capacity(rows):
    scored, truth = rows
    queue = QueueSettings(capacity=6, threshold="cost", review_cost=5.0)
    unknown = scored.with_columns(probability=pl.lit(None, pl.Float64))
    current = plan_of(unknown, truth, queue).current
    assert figures(current) == pytest.approx(figures(plan_of(scored, truth).current) | {
        "net_value": current.net_value.value
    })  # fmt: skip
    assert current.least_score is not None


def test_more_alerts_catch_more_and_are_less_precise(plan):
    recalls = [point.recall.value for point in plan.curve]
    assert recalls == sorted(recalls)
    assert plan.curve[0].precision.value > 2 * plan.curve[-1].precision.value
    assert plan.curve[0].alerts == 5
    assert plan.curve[-1].alerts == 50


def test_intervals_hold_the_figure_and_repeat(rows, plan):
    for point in (*plan.points, plan.current):
        for name in ("precision", "recall", "amount_share", "amount", "false_positives"):
            estimate = getattr(point, name)
            assert estimate.interval.low <= estimate.value <= estimate.interval.high, name
        assert point.precision.interval.low < point.precision.interval.high
    queue = QueueSettings(capacity=6, review_cost=5.0)
    scored, truth = rows
    assert plan_of(scored, truth, queue) == plan
    mixed = scored.sample(fraction=1, shuffle=True, seed=4)
    assert plan_of(mixed, truth.reverse(), queue) == plan


def test_intervals_cover_what_a_long_time_would_show_from_that_score_on():
    """Of 40 months, about 37 should cover each; drawing single rows would cover fewer."""
    scored, truth = make(seed=99, days=600)
    covered = np.zeros(2)
    for seed in range(40):
        month = make(seed, days=30)
        point = plan_of(*month, last_mature=date(2030, 1, 1), resamples=200).points[1]
        is_alert = (pl.col("score") >= point.least_score).alias("is_alert")
        long_run = count(scored, truth, is_alert)
        covered += [
            estimate.interval.low <= long_run[name] <= estimate.interval.high
            for name, estimate in (("recall", point.recall), ("precision", point.precision))
        ]
    assert (covered >= 33).all(), covered


def test_days_that_are_not_mature_are_left_out(rows):
    scored, truth = rows
    cut = LAST - timedelta(days=4)
    few = plan_of(scored, truth, last_mature=cut)
    assert (few.days, few.immature_days, few.first, few.last) == (DAYS - 4, 4, START, cut)
    only = plan_of(scored.filter(pl.col("event_date") <= cut), truth, last_mature=cut)
    assert replace(only, immature_days=4) == few
    flipped = truth.join(
        scored.select("transaction_id", "event_date"), on="transaction_id"
    ).select(
        "transaction_id",
        is_fraud=pl.when(pl.col("event_date") > cut)
        .then(~pl.col("is_fraud"))
        .otherwise("is_fraud"),
    )
    assert plan_of(scored, flipped, last_mature=cut) == few


def test_what_is_not_labelled_on_a_mature_day_is_genuine(rows):
    scored, truth = rows
    assert plan_of(scored, truth.filter("is_fraud")) == plan_of(scored, truth)


@pytest.mark.parametrize(
    ("last_mature", "kept", "told"),
    [
        (START + timedelta(days=3), 99, r"there are 4 with \d+ \(8 scored days are newer\)"),
        (LAST, 9, r"at least 10 known frauds; there are 12 with 9 \(0 scored days"),
        (START - timedelta(days=1), 99, r"there are 0 with 0 \(12 scored"),
    ],
    ids=["few_days", "few_frauds", "no_days"],
)
def test_too_few_labels_are_said(rows, last_mature, kept, told):
    scored, truth = rows
    with pytest.raises(UserError, match=told):
        plan_of(scored, truth.filter("is_fraud").head(kept), last_mature=last_mature)


def test_quiet_bank_gets_one_point_with_all_it_has():
    scored, truth = make(days=20, rows_a_day=3, share=0.4)
    plan = plan_of(scored, truth, last_mature=date(2030, 1, 1))
    assert [point.name for point in plan.points] == ["5 a day"]
    assert plan.points[0].alerts == 3
    assert plan.points[0].recall.value == 1


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_picture_is_the_same_again(plan, tmp_path, suffix):
    first, second = (tmp_path / name / f"plan{suffix}" for name in ("a", "b"))
    draw_plan(plan, first)
    draw_plan(plan, second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5000


def test_picture_says_what_it_shows(plan, tmp_path):
    draw_plan(plan, tmp_path / "plan.svg")
    text = (tmp_path / "plan.svg").read_text()
    for words in ("alerts a day", "precision", "recall", "amount caught", "now: capacity"):
        assert words in text
    assert f"{START} to {LAST}" in text


def test_picture_without_alerts_now_has_no_mark(rows, tmp_path):
    queue = QueueSettings(capacity=6, threshold="score", least_score=1e6)
    plan = plan_of(*rows, queue)
    assert plan.current.alerts == 0
    assert plan.current.precision is None
    assert plan.current.recall.value == 0
    draw_plan(plan, tmp_path / "plan.svg")
    assert "now:" not in (tmp_path / "plan.svg").read_text()


def test_picture_of_another_kind_or_place_is_refused(plan, tmp_path):
    with pytest.raises(UserError, match=r"an \.svg or a \.png file, but .*plan\.gif"):
        draw_plan(plan, tmp_path / "plan.gif")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written to .*plan\.svg"):
        draw_plan(plan, tmp_path / "file" / "plan.svg")
