"""Reasons: few, true, distinct, and the features that carry the score."""

import json
import random
import re
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
import torch

from models.boosted import BoostedConfig
from models.ensemble_fit import EnsembleConfig, fit_ensemble
from models.registry import REGISTRY
from models.stack_fit import LabelledRows, StackConfig, fit_stack
from models.training import TrainingConfig
from tasks.explain import (
    REASONS_AN_ALERT,
    differs,
    explain_alerts,
    feature_weights,
    usual_row,
    usual_values,
)
from tasks.feature_catalog import BOOK_FEATURES, LEAN_FEATURES
from tasks.flagging import threshold_basis
from tasks.tensors import Encoding, history_of
from tasks.tracking import Bundle
from tests.models.conftest import (
    ANOMALIES,
    FEATURES,
    HISTORY_CHANNELS,
    make_config,
    make_history,
    make_normal_rows,
    make_training_rows,
    plant_new_merchant_at_night,
)
from tests.tasks.test_fit import AS_OF, QUEUE, small_bundle, small_frame

WITH_CATEGORY = ("category", *BOOK_FEATURES)
POLICY = threshold_basis(QUEUE)


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
            if shown and not isinstance(reason.usual, str):
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
    unusual = differs(x, usual)
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


def test_weights_are_the_same_in_blocks_of_alerts(bundle, rows, monkeypatch):
    x = bundle.encoding.matrix(rows)
    once = feature_weights(x, bundle)
    monkeypatch.setattr("tasks.explain.ALERTS_AT_ONCE", 7)
    assert torch.equal(feature_weights(x, bundle), once)


# missing values

OFTEN_MISSING = (
    "amount",
    "amount_to_account_median_30d",
    "amount_to_account_settled_mean",
    "seconds_since_merchant_transaction",
    "days_since_merchant_known_genuine",
    "days_since_merchant_fraud_run_began",
)
NOT_USUAL = OFTEN_MISSING[-1]  # most rows have none


def row_with(bundle, **values):
    """A row of usual values but for those given."""
    row = small_frame().head(1)
    return row.with_columns(
        pl.lit(values.get(name, bundle.usual[name])).cast(row.schema[name]).alias(name)
        for name in bundle.encoding.feature_names
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "amount_to_account_median_30d",
            "this account has too few earlier transactions in 30 days to compare with",
        ),
        (
            "amount_to_account_settled_mean",
            "in the 30 days old enough for their labels to be known, this account has too few "
            "transactions to compare with",
        ),
        (
            "seconds_since_merchant_transaction",
            "this merchant has too few earlier transactions in 30 days to compare with",
        ),
        (
            "days_since_merchant_known_genuine",
            "no transaction at this merchant became known to be genuine in 30 days",
        ),
    ],
)
def test_missing_value_is_worded_by_what_it_says(name, text):
    bundle = small_bundle(*OFTEN_MISSING)
    (reasons,) = explain_alerts(row_with(bundle, **{name: None}), bundle)
    found = [(reason.feature, reason.value, reason.usual, reason.text) for reason in reasons]
    assert found == [(name, None, bundle.usual[name], text)]


def test_usual_value_is_missing_where_most_rows_have_none():
    frame = pl.DataFrame(
        {
            "half": [1.0, 3.0, None, None],
            "rare": [1.0, None, None, None],
            "never": pl.Series([None] * 4, dtype=pl.Float32),
            "text": ["b", "b", "a", None],
            "tied": ["b", "a", None, None],
            "none": pl.Series([None] * 4, dtype=pl.String),
        }
    )
    usual = usual_values(frame, Encoding.fit(frame, frame.columns))
    numbers = {"half": 2.0, "rare": None, "never": None}
    assert usual == numbers | {"text": 2.0, "tied": 1.0, "none": 0.0}


def test_category_is_a_reason_where_it_is_not_the_most_common_one():
    bundle = small_bundle(*WITH_CATEGORY)
    values = bundle.encoding.vocabularies["category"]
    usual = values[int(bundle.usual["category"]) - 1]
    other = next(value for value in values if value != usual)
    rows = pl.concat(
        [row_with(bundle, category=value) for value in (usual, other, "space travel")]
    )
    as_usual, known, unknown = (
        {reason.feature: reason for reason in reasons} for reasons in explain_alerts(rows, bundle)
    )
    assert "category" not in as_usual
    assert known["category"].text == f"category {other}, usually {usual}"
    assert unknown["category"].text == f"category space travel, usually {usual}"
    assert (known["category"].value, known["category"].usual) == (other, usual)


def test_no_known_fraud_is_no_reason_and_a_known_one_is_removed_by_putting_it_back():
    bundle = small_bundle(*OFTEN_MISSING)
    assert bundle.usual[NOT_USUAL] is None
    usual, known = row_with(bundle), row_with(bundle, **{NOT_USUAL: 2.0})
    assert explain_alerts(usual, bundle) == [()]
    (reasons,) = explain_alerts(known, bundle)
    found = [(reason.feature, reason.value, reason.usual, reason.text) for reason in reasons]
    text = "nothing but fraud became known of this merchant for 2.0 days"
    assert found == [(NOT_USUAL, 2.0, None, text)]
    x, floor = (bundle.encoding.matrix(row) for row in (known, usual))
    place = bundle.encoding.feature_names.index(NOT_USUAL)
    assert floor[0, place].isnan()
    fall = bundle.ensemble.score(x) - bundle.ensemble.score(floor)
    assert fall.abs() > 0.01
    expected = torch.zeros(x.shape).index_fill(1, torch.tensor(place), fall.item())
    torch.testing.assert_close(feature_weights(x, bundle), expected)
    torch.testing.assert_close(feature_weights(floor, bundle), torch.zeros(x.shape))


def test_no_known_fraud_where_one_is_usual_is_no_reason():
    bundle = small_bundle(*OFTEN_MISSING)
    plagued = replace(bundle, usual=bundle.usual | {NOT_USUAL: 3.0})
    assert explain_alerts(row_with(plagued, **{NOT_USUAL: None}), plagued) == [()]


@pytest.mark.parametrize("name", ["seconds_since_merchant_transaction", *OFTEN_MISSING[-2:]])
def test_value_where_there_is_usually_none_is_worded_without_a_usual_one(name):
    bundle = small_bundle(*OFTEN_MISSING)
    scarce = replace(bundle, usual=bundle.usual | {name: None})
    (reasons,) = explain_alerts(row_with(scarce, **{name: 4.0}), scarce)
    (reason,) = reasons
    assert (reason.feature, reason.value, reason.usual) == (name, 4.0, None)
    assert "4" in reason.text
    assert not re.search(r"usual|nan|none", reason.text, re.IGNORECASE)


def test_missing_usual_value_survives_saving_as_plain_json(tmp_path):
    bundle = small_bundle(*OFTEN_MISSING)
    bundle.save(tmp_path)
    text = (tmp_path / "encoding.json").read_text(encoding="utf-8")
    refused = pytest.fail  # NaN and Infinity are no JSON
    assert json.loads(text, parse_constant=refused)["usual"][NOT_USUAL] is None
    loaded = Bundle.load(tmp_path)
    assert loaded.usual == bundle.usual
    row = row_with(bundle, **{NOT_USUAL: 2.0})
    assert explain_alerts(row, loaded) == explain_alerts(row, bundle)


def test_no_alerts_have_no_reasons(bundle, rows):
    assert explain_alerts(rows.clear(), bundle) == []


# every detector, as the only member of an ensemble

ALERTS = 40  # of each planted kind
FEW_STEPS = 100  # of training: to explain, a detector need not be a good one
RANDOM_DRAWS = 5  # of as many other features


@pytest.fixture(scope="module", params=sorted(REGISTRY))
def alone(request):
    """A bundle with one member, alerts planted among new rows, and the events of their accounts."""
    name = request.param
    torch.set_num_threads(1)
    detector = make_config(name)
    if isinstance(detector, TrainingConfig):
        detector = replace(detector, min_steps=FEW_STEPS)
    config = EnsembleConfig(
        members={name: detector},
        weights={name: 1.0},
        history_channels=HISTORY_CHANNELS,
    )
    train = make_training_rows(4000, 1)
    ensemble, _ = fit_ensemble(train, make_training_rows(2000, 2), FEATURES, config, seed=0)
    usual = dict(zip(FEATURES, train.x.median(dim=0).values.tolist(), strict=True))
    bundle = Bundle(ensemble, Encoding(FEATURES, {}), usual, POLICY)
    kinds = [plant(make_normal_rows(ALERTS, 3)) for plant in ANOMALIES.values()]
    x = torch.cat(kinds)
    past = make_history(len(x), 4)
    rows = pl.DataFrame(x.numpy(), schema=list(FEATURES)).with_columns(
        amount=pl.lit(20.0),  # what reasons word
        history_end=pl.Series(past.end.numpy()),
        history_count=pl.Series(past.count.numpy()),
    )
    return bundle, rows, pl.DataFrame(past.events.numpy(), schema=list(HISTORY_CHANNELS))


def test_named_features_carry_the_score_of_every_detector(alone):
    bundle, rows, events = alone
    x, usual, history = bundle.encoding.matrix(rows), usual_row(bundle), history_of(rows, events)
    named = torch.zeros(x.shape, dtype=torch.bool)
    for place, reasons in enumerate(explain_alerts(rows, bundle, events)):
        named[place, [FEATURES.index(reason.feature) for reason in reasons]] = True
    assert named.any(dim=1).all()

    def fall(chosen):
        """How far the score falls when the chosen features are put back to usual, on average."""
        put_back = torch.where(chosen, usual, x)
        score = bundle.ensemble.score
        return float((score(x, history=history) - score(put_back, history=history)).mean())

    g, falls = torch.Generator().manual_seed(0), []
    for _ in range(RANDOM_DRAWS):
        lot = torch.rand(x.shape, generator=g).masked_fill(named, 2.0)  # others first
        place = lot.argsort(dim=1).argsort(dim=1)
        falls.append(fall(place < named.sum(dim=1, keepdim=True)))
    assert fall(named) > 2 * max(*falls, 0.1)


def test_reasons_of_every_detector_depend_on_their_own_alert_alone(alone):
    bundle, rows, events = alone
    once = explain_alerts(rows, bundle, events)
    assert explain_alerts(rows, bundle, events) == once
    if bundle.ensemble.window:
        assert explain_alerts(rows, bundle) != once
    order = torch.randperm(rows.height, generator=torch.Generator().manual_seed(0)).tolist()
    assert explain_alerts(rows[order], bundle, events) == [once[place] for place in order]
    assert [explain_alerts(rows[place], bundle, events)[0] for place in order[:5]] == [
        once[place] for place in order[:5]
    ]


# boosted trees beside a member, which see more features than it does

N_FRAUDS, N_GENUINE = 300, 3000


def make_labelled(ensemble, seed):
    x = make_normal_rows(N_GENUINE + N_FRAUDS, seed)
    x[N_GENUINE:] = plant_new_merchant_at_night(x[N_GENUINE:])
    place = torch.arange(len(x))
    is_labelled = torch.ones(len(x), dtype=torch.bool)
    members = ensemble.member_scores(x)
    return LabelledRows(x, members, place >= N_GENUINE, is_labelled, place % 5)


@pytest.fixture(scope="module", params=[False, True], ids=["features", "member_scores"])
def stacked(request):
    config = EnsembleConfig(
        members={"gaussian": make_config("gaussian")},
        weights={"gaussian": 1.0},
        views={"gaussian": FEATURES[:4]},
    )
    train = make_training_rows(2000, 1)
    ensemble, _ = fit_ensemble(train, make_training_rows(1000, 2), FEATURES, config, seed=0)
    labelled = [make_labelled(ensemble, seed) for seed in (3, 4, 5)]
    trees = BoostedConfig(least_rows_a_leaf=20, max_rounds=30)
    chosen = StackConfig(
        features=FEATURES,
        categorical=(),
        member_scores=request.param,
        capacity=10,
        are_all_labelled=True,
        reserved_share=0.2,
        boosted=trees,
    )
    ensemble.stack, _ = fit_stack(ensemble, *labelled, chosen, seed=0)
    usual = dict(zip(FEATURES, train.x.median(dim=0).values.tolist(), strict=True))
    return Bundle(ensemble, Encoding(FEATURES, {}), usual, POLICY)


def test_what_only_the_trees_see_is_weighed_as_by_scoring_every_variant(stacked):
    x, usual = plant_new_merchant_at_night(make_normal_rows(6, 7)), usual_row(stacked)
    x[0, 7], x[1, 1] = torch.nan, torch.nan
    weights = feature_weights(x, stacked)
    score = stacked.ensemble.score
    whole, floor = score(x), score(usual.expand_as(x))
    for column in range(len(FEATURES)):
        put_back, alone = x.clone(), usual.repeat(len(x), 1)
        put_back[:, column], alone[:, column] = usual[column], x[:, column]
        expected = ((whole - score(put_back)) + (score(alone) - floor)) / 2
        torch.testing.assert_close(weights[:, column], expected)
    only_trees = weights[:, 4:]
    assert (only_trees.max(dim=1).values > 0.1).all()


def test_named_features_carry_the_score_of_trees_more_than_others(stacked):
    x, usual = plant_new_merchant_at_night(make_normal_rows(40, 8)), usual_row(stacked)
    order = feature_weights(x, stacked).argsort(dim=1, descending=True)
    score, falls = stacked.ensemble.score, []
    for chosen in (order[:, :REASONS_AN_ALERT], order[:, REASONS_AN_ALERT:][:, :REASONS_AN_ALERT]):
        put_back = x.scatter(1, chosen, usual[chosen])
        falls.append(float((score(x) - score(put_back)).mean()))
    assert falls[0] > 2 * max(falls[1], 0.1)
