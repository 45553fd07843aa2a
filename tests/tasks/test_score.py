"""Scores of a row do not depend on its company; ranks and flags; alerts."""

import logging
from dataclasses import replace
from datetime import UTC, timedelta

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import BLOCK_ROWS
from models.probability import Probability
from tasks.review_settings import QueueSettings
from tasks.score import (
    make_alerts,
    require_model_of_the_past,
    score_features,
    warn_of_other_threshold,
)
from tasks.tracking import RegisteredModel, score_frame
from tests.tasks.test_fit import AS_OF, CAPACITY, small_bundle, small_frame
from warehouse.errors import ModelMissingError

DAY = AS_OF - timedelta(days=1)


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture(scope="module")
def features():
    return small_frame().drop("is_fraud")


def alerts_of(day_scores, bundle):
    return make_alerts(day_scores, bundle, day_scores.scores.filter("is_flagged"))


def scored(features, bundle, capacity=CAPACITY, **policy):
    queue = QueueSettings(capacity=capacity, **policy)
    return score_features(features, bundle, day=DAY, version="3", queue=queue)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_score_depends_neither_on_other_rows_nor_on_their_order(data):
    bundle, features = small_bundle(), small_frame().drop("is_fraud")
    names = ["score", "member.autoencoder", "member.gaussian"]
    alone = scored(features, bundle).scores.select("transaction_id", *names)
    places = data.draw(
        st.lists(st.integers(0, features.height - 1), min_size=1, max_size=80, unique=True)
    )
    some = features[places]
    among = scored(some, bundle).scores.select("transaction_id", *names)
    expected = some.select("transaction_id").join(alone, on="transaction_id")
    assert among.sort("transaction_id").equals(expected.sort("transaction_id"))
    assert score_frame(bundle, some)["score"].to_list() == (
        some.select("transaction_id")
        .join(alone, on="transaction_id", maintain_order="left")["score"]
        .to_list()
    )


def test_score_is_the_same_in_every_block_of_a_large_batch(bundle, features):
    once = score_frame(bundle, features)
    copies = -(-2 * BLOCK_ROWS // features.height) + 1
    many = score_frame(bundle, pl.concat([features] * copies))
    assert many.height > 2 * BLOCK_ROWS
    assert many.equals(pl.concat([once] * copies))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_flags_are_the_highest_within_capacity_and_above_the_threshold(data):
    bundle = small_bundle("amount_to_account_median_30d", "is_night")  # the amount itself is none
    base = small_frame().drop("is_fraud")
    chosen = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=60))
    amounts = data.draw(st.lists(st.sampled_from([1.0, 5.0, 9.0]), min_size=60, max_size=60))
    rows = base[
        chosen
    ].with_columns(  # equal features, so equal scores
        amount=pl.Series(amounts[: len(chosen)]),
        transaction_id=pl.Series([f"t{(7 * n) % 61}" for n in range(len(chosen))]),
    )
    capacity = data.draw(st.integers(1, 70))
    scores = scored(rows, bundle, capacity).scores
    assert scores["rank_of_day"].to_list() == list(range(1, rows.height + 1))
    amount = dict(rows.select("transaction_id", "amount").iter_rows())
    keys = [
        (-row["score"], -amount[row["transaction_id"]], row["transaction_id"])
        for row in scores.iter_rows(named=True)
    ]
    assert keys == sorted(keys)
    flagged = scores.filter("is_flagged")
    reaching = scores.filter(pl.col("score") >= bundle.ensemble.threshold)
    assert flagged.height == min(capacity, reaching.height)
    assert flagged["rank_of_day"].to_list() == list(range(1, flagged.height + 1))


def test_quiet_day_fills_less_than_the_capacity(bundle, features):
    quiet = features.hstack(score_frame(bundle, features).select("score")).sort("score")
    below = int((quiet["score"] < bundle.ensemble.threshold).sum())
    rows = quiet.drop("score").head(below + 3).tail(100)
    assert scored(rows, bundle).scores["is_flagged"].sum() == 3 < CAPACITY
    assert scored(rows.head(90), bundle).scores["is_flagged"].sum() == 0
    assert alerts_of(scored(rows.head(90), bundle), bundle) == []


def test_usual_day_fills_the_capacity(bundle, features):
    for rows in features.partition_by("event_date", as_dict=True).values():
        assert scored(rows, bundle).scores["is_flagged"].sum() <= CAPACITY
    assert scored(features, bundle).scores["is_flagged"].sum() == CAPACITY


def test_cost_without_probabilities_flags_by_capacity_and_says_so(bundle, features, caplog):
    assert bundle.ensemble.probability is None  # too few frauds among the validation rows
    by_capacity, by_cost = (
        scored(features, bundle, **policy).scores.drop("scored_at")
        for policy in ({}, {"threshold": "cost", "review_cost": 5.0})
    )
    assert by_cost.equals(by_capacity)
    assert by_cost["probability"].null_count() == features.height
    assert by_cost.schema["probability"] == pl.Float64
    assert f"{features.height} of {features.height} transactions have no prob" in caplog.text


def test_cost_flags_by_probability_and_amount(bundle, features, monkeypatch):
    chances = Probability.fit(torch.linspace(0, 4, 400), torch.arange(400) > 330)
    monkeypatch.setattr(bundle.ensemble, "probability", chances)
    scores = scored(features, bundle, threshold="cost", review_cost=5.0).scores
    rows = scores.join(features.select("transaction_id", "amount"), on="transaction_id")
    gain = rows["amount"] * rows["probability"] - 5
    least = gain.sort(descending=True)[CAPACITY - 1]
    assert least > 0
    assert rows["is_flagged"].equals(gain >= least)
    assert scores["rank_of_day"].to_list() == list(range(1, features.height + 1))
    alerts = alerts_of(scored(features, bundle, threshold="cost", review_cost=5.0), bundle)
    ranks = [alert.rank_of_day for alert in alerts]
    assert ranks == sorted(ranks) != list(range(1, CAPACITY + 1))


BUDGET = {"threshold": "false_positives", "false_positives": 5.0}
COST = {"threshold": "cost", "review_cost": 5.0}
FIXED = {"threshold": "score", "least_score": 2.0}


@pytest.mark.parametrize(
    ("policy", "wanted", "chances", "told"),
    [
        ("capacity 8", {"capacity": 8}, False, None),
        ("capacity 8", {"capacity": 9}, False, "for capacity 9, but that of model 3 was"),
        ("capacity 8", {"capacity": 7}, False, "for capacity 7, but"),
        ("capacity 100", BUDGET, False, "for false_positives 5.0 a day, but"),
        ("false_positives 5.0 a day", BUDGET, False, None),
        ("false_positives 5.0 a day", BUDGET | {"capacity": 9}, False, None),
        ("false_positives 6.0 a day", BUDGET, False, "chosen for false_positives 6.0 a day"),
        ("score 2.0", {"capacity": 8}, False, "chosen for score 2.0"),
        ("capacity 100", FIXED, False, None),
        ("score 1.0", FIXED, False, None),
        ("capacity 8", COST | {"capacity": 8}, False, None),
        ("score 2.0", COST | {"capacity": 8}, False, "for capacity 8, but"),
        ("score 2.0", COST | {"capacity": 8}, True, None),
    ],
)
def test_threshold_for_something_else_is_said(
    bundle, monkeypatch, caplog, policy, wanted, chances, told
):
    known = Probability.fit(torch.linspace(0, 4, 400), torch.arange(400) > 330)
    monkeypatch.setattr(bundle.ensemble, "probability", known if chances else None)
    with caplog.at_level(logging.WARNING, "tasks.score"):
        warn_of_other_threshold(replace(bundle, policy=policy), "3", QueueSettings(**wanted))
    if told is None:
        assert caplog.text == ""
    else:
        assert told in caplog.text
        assert "train again" in caplog.text


def test_score_that_rises_ranks_higher(bundle, features):
    rows = features.filter(pl.col("event_date") == DAY)
    raised = rows.with_row_index().with_columns(
        pl.when(pl.col("index") == 5)
        .then(pl.col("amount_to_account_median_30d").fill_null(1) * 500)
        .otherwise(pl.col("amount_to_account_median_30d"))
        .alias("amount_to_account_median_30d"),
    )
    first = scored(raised.drop("index"), bundle).scores.row(0, named=True)
    assert first["transaction_id"] == rows["transaction_id"][5]


def test_alerts_carry_the_row_and_its_scores(bundle, features):
    odd = features.with_columns(score=pl.lit(-1.0), model_version=pl.lit("mine"))  # extra columns
    day_scores = scored(odd, bundle)
    alerts = alerts_of(day_scores, bundle)
    assert [alert.rank_of_day for alert in alerts] == list(range(1, CAPACITY + 1))
    rows = {row["transaction_id"]: row for row in features.iter_rows(named=True)}
    stored = {row["transaction_id"]: row for row in day_scores.scores.iter_rows(named=True)}
    for alert in alerts:
        row, score = rows[alert.transaction_id], stored[alert.transaction_id]
        assert (alert.account_id, alert.amount) == (row["account_id"], row["amount"])
        assert (alert.score, alert.model_version) == (score["score"], "3")
        assert alert.members == {
            name: score[f"member.{name}"] for name in ("autoencoder", "gaussian")
        }
        assert alert.occurred_at.astimezone(UTC) == row["occurred_at"]
    assert alerts == alerts_of(scored(features, bundle), bundle)


def test_extra_column_named_score_is_explained_by_its_own_value():
    frame = small_frame().with_columns(score=pl.col("amount") % 13)
    from tasks.explain import explain_alerts
    from tasks.fit import fit_data
    from tasks.training_data import TrainingData
    from tests.tasks.test_fit import SMALL

    chosen = SMALL.model_copy(update={"features": ("score", "is_night")})
    data = TrainingData.choose(frame, chosen, DAY - timedelta(days=5))
    bundle = fit_data(data, chosen, queue=QueueSettings(capacity=CAPACITY), device="cpu").bundle
    day_scores = scored(frame.drop("is_fraud"), bundle)
    alerts = alerts_of(day_scores, bundle)
    rows = pl.DataFrame({"transaction_id": [alert.transaction_id for alert in alerts]}).join(
        frame, on="transaction_id", maintain_order="left"
    )
    assert [alert.reasons for alert in alerts] == explain_alerts(rows, bundle)
    assert any(reason.feature == "score" for alert in alerts for reason in alert.reasons)


@pytest.mark.parametrize(("days", "refused"), [(-30, False), (0, False), (1, True), (30, True)])
def test_model_that_knows_the_future_is_refused(days, refused):
    model = RegisteredModel("4", DAY + timedelta(days=days), (), {}, "run")
    if not refused:
        require_model_of_the_past(model, DAY)
        return
    with pytest.raises(ModelMissingError, match=f"version 4 .* after {DAY}.*--as-of {DAY} first"):
        require_model_of_the_past(model, DAY)
