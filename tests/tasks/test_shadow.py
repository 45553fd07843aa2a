"""The challenger in the shadow: stored beside the champion's scores, never queued, never in the way."""

import logging
import shutil
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from tasks.review_settings import PromotionSettings
from tasks.shadow import ShadowedDay, shadow_day
from tasks.steps import score_day
from tasks.tracking import Registry
from tests.tasks.test_fit import AS_OF, insert, small_bundle
from tests.tasks.test_gate import make_warehouse, register
from tests.tasks.test_steps import late_row, make_context
from warehouse.ledger import PartitionRun, day_states
from warehouse.schema import SHADOW_SCORES
from warehouse.scores import is_shadowed

ON = PromotionSettings(shadow=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shadow") / "template"
    make_warehouse(folder)
    return folder


@pytest.fixture
def context(template, tmp_path):
    """A copy of a warehouse with champion 1 and challenger 2, as of ``AS_OF``."""
    folder = shutil.copytree(template, tmp_path / "copy")
    with make_context(folder, device="cpu", promotion=ON).closing() as made:
        yield made


def shadowed(context, order="model_version, rank_of_day"):
    return (
        context.lake()
        .connection.execute(f"SELECT * FROM lake.shadow_scores ORDER BY event_date, {order}")
        .pl()
    )


def count(context, table):
    return context.lake().connection.execute(f"SELECT count(*) FROM lake.{table}").fetchone()[0]


def run_of(context, day=AS_OF):
    return day_states(context.lake(), day, day)[day, "shadow"]


def test_challengers_scores_are_those_that_it_would_give_as_champion(context):
    found = shadow_day.fn(context, AS_OF)
    stored = shadowed(context)
    assert stored.columns == SHADOW_SCORES.column_names()
    assert set(stored["model_version"]) == {"2"}
    assert found == ShadowedDay(AS_OF, stored.height, 8, "2", changed=True)
    assert count(context, "scores") == 0
    assert not context.warehouse.queue_path.exists()
    score_day.fn(context, AS_OF, "2")
    as_champion = (
        context.lake().connection.execute("SELECT * FROM lake.scores ORDER BY rank_of_day").pl()
    )
    assert stored.drop("scored_at").equals(as_champion.drop("scored_at"))
    run = run_of(context)
    assert (run.status, run.model_version, run.rows_in, run.rows_out) == (
        "done",
        "2",
        stored.height,
        stored.height,
    )


def test_shadow_leaves_the_champions_night_as_it_is(context):
    alone = score_day.fn(context, AS_OF)
    assert shadow_day.fn(context, AS_OF).changed
    again = score_day.fn(context, AS_OF)
    assert (again.changed, again.alerts) == (False, alone.alerts)


def test_running_again_changes_nothing(context):
    shadow_day.fn(context, AS_OF)
    stored, snapshot = shadowed(context), context.lake().snapshot_id()
    again = shadow_day.fn(context, AS_OF)
    assert (again.changed, again.rows) == (False, stored.height)
    assert context.lake().snapshot_id() == snapshot
    assert shadowed(context).equals(stored)


def test_changed_day_replaces_the_challengers_scores(context):
    shadow_day.fn(context, AS_OF)
    before = shadowed(context)
    with context.lake().commit():
        insert(context.lake(), "transactions", late_row(AS_OF))
    assert shadow_day.fn(context, AS_OF).changed
    after = shadowed(context)
    assert after.height == before.height + 1
    assert "late" in after["transaction_id"]


def test_each_challenger_keeps_rows_of_its_own(context):
    shadow_day.fn(context, AS_OF)
    first = shadowed(context)
    registry = Registry(context.warehouse)
    third = register(registry, small_bundle("is_night", "is_weekend"), AS_OF, {}, "challenger")
    assert shadow_day.fn(context, AS_OF).model_version == third
    both = shadowed(context)
    assert both.filter(pl.col("model_version") == "2").equals(first)
    assert both.height == 2 * first.height
    registry.set_alias("2", "challenger")
    snapshot = context.lake().snapshot_id()
    assert not shadow_day.fn(context, AS_OF).changed  # although 3's run is newer
    assert context.lake().snapshot_id() == snapshot


def test_nothing_is_done_where_it_is_off_or_has_no_challenger_of_the_past(context, caplog):
    lake = context.lake()
    snapshot = lake.snapshot_id()
    off = replace(context, promotion=PromotionSettings())
    assert shadow_day.fn(off, AS_OF) is None
    with caplog.at_level(logging.INFO):
        assert shadow_day.fn(context, AS_OF - timedelta(days=1)) is None
    assert f"challenger 2 was trained as of {AS_OF}" in caplog.text
    Registry(context.warehouse).client.delete_registered_model_alias("nightwarden", "challenger")
    assert shadow_day.fn(context, AS_OF) is None
    assert lake.snapshot_id() == snapshot


def test_failure_is_told_and_noted_and_the_night_goes_on(context, caplog):
    registry = Registry(context.warehouse)
    files = registry._artifacts / registry.version("2").run_id
    files.rename(files.with_name("away"))
    with caplog.at_level(logging.WARNING):
        assert shadow_day.fn(context, AS_OF) is None
    assert f"{AS_OF} could not be scored in the shadow: model version 2 cannot be" in caplog.text
    run = run_of(context)
    assert (run.status, run.model_version, run.rows_out) == ("refused", "2", 0)
    assert run.error.startswith("model version 2 cannot be loaded")
    assert score_day.fn(context, AS_OF).model_version == "1"
    files.with_name("away").rename(files)
    assert shadow_day.fn(context, AS_OF).changed
    assert run_of(context).status == "done"


def test_same_failure_is_noted_once(context):
    registry = Registry(context.warehouse)
    files = registry._artifacts / registry.version("2").run_id
    files.rename(files.with_name("away"))

    def notes():
        shadow_day.fn(context, AS_OF)
        count = "SELECT count(*) FROM lake.partition_runs WHERE stage = 'shadow'"
        return context.lake().connection.execute(count).fetchone()[0]

    first, snapshot = notes(), context.lake().snapshot_id()
    assert (first, notes()) == (1, 1)
    assert context.lake().snapshot_id() == snapshot
    third = register(registry, small_bundle("is_night", "is_weekend"), AS_OF, {}, "challenger")
    assert third == "3"
    assert notes() == 2  # this one is done
    registry.set_alias("2", "challenger")
    assert (notes(), notes()) == (3, 3)
    shutil.copytree(files.with_name("away"), files)
    (files / "artifacts/model/artifacts/bundle/encoding.json").write_text("{}")
    assert (notes(), notes()) == (4, 4)  # another error
    assert "must hold files of digest" in run_of(context).error


def test_failure_that_cannot_even_be_noted_stops_no_night(context, caplog):
    context.lake().close()
    with caplog.at_level(logging.WARNING):
        assert shadow_day.fn(context, AS_OF) is None
    assert "could not be scored in the shadow" in caplog.text


def test_drivers_words_are_neither_told_nor_noted(context, caplog):
    connection = context.lake().connection
    connection.execute("ALTER TABLE lake.transactions RENAME COLUMN merchant_id TO planted_secret")
    with pytest.raises(pl.exceptions.PolarsError, match="planted_secret"):
        score_day.fn(context, AS_OF)
    assert shadow_day.fn(context, AS_OF) is None
    assert f"{AS_OF} could not be scored in the shadow: " in caplog.text
    noted = run_of(context).error
    assert noted == "ColumnNotFoundError", "the kind of error alone"
    assert "planted_secret" not in caplog.text


def test_unpublished_day_is_a_failure(context):
    day = AS_OF + timedelta(days=300)
    assert shadow_day.fn(context, day) is None
    assert f"run nightwarden ingest --date {day}" in run_of(context, day).error


@pytest.mark.parametrize(
    "changes",
    [{"data_digest": "other"}, {"rows_in": 4}, {"settings_digest": "t"}, {"model_version": "3"}],
    ids=str,
)
def test_run_is_repeated_only_where_all_is_the_same(context, changes):
    shadow_day.fn(context, AS_OF)
    run = run_of(context)
    assert is_shadowed(context.lake(), run)
    assert not is_shadowed(context.lake(), replace(run, **changes))
    other = PartitionRun(AS_OF + timedelta(days=1), "shadow", "done", run.started_at, "s")
    assert not is_shadowed(context.lake(), other)
