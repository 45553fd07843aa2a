"""Quality figures equal scikit-learn's on the rows of mature days, and groups add up to the whole."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tasks.evaluate import MOST_VALUES, Criteria, evaluate_scores, read_segments
from tasks.evaluation import QUANTILES
from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import UserError
from warehouse.schema import TRANSACTIONS

START = date(2026, 1, 1)
DAYS = 6


def last(day=DAYS - 1, **settings):
    """Criteria by which the days up to the one given are mature."""
    return Criteria(5, START + timedelta(days=day), **({"resamples": 100} | settings))


def make(seed, n=240, days=DAYS, known=0.8):
    """Scores with ties, and labels of which a part is known: all frauds, and most others."""
    random = np.random.default_rng(seed)
    fraud = random.random(n) < 0.15
    day = np.concatenate([np.arange(days), random.integers(0, days, n - days)])
    score = np.round(random.normal(size=n) + fraud, 1)
    scored = pl.DataFrame(
        {
            "event_date": [START + timedelta(days=int(d)) for d in day],
            "transaction_id": [f"t{i:04}" for i in range(n)],
            "account_id": [f"a{i}" for i in random.integers(0, 40, n)],
            "amount": np.round(random.gamma(1.0, 60.0, n), 2) + 0.01,
            "score": score,
            "member.gaussian": random.normal(size=n) + fraud,
            "member.vae": [float(v) if v > -1 else None for v in random.normal(size=n)],
            "model_version": [("1", "2")[int(d > 2)] for d in day],
            "probability": 1 / (1 + np.exp(2 - score)),
            "channel": random.choice(["web", "shop", "phone"], n),
        }
    )
    truth = pl.DataFrame({"transaction_id": scored["transaction_id"], "is_fraud": fraud})
    is_known = pl.Series(fraud | (random.random(n) < known))
    return scored.sample(fraction=1, shuffle=True, seed=seed), truth.filter(is_known)


def judged(scored, truth, day=DAYS - 1):
    """Join what is judged, plainly."""
    return (
        scored.filter(pl.col("event_date") <= START + timedelta(days=day))
        .join(truth, on="transaction_id", how="left")
        .with_columns(pl.col("is_fraud").fill_null(value=False))
        .sort("event_date", "transaction_id")
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, DAYS - 1))
def test_figures_equal_those_of_scikit_learn(seed, day):
    scored, truth = make(seed)
    known = judged(scored, truth, day)
    assume(known.drop_nulls()["is_fraud"].n_unique() == 2)
    found = evaluate_scores(scored, truth, last(day))
    assert [q.name for q in found.qualities] == ["ensemble", "gaussian", "vae"]
    columns = ("score", "member.gaussian", "member.vae")
    for quality, column in zip(found.qualities, columns, strict=True):
        rows = known.drop_nulls(column)
        fraud, score = rows["is_fraud"].to_numpy(), rows[column].to_numpy()
        assert quality.auc == pytest.approx(roc_auc_score(fraud, score))
        assert quality.ap == pytest.approx(average_precision_score(fraud, score))
        assert quality.card_precision == pytest.approx(handbook(rows, column, 5))


def handbook(rows, column, k):
    """Follow the Fraud Detection Handbook, chapter 4, word by word."""
    caught, precisions = set(), []
    for day in sorted(rows["event_date"].unique()):
        of_day = rows.filter(pl.col("event_date") == day, ~pl.col("account_id").is_in(caught))
        accounts = of_day.group_by("account_id").agg(pl.max(column), pl.max("is_fraud"))
        top = accounts.sort([column, "account_id"], descending=[True, False]).head(k)
        frauds = top.filter("is_fraud")["account_id"].to_list()
        caught |= set(frauds)
        precisions.append(len(frauds) / k)
    return sum(precisions) / len(precisions)


def test_intervals_hold_the_figures_and_need_days():
    scored, truth = make(1)
    for quality in evaluate_scores(scored, truth, last()).qualities:
        for name in ("auc", "ap", "card_precision"):
            range_ = getattr(quality, f"{name}_interval")
            assert range_.low < getattr(quality, name) < range_.high
    for quality in evaluate_scores(scored, truth, last(3)).qualities:
        assert (
            quality.ap_interval is quality.auc_interval is quality.card_precision_interval is None
        )


def test_rows_of_young_days_change_nothing_but_their_count():
    scored, truth = make(1)
    old = scored.filter(pl.col("event_date") <= last(3).last_mature)
    young = scored.filter(pl.col("event_date") > last(3).last_mature)
    found, only = evaluate_scores(scored, truth, last(3)), evaluate_scores(old, truth, last(3))
    assert found.qualities == only.qualities
    assert found.by_capacity == only.by_capacity
    assert found.probability == only.probability
    assert found.judged_days == only.days
    assert (found.rows_immature, only.rows_immature) == (young.height, 0)
    assert found.rows_judged == only.rows_judged == old.height
    assert [day.is_mature for day in found.days] == [True] * 4 + [False] * 2
    assert found.days[-1].frauds is found.days[-1].ap is found.days[-1].caught is None


def test_what_nobody_called_fraud_on_a_mature_day_is_genuine():
    scored, truth = make(1)
    frauds = truth.filter("is_fraud")
    few, all_ = evaluate_scores(scored, frauds, last()), evaluate_scores(scored, truth, last())
    assert few.qualities == all_.qualities
    assert few.frauds == all_.frauds == few.rows_labelled == frauds.height
    assert all_.rows_labelled == truth.height


def test_member_that_scored_only_some_days_is_judged_on_them():
    scored, truth = make(1)
    first = pl.col("event_date") == START
    half = scored.with_columns(pl.when(first).then("member.vae").alias("member.vae"))
    found = {q.name: q for q in evaluate_scores(half, truth, last()).qualities}
    only = {q.name: q for q in evaluate_scores(scored.filter(first), truth, last()).qualities}
    assert found["vae"] == only["vae"]


def test_member_without_a_known_fraud_is_left_out():
    scored, truth = make(1)
    frauds = truth.filter("is_fraud")["transaction_id"].to_list()
    seen = ~pl.col("transaction_id").is_in(frauds)
    some = scored.with_columns(pl.when(seen).then("member.vae").alias("member.vae"))
    found = evaluate_scores(some, truth, last()).qualities
    assert [q.name for q in found] == ["ensemble", "gaussian"]


def test_groups_split_the_rows_frauds_and_alerts():
    scored, truth = make(2, n=600)
    criteria = last(segments=("channel",), amount_bands=(20.0, 100.0))
    found = evaluate_scores(scored, truth, criteria)
    known = judged(scored, truth)
    by_column = {
        name: [g for g in found.groups if g.column == name] for name in ("channel", "amount")
    }
    assert {g.value for g in by_column["channel"]} == {"web", "shop", "phone"}
    assert [g.value for g in by_column["amount"]] == ["under 20", "20 to 100", "100 and more"]
    for groups in by_column.values():
        assert sum(g.rows for g in groups) == known.height
        assert sum(g.frauds for g in groups) == known["is_fraud"].sum()
        assert sum(g.alerts for g in groups) == DAYS * 5
    for group in by_column["channel"]:
        rows = known.filter(pl.col("channel") == group.value)
        fraud = rows["is_fraud"].to_numpy()
        assert group.rows == rows.height
        assert group.ap.value == pytest.approx(average_precision_score(fraud, rows["score"]))
        assert group.ap.interval.low < group.ap.value < group.ap.interval.high


def test_group_figures_equal_a_plain_count():
    scored, truth = make(3, n=600)
    found = evaluate_scores(scored, truth, last(segments=("channel",)))
    known = judged(scored, truth).with_columns(
        pl.col("score").rank("ordinal", descending=True).over("event_date").alias("rank")
    )
    for group in found.groups:
        rows = known.filter(pl.col("channel") == group.value)
        alerts, frauds = rows.filter(pl.col("rank") <= 5), rows.filter("is_fraud")
        caught = alerts.filter("is_fraud")
        assert group.alerts == alerts.height
        assert group.precision.value == pytest.approx(caught.height / alerts.height)
        assert group.recall.value == pytest.approx(caught.height / frauds.height)
        share = caught["amount"].sum() / frauds["amount"].sum()
        assert group.amount_share.value == pytest.approx(share)


def test_group_of_frauds_alone_has_recall_but_nothing_to_rank():
    scored, truth = make(4)
    kinds = judged(scored, truth).select(
        "transaction_id",
        kind=pl.when("is_fraud").then(pl.lit(3.0)).when(pl.col("amount") > 30).then(0.0),
    )
    found = evaluate_scores(
        scored.join(kinds, on="transaction_id"), truth, last(segments=("kind",))
    )
    groups = {group.value: group for group in found.groups}
    assert set(groups) == {"3", "0", "none"}
    assert groups["3"].ap is groups["3"].precision is None
    assert 0 < groups["3"].recall.value < 1
    assert groups["0"].recall is groups["0"].amount_share is groups["0"].ap is None
    assert groups["0"].precision.value == 0


def test_rare_values_are_judged_together():
    scored, truth = make(5, n=600)
    place = np.minimum(np.arange(600) // 20, 25)  # 26 values, the last one the most frequent
    many = scored.with_columns(shop=pl.Series([f"s{p}" for p in place]))
    groups = evaluate_scores(many, truth, last(segments=("shop",))).groups
    assert len(groups) == MOST_VALUES + 1
    assert (groups[0].value, groups[-1].value) == ("s25", "all others")
    assert sum(group.rows for group in groups) == 600


def test_probability_is_judged_where_there_is_one():
    scored, truth = make(6, n=900)
    some = scored.with_columns(
        pl.when(pl.col("event_date") > START).then("probability").alias("probability")
    )
    found = evaluate_scores(some, truth, last()).probability
    known = judged(some, truth).drop_nulls("probability")
    fraud, said = known["is_fraud"].to_numpy(), known["probability"].to_numpy()
    assert (found.rows, found.frauds) == (known.height, fraud.sum())
    assert found.brier.value == pytest.approx(brier_score_loss(fraud, said))
    assert found.brier.interval.low < found.brier.value < found.brier.interval.high
    assert found.brier_of_share == pytest.approx(
        brier_score_loss(fraud, np.full(fraud.size, fraud.mean()))
    )
    assert sum(one.rows for one in found.bins) == known.height
    assert sum(one.frauds for one in found.bins) == fraud.sum()
    for one in found.bins:
        assert one.fraud_share.value == pytest.approx(one.frauds / one.rows)


@pytest.mark.parametrize("without", ["nulls", "column"])
def test_scores_without_probability_are_judged_without(without):
    scored, truth = make(1)
    scored = (
        scored.drop("probability")
        if without == "column"
        else scored.with_columns(probability=pl.lit(None, pl.Float64))
    )
    assert evaluate_scores(scored, truth, last()).probability is None


def test_days_are_described_and_judged_one_by_one():
    scored, truth = make(7)
    found = evaluate_scores(scored, truth, last(4)).days
    assert [day.day for day in found] == [START + timedelta(days=n) for n in range(DAYS)]
    assert [day.model_version for day in found] == ["1"] * 3 + ["2"] * 3
    for day in found:
        rows = judged(scored, truth).filter(pl.col("event_date") == day.day)
        scores = rows["score"].sort(descending=True)
        assert day.rows == rows.height
        assert day.cut == scores[4]
        assert day.quantiles == tuple(scores.quantile(q) for q in QUANTILES)
        if day.is_mature:
            fraud = rows["is_fraud"].to_numpy()
            top = rows.sort("score", descending=True, maintain_order=True).head(5)
            assert (day.frauds, day.caught) == (fraud.sum(), top["is_fraud"].sum())
            assert day.ap == pytest.approx(average_precision_score(fraud, rows["score"]))


def test_curves_by_capacity_pass_through_the_capacity():
    scored, truth = make(8)
    found = evaluate_scores(scored, truth, last())
    capacities = [point.capacity for point in found.by_capacity]
    assert capacities == sorted(set(capacities))
    assert capacities[0] == 1
    assert capacities[-1] == 25
    now = next(point for point in found.by_capacity if point.capacity == 5)
    assert now.card_precision.value == found.qualities[0].card_precision
    caught = sum(day.caught for day in found.days)
    assert now.recall.value == pytest.approx(caught / found.frauds)
    recalls = [point.recall.value for point in found.by_capacity]
    assert recalls == sorted(recalls)
    recall, precision = found.curves["ensemble"]
    assert (np.diff(recall) > 0).all()
    assert recall[-1] == 1
    assert precision[-1] >= found.frauds / found.rows_judged


def test_capacity_beyond_a_days_rows_is_judged_on_what_there_is():
    scored, truth = make(9)
    found = evaluate_scores(scored, truth, Criteria(10_000, last().last_mature, resamples=100))
    assert found.by_capacity[-1].capacity == 240 // DAYS
    assert all(day.caught == day.frauds for day in found.days)


@pytest.mark.parametrize("kind", ["none", "genuine", "fraud"])
def test_too_little_known_is_said(kind):
    scored, truth = make(2)
    few = {
        "none": truth.clear(),
        "genuine": truth.filter(~pl.col("is_fraud")),
        "fraud": scored.select("transaction_id", is_fraud=pl.lit(value=True)),
    }[kind]
    with pytest.raises(UserError, match=f"of 240 scored rows {few.height} have a label"):
        evaluate_scores(scored, few, last())


def test_range_of_young_days_alone_says_which_days_would_do():
    scored, truth = make(2)
    with pytest.raises(UserError, match=r"240 are of days after 2025-12-31.*name older days"):
        evaluate_scores(scored, truth, last(-1))


def test_segments_are_read_from_the_transactions(tmp_path):
    scored, _ = make(1, n=20)
    with Lake.open(WarehouseSettings(path=tmp_path)) as lake:
        texts = {"category": "CASE WHEN transaction_id < 't0010' THEN 'food' END"}
        values = ", ".join(
            texts.get(c.name, f"CAST({stored(c)} AS {c.type})") for c in TRANSACTIONS.columns
        )
        lake.connection.register("scored", scored.to_arrow())
        lake.connection.execute(f"INSERT INTO lake.transactions SELECT {values} FROM scored")
        span = (START, START + timedelta(days=DAYS))
        found = read_segments(lake, scored, ["category", "score"], *span)
        assert found.drop("category").equals(scored)
        is_early = pl.col("transaction_id") < "t0010"
        assert found.filter(is_early)["category"].unique().to_list() == ["food"]
        assert found.filter(~is_early)["category"].null_count() == 10
        assert read_segments(lake, scored, [], *span) is scored
        with pytest.raises(
            UserError, match=r"segments names scenario, but.*category.*merchant_id"
        ):
            read_segments(lake, scored, ["category", "scenario"], *span)


def stored(column):
    """Write a value for a column of the transactions."""
    if column.name in ("event_date", "transaction_id", "account_id", "amount"):
        return column.name
    plain = {"VARCHAR": "'x'", "DOUBLE": "0", "TIMESTAMPTZ": "'2026-01-01 00:00:00+00'"}
    return plain[column.type]
