"""What a simulated history promises: it repeats, grows at its end, and holds its frauds."""

import time
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.simulate import card_numbers, simulate_transactions, write_days

START = date(2026, 1, 5)
SIZE = {"start": START, "accounts": 500, "merchants": 200, "seed": 3}


@pytest.fixture(scope="module")
def history():
    return simulate_transactions(**SIZE, days=60)


def usual_amounts(history):
    """Each account's median genuine amount."""
    genuine = history.filter(pl.col("is_fraud") == 0)
    return genuine.group_by("account_id").agg(pl.col("amount").median().alias("usual"))


def test_same_seed_gives_the_same_rows_and_another_others(history):
    assert_frame_equal(history, simulate_transactions(**SIZE, days=60))
    other = simulate_transactions(**{**SIZE, "seed": 4}, days=60)
    assert other["amount"][:100].to_list() != history["amount"][:100].to_list()


@pytest.mark.parametrize("days", [1, 13, 30])
def test_fewer_days_are_the_first_ones(history, days):
    shorter = simulate_transactions(**SIZE, days=days)
    assert_frame_equal(shorter, history.head(shorter.height))
    assert shorter["occurred_at"].dt.date().n_unique() == days


def test_rows_are_whole_in_order_and_in_range(history):
    assert history.null_count().sum_horizontal().item() == 0
    assert history["transaction_id"].to_list() == list(range(1, history.height + 1))
    assert history["occurred_at"].is_sorted()
    assert history.schema["occurred_at"] == pl.Datetime("us")
    assert history["amount"].min() > 0
    assert (history["amount"].round(2) == history["amount"]).all()
    assert history["account_id"].is_between(1, 500).all()
    assert history["merchant_id"].is_between(1, 200).all()
    assert history["category"].n_unique() == 8
    per_merchant = history.group_by("merchant_id").agg(pl.col("category").n_unique())
    assert per_merchant["category"].max() == 1
    assert history.height == pytest.approx(500 * 60 * 2, rel=0.05)


@pytest.mark.parametrize(
    "size",
    [(500, 200, 60), (100, 40, 60), (2000, 1000, 30)],
    ids=["medium", "small", "large"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fraud_is_rare_and_of_every_kind(size, seed):
    accounts, merchants, days = size
    frame = simulate_transactions(
        start=START, days=days, accounts=accounts, merchants=merchants, seed=seed
    )
    assert 0.003 < frame["is_fraud"].mean() < 0.02
    assert sorted(frame["fraud_scenario"].unique()) == [0, 1, 2, 3, 4]
    assert (frame["is_fraud"] == (frame["fraud_scenario"] > 0)).all()


def test_no_fraud_is_possible():
    frame = simulate_transactions(**SIZE, days=3, fraud_share=0.0)
    assert frame["is_fraud"].sum() == 0


def test_spikes_are_far_above_the_habit(history):
    spikes = history.filter(pl.col("fraud_scenario") == 1).join(
        usual_amounts(history), on="account_id"
    )
    assert (spikes["amount"] / spikes["usual"]).min() > 5


def test_merchants_are_compromised_for_about_two_weeks(history):
    frauds = history.filter(pl.col("fraud_scenario") == 2)
    spells = frauds.group_by("merchant_id").agg(
        (pl.col("occurred_at").max() - pl.col("occurred_at").min()).dt.total_days().alias("days")
    )
    assert 3 <= spells.height <= 8
    assert spells["days"].median() >= 9


def test_thieves_pay_more_at_merchants_new_to_the_account(history):
    thefts = history.filter(pl.col("fraud_scenario") == 3).join(
        usual_amounts(history), on="account_id"
    )
    assert (thefts["amount"] / thefts["usual"]).median() > 3
    known = history.filter(pl.col("is_fraud") == 0).select("account_id", "merchant_id").unique()
    new = thefts.join(known, on=["account_id", "merchant_id"], how="anti")
    assert new.height > 0.7 * thefts.height


def test_card_tests_are_small_nightly_bursts(history):
    tests = history.filter(pl.col("fraud_scenario") == 4)
    assert tests["amount"].max() <= 3
    assert tests["occurred_at"].dt.hour().is_between(1, 4).all()
    bursts = tests.group_by("account_id", pl.col("occurred_at").dt.date().alias("day")).agg(
        pl.len(), pl.col("merchant_id").n_unique().alias("merchants")
    )
    assert bursts["len"].min() >= 6
    assert bursts["merchants"].max() <= 2


def test_accounts_have_habits(history):
    genuine = history.filter(pl.col("is_fraud") == 0)
    visits = genuine.group_by("account_id", "merchant_id").len()
    top = visits.sort("len", descending=True).group_by("account_id").head(FAVOURITES)
    assert top["len"].sum() > 0.7 * genuine.height
    medians = usual_amounts(history)["usual"]
    assert medians.quantile(0.9) > 3 * medians.quantile(0.1)


FAVOURITES = 6


def is_luhn_valid(number):
    digits = [int(digit) for digit in reversed(number)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def test_card_numbers_pass_the_luhn_test_and_belong_to_one_account(history):
    pairs = history.select("account_id", "card_number").unique()
    assert pairs.height == pairs["card_number"].n_unique() == pairs["account_id"].n_unique()
    assert all(len(n) == 16 and is_luhn_valid(n) for n in pairs["card_number"])
    many = card_numbers(20_000)
    assert len(np.unique(many)) == 20_000


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_write_days_writes_one_whole_file_a_day(tmp_path, format):  # noqa: A002
    frame = simulate_transactions(start=START, days=3, accounts=30, merchants=20, seed=1)
    (tmp_path / f"{START}.{format}").write_text("an older file")
    paths = write_days(frame, tmp_path, format)
    assert [path.name for path in paths] == [f"{START + timedelta(n)}.{format}" for n in range(3)]
    assert sorted(tmp_path.iterdir()) == paths
    if format == "csv":
        dtypes = {**frame.schema, "card_number": pl.String}
        read = pl.concat([pl.read_csv(path, schema=dtypes) for path in paths])
    else:
        read = pl.concat([pl.read_parquet(path) for path in paths])
    assert_frame_equal(read, frame)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"days": 0}, "got 0"),
        ({"accounts": 0}, "got 0"),
        ({"merchants": -1}, "got -1"),
        ({"fraud_share": 0.5}, "got 0.5"),
        ({"transactions_per_account_per_day": 0.0}, "got 0.0"),
    ],
)
def test_wrong_arguments_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate_transactions(**{**SIZE, "days": 2, **wrong})


def test_write_days_refuses_another_format(tmp_path):
    with pytest.raises(ValueError, match="got 'xlsx'"):
        write_days(pl.DataFrame(), tmp_path, "xlsx")


def test_one_of_everything_is_enough():
    frame = simulate_transactions(start=START, days=5, accounts=1, merchants=1, seed=0)
    assert set(frame["account_id"]) == set(frame["merchant_id"]) == {1}


def test_two_months_of_five_hundred_accounts_are_quick():
    begin = time.perf_counter()
    simulate_transactions(**SIZE, days=60)
    assert time.perf_counter() - begin < 2
