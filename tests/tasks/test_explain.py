"""Reasons: few, true, distinct, and the features that carry the score."""

import random
import re
from datetime import timedelta

import polars as pl
import pytest
import torch

from tasks.explain import REASONS_AN_ALERT, explain_alerts, feature_weights, usual_row
from tasks.feature_catalog import BOOK_FEATURES, LEAN_FEATURES
from tests.tasks.test_fit import AS_OF, small_bundle, small_frame

WITH_CATEGORY = ("category", *BOOK_FEATURES)


@pytest.fixture(scope="module", params=[LEAN_FEATURES, WITH_CATEGORY], ids=["lean", "book"])
def bundle(request):
    return small_bundle(*request.param)


@pytest.fixture(scope="module")
def rows(bundle):
    """The 60 highest of the days after the training."""
    late = small_frame().filter(pl.col("event_date") >= AS_OF - timedelta(days=5))
    scores = bundle.ensemble.score(bundle.encoding.matrix(late)).numpy()
    return late.with_columns(by=pl.Series(scores)).sort("by", descending=True).drop("by").head(60)


def test_reasons_are_few_distinct_and_say_something_unusual(bundle, rows):
    for row, reasons in zip(rows.to_dicts(), explain_alerts(rows, bundle), strict=True):
        texts = [reason.text for reason in reasons]
        assert 1 <= len(texts) == len(set(texts)) <= REASONS_AN_ALERT
        for reason in reasons:
            assert reason.feature in bundle.encoding.feature_names
            value = row[reason.feature]
            if reason.value is None or reason.usual is None:
                continue
            assert reason.value == value != reason.usual
            if "amount_to" in reason.feature or reason.feature == "amount":
                assert f"{row['amount']:.2f}" in reason.text
            shown = re.fullmatch(r"(.*?), usually (.*)", reason.text)
            if shown:
                told = re.findall(r"\d[\d.]*%?", shown[1])
                usual = re.findall(r"\d[\d.]*%?", shown[2])[-1]
                assert usual not in told or reason.feature == "amount", reason.text


def test_value_that_reads_like_the_usual_one_is_no_reason(rows):
    bundle = small_bundle(*LEAN_FEATURES)
    usual = bundle.usual["amount"]
    near = rows.head(5).with_columns(amount=pl.lit(usual + 0.0001))
    for reasons in explain_alerts(near, bundle):
        assert all(reason.feature != "amount" for reason in reasons)


def test_reasons_are_the_same_again_and_in_other_company(bundle, rows):
    once = explain_alerts(rows, bundle)
    assert explain_alerts(rows, bundle) == once
    assert explain_alerts(rows.reverse(), bundle) == once[::-1]
    assert [explain_alerts(rows[place], bundle)[0] for place in range(5)] == once[:5]


def test_named_features_carry_the_score_more_than_others(bundle, rows):
    x, usual = bundle.encoding.matrix(rows), usual_row(bundle)
    names = bundle.encoding.feature_names
    choose = random.Random(1)  # noqa: S311 (features, not secrets)
    without, at_random = x.clone(), x.clone()
    unusual = x.nan_to_num(nan=float("inf")) != usual
    for place, reasons in enumerate(explain_alerts(rows, bundle)):
        named = [names.index(reason.feature) for reason in reasons]
        others = [c for c in unusual[place].nonzero().flatten().tolist() if c not in named]
        chosen = choose.sample(others, min(len(named), len(others)))
        without[place, named] = usual[named]
        at_random[place, chosen] = usual[chosen]
    score = bundle.ensemble.score(x)
    fall, random_fall = (
        score - bundle.ensemble.score(without),
        score - bundle.ensemble.score(at_random),
    )
    assert fall.mean() > 2 * max(random_fall.mean(), 0)
    assert fall.mean() > 0.2 * score.mean()


def test_weights_are_half_the_fall_and_half_the_rise(bundle, rows):
    x, usual = bundle.encoding.matrix(rows.head(3)), usual_row(bundle)
    weights = feature_weights(x, bundle)
    score = bundle.ensemble.score
    for row, column in ((0, 0), (1, 3), (2, 5)):
        put_back, alone = x[row].clone(), usual.clone()
        put_back[column], alone[column] = usual[column], x[row, column]
        fall = score(x[row : row + 1]) - score(put_back.unsqueeze(0))
        rise = score(alone.unsqueeze(0)) - score(usual.unsqueeze(0))
        torch.testing.assert_close(weights[row, column], (fall + rise)[0] / 2)


def test_missing_history_and_rare_category_are_worded():
    bundle = small_bundle(*WITH_CATEGORY)
    row = (
        small_frame()
        .head(1)
        .with_columns(
            category=pl.lit("space travel"), account_mean_amount_30d=pl.lit(None, pl.Float32)
        )
    )
    names = ["category", "account_mean_amount_30d"]
    usual = [name for name in bundle.encoding.feature_names if name not in names]
    row = row.with_columns(
        pl.lit(bundle.usual[name]).cast(row.schema[name]).alias(name) for name in usual
    )
    texts = {reason.feature: reason for reason in explain_alerts(row, bundle)[0]}
    found = texts.get("account_mean_amount_30d")
    assert found is not None
    assert found.text == "this account has no earlier transactions to compare with"
    assert found.value is None


def test_no_alerts_have_no_reasons(bundle, rows):
    assert explain_alerts(rows.clear(), bundle) == []
