"""Quality figures equal scikit-learn's on the rows whose label is known."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tasks.evaluate import evaluate_scores
from warehouse.errors import UserError

START = date(2026, 1, 1)


def make(seed, n=200, days=4, known=0.8):
    random = np.random.default_rng(seed)
    fraud = random.random(n) < 0.15
    scored = pl.DataFrame(
        {
            "event_date": [START + timedelta(days=int(d)) for d in random.integers(0, days, n)],
            "transaction_id": [f"t{i}" for i in range(n)],
            "account_id": [f"a{i}" for i in random.integers(0, 40, n)],
            "score": np.round(random.normal(size=n) + fraud, 1),  # with ties
            "member.gaussian": random.normal(size=n) + fraud,
            "member.vae": [float(v) if v > -1 else None for v in random.normal(size=n)],
        }
    )
    truth = pl.DataFrame({"transaction_id": scored["transaction_id"], "is_fraud": fraud})
    return scored.sample(fraction=1, shuffle=True, seed=seed), truth.filter(
        pl.Series(random.random(n) < known)
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_figures_equal_those_of_scikit_learn(seed, capacity):
    scored, truth = make(seed)
    assume(truth["is_fraud"].n_unique() == 2)
    known = scored.join(truth, on="transaction_id")
    found = evaluate_scores(scored, truth, capacity)
    assert [q.name for q in found] == ["ensemble", "gaussian", "vae"]
    for quality, column in zip(found, ("score", "member.gaussian", "member.vae"), strict=True):
        rows = known.drop_nulls(column)
        fraud, score = rows["is_fraud"].to_numpy(), rows[column].to_numpy()
        assert quality.auc == pytest.approx(roc_auc_score(fraud, score))
        assert quality.ap == pytest.approx(average_precision_score(fraud, score))
        assert quality.card_precision == pytest.approx(handbook(rows, column, capacity))


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


def test_member_that_scored_only_some_days_is_judged_on_them():
    scored, truth = make(1)
    half = scored.with_columns(
        pl.when(pl.col("event_date") == START).then("member.vae").alias("member.vae")
    )
    found = {q.name: q for q in evaluate_scores(half, truth, 5)}
    only = {q.name: q for q in evaluate_scores(
        scored.filter(pl.col("event_date") == START), truth, 5
    )}  # fmt: skip
    assert found["vae"] == only["vae"]


def test_member_without_a_known_fraud_is_left_out():
    scored, truth = make(1)
    genuine = truth.filter(~pl.col("is_fraud"))["transaction_id"].to_list()
    seen = pl.col("transaction_id").is_in(genuine)
    some = scored.with_columns(pl.when(seen).then("member.vae").alias("member.vae"))
    assert [q.name for q in evaluate_scores(some, truth, 5)] == ["ensemble", "gaussian"]


@pytest.mark.parametrize("kind", ["none", "genuine", "fraud"])
def test_too_little_known_is_said(kind):
    scored, truth = make(2)
    few = {
        "none": truth.clear(),
        "genuine": truth.filter(~pl.col("is_fraud")),
        "fraud": truth.filter("is_fraud"),
    }[kind]
    with pytest.raises(UserError, match=f"of 200 scored rows {few.height} have a label"):
        evaluate_scores(scored, few, 5)
