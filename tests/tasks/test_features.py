"""The features against plain Python, and the laws of point-in-time features."""

import math
import statistics
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tasks.feature_catalog import FEATURES as CATALOG
from tasks.feature_catalog import USUALLY
from tasks.features import (
    BOOK_FEATURES,
    BOOSTED_FEATURES,
    FEATURES,
    KEY_COLUMNS,
    LEAN_FEATURES,
    compute_features,
    describe_markdown,
    feature_names,
    lookback_days,
)
from tasks.label_features import (
    ACCOUNT_LABEL_CALCULATORS,
    MERCHANT_LABEL_CALCULATORS,
    NEEDS_ACCOUNTS,
    NEEDS_GENUINE,
)
from tasks.transaction_features import ACCOUNT_CALCULATORS, MERCHANT_CALCULATORS

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
N_DAYS = 90
DELAY = 7
DAYS = timedelta(days=1)
TRANSACTION_SCHEMA = {
    "event_date": pl.Date,
    "transaction_id": pl.String,
    "occurred_at": pl.Datetime("us", "UTC"),
    "account_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Float64,
    "category": pl.String,
    "latitude": pl.Float64,
    "longitude": pl.Float64,
    "merchant_latitude": pl.Float64,
    "merchant_longitude": pl.Float64,
}
LABEL_SCHEMA = {
    "event_date": pl.Date,
    "transaction_id": pl.String,
    "account_id": pl.String,
    "merchant_id": pl.String,
    "is_fraud": pl.Boolean,
    "known_at": pl.Datetime("us", "UTC"),
    "recorded_at": pl.Datetime("us", "UTC"),
}
PLACES = {"m0": (52.5, 13.4), "m1": (48.1, 11.6), "m2": (-33.9, 151.2)}


def transaction(identifier, at, account="a0", merchant="m0", amount=10.0, **extra):
    row = dict.fromkeys(TRANSACTION_SCHEMA)
    return row | {
        "event_date": at.date(),
        "transaction_id": identifier,
        "occurred_at": at,
        "account_id": account,
        "merchant_id": merchant,
        "amount": amount,
        **extra,
    }


def statement(row, known_at, is_fraud=True, recorded_at=None):
    keys = ("event_date", "transaction_id", "account_id", "merchant_id")
    return {key: row[key] for key in keys} | {
        "is_fraud": is_fraud,
        "known_at": known_at,
        "recorded_at": recorded_at or known_at,
    }


def frames(transactions, labels):
    return (
        pl.DataFrame(transactions, TRANSACTION_SCHEMA, orient="row"),
        pl.DataFrame(labels, LABEL_SCHEMA, orient="row"),
    )


def compute(transactions, labels, start=None, end=None, **options):
    options = {"label_delay_days": DELAY} | options
    first = BEGIN.date() - 400 * DAYS
    return compute_features(
        transactions,
        labels,
        start=start or first,
        end=end or first + 4000 * DAYS,
        **options,
    )


@st.composite
def histories(draw, max_size=40):
    """Draw transactions on a coarse grid, so that ties and window edges occur; and statements."""
    n = draw(st.integers(1, max_size))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n_days = int(rng.choice([3, 20, N_DAYS]))
    transactions = []
    for i in range(n):
        at = BEGIN + timedelta(hours=6 * int(rng.integers(0, 4 * n_days)))
        merchant = f"m{rng.integers(0, 3)}"
        latitude, longitude = PLACES[merchant]
        transactions.append(
            transaction(
                f"t{rng.integers(0, 10**6):06d}-{i}",
                at,
                account=f"a{rng.integers(0, 3)}",
                merchant=merchant,
                amount=float(rng.choice([1.0, 5.25, 9.99, 20.0, 21.37, 300.0])),
                category=str(rng.choice(["food", "fuel"])) if rng.random() < 0.8 else None,
                latitude=50.0,
                longitude=float(rng.integers(-180, 180)),
                merchant_latitude=latitude if rng.random() < 0.9 else None,
                merchant_longitude=longitude,
            )
        )
    labels = []
    for row in transactions:
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            delay = rng.choice([0, 1, DELAY, DELAY, 20, 45])
            hours = int(24 * delay + 6 * rng.integers(0, 2))
            known_at = row["occurred_at"] + timedelta(hours=hours)
            recorded_at = known_at + timedelta(seconds=int(rng.integers(0, 100)))
            labels.append(statement(row, known_at, bool(rng.random() < 0.5), recorded_at))
    return transactions, labels


# The oracle: each feature by its definition, row by row.


def mean(values):
    return sum(values) / len(values)


def held_at(labels, transactions, at):
    """The newest statement of each transaction at a time, as (known_at, is_fraud, label)."""
    occurred = {row["transaction_id"]: row["occurred_at"] for row in transactions}
    newest = {}
    for label in labels:
        known = label["known_at"]
        own = occurred.get(label["transaction_id"])
        if own is not None:
            known = max(known, own + timedelta(microseconds=1))
        if known <= at:
            rank = (known, label["recorded_at"], label["is_fraud"])
            newest[label["transaction_id"]] = max(
                newest.get(label["transaction_id"], (rank, label)),
                (rank, label),
                key=lambda pair: pair[0],
            )
    return [(rank[0], label["is_fraud"], label) for rank, label in newest.values()]


def genuine_statements(labels, transactions, at):
    """Every statement of a genuine one that held at some time up to ``at``."""
    occurred = {row["transaction_id"]: row["occurred_at"] for row in transactions}
    times = set()
    for label in labels:
        own = occurred[label["transaction_id"]] + timedelta(microseconds=1)
        known = max(label["known_at"], own)
        if known <= at:
            held = [h for h in held_at(labels, transactions, known) if h[2] == label]
            if held and not label["is_fraud"]:
                times.add((label["merchant_id"], known))
    return times


def oracle_settled(row, own, delay):
    """What was settled one label delay ago, and what came since."""
    at, amount = row["occurred_at"], row["amount"]
    until = at - delay * DAYS
    own = sorted(own, key=lambda r: (r["occurred_at"], r["amount"]))
    earlier = [r for r in own if until - 30 * DAYS < r["occurred_at"] < at]
    settled = [r["amount"] for r in earlier if r["occurred_at"] <= until][-64:]
    late = [r["amount"] for r in own if until < r["occurred_at"] < at][-64:]
    out = {"amount_account_settled_zscore": oracle_zscore(amount, settled)}
    if settled:
        out["amount_to_account_settled_mean"] = amount / mean(settled)
        out["amount_to_account_settled_q90"] = amount / float(np.quantile(settled, 0.9))
        out["amount_to_account_settled_max"] = amount / max(settled)
        out["account_unsettled_max_ratio"] = max(late, default=0) / mean(settled)
    if len(settled) >= 3:
        high = [a for a in late if a > 2 * statistics.median(settled)]
        out["account_unsettled_high_amounts"] = len(high)
    return out


def oracle_account(row, transactions, delay):
    at, amount = row["occurred_at"], row["amount"]
    own = [r for r in transactions if r["account_id"] == row["account_id"]]

    def within(days, rows=own, until=at, strict=False):
        return [
            r
            for r in rows
            if until - days * DAYS < r["occurred_at"] <= until
            and not (strict and r["occurred_at"] == until)
        ]

    def is_high(r):
        before = within(16, until=r["occurred_at"], strict=True)
        usual = [b["amount"] for b in before]
        return len(usual) >= 3 and r["amount"] >= 3 * statistics.median(usual)

    out = {"amount": amount}
    out["is_weekend"] = float(at.weekday() >= 5)
    out["is_night"] = float(at.hour <= 6)
    for days in (1, 7, 30):
        out[f"account_count_{days}d"] = len(within(days))
        out[f"account_mean_amount_{days}d"] = mean([r["amount"] for r in within(days)])
    history = sorted(within(30, strict=True), key=lambda r: (r["occurred_at"], r["amount"]))
    earlier = [r["amount"] for r in history][-64:]
    if earlier:
        out["amount_to_account_mean_30d"] = amount / mean(earlier)
        out["amount_to_account_median_30d"] = amount / statistics.median(earlier)
        out["amount_to_account_q90_30d"] = amount / float(np.quantile(earlier, 0.9))
        out["amount_to_account_max_30d"] = amount / max(earlier)
        gap = at - history[-1]["occurred_at"]
        out["seconds_since_account_transaction"] = gap.total_seconds()
    out["amount_account_zscore_30d"] = oracle_zscore(amount, earlier)
    seen = [r for r in history if r["merchant_id"] == row["merchant_id"]]
    out["is_new_merchant_30d"] = float(not seen)
    for days in (7, 30):
        out[f"account_merchants_{days}d"] = len({r["merchant_id"] for r in within(days)})
    for days in (1, 3, 7, 14):
        out[f"account_high_amounts_{days}d"] = sum(map(is_high, within(days)))
    return out | oracle_settled(row, own, delay) | oracle_place(row, within(30), history)


def oracle_zscore(amount, earlier):
    if len(earlier) < 2:
        return None
    return (amount - mean(earlier)) / max(statistics.pstdev(earlier), mean(earlier) / 10, 0.01)


def oracle_place(row, recent, history):
    out = {}
    if row["category"] is not None:
        same = [r for r in recent if r["category"] == row["category"]]
        out["account_category_share_30d"] = len(same) / len(recent)
        before = [r["amount"] for r in same if r in history]
        if before:
            out["amount_to_account_category_mean_30d"] = row["amount"] / mean(before)
    here = (row["merchant_latitude"], row["merchant_longitude"])
    out["distance_to_merchant_km"] = oracle_km((row["latitude"], row["longitude"]), here)
    if history:
        order = ("occurred_at", "amount", "transaction_id")
        last = max(history, key=lambda r: tuple(r[key] for key in order))
        trip = oracle_km((last["merchant_latitude"], last["merchant_longitude"]), here)
        hours = (row["occurred_at"] - last["occurred_at"]).total_seconds() / 3600
        out["distance_from_previous_km"] = trip
        out["speed_from_previous_kmh"] = None if trip is None else trip / max(hours, 1 / 60)
    return out


def oracle_km(one, other):
    if None in (*one, *other):
        return None
    a, b, c, d = map(math.radians, (*one, *other))
    cosine = math.sin(a) * math.sin(c) + math.cos(a) * math.cos(c) * math.cos(d - b)
    return 6371.0088 * math.acos(max(-1.0, min(1.0, cosine)))


def oracle_merchant(row, transactions, delay):
    at = row["occurred_at"]
    own = [r for r in transactions if r["merchant_id"] == row["merchant_id"]]
    out = {}
    for days in (1, 7, 30):
        until = at - delay * DAYS
        window = [r for r in own if until - days * DAYS < r["occurred_at"] <= until]
        out[f"merchant_count_{days}d"] = len(window)
    history = [r for r in own if at - 30 * DAYS < r["occurred_at"] < at]
    amounts = [r["amount"] for r in history]
    if history:
        out["amount_to_merchant_mean_30d"] = row["amount"] / mean(amounts)
        gap = at - max(r["occurred_at"] for r in history)
        out["seconds_since_merchant_transaction"] = gap.total_seconds()
    out["amount_merchant_zscore_30d"] = oracle_zscore(row["amount"], amounts)
    return out


def oracle_labels(row, transactions, labels, counts):
    at, merchant = row["occurred_at"], row["merchant_id"]
    held = held_at(labels, transactions, at)
    frauds = [(k, h["merchant_id"], h["account_id"]) for k, fraud, h in held if fraud]
    at_merchant = [k for k, m, _ in frauds if m == merchant and k > at - 30 * DAYS]
    on_account = [k for k, _, a in frauds if a == row["account_id"] and k > at - 30 * DAYS]
    genuine = [k for k, f, h in held if not f and h["merchant_id"] == merchant]
    genuine = [k for k in genuine if k > at - 30 * DAYS]
    out = {"account_known_frauds_30d": len(on_account)}
    for days in (1, 7, 30):
        known = sum(k > at - days * DAYS for k in at_merchant)
        count = counts[f"merchant_count_{days}d"]
        out[f"merchant_fraud_share_{days}d"] = min(known / count, 1.0) if count else 0.0
    for days in (7, 28):
        out[f"merchant_known_frauds_{days}d"] = sum(k > at - days * DAYS for k in at_merchant)
    if at_merchant:
        out["days_since_merchant_known_fraud"] = (at - max(at_merchant)) / DAYS
    if on_account:
        out["days_since_account_known_fraud"] = (at - max(on_account)) / DAYS
    if genuine:
        out["days_since_merchant_known_genuine"] = (at - max(genuine)) / DAYS
    stated = [k for m, k in genuine_statements(labels, transactions, at) if m == merchant]
    since = max([k for k in stated if k > at - 30 * DAYS], default=at - 40 * DAYS)
    out["merchant_fraud_run"] = sum(k >= since for k in at_merchant)
    return out


def oracle_fraud_ratios(row, transactions, labels, delay):
    """The merchant's recent known frauds, beside what their accounts usually spent before."""
    at = row["occurred_at"]
    occurred = {r["transaction_id"]: r for r in transactions}
    known = {}
    for known_at, is_fraud, label in held_at(labels, transactions, at):
        own = occurred[label["transaction_id"]]
        if is_fraud and label["merchant_id"] == row["merchant_id"]:
            before = [
                r["amount"]
                for r in transactions
                if r["account_id"] == own["account_id"]
                and own["occurred_at"] - 16 * DAYS < r["occurred_at"] < own["occurred_at"]
            ]
            told = own["amount"] / statistics.median(before) if len(before) >= 3 else None
            is_recent = own["occurred_at"] > at - (delay + 14) * DAYS
            known[label["transaction_id"]] = (known_at, told, is_recent)
    out = {}
    for days in (7, 14):
        out[f"merchant_ordinary_frauds_{days}d"] = sum(
            is_recent and known_at > at - days * DAYS and (told is None or told < 2)
            for known_at, told, is_recent in known.values()
        )
    return out


def oracle(transactions, labels, delay=DELAY):
    rows = []
    for row in sorted(transactions, key=lambda r: (r["event_date"], r["transaction_id"])):
        counts = oracle_merchant(row, transactions, delay)
        values = oracle_account(row, transactions, delay) | counts
        values |= oracle_labels(row, transactions, labels, counts)
        rows.append(values | oracle_fraud_ratios(row, transactions, labels, delay))
    return rows


@given(history=histories(), delay=st.sampled_from([0, 3, DELAY]))
@settings(deadline=None, max_examples=60)
def test_features_agree_with_their_definitions_row_by_row(history, delay):
    found = compute(*frames(*history), label_delay_days=delay).to_dicts()
    expected = oracle(*history, delay=delay)
    untested = {  # see the tests of runs and of ratios
        "days_since_merchant_fraud_run_began",
        "merchant_known_fraud_ratio",
    }
    for row, values in zip(found, expected, strict=True):
        for name in set(feature_names()) - untested:
            value = values.get(name)
            if value is None:
                assert row[name] is None, name
            else:  # the oracle's cosine formula is rough at short distances
                slack = 0.1 if name.startswith(("distance", "speed")) else 1e-6
                assert row[name] == pytest.approx(value, rel=1e-5, abs=slack), name


@given(history=histories(), other=histories(), cut=st.integers(0, 4 * N_DAYS))
@settings(deadline=None, max_examples=40)
def test_nothing_later_changes_a_row(history, other, cut):
    moment = BEGIN + timedelta(hours=6 * cut)
    past = [row for row in history[0] if row["occurred_at"] <= moment]
    known = [label for label in history[1] if label["known_at"] <= moment]
    later = [
        row | {"transaction_id": "x" + row["transaction_id"]}
        for row in other[0]
        if row["occurred_at"] > moment
    ]
    rumours = [statement(row, moment + DAYS) for row in past]
    before = compute(*frames(past, known))
    after = compute(*frames(past + later, known + rumours))
    kept = after.filter(pl.col("occurred_at") <= moment)
    assert_frame_equal(before, kept.select(before.columns), check_exact=True)


@given(history=histories(max_size=60), delay=st.sampled_from([0, DELAY]))
@settings(deadline=None, max_examples=30)
def test_a_day_with_only_its_lookback_equals_the_call_for_all_days(history, delay):
    transactions, labels = frames(*history)
    everything = compute(transactions, labels, label_delay_days=delay)
    for day in everything["event_date"].unique():
        since = day - timedelta(days=lookback_days(delay))
        alone = compute(
            transactions.filter(pl.col("event_date").is_between(since, day)),
            labels.filter(pl.col("known_at").dt.date() >= since),
            start=day,
            end=day,
            label_delay_days=delay,
        )
        that_day = everything.filter(pl.col("event_date") == day)
        shared = [name for name in that_day.columns if name in alone.columns]
        assert_frame_equal(that_day.select(shared), alone.select(shared), check_exact=True)


def test_fraud_known_at_its_own_instant_a_window_ago_counts_with_any_lookback():
    """Such a statement counts from the moment after its transaction, which must be looked up."""
    first = transaction("t1", BEGIN)
    second = transaction("t2", BEGIN + timedelta(days=30))
    transactions, labels = frames([first, second], [statement(first, BEGIN)])
    day = second["event_date"]
    everything = compute(transactions, labels, label_delay_days=0)
    alone = compute(transactions, labels, start=day, end=day, label_delay_days=0)
    counts = [frame["account_known_frauds_30d"][-1] for frame in (everything, alone)]
    assert counts == [1.0, 1.0]


@given(history=histories(max_size=60), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_input_rows_does_not_matter(history, seed):
    transactions, labels = frames(*history)
    mixed = transactions.sample(fraction=1, shuffle=True, seed=seed)
    statements = labels.sample(fraction=1, shuffle=True, seed=seed)
    expected = compute(transactions, labels)
    assert_frame_equal(compute(mixed, statements), expected, check_exact=True)


@pytest.mark.parametrize("entity", ["account_id", "merchant_id"])
@given(history=histories(max_size=60))
@settings(deadline=None, max_examples=20)
def test_other_entities_do_not_matter(entity, history):
    transactions, labels = frames(*history)
    chosen = pl.col(entity) == history[0][0][entity]
    of_account = entity == "account_id"
    own = (
        (*ACCOUNT_CALCULATORS, *ACCOUNT_LABEL_CALCULATORS)
        if of_account
        else (*MERCHANT_CALCULATORS, *MERCHANT_LABEL_CALCULATORS)
    )
    own = sorted({*own} - NEEDS_ACCOUNTS)
    together = compute(transactions, labels, names=own).filter(chosen)
    alone = compute(transactions.filter(chosen), labels.filter(chosen), names=own)
    shared = [name for name in together.columns if name in alone.columns]
    assert_frame_equal(together.select(shared), alone.select(shared), check_exact=True)


@given(history=histories(), names=st.sets(st.sampled_from(feature_names()), min_size=1))
@settings(deadline=None, max_examples=30)
def test_a_subset_has_the_values_of_the_whole(history, names):
    everything = compute(*frames(*history))
    some = compute(*frames(*history), names=sorted(names))
    assert set(some.columns) - {"category"} == {*KEY_COLUMNS, *names}
    assert_frame_equal(some, everything.select(some.columns), check_exact=True)


def test_fraud_share_is_the_books_risk_when_labels_come_after_the_delay():
    rng = np.random.default_rng(5)
    rows = [
        transaction(f"{i:04d}", BEGIN + timedelta(hours=int(h)), merchant=f"m{h % 5}")
        for i, h in enumerate(np.sort(rng.integers(0, 24 * 60, 900)))
    ]
    fraud = rng.random(900) < 0.2
    labels = [
        statement(row, row["occurred_at"] + DELAY * DAYS, bool(is_fraud))
        for row, is_fraud in zip(rows, fraud, strict=True)
    ]
    found = compute(*frames(rows, labels)).sort("transaction_id")
    for days in (1, 7, 30):
        for row, share in zip(rows, found[f"merchant_fraud_share_{days}d"], strict=True):
            until = row["occurred_at"] - DELAY * DAYS
            window = [
                is_fraud
                for r, is_fraud in zip(rows, fraud, strict=True)
                if r["merchant_id"] == row["merchant_id"]
                and until - days * DAYS < r["occurred_at"] <= until
            ]
            assert share == np.float32(mean(window) if window else 0.0)


def series_at_merchant(labels_of, hours):
    """Values at probes of merchant m0 after one transaction ``x`` with the statements given."""
    first = transaction("x", BEGIN)
    probes = [transaction(f"p{h:03d}", BEGIN + timedelta(hours=h), account=f"q{h}") for h in hours]
    found = compute(*frames([first, *probes], labels_of(first)), label_delay_days=0)
    return found.filter(pl.col("transaction_id") != "x").sort("transaction_id")


def test_a_reversal_takes_effect_from_its_own_moment():
    found = series_at_merchant(
        lambda row: [
            statement(row, BEGIN + 1 * DAYS),
            statement(row, BEGIN + 3 * DAYS, is_fraud=False),
        ],
        [23, 24, 71, 72],
    )
    assert found["merchant_known_frauds_7d"].to_list() == [0, 1, 1, 0]
    assert found["days_since_merchant_known_fraud"].to_list()[3] is None
    assert found["merchant_fraud_run"].to_list() == [0, 1, 1, 0]


def test_recorded_at_breaks_ties_of_known_at():
    found = series_at_merchant(
        lambda row: [
            statement(row, BEGIN + DAYS, True, BEGIN + 2 * DAYS),
            statement(row, BEGIN + DAYS, False, BEGIN + 3 * DAYS),
        ],
        [24, 48],
    )
    assert found["merchant_known_frauds_7d"].to_list() == [0, 0]


def test_a_repeated_statement_counts_once_and_renews_the_fraud():
    found = series_at_merchant(
        lambda row: [statement(row, BEGIN + DAYS), statement(row, BEGIN + 6 * DAYS)],
        [24, 6 * 24, 10 * 24],
    )
    assert found["merchant_known_frauds_7d"].to_list() == [1, 1, 1]
    assert found["days_since_merchant_known_fraud"].to_list() == [0, 0, 4]


def test_a_run_counts_from_the_last_genuine_statement():
    rows = [transaction(f"x{i}", BEGIN + i * DAYS, account=f"b{i}") for i in range(5)]
    verdicts = [True, False, True, True, False]
    labels = [
        statement(row, row["occurred_at"] + DELAY * DAYS, verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    probes = [
        transaction(f"y{day:02d}", BEGIN + timedelta(days=day, hours=12), account="c")
        for day in (6, 7, 8, 9, 10, 11)
    ]
    found = compute(*frames(rows + probes, labels)).sort("transaction_id").tail(6)
    assert found["merchant_fraud_run"].to_list() == [0, 1, 0, 1, 2, 0]
    began = [None, 0.5, None, 0.5, 1.5, None]
    assert found["days_since_merchant_fraud_run_began"].to_list() == began


def test_a_fraud_of_an_ordinary_amount_points_at_the_merchant():
    """Of two merchants with a known fraud each, one saw a thief's amounts, the other ordinary ones."""
    usual = [
        transaction(f"u{day:02d}-{account}", BEGIN + day * DAYS, account, "elsewhere", amount=20.0)
        for day in range(10)
        for account in ("thief", "victim")
    ]
    frauds = [
        transaction("x", BEGIN + 10 * DAYS, "thief", "m0", amount=100.0),
        transaction("y", BEGIN + 10 * DAYS, "victim", "m1", amount=20.0),
    ]
    labels = [statement(row, row["occurred_at"] + DELAY * DAYS) for row in frauds]
    reversed_at = BEGIN + 20 * DAYS
    labels.append(statement(frauds[1], reversed_at, is_fraud=False))
    probes = [
        transaction(f"z{day}-{merchant}", BEGIN + day * DAYS, "other", merchant)
        for day in (16, 17, 19, 20, 31)
        for merchant in ("m0", "m1")
    ]
    names = ["merchant_ordinary_frauds_7d", "merchant_known_fraud_ratio"]
    found = compute(*frames(usual + frauds + probes, labels), names=names).tail(10)
    at = {merchant: found.filter(pl.col("merchant_id") == merchant) for merchant in ("m0", "m1")}
    assert at["m0"][names[0]].to_list() == [0, 0, 0, 0, 0]
    assert at["m1"][names[0]].to_list() == [0, 1, 1, 0, 0]
    assert at["m0"][names[1]].to_list() == [None, 5, 5, 5, None]  # too old after 14 days and 7
    assert at["m1"][names[1]].to_list() == [None, 1, 1, None, None]


def test_no_row_is_described_by_its_own_label():
    row = transaction("x", BEGIN)
    labels = [statement(row, BEGIN - DAYS)]
    found = compute(*frames([row], labels), label_delay_days=0)
    assert found["merchant_known_frauds_7d"].to_list() == [0]
    assert found["merchant_fraud_share_1d"].to_list() == [0]
    assert found["account_known_frauds_30d"].to_list() == [0]


def test_history_takes_the_most_recent_64_and_ties_by_amount():
    rows = [
        transaction(f"{i:03d}", BEGIN + timedelta(minutes=i // 4), amount=float(1 + i))
        for i in range(100)
    ]
    rows.append(transaction("999", BEGIN + DAYS, amount=1000.0))
    last = compute(*frames(rows[::-1], [])).row(-1, named=True)
    assert last["amount_to_account_max_30d"] == pytest.approx(10.0)
    assert last["amount_to_account_mean_30d"] == pytest.approx(1000 / 68.5)
    assert last["account_mean_amount_30d"] == pytest.approx((5050 + 1000) / 101)


@pytest.mark.parametrize(("delay", "expected"), [(0, [None, 5.0, 2.0]), (1, [None, None, 2.0])])
def test_settled_amounts_do_not_hold_the_row_itself(delay, expected):
    """Neither do they hold one of the same instant."""
    hours = (0, 12, 36)
    rows = [
        transaction(f"{hour:02d}-{i}", BEGIN + timedelta(hours=hour), amount=amount)
        for hour, amount in zip(hours, (1.0, 5.0, 10.0), strict=True)
        for i in range(2)
    ]
    names = ["amount_to_account_settled_max", "account_unsettled_max_ratio"]
    found = compute(*frames(rows, []), label_delay_days=delay, names=names)
    assert found.sort("transaction_id")[names[0]].to_list()[::2] == expected
    if delay == 0:
        assert found.sort("transaction_id")[names[1]].to_list()[2:] == [0, 0, 0, 0]


def test_weekend_and_night_are_local():
    late_friday = datetime(2024, 1, 5, 23, 30, tzinfo=UTC)
    utc = compute(*frames([transaction("x", late_friday)], [])).row(0, named=True)
    berlin = compute(*frames([transaction("x", late_friday)], []), time_zone="Europe/Berlin")
    assert (utc["is_weekend"], utc["is_night"]) == (0, 0)
    assert berlin.select("is_weekend", "is_night").row(0) == (1, 1)


def test_optional_columns_may_be_missing_or_all_null():
    rows = [transaction("x", BEGIN), transaction("y", BEGIN + DAYS)]
    full, labels = frames(rows, [])
    bare = compute(full.select(KEY_COLUMNS), labels)
    assert_frame_equal(bare, compute(full, labels))
    assert bare.columns == [*KEY_COLUMNS, *(n for n in feature_names() if n != "amount")]
    place = bare.select(feature_names(groups=["place"]))
    assert place.null_count().sum_horizontal().item() == 2 * place.width


def test_a_day_without_transactions_gives_an_empty_frame_of_the_same_columns():
    transactions, labels = frames([transaction("x", BEGIN, category="food")], [])
    empty = compute(transactions, labels, start=date(2030, 1, 1), end=date(2030, 1, 1))
    assert empty.height == 0
    full = compute(transactions, labels).drop("category")
    assert empty.schema == full.schema


def test_every_feature_is_float32_and_the_keys_keep_their_types():
    found = compute(*frames([transaction("x", BEGIN)], []))
    types = {found.schema[name] for name in feature_names() if name != "amount"}
    assert types == {pl.Float32}
    assert all(found.schema[name] == TRANSACTION_SCHEMA[name] for name in KEY_COLUMNS)


def test_wrong_arguments_are_refused():
    frame = frames([transaction("x", BEGIN)], [])
    with pytest.raises(ValueError, match="nonsense"):
        compute(*frame, names=["nonsense"])
    with pytest.raises(ValueError, match="label_delay_days"):
        compute(*frame, label_delay_days=-1)
    with pytest.raises(ValueError, match="finite"):
        compute(*frames([transaction("x", BEGIN, amount=math.inf)], []))


def test_every_declared_feature_is_computed_and_every_computed_one_declared():
    computed = {
        "amount",
        "is_weekend",
        "is_night",
        *ACCOUNT_CALCULATORS,
        *MERCHANT_CALCULATORS,
        *ACCOUNT_LABEL_CALCULATORS,
        *MERCHANT_LABEL_CALCULATORS,
    }
    names = feature_names()
    assert FEATURES is CATALOG
    assert len(names) == len(set(names))
    assert set(names) == computed
    assert set(feature_names(uses_labels=True)) == {
        *ACCOUNT_LABEL_CALCULATORS,
        *MERCHANT_LABEL_CALCULATORS,
    }
    assert set(BOOK_FEATURES) | set(LEAN_FEATURES) | NEEDS_GENUINE | NEEDS_ACCOUNTS <= set(names)
    assert set(BOOSTED_FEATURES) <= set(names)
    assert len(BOOK_FEATURES) == 15
    assert {f.group for f in FEATURES} == {"account", "merchant", "label", "time", "place"}


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_phrases_can_be_filled_in(feature):
    text = feature.phrase.format(value=2.5, usual=1.25, amount=412.0)
    assert "{" not in text
    assert feature.phrase.partition(USUALLY)[0].format(value=2.5, amount=412.0) in text
    assert feature.meaning.endswith(".")


def test_what_a_first_transaction_lacks_is_worded_unless_it_is_a_label():
    found = compute(*frames([transaction("x", BEGIN)], [])).row(0, named=True)
    for feature in FEATURES:
        if found[feature.name] is not None:
            assert feature.missing is None, feature.name
        elif not feature.uses_labels:
            assert feature.missing, feature.name


def test_docs_are_up_to_date():
    path = Path(__file__).parents[2] / "docs" / "features.md"
    assert path.read_text(encoding="utf-8") == describe_markdown(), (
        "docs/features.md is out of date: write tasks.features.describe_markdown() to it"
    )
