"""Each row's history against plain Python, and the laws of what a row may know."""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.features import compute_features
from tasks.history import HISTORY_CHANNELS, HISTORY_LOOKBACK_DAYS, account_history, hour_angle

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
ZONE = "Europe/Berlin"
SCHEMA = {
    "event_date": pl.Date,
    "transaction_id": pl.String,
    "occurred_at": pl.Datetime("us", "UTC"),
    "account_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Float64,
}
# hours since BEGIN, many of them equal, and over longer than the lookback
moments = st.integers(0, 24 * 100).map(lambda hour: hour - hour % 7)
ledgers = st.lists(st.tuples(st.sampled_from("abc"), moments), min_size=1, max_size=40)


def frame(ledger):
    return pl.DataFrame(
        [
            {
                "event_date": (BEGIN + timedelta(hours=hour)).date(),
                "transaction_id": f"t{i}",
                "occurred_at": BEGIN + timedelta(hours=hour),
                "account_id": account,
                "merchant_id": "m",
                "amount": 10.0 + i,
            }
            for i, (account, hour) in enumerate(ledger)
        ],
        schema=SCHEMA,
    )


def histories(transactions, rows=None, window=5):
    """Give each row's identifier and its window's events, oldest first, as nested tuples."""
    rows = transactions if rows is None else rows
    events, spans = account_history(transactions, rows, time_zone=ZONE, window=window)
    assert spans["transaction_id"].to_list() == rows["transaction_id"].to_list()
    table = [tuple(map(repr, row)) for row in events.select(HISTORY_CHANNELS).rows()]
    return {
        name: tuple(table[end - count : end])
        for name, end, count in spans.select(
            "transaction_id", "history_end", "history_count"
        ).rows()
    }


def naive_history(ledger, row, window):
    """Give the numbers (in the ledger) of the row's history, oldest first."""
    account, hour = ledger[row]
    earlier = [
        (h, f"t{i}", i)
        for i, (a, h) in enumerate(ledger)
        if a == account and hour - 30 * 24 < h < hour
    ]
    return [i for _, _, i in sorted(earlier)[-window:]]


@settings(deadline=None, max_examples=100)
@given(ledger=ledgers, window=st.integers(1, 6))
def test_history_equals_a_walk_over_the_ledger(ledger, window):
    found = histories(frame(ledger), window=window)
    for row in range(len(ledger)):
        amounts = [float(event[0]) for event in found[f"t{row}"]]
        assert amounts == [10.0 + i for i in naive_history(ledger, row, window)]


@settings(deadline=None, max_examples=50)
@given(ledger=ledgers, seed=st.integers(0, 99))
def test_order_of_the_input_does_not_matter(ledger, seed):
    transactions = frame(ledger)
    shuffled = transactions.sample(fraction=1.0, shuffle=True, seed=seed)
    assert histories(shuffled) == histories(transactions)
    events = [
        account_history(part, part, time_zone=ZONE, window=5)[0]
        for part in (transactions, shuffled)
    ]
    assert events[0].equals(events[1])


@settings(deadline=None, max_examples=50)
@given(ledger=ledgers, day=st.integers(0, 100))
def test_later_rows_change_nothing(ledger, day):
    transactions = frame(ledger)
    whole = histories(transactions)
    known = transactions.filter(pl.col("event_date") <= (BEGIN + timedelta(days=day)).date())
    assert histories(known).items() <= whole.items()


@settings(deadline=None, max_examples=50)
@given(ledger=ledgers, day=st.integers(0, 100))
def test_a_day_needs_no_more_than_its_lookback(ledger, day):
    transactions = frame(ledger)
    date = (BEGIN + timedelta(days=day)).date()
    rows = transactions.filter(pl.col("event_date") == date)
    before = date - timedelta(days=HISTORY_LOOKBACK_DAYS)
    recent = transactions.filter(pl.col("event_date").is_between(before, date))
    assert histories(recent, rows) == histories(transactions, rows)


@settings(deadline=None, max_examples=30)
@given(ledger=ledgers)
def test_other_accounts_change_nothing(ledger):
    transactions = frame(ledger)
    own = transactions.filter(pl.col("account_id") == ledger[0][0])
    assert histories(own).items() <= histories(transactions).items()


def test_channels_equal_the_features_of_their_names():
    g = np.random.default_rng(0)
    picks = zip(g.choice(list("abc"), 200), g.integers(0, 24 * 95, 200), strict=True)
    ledger = [(str(account), int(hour)) for account, hour in picks]
    transactions = frame(ledger)
    features = compute_features(
        transactions,
        transactions.select(
            "event_date",
            "transaction_id",
            "account_id",
            "merchant_id",
            is_fraud=pl.lit(value=False),
            known_at="occurred_at",
            recorded_at="occurred_at",
        ).clear(),
        start=transactions["event_date"].min(),
        end=transactions["event_date"].max(),
        label_delay_days=7,
    )
    events, _ = account_history(transactions, transactions, time_zone=ZONE, window=5)
    order = transactions.sort("account_id", "occurred_at", "transaction_id")
    joined = order.select("transaction_id").join(features, on="transaction_id", how="left")
    for name in ("amount", "seconds_since_account_transaction"):
        expected = joined[name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        np.testing.assert_array_equal(events[name].to_numpy(), expected)
    assert events["seconds_since_account_transaction"].is_nan().sum() >= 3
    assert events.columns == list(HISTORY_CHANNELS)
    assert set(events.dtypes) == {pl.Float32}


def test_hour_is_the_local_one_and_goes_around():
    at = [datetime(2024, 7, 1, 22, 0, tzinfo=UTC), datetime(2024, 1, 1, 5, 30, tzinfo=UTC)]
    times = pl.DataFrame({"occurred_at": at}, schema={"occurred_at": pl.Datetime("us", "UTC")})
    angles = times.select(hour_angle(ZONE)).to_series().to_list()
    local = [moment.astimezone(ZoneInfo(ZONE)) for moment in at]
    assert [moment.hour for moment in local] == [0, 6]  # summer time, and winter time
    assert angles == pytest.approx([0.0, 2 * math.pi * 6.5 / 24])
    transactions = frame([("a", 5)])
    events, _ = account_history(transactions, transactions, time_zone=ZONE, window=5)
    assert events["hour_sin"].item() == pytest.approx(1.0)  # six in the morning in Berlin
    assert events["hour_cos"].item() == pytest.approx(0.0, abs=1e-6)


def test_rows_of_one_instant_are_not_history_of_each_other():
    found = histories(frame([("a", 0), ("a", 7), ("a", 7), ("a", 14)]))
    assert [len(found[name]) for name in ("t0", "t1", "t2", "t3")] == [0, 1, 1, 3]


def test_nothing_in_gives_nothing_out():
    empty = frame([])
    events, spans = account_history(empty, empty, time_zone=ZONE, window=5)
    assert (events.height, spans.height) == (0, 0)
    some = frame([("a", 0)])
    assert account_history(some, some.clear(), time_zone=ZONE, window=5)[1].height == 0


def test_rows_that_are_not_there_or_twice_are_refused():
    transactions = frame([("a", 0), ("a", 7)])
    unknown = pl.DataFrame({"transaction_id": ["t0", "t9"]})
    with pytest.raises(ValueError, match="1 are not there"):
        account_history(transactions, unknown, time_zone=ZONE, window=5)
    twice = pl.concat([transactions, transactions.head(1)])
    with pytest.raises(ValueError, match="1 are there again"):
        account_history(twice, unknown.head(1), time_zone=ZONE, window=5)
