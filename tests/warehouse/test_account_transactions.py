"""The account's story: what is kept of it, and what is read from the lake for it."""

from datetime import UTC, datetime, time, timedelta

import polars as pl
import pytest
from sqlalchemy import event

from tests.alerts import DAY, new_alert
from warehouse import account_transactions
from warehouse.account_transactions import (
    KEPT_FOR,
    STORY_DAYS,
    STORY_ROWS,
    keep_transactions,
    read_account_transactions,
)
from warehouse.connection import Lake, WarehouseSettings
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.reads import read_newest_transactions

NOON = datetime.combine(DAY, time(12), UTC)


def rows(account, moments, *, amount=1.0):
    return pl.DataFrame(
        {
            "transaction_id": [f"{account} {moment.isoformat()}" for moment in moments],
            "account_id": [account] * len(moments),
            "event_date": [moment.date() for moment in moments],
            "occurred_at": moments,
            "merchant_id": ["m"] * len(moments),
            "amount": [amount] * len(moments),
        },
        schema_overrides={"occurred_at": pl.Datetime("us", "UTC")},
    )


def story(queue, account, until=NOON):
    with queue.database.read() as connection:
        return read_account_transactions(connection, account, until=until)


def test_kept_transactions_come_back_oldest_first_and_stay_as_they_were(queue, monkeypatch):
    monkeypatch.setattr(account_transactions, "ROWS_AT_ONCE", 2)
    hours = [NOON - timedelta(hours=n) for n in range(5)]
    assert keep_transactions(queue, rows("a", hours)) == 5
    assert keep_transactions(queue, rows("a", [*hours, NOON - timedelta(days=1)], amount=9.0)) == 1
    found = story(queue, "a")
    assert [one.occurred_at for one in found] == [NOON - timedelta(days=1), *reversed(hours)]
    assert [one.amount for one in found] == [9.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert story(queue, "b") == []


def test_transaction_given_twice_is_kept_once(queue):
    twice = pl.concat([rows("a", [NOON]), rows("a", [NOON], amount=5.0)])
    assert keep_transactions(queue, twice) == 1
    assert [one.amount for one in story(queue, "a")] == [1.0]


def test_story_ends_at_its_moment_and_is_bounded_by_days_and_rows(queue):
    minutes = [NOON - timedelta(minutes=n) for n in range(STORY_ROWS + 20)]
    long_ago = NOON - timedelta(days=STORY_DAYS)
    keep_transactions(queue, rows("busy", minutes))
    keep_transactions(queue, rows("calm", [NOON, long_ago, long_ago + timedelta(seconds=1)]))
    newest = story(queue, "busy")
    assert [one.occurred_at for one in newest] == minutes[STORY_ROWS - 1 :: -1]
    earlier = story(queue, "busy", minutes[10])
    assert earlier[-1].occurred_at == minutes[10]
    assert [one.occurred_at for one in story(queue, "calm")] == [
        long_ago + timedelta(seconds=1),
        NOON,
    ]


def test_what_is_a_year_older_than_all_that_is_given_is_dropped_of_these_accounts(queue):
    edge = NOON - KEPT_FOR
    for account in ("a", "b"):
        keep_transactions(queue, rows(account, [edge - timedelta(seconds=1), edge]))
    given = rows("a", [NOON, NOON + timedelta(days=30)])
    assert keep_transactions(queue, given) == 2
    assert [one.occurred_at for one in story(queue, "a", edge)] == [edge]
    assert len(story(queue, "b", edge)) == 2
    assert keep_transactions(queue, given) == 0
    assert len(story(queue, "a", NOON + timedelta(days=30))) == 2


def test_story_of_a_case_that_somebody_may_have_to_decide_is_never_dropped(queue):
    then = NOON - KEPT_FOR - timedelta(days=1)
    alerts = {
        name: new_alert(name, account=name, day=then.date(), occurred_at=then)
        for name in ("open", "done", "second")
    }
    queue.enqueue(then.date(), "nightly", list(alerts.values()))
    numbers = {alert.transaction_id: alert.id for alert in queue.alerts_of_day(then.date())}
    for name in ("done", "second"):
        (made,) = decide_alerts(queue, [Verdict(numbers[name], "fraud")], "ana").decided
    changed = Verdict(numbers["second"], "genuine", seen=made)
    decide_alerts(queue, [changed], "ana", second_above=1.0)
    for name in alerts:
        keep_transactions(queue, rows(name, [then - timedelta(days=59), then]))
    keep_transactions(queue, pl.concat([rows(name, [NOON]) for name in alerts]))
    assert {name: len(story(queue, name, then)) for name in alerts} == {
        "open": 2,
        "done": 0,
        "second": 2,
    }


@pytest.mark.parametrize("later", [0, 1])
def test_case_needs_no_more_than_its_days(queue, later):
    edge = NOON - KEPT_FOR
    alert_at = edge + timedelta(days=STORY_DAYS, seconds=later - 1)
    alert = new_alert("t", account="a", day=alert_at.date(), occurred_at=alert_at)
    queue.enqueue(alert_at.date(), "nightly", [alert])
    keep_transactions(queue, rows("a", [edge - timedelta(microseconds=1)]))
    keep_transactions(queue, rows("a", [NOON]))
    assert len(story(queue, "a", edge)) == (0 if later else 1)


def test_bygones_are_found_by_indexes(queue):
    if not queue.database.is_sqlite:
        pytest.skip("plans of PostgreSQL depend on its statistics")
    plans = []

    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("DELETE"):
            found = connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in found)

    event.listen(queue.database.engine, "before_cursor_execute", explain)
    keep_transactions(queue, rows("a", [NOON]))
    event.remove(queue.database.engine, "before_cursor_execute", explain)
    assert any("ix_account_transactions_account_id_occurred_at" in step for step in plans), plans
    assert any("ix_alerts_account_id" in step for step in plans), plans
    assert not any("SCAN" in step for step in plans), plans


@pytest.fixture
def lake(tmp_path):
    with Lake.open(WarehouseSettings(path=tmp_path, threads=1)) as opened:
        yield opened


def publish(lake, frame):
    now = datetime.now(UTC)
    given = frame.with_columns(batch_id=pl.lit("batch"), ingested_at=pl.lit(now))
    lake.connection.register("given", given.to_arrow())
    with lake.commit():
        lake.connection.execute("INSERT INTO lake.transactions BY NAME SELECT * FROM given")
    lake.connection.unregister("given")


def test_lake_gives_the_newest_of_each_account_within_the_days(lake):
    days = [NOON - timedelta(days=n) for n in range(-1, 5)]
    for account in ("a", "b", "c"):
        publish(lake, rows(account, days))
    found = read_newest_transactions(lake, {"a", "c", "none"}, DAY, days=4, rows=3)
    assert sorted(found["account_id"].unique()) == ["a", "c"]
    assert sorted(found.filter(account_id="a")["event_date"]) == [
        DAY - timedelta(days=2),
        DAY - timedelta(days=1),
        DAY,
    ]
    two_days = read_newest_transactions(lake, {"a"}, DAY, days=2, rows=100)
    assert sorted(two_days["event_date"]) == [DAY - timedelta(days=1), DAY]
    assert read_newest_transactions(lake, [], DAY, days=4, rows=3).is_empty()


def test_what_the_lake_gives_can_be_kept(lake, queue):
    publish(lake, rows("a", [NOON, NOON - timedelta(hours=1)]))
    given = read_newest_transactions(lake, ["a"], DAY, days=STORY_DAYS, rows=STORY_ROWS)
    assert keep_transactions(queue, given) == 2
    assert [one.occurred_at for one in story(queue, "a")] == [NOON - timedelta(hours=1), NOON]
    assert keep_transactions(queue, given.clear()) == 0
