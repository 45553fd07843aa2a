"""How many of the labels expected by now are in: the query against its plain definition."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import UserError
from warehouse.maturity import WINDOW_DAYS, day_maturities, last_mature_day
from warehouse.reads import midnight

FIRST = date(2026, 1, 1)
DAYS = 60
PER_DAY = 20
AS_OF = datetime(2026, 2, 20, 15, 30, tzinfo=UTC)


def make_transactions():
    """Give id, day and moment of each transaction."""
    draw = np.random.default_rng(5)
    return [
        (f"{day}-{n}", FIRST + timedelta(days=day), moment)
        for day in range(DAYS)
        for n in range(PER_DAY)
        for moment in [
            midnight(FIRST + timedelta(days=day)) + timedelta(seconds=int(draw.integers(86400)))
        ]
    ]


def make_labels(transactions):
    """A tenth is fraud, reported after up to 25 days; some are called genuine, before or after."""
    draw = np.random.default_rng(6)
    labels = []
    for transaction_id, day, moment in transactions:
        delay = timedelta(hours=int(draw.integers(1, 600)))
        if draw.random() < 0.1:
            labels.append((transaction_id, day, True, moment + delay))
            if draw.random() < 0.3:
                labels.append((transaction_id, day, draw.random() < 0.5, moment + 2 * delay))
        elif draw.random() < 0.05:
            labels.append((transaction_id, day, False, moment + delay))
    return labels


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with sixty days of transactions, a tenth of them reported as fraud."""
    with Lake.open(WarehouseSettings(path=tmp_path_factory.mktemp("wh"), threads=2)) as opened:
        transactions = make_transactions()
        with opened.commit() as connection:
            write_transactions(connection, transactions)
            write_labels(connection, make_labels(transactions))
        yield opened


def write_transactions(connection, rows):
    names = ["transaction_id", "event_date", "occurred_at"]
    connection.register("rows", pl.DataFrame(rows, names, orient="row").to_arrow())
    connection.execute(
        "INSERT INTO lake.transactions (transaction_id, event_date, occurred_at, account_id, "
        "merchant_id, amount, batch_id, ingested_at) SELECT *, 'a', 'm', 1, 'b', now() FROM rows"
    )


def write_labels(connection, rows):
    names = ["transaction_id", "event_date", "is_fraud", "known_at"]
    connection.register("rows", pl.DataFrame(rows, names, orient="row").to_arrow())
    connection.execute(
        "INSERT INTO lake.labels (transaction_id, event_date, is_fraud, known_at, account_id, "
        "merchant_id, source, recorded_at) SELECT *, 'a', 'm', 'import', now() FROM rows"
    )


def truth(labels):
    """Give each transaction's newest statement known by ``AS_OF``."""
    known = sorted((one for one in labels if one[3] <= AS_OF), key=lambda one: one[3])
    return {transaction_id: is_fraud for transaction_id, _, is_fraud, _ in known}


def expected_by_definition(day, maturity_days):
    """The estimate in plain Python: share expected by now, and of these in."""
    transactions = make_transactions()
    labels = make_labels(transactions)
    says = truth(labels)
    newest = AS_OF.date() - timedelta(days=maturity_days + 1)
    of_window = [one for one in transactions if one[1] <= newest]
    delays = []
    for transaction_id, _, moment in of_window:
        known = [
            one[3] - moment
            for one in labels
            if one[0] == transaction_id and one[2] and one[3] <= AS_OF
        ]
        if says.get(transaction_id) and min(known) <= timedelta(days=maturity_days):
            delays.append(min(known))
    shares = [
        sum(delay <= AS_OF - moment for delay in delays) / len(delays)
        for _, of_day, moment in transactions
        if of_day == day
    ]
    share = sum(shares) / len(shares)
    frauds = sum(says.get(one[0], False) for one in transactions if one[1] == day)
    usual = len(delays) / len(of_window) * PER_DAY
    return share, (frauds / (usual * share) if share else None)


def maturities(lake, start, end, maturity_days=20, label_delay_days=None):
    return day_maturities(
        lake,
        start,
        end,
        AS_OF,
        time_zone="UTC",
        maturity_days=maturity_days,
        label_delay_days=label_delay_days,
    )


def test_counts_are_those_known_by_the_moment(lake):
    says = truth(make_labels(make_transactions()))
    found = maturities(lake, FIRST, FIRST + timedelta(days=DAYS))
    assert [one.day for one in found] == [FIRST + timedelta(days=n) for n in range(DAYS)]
    for one in found:
        ids = [f"{(one.day - FIRST).days}-{n}" for n in range(PER_DAY)]
        known = [says[transaction_id] for transaction_id in ids if transaction_id in says]
        assert (one.transactions, one.labelled, one.frauds) == (PER_DAY, len(known), sum(known))
    assert sum(one.frauds for one in found) > 50


@pytest.mark.parametrize("number", [0, 25, 29, 30, 40, 48, 50, 55])
def test_estimate_follows_its_definition(lake, number):
    day = FIRST + timedelta(days=number)
    (found,) = maturities(lake, day, day)
    share, known = expected_by_definition(day, 20)
    assert found.expected_share == pytest.approx(share)
    assert found.known_share == (None if known is None else pytest.approx(known))
    assert found.is_mature == (number <= 29)


def test_expected_share_falls_with_the_day_and_is_whole_on_mature_days(lake):
    found = maturities(lake, FIRST, AS_OF.date())
    shares = [one.expected_share for one in found]
    assert shares == sorted(shares, reverse=True)
    assert {one.expected_share for one in found if one.is_mature} == {1.0}
    assert 0 < shares[-1] < 0.1


def test_source_that_labels_everything_owes_what_is_past_its_delay(tmp_path):
    """Of six transactions five are past their delay, and four of these have their label."""
    day = AS_OF.date() - timedelta(days=7)
    rows = [(f"t{n}", day, midnight(day) + timedelta(hours=5 * n)) for n in range(5)]
    late = ("late", day, midnight(day))
    with Lake.open(WarehouseSettings(path=tmp_path)) as lake:
        with lake.commit() as connection:
            write_transactions(connection, [*rows, late])
            known = [(*row[:2], row[0] == "t0", row[2] + timedelta(days=7)) for row in rows]
            write_labels(connection, known)
            write_labels(connection, [("t4", day, True, midnight(day) + timedelta(days=1))])
        (found,) = maturities(lake, day, day, maturity_days=7, label_delay_days=7)
    assert (found.transactions, found.labelled, found.frauds) == (6, 5, 2)
    assert found.expected_share == pytest.approx(5 / 6)  # t4, of 20 o'clock, is not due at 15:30
    assert found.known_share == pytest.approx(4 / 5)
    assert not found.is_mature


def test_nothing_is_expected_where_no_mature_day_tells(lake):
    assert {one.expected_share for one in maturities(lake, FIRST, AS_OF.date(), 60)} == {None}
    assert maturities(lake, FIRST - timedelta(days=9), FIRST - timedelta(days=1)) == []
    young = maturities(lake, AS_OF.date(), AS_OF.date(), 7, label_delay_days=7)[0]
    assert (young.expected_share, young.known_share) == (0.0, None)


def test_only_the_newest_mature_days_tell(lake):
    far = AS_OF + timedelta(days=20 + WINDOW_DAYS + DAYS)
    (found,) = day_maturities(
        lake, FIRST, FIRST, far, time_zone="UTC", maturity_days=20, label_delay_days=None
    )
    assert found.is_mature
    assert found.expected_share is None


@pytest.mark.parametrize(("time_zone", "mature"), [("UTC", 29), ("America/Los_Angeles", 28)])
def test_day_is_mature_when_it_is_over_where_the_source_is(lake, time_zone, mature):
    night = datetime(2026, 2, 20, 3, 0, tzinfo=UTC)  # the evening of the 19th in California
    found = day_maturities(
        lake,
        FIRST,
        FIRST + timedelta(days=DAYS),
        night,
        time_zone=time_zone,
        maturity_days=20,
        label_delay_days=None,
    )
    assert [one.is_mature for one in found] == [n <= mature for n in range(DAYS)]


def test_last_mature_day_follows_the_sources_calendar():
    now = datetime(2026, 3, 20, 0, 30, tzinfo=UTC)
    assert last_mature_day(now, "UTC", 7) == date(2026, 3, 12)
    assert last_mature_day(now, "America/Los_Angeles", 7) == date(2026, 3, 11)
    assert last_mature_day(now, "Pacific/Kiritimati", 0) == date(2026, 3, 19)


@given(
    st.integers(0, 10 * 365 * 24 * 60).map(lambda n: AS_OF + timedelta(minutes=n)),
    st.sampled_from(["UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Tokyo"]),
    st.integers(0, 60),
)
def test_last_mature_day_has_ended_for_as_many_days_and_the_next_has_not(now, zone, maturity):
    day = last_mature_day(now, zone, maturity)
    local = now.astimezone(ZoneInfo(zone))
    assert midnight(day + timedelta(days=1 + maturity), zone) <= now
    assert now < midnight(day + timedelta(days=2 + maturity), zone)
    assert last_mature_day(local, zone, maturity) == day


def test_days_the_wrong_way_round_are_refused(lake):
    with pytest.raises(UserError, match="the last day must not be before the first"):
        maturities(lake, FIRST + timedelta(days=1), FIRST)
