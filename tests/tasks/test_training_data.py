"""Training data in blocks of days: the same as all at once, sampled evenly, with its histories."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from tasks.tensors import history_of
from tasks.train_settings import EnsembleSettings
from tasks.training_data import (
    DRAWN,
    KEYS,
    TrainingData,
    TrainingSpan,
    choose_span,
    load_training_data,
    plan_blocks,
)
from tests.tasks.test_fit import AS_OF, DELAY, REQUEST, SMALL, labels_of, make_lake, simulate
from warehouse.errors import ModelMissingError

WINDOW = 4
SPAN = TrainingSpan.of(SMALL, AS_OF, DELAY)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    frame = simulate()
    with make_lake(tmp_path_factory.mktemp("training"), frame, labels_of(frame)) as made:
        yield made


def load(lake, block_rows=10**9, window=WINDOW, settings=SMALL):
    return load_training_data(lake, settings, SPAN, REQUEST, window=window, block_rows=block_rows)


def in_order(data: TrainingData) -> TrainingData:
    """Put the rows into an order of their own, whatever the blocks were."""
    return replace(data, frame=data.frame.sort("event_date", "transaction_id"))


def test_blocks_of_a_day_give_what_one_block_gives(lake):
    whole, daily = (in_order(load(lake, rows)) for rows in (10**9, 1))
    places = ["history_end", "history_count"]
    assert daily.frame.drop(places).equals(whole.frame.drop(places))
    windows = [history_of(d.frame, d.events).windows(WINDOW, slice(None)) for d in (whole, daily)]
    assert windows[0].shape == (whole.frame.height, WINDOW, 5)
    assert windows[0].isfinite().logical_or(windows[0].isnan()).all()
    assert windows[0].nan_to_num(nan=-1).equal(windows[1].nan_to_num(nan=-1))
    assert (daily.rows, daily.known_frauds) == (whole.rows, whole.known_frauds)


def test_events_are_only_those_that_a_window_shows(lake):
    data = load(lake)
    history = history_of(data.frame, data.events)
    assert history.compact(WINDOW).events.shape[0] == data.events.height
    assert int(history.count.max()) == WINDOW


def test_rows_are_sampled_to_about_the_number_wanted(lake):
    everything = load(lake, window=0).train
    fewer = SMALL.model_copy(update={"max_rows": everything.height // 2})
    half = load(lake, window=0, settings=fewer)
    assert half.train.height == pytest.approx(everything.height / 2, rel=0.15)
    assert half.train.join(everything, on="transaction_id", how="anti").is_empty()
    days = half.train["event_date"].n_unique()
    assert days == everything["event_date"].n_unique()
    assert half.held_out.height == load(lake, window=0).held_out.height
    again = load(lake, window=0, settings=fewer)
    assert again.train.equals(half.train)
    other = load(lake, window=0, settings=fewer.model_copy(update={"seed": 1}))
    assert not other.train.equals(half.train)


def test_known_frauds_teach_nothing_but_are_held_out(lake):
    data = load(lake, window=0)
    assert not data.train["is_fraud"].any()
    assert data.held_out["is_fraud"].any()
    assert data.train["event_date"].max() < data.split <= data.held_out["event_date"].min()


def test_a_member_may_see_features_that_the_others_do_not(lake):
    settings = SMALL.model_copy(
        update={
            "features": ("amount",),
            "member_features": {"gaussian": ("is_night", "amount")},
            "ensemble": EnsembleSettings(features=("is_weekend", "account_category_share_30d")),
        }
    )
    columns = load(lake, window=0, settings=settings).frame.columns
    assert set(columns) - {*KEYS, *DRAWN} == {
        "amount",
        "is_night",
        "is_weekend",
        "account_category_share_30d",
    }


def test_trees_get_frauds_and_members_do_not(lake):
    data = load(lake, window=0)
    assert not data.train["is_fraud"].any()
    labelled = data.labelled
    assert data.known_frauds == labelled["is_fraud"].sum() + data.held_out["is_fraud"].sum() > 20
    alone = SMALL.model_copy(update={"ensemble": EnsembleSettings(mode="unsupervised")})
    assert load(lake, window=0, settings=alone).labelled.is_empty()


def test_trees_that_see_member_scores_learn_from_rows_that_members_did_not(lake):
    stacked = SMALL.model_copy(update={"ensemble": EnsembleSettings(member_scores=True)})
    data = load(lake, window=0, settings=stacked)
    assert data.train.height > 100
    assert data.labelled.height > 100
    assert data.train.join(data.labelled, on="transaction_id").is_empty()


def test_validation_days_are_the_later_half_of_those_held_out(lake):
    data = load(lake, window=0)
    held_out = data.held_out["event_date"].unique().sort().to_list()
    assert data.validation == held_out[-len(data.validation) :]
    assert len(data.validation) == len(held_out) - len(held_out) // 2


def test_too_few_days_are_refused(lake):
    long_ago = replace(SPAN, first=date(2020, 1, 1), last=date(2020, 2, 1))
    with pytest.raises(ModelMissingError, match="at least two days from 2020-01-01"):
        load_training_data(lake, SMALL, long_ago, REQUEST, window=0)


@pytest.mark.parametrize(("frauds", "is_mature"), [(49, False), (50, True)])
def test_a_source_without_labels_is_waited_for_once_enough_frauds_are_known(
    tmp_path, frauds, is_mature
):
    frame = simulate()
    old = frame.filter(pl.col("event_date") < AS_OF - timedelta(days=DELAY))
    known = labels_of(old.sort("is_fraud", descending=True).head(frauds))
    request = replace(REQUEST, is_labelled=False)
    settings = SMALL.model_copy(update={"history_days": 60})
    with make_lake(tmp_path, frame, known) as lake:
        span = choose_span(lake, settings, AS_OF, request)
    assert span.is_mature is is_mature
    assert span.last == AS_OF - timedelta(days=1 + (DELAY if is_mature else 0))


def test_blocks_cover_every_day_once():
    counts = {date(2026, 1, 1) + timedelta(days=n): 10 * (n % 4) + 1 for n in range(30)}
    for block_rows in (1, 25, 60, 10**6):
        blocks = list(plan_blocks(counts, block_rows))
        covered = [day for a, b in blocks for day in counts if a <= day <= b]
        assert covered == list(counts)
        sums = [sum(n for day, n in counts.items() if a <= day <= b) for a, b in blocks]
        assert all(
            total <= block_rows or a == b for total, (a, b) in zip(sums, blocks, strict=True)
        )
    assert list(plan_blocks({}, 5)) == []


def test_choosing_by_share_is_even_over_the_rows():
    frame = pl.DataFrame(
        {
            "event_date": [date(2026, 1, 1)] * 10_000,
            "transaction_id": [f"t{n}" for n in range(10_000)],
            "occurred_at": [datetime(2026, 1, 1, tzinfo=UTC)] * 10_000,
            "account_id": ["a"] * 10_000,
            "merchant_id": ["m"] * 10_000,
            "is_fraud": [False] * 10_000,
            "amount": [1.0] * 10_000,
        }
    )
    settings = SMALL.model_copy(update={"features": ("amount",), "max_rows": 2500})
    chosen = TrainingData.choose(frame, settings, date(2026, 1, 2))
    assert chosen.train.height == pytest.approx(2500, rel=0.08)
