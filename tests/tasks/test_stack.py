"""Boosted trees beside the members: when they join, what they may know, and what they add."""

from dataclasses import replace
from datetime import timedelta
from functools import cache

import polars as pl
import pytest
import torch

from models.metrics import average_precision
from models.persistence import load_ensemble, save_ensemble
from tasks.features import compute_features
from tasks.fit import fit_as_of, fit_data
from tasks.review_settings import QueueSettings
from tasks.simulate import simulate_transactions
from tasks.tracking import score_frame
from tasks.train_settings import EnsembleSettings, TrainSettings
from tasks.training_data import TrainingData, load_features
from tests.tasks.test_fit import AS_OF, DELAY, REQUEST, START, labels_of, make_lake
from warehouse.errors import SettingsError

QUEUE = QueueSettings(capacity=10)
SPLIT = AS_OF - timedelta(days=25)
STACKED = TrainSettings(history_days=50, held_out_days=14, members=("gaussian",), max_rows=100_000)


def with_ensemble(**values) -> TrainSettings:
    return STACKED.model_copy(update={"ensemble": EnsembleSettings(**values)})


@cache
def simulate(seed: int = 3) -> pl.DataFrame:
    """Make up transactions with many frauds, as the lake holds them, and their label."""
    frame = simulate_transactions(
        start=START, days=62, accounts=150, merchants=60, seed=seed, fraud_share=0.03
    )
    return frame.select(
        pl.col("occurred_at").dt.date().alias("event_date"),
        pl.col("transaction_id").cast(pl.String),
        pl.col("occurred_at").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("account_id").cast(pl.String),
        pl.col("merchant_id").cast(pl.String),
        "amount",
        "category",
        pl.col("is_fraud").cast(pl.Boolean),
        pl.col("fraud_scenario").cast(pl.Float64).alias("kind"),
    )


@cache
def features() -> pl.DataFrame:
    """Compute the features of the last fifty days, with their truth."""
    frame = simulate()
    first, last = AS_OF - timedelta(days=50), AS_OF - timedelta(days=1)
    computed = compute_features(
        frame.drop("is_fraud", "kind"),
        labels_of(frame),
        start=first,
        end=last,
        label_delay_days=DELAY,
    )
    return computed.join(frame.select("transaction_id", "is_fraud", "kind"), on="transaction_id")


def choose(chosen: TrainSettings, frame: pl.DataFrame | None = None) -> TrainingData:
    known = (features() if frame is None else frame).filter(
        pl.col("event_date") < AS_OF - timedelta(days=8)
    )
    return TrainingData.choose(known, chosen, SPLIT)


@cache
def fit(**values):
    torch.set_num_threads(1)
    chosen = with_ensemble(**values)
    return fit_data(choose(chosen), chosen, queue=QUEUE, device="cpu")


def later() -> pl.DataFrame:
    """Give the days that no training saw."""
    return features().filter(pl.col("event_date") >= AS_OF - timedelta(days=8))


def precision(frame: pl.DataFrame, scores: pl.Series) -> float:
    return average_precision(scores.to_numpy(), frame["is_fraud"].to_numpy())


def test_trees_join_where_they_win():
    fitted = fit()
    assert fitted.trial.mode == "stacked"
    metrics = fitted.trial.metrics
    assert metrics["validation.ap.stacked"] > metrics["validation.ap.unsupervised"]
    assert fitted.bundle.ensemble.member_names == ("gaussian", "boosted")


def test_trees_lift_days_that_no_training_saw():
    frame = later()
    alone, stacked = (fit(mode=mode).bundle for mode in ("unsupervised", "stacked"))
    assert alone.ensemble.stack is None
    gains = [precision(frame, score_frame(bundle, frame)["score"]) for bundle in (alone, stacked)]
    assert gains[1] > 1.2 * gains[0]


def test_trees_that_do_not_win_stay_out():
    shuffled = features().with_columns(pl.col("is_fraud").shuffle(seed=1))
    chosen = with_ensemble(mode="auto")
    data = choose(chosen, shuffled)
    truth = features().select("transaction_id", "is_fraud")
    # labels of the past are noise, those of the held-out days are not
    is_past = pl.col("event_date") < SPLIT
    honest = data.frame.join(truth, on="transaction_id", how="left", suffix="_true")
    frame = honest.with_columns(
        pl.when(is_past).then("is_fraud").otherwise("is_fraud_true").alias("is_fraud")
    ).drop("is_fraud_true")
    fitted = fit_data(replace(data, frame=frame), chosen, queue=QUEUE, device="cpu")
    assert fitted.trial.mode == "unsupervised"
    assert "do not win" in fitted.trial.reason
    assert fitted.bundle.ensemble.stack is None


@pytest.mark.parametrize("mode", ["auto", "stacked"])
def test_few_frauds_fall_back_and_say_so(mode, caplog):
    frame = features()
    frauds = frame.filter("is_fraud")["transaction_id"]
    few = pl.col("transaction_id").is_in(frauds.head(49).implode())
    chosen = with_ensemble(mode=mode)
    data = choose(chosen, frame.with_columns(pl.col("is_fraud") & few))
    fitted = fit_data(data, chosen, queue=QUEUE, device="cpu")
    assert fitted.trial.mode == "unsupervised"
    assert "at least 50 known frauds" in fitted.trial.reason
    assert "the members score alone" in caplog.text
    assert fitted.bundle.ensemble.probability is None


def test_days_that_are_not_mature_teach_no_trees():
    chosen = with_ensemble(mode="stacked")
    data = replace(choose(chosen), is_mature=False)
    fitted = fit_data(data, chosen, queue=QUEUE, device="cpu")
    assert fitted.trial.mode == "unsupervised"
    assert fitted.bundle.ensemble.probability is None


def test_alerts_alone_tell_no_probability_and_no_weights():
    chosen = with_ensemble(mode="stacked")
    frame = features()
    decided = pl.col("transaction_id").hash() % 4 > 0
    data = choose(chosen, frame.with_columns(pl.col("is_fraud") & decided, is_labelled=decided))
    weights = []
    for is_selective in (False, True):
        fitted = fit_data(
            replace(data, is_selective=is_selective), chosen, queue=QUEUE, device="cpu"
        )
        assert fitted.trial.mode == "stacked"
        weights.append(fitted.bundle.ensemble.stack.hybrid.reserved_share)
        assert (fitted.bundle.ensemble.probability is None) is is_selective
    assert weights[1] == chosen.ensemble.reserved_share <= weights[0]


def test_feature_of_the_trees_named_twice_is_refused():
    chosen = with_ensemble(features=("amount", "amount"))
    with pytest.raises(SettingsError, match="named twice"):
        fit_data(choose(with_ensemble()), chosen, queue=QUEUE, device="cpu")


def test_score_does_not_depend_on_the_rows_beside_it():
    frame, bundle = later(), fit(mode="stacked").bundle
    whole = score_frame(bundle, frame)
    order = frame.with_row_index().sample(fraction=1.0, shuffle=True, seed=2)["index"]
    shuffled = score_frame(bundle, frame[order])
    assert whole[order].equals(shuffled)
    single = pl.concat([score_frame(bundle, frame[place : place + 1]) for place in range(7)])
    assert single.equals(whole.head(7))


def test_probability_follows_the_score():
    frame, bundle = later(), fit(mode="stacked").bundle
    scored = score_frame(bundle, frame).sort("score")
    assert scored["probability"].is_sorted()
    assert 0 < scored["probability"].min() < 0.05 < scored["probability"].max() < 1
    expected = scored["probability"].sum()
    assert expected == pytest.approx(frame["is_fraud"].sum(), rel=0.5)


@pytest.mark.parametrize("member_scores", [False, True])
def test_saved_stack_scores_the_same(tmp_path, member_scores):
    bundle = fit(mode="stacked", member_scores=member_scores).bundle
    names = bundle.ensemble.stack.boosted.feature_names
    assert ("member.gaussian" in names) is member_scores
    save_ensemble(bundle.ensemble, tmp_path)
    loaded = replace(bundle, ensemble=load_ensemble(tmp_path))
    assert score_frame(loaded, later()).equals(score_frame(bundle, later()))


def test_column_that_is_the_label_in_another_form_is_refused():
    disguised = with_ensemble(features=("amount", "kind"))
    with pytest.raises(SettingsError, match="'kind' tells frauds from genuine"):
        fit_data(choose(disguised), disguised, queue=QUEUE, device="cpu")
    member = STACKED.model_copy(update={"features": ("amount", "kind")})
    with pytest.raises(SettingsError, match="'kind' tells frauds from genuine"):
        fit_data(choose(member), member, queue=QUEUE, device="cpu")


def test_column_named_like_a_label_is_refused():
    named = features().rename({"kind": "fraud_scenario"})
    chosen = with_ensemble(features=("amount", "fraud_scenario"))
    with pytest.raises(SettingsError, match=r"'fraud_scenario'.* tell what proved to be fraud"):
        choose(chosen, named)


@pytest.mark.parametrize("seed", [1, 2])
def test_labels_not_known_by_then_and_later_days_change_no_score(tmp_path, seed):
    """Law 1, whole: training as of a day and scoring it, trees and all."""
    frame = simulate().drop("kind")
    labels = labels_of(frame)
    end_of_day = REQUEST.start_of(AS_OF + timedelta(days=1))
    known = labels.filter(pl.col("known_at") < end_of_day)
    unknown = labels.filter(pl.col("known_at") >= end_of_day)
    shuffled = unknown.with_columns(pl.col("is_fraud").shuffle(seed=seed))
    assert not shuffled.equals(unknown)
    past = frame.filter(pl.col("event_date") <= AS_OF)
    scores = []
    for number, (rows, statements) in enumerate(
        [(frame, labels), (frame, pl.concat([known, shuffled])), (past, known)]
    ):
        with make_lake(tmp_path / str(number), rows, statements) as lake:
            training = fit_as_of(lake, STACKED, AS_OF, REQUEST, queue=QUEUE, device="cpu")
            day = load_features(lake, AS_OF, AS_OF, REQUEST).sort("transaction_id")
            assert training.record.tags["mode"] == "stacked"
            scores.append(score_frame(training.bundle, day))
    assert scores[0].equals(scores[1])
    assert scores[0].equals(scores[2])
