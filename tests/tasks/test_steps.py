"""The night's steps without Prefect's server: idempotent, and a user's mistake is not retried."""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

import polars as pl
import pytest
from prefect.states import Completed, exception_to_failed_state

from models.autoencoder import Autoencoder
from models.registry import REGISTRY, DetectorEntry
from tasks.context import Context
from tasks.review_settings import (
    EvaluateSettings,
    LabelSettings,
    PromotionSettings,
    QueueSettings,
)
from tasks.steps import RETRIED, collect_decisions, enqueue_day, may_pass, score_day, train_as_of
from tasks.tracking import Registry
from tests.tasks.test_fit import (
    AS_OF,
    DELAY,
    SMALL,
    START,
    Hot,
    insert,
    labels_of,
    make_lake,
    simulate,
)
from warehouse.account_transactions import read_account_transactions
from warehouse.connection import WarehouseSettings
from warehouse.errors import DayRefusedError, ModelMissingError, SourceError, UserError
from warehouse.ledger import day_states
from warehouse.queue import Queue
from warehouse.queue_decisions import retract_decision
from warehouse.reads import read_scores
from warehouse.rules import ValidationSettings
from warehouse.source import SourceSettings

SOURCE = {
    "format": "csv",
    "path": "{date}.csv",
    "columns": {
        "transaction_id": "id",
        "occurred_at": "time",
        "account_id": "account",
        "merchant_id": "shop",
        "amount": "amount",
    },
    "label": {"column": "fraud", "delay_days": DELAY},
}


def make_context(folder, **changes):
    values = {
        "warehouse": WarehouseSettings(path=folder, threads=1),
        "source": SourceSettings.model_validate(SOURCE),
        "validation": ValidationSettings(),
        "train": SMALL,
        "labels": LabelSettings(),
        "queue": QueueSettings(capacity=8),
        "evaluate": EvaluateSettings(),
        "promotion": PromotionSettings(),
        "device": "auto",
        "threads": 1,
        "workers": 1,
        "deterministic": False,
        "key": None,
    }
    return Context(**values | changes)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A warehouse with a champion as of ``AS_OF`` and a challenger a day younger."""
    folder = tmp_path_factory.mktemp("steps")
    frame = simulate()
    make_lake(folder, frame, labels_of(frame)).close()
    with make_context(folder, device="cpu").closing() as made:
        first = train_as_of.fn(made, AS_OF, aliased=True)
        second = train_as_of.fn(made, AS_OF + timedelta(days=1), aliased=True)
        unnamed = train_as_of.fn(made, AS_OF - timedelta(days=2), aliased=False)
        assert [m.alias for m in (first, second, unnamed)] == ["champion", "challenger", None]
        yield made


def test_trained_models_are_tagged_with_their_settings(context):
    *_, newest, challenger, champion = Registry(context.warehouse).versions()
    assert (champion.aliases, challenger.aliases) == (("champion",), ("challenger",))
    assert newest.aliases == ()
    assert newest.tags["settings_digest"] == context.training_digest()
    assert {"code_version", "data_digest", "as_of"} <= set(newest.tags)
    assert "failed_members" not in newest.tags


def test_training_and_what_it_left_out_stand_in_the_ledger(context, monkeypatch):
    run = day_states(context.lake(), AS_OF, AS_OF)[AS_OF, "train"]
    assert (run.status, run.model_version, run.error) == ("done", "1", None)
    assert run.rows_in > 0
    monkeypatch.setitem(REGISTRY, "hot", DetectorEntry(Autoencoder, Hot))
    settings = SMALL.model_copy(update={"members": ("hot", "gaussian")})
    day = AS_OF - timedelta(days=5)
    trained = train_as_of.fn(replace(context, train=settings), day, aliased=False)
    assert trained.failed_members.startswith("hot: TrainingDivergedError")
    noted = day_states(context.lake(), day, day)[day, "train"]
    assert noted.error == f"left out: {trained.failed_members}"


def test_scoring_again_changes_nothing(context):
    lake = context.lake()
    first = score_day.fn(context, AS_OF)
    stored, snapshot = read_scores(lake, AS_OF, AS_OF), lake.snapshot_id()
    again = score_day.fn(context, AS_OF)
    assert (first.changed, again.changed) == (True, False)
    assert snapshot == first.alerts[0].snapshot_id + 1, "the scores made a snapshot"
    assert again.alerts == first.alerts, "they name the snapshot that the stored scores come from"
    unread = [replace(alert, snapshot_id=None) for alert in first.alerts]
    assert [replace(alert, snapshot_id=None) for alert in again.alerts] == unread
    assert again.rows == first.rows
    assert lake.snapshot_id() == snapshot
    assert read_scores(lake, AS_OF, AS_OF).equals(stored)
    run = day_states(lake, AS_OF, AS_OF)[AS_OF, "score"]
    assert (run.rows_in, run.rows_out, run.model_version) == (first.rows, first.rows, "1")


def test_changed_day_or_model_replaces_the_scores(context):
    day, lake = AS_OF + timedelta(days=1), context.lake()
    first = score_day.fn(context, day)
    before = read_scores(lake, day, day)
    with lake.commit() as connection:
        connection.execute(
            "DELETE FROM lake.transactions WHERE transaction_id = ?",
            [before["transaction_id"][0]],
        )
        insert(lake, "transactions", late_row(day))
    corrected = score_day.fn(context, day)
    after = read_scores(lake, day, day)
    assert corrected.changed
    assert after.height == before.height == first.rows
    assert "late" in after["transaction_id"]
    assert before["transaction_id"][0] not in after["transaction_id"]
    by_challenger = score_day.fn(context, day, "2")
    assert by_challenger.changed
    assert set(read_scores(lake, day, day)["model_version"]) == {"2"}


def late_row(day):
    row = simulate().filter(pl.col("event_date") == day).head(1)
    return row.with_columns(transaction_id=pl.lit("late"), amount=pl.lit(5000.0))


def test_enqueueing_again_adds_nothing(context):
    day = AS_OF + timedelta(days=2)
    scored = score_day.fn(context, day)
    first = enqueue_day.fn(context, scored, "nightly")
    snapshot = context.lake().snapshot_id()
    again = enqueue_day.fn(context, score_day.fn(context, day), "nightly")
    assert (first.added, again.added, again.already_there) == (8, 0, 8)
    assert context.lake().snapshot_id() == snapshot
    assert enqueue_day.fn(context, score_day.fn(context, day), "backfill").added == 0
    with Queue.open(context.warehouse.queue_path, create=False) as queue:
        assert {alert.lane for alert in queue.alerts_of_day(day)} == {"nightly", "audit"}
        assert queue.count_of_day(day, "audit") == 1
        assert queue.decisions() == []


def test_every_decision_becomes_a_label_once(context):
    day = AS_OF + timedelta(days=2)
    scored = score_day.fn(context, day)
    enqueue_day.fn(context, scored, "nightly")
    month_ago = datetime.now(UTC) - timedelta(days=30)
    with Queue.open(context.warehouse.queue_path, create=False, clock=lambda: month_ago) as queue:
        first, second = queue.alerts_of_day(day)[:2]
        queue.decide(first.id, "fraud", "ana")
    assert collect_decisions.fn(context) == 1
    imported = labels_of(simulate().filter(pl.col("event_date") == day).head(1)).with_columns(
        known_at=pl.lit(datetime.now(UTC)), source=pl.lit("analyst")
    )
    with context.lake().commit():
        insert(context.lake(), "labels", imported)
    with Queue.open(context.warehouse.queue_path, create=False, clock=lambda: month_ago) as queue:
        queue.decide(second.id, "genuine", "ana")  # a clock that is behind, after such an import
    assert collect_decisions.fn(context) == 1
    snapshot = context.lake().snapshot_id()
    assert collect_decisions.fn(context) == 0
    assert context.lake().snapshot_id() == snapshot


def test_queue_whose_making_was_killed_is_made_anew(context):
    context.warehouse.queue_path.parent.mkdir(parents=True, exist_ok=True)
    context.warehouse.queue_path.touch()
    assert collect_decisions.fn(context) == 0


def test_decision_becomes_a_label_when_it_cannot_be_taken_back(context, monkeypatch):
    day = AS_OF
    enqueue_day.fn(context, score_day.fn(context, day), "nightly")
    month_ago = datetime.now(UTC) - timedelta(days=30)
    with Queue.open(context.warehouse.queue_path, create=False) as queue:
        young, taken_back, old = queue.alerts_of_day(day)[:3]
        queue.decide(young.id, "fraud", "ana")
        queue.decide(taken_back.id, "fraud", "ana")
        retract_decision(queue, queue.last_decision(), "ana")
        queue.clock = lambda: month_ago
        queue.decide(old.id, "genuine", "ana")
    assert collect_decisions.fn(context) == 0, "the old one waits for the young one before it"
    monkeypatch.setattr("warehouse.queue.SETTLED_AFTER", timedelta(0))
    assert collect_decisions.fn(context) == 2
    assert collect_decisions.fn(context) == 0
    said = context.lake().connection.execute(
        "SELECT transaction_id, is_fraud FROM lake.labels WHERE source = 'analyst' "
        "AND event_date = ?",
        [day],
    )
    assert dict(said.fetchall()) == {young.transaction_id: True, old.transaction_id: False}


def test_alerts_accounts_come_with_what_they_did_of_late(context):
    day = AS_OF + timedelta(days=3)
    enqueue_day.fn(context, score_day.fn(context, day), "nightly")
    path = context.warehouse.queue_path
    with Queue.open(path, create=False) as queue, queue.database.read() as connection:
        alerts = queue.alerts_of_day(day)
        assert {alert.lane for alert in alerts} == {"nightly", "audit"}
        for alert in alerts:
            until = datetime.combine(day, time_of_day(23, 59), UTC)
            story = read_account_transactions(connection, alert.account_id, until=until)
            assert alert.transaction_id in {one.transaction_id for one in story}
            assert len({one.event_date for one in story}) > 1
            assert alert.snapshot_id is not None


def test_settings_that_need_another_threshold_than_the_models_are_said(context, caplog):
    day = AS_OF + timedelta(days=3)
    with caplog.at_level(logging.WARNING, "tasks.score"):
        score_day.fn(context, day)
        assert caplog.text == ""
        budget = QueueSettings(capacity=8, threshold="false_positives", false_positives=2)
        score_day.fn(replace(context, queue=budget), day)
    assert "wants the threshold for false_positives 2.0 a day" in caplog.text
    assert "that of model 1 was chosen for capacity 8" in caplog.text


def test_unpublished_day_is_named(context):
    day = START + timedelta(days=300)
    with pytest.raises(SourceError, match=f"run nightwarden ingest --date {day}"):
        score_day.fn(context, day)


def test_model_of_the_future_is_refused(context):
    with pytest.raises(ModelMissingError, match="would know that day's future"):
        score_day.fn(context, AS_OF - timedelta(days=1))
    with pytest.raises(ModelMissingError, match="version 9 is not registered"):
        score_day.fn(context, AS_OF, "9")


def test_no_model_is_said(tmp_path):
    with make_context(tmp_path).closing() as empty, pytest.raises(ModelMissingError):
        score_day.fn(empty, AS_OF)


def test_training_without_days_is_the_users_to_mend(tmp_path):
    with make_context(tmp_path).closing() as empty:
        with pytest.raises(ModelMissingError, match="ingest more days"):
            train_as_of.fn(empty, AS_OF, aliased=True)
        assert Registry(empty.warehouse).versions() == []


@pytest.mark.parametrize("mistake", [UserError("x"), SourceError("x"), DayRefusedError("x")])
def test_mistake_is_not_retried(mistake):
    state = asyncio.run(exception_to_failed_state(mistake))
    assert may_pass(train_as_of, None, state) is False


@pytest.mark.parametrize("trouble", [OSError("disk"), RuntimeError("x"), ValueError("x")])
def test_trouble_is_retried(trouble):
    state = asyncio.run(exception_to_failed_state(trouble))
    assert may_pass(train_as_of, None, state) is True
    assert RETRIED["retries"] == 3


def test_training_is_never_repeated_as_a_whole():
    assert (train_as_of.retries, score_day.retries, enqueue_day.retries) == (0, 3, 3)


@pytest.mark.parametrize(
    ("champion", "expected"), [(None, "champion"), ("1", "challenger")], ids=["first", "second"]
)
def test_model_is_registered_once_though_its_alias_needs_another_try(
    context, tmp_path, monkeypatch, caplog, champion, expected
):
    monkeypatch.setattr("tasks.steps.STORE_PAUSES", (1.0,) * 30)
    shutil.copytree(context.warehouse.path, tmp_path / "copy")
    with make_context(tmp_path / "copy", device="cpu").closing() as copied:
        registry = copied.registry()
        known = len(registry.versions())
        if champion is None:
            registry.drop_alias("champion")
        store = sqlite3.connect(tmp_path / "copy/mlflow/mlflow.db", check_same_thread=False)
        store.execute(
            "CREATE TRIGGER no_alias BEFORE INSERT ON registered_model_aliases "
            "BEGIN SELECT RAISE(ABORT, 'planted-secret'); END"
        )

        def mend_when_missed():
            while "trying again in 1 s" not in caplog.text:
                time.sleep(0.05)
            store.execute("DROP TRIGGER no_alias")

        mending = threading.Thread(target=mend_when_missed, daemon=True)
        mending.start()
        registry.drop_alias("challenger")
        trained = train_as_of.fn(copied, AS_OF + timedelta(days=2), aliased=True)
        mending.join(60)
        store.close()
        newest = registry.versions()[0]
        assert len(registry.versions()) == known + 1
        assert (trained.version, trained.alias) == (newest.version, expected)
        assert newest.aliases == (expected,)
    assert "planted-secret" not in caplog.text


def test_success_needs_no_condition():
    assert may_pass(train_as_of, None, Completed(data=1)) is True


def test_context_gives_each_thread_a_connection_and_closes_all(tmp_path):
    with make_context(tmp_path).closing() as context:
        lake = context.lake()
        assert context.lake() is lake
        assert context.label_delay_days == DELAY
    with make_context(tmp_path).closing() as other:
        assert other.lake() is not lake
    with pytest.raises(Exception, match="closed"):
        lake.connection.execute("SELECT 1")


def test_digests_follow_the_settings_that_matter(tmp_path):
    base = make_context(tmp_path)
    assert base.scoring_digest() == make_context(tmp_path / "other", threads=2).scoring_digest()
    more = make_context(tmp_path, queue=QueueSettings(capacity=9))
    assert base.scoring_digest() != more.scoring_digest()
    more = SMALL.model_copy(update={"seed": 5})
    assert base.training_digest() != make_context(tmp_path, train=more).training_digest()
    assert base.scoring_digest() == make_context(tmp_path, train=more).scoring_digest()
