"""A day is replaced whole: corrections, labels, extra columns, and other processes at work."""

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.services import on_both_back_ends
from warehouse.connection import Lake
from warehouse.errors import DayRefusedError, SettingsError, SourceError
from warehouse.reads import count_transactions, read_transactions, read_truth

DAY = date(2026, 1, 15)
TOMORROW = DAY + timedelta(days=1)
LABEL = {"column": "fraud", "delay_days": 7}


def labelled(rows, frauds=(), value="0"):
    return [row | {"fraud": "1" if n in frauds else value} for n, row in enumerate(rows)]


@on_both_back_ends
def test_changed_file_replaces_rows_and_quarantine(landing):
    rows = landing.rows()
    landing.write([*rows, rows[0] | {"id": "bad", "amount": "-1"}])
    assert landing.land().broken_rules == {"amount_not_positive": 1}
    rows[5]["amount"] = "777"
    landing.write(rows[:150])
    report = landing.land()
    assert (report.status, report.rows_published, report.broken_rules) == ("published", 150, {})
    found = landing.fetch("SELECT max(amount), count(DISTINCT batch_id) FROM lake.transactions")
    assert found == [(777.0, 1)]


@on_both_back_ends
def test_force_lands_the_same_rows_again(landing):
    landing.write(landing.rows())
    landing.land()
    query = "SELECT * EXCLUDE (ingested_at) FROM lake.transactions ORDER BY ALL"
    before = landing.fetch(query)
    assert landing.land(force=True).status == "published"
    assert landing.fetch(query) == before


def test_changed_settings_are_a_change(landing):
    landing.write(landing.rows())
    landing.land()
    assert landing.land(columns=landing.columns | {"category": "shop"}).status == "published"
    assert landing.fetch("SELECT count(category) FROM lake.transactions") == [(200,)]


@pytest.mark.parametrize("error", [SourceError, DayRefusedError])
def test_refused_day_leaves_the_earlier_state(landing, error):
    rows = landing.rows()
    landing.write([*rows, rows[0] | {"id": "bad", "amount": "-1"}])
    landing.land()
    before = landing.fetch("SELECT * FROM lake.transactions ORDER BY transaction_id")
    if error is SourceError:
        landing.write([{"other": 1}])
    else:
        landing.write([row | {"amount": "-1"} for row in rows])
    with pytest.raises(error):
        landing.land()
    assert landing.fetch("SELECT * FROM lake.transactions ORDER BY transaction_id") == before
    assert landing.quarantined() == 1
    landing.write(rows)  # the good file again, after the refusal
    assert landing.land().rows_published == 200


def test_empty_label_column_is_accepted_and_told(landing):
    landing.write(labelled(landing.rows(), value=""))
    report = landing.land(label=LABEL)
    assert (report.rows_published, report.labels_added) == (200, 0)
    assert "the label column 'fraud' is empty in all 200 rows" in report.notes[0]
    landing.write(labelled(landing.rows(), {3, 4}))
    report = landing.land(label=LABEL)
    assert (report.labels_added, report.notes) == (200, ())
    frauds = "SELECT count(*), count(*) FILTER (is_fraud) FROM lake.labels"
    assert landing.fetch(frauds) == [(200, 2)]


def test_label_is_known_after_the_delay_and_not_stated_twice(landing):
    landing.write(labelled(landing.rows(), {3}))
    landing.land(label=LABEL)
    query = (
        "SELECT DISTINCT known_at - occurred_at FROM lake.labels "
        "JOIN lake.transactions USING (transaction_id)"
    )
    assert landing.fetch(query) == [(timedelta(days=7),)]
    assert landing.land(label=LABEL, force=True).labels_added == 0


def test_label_that_comes_after_the_day_was_landed_live_is_known_only_from_now_on(landing):
    landing.write(labelled(landing.rows(), value=""))
    landing.land(label=LABEL)
    next_morning = datetime(DAY.year, DAY.month, DAY.day + 1, 3, tzinfo=UTC)
    landing.lake.connection.execute(
        "UPDATE lake.partition_runs SET finished_at = ?", [next_morning]
    )
    started = datetime.now(UTC)
    landing.write(labelled(landing.rows(), {3}))
    assert landing.land(label=LABEL).labels_added == 200
    assert landing.fetch("SELECT min(known_at) FROM lake.labels")[0][0] >= started


def test_label_that_comes_after_history_was_landed_is_known_after_the_delay(landing):
    landing.write(labelled(landing.rows(), value=""))
    landing.land(label=LABEL)
    landing.write(labelled(landing.rows(), {3}))
    landing.land(label=LABEL)
    late = landing.fetch("SELECT max(known_at) FROM lake.labels")[0][0]
    assert late.date() <= DAY + timedelta(days=LABEL["delay_days"] + 1)


def test_contradicting_label_is_known_only_from_now_on(landing):
    landing.write(labelled(landing.rows(), {3}))
    landing.land(label=LABEL)
    started = datetime.now(UTC)
    landing.write(labelled(landing.rows(), {4}))
    assert landing.land(label=LABEL).labels_added == 2
    assert landing.fetch("SELECT count(*) FROM lake.labels") == [(202,)]
    new = landing.fetch("SELECT min(known_at) FROM lake.labels WHERE recorded_at >= ?", started)
    assert new[0][0] >= started
    frauds = {}
    for moment in (started, datetime.now(UTC)):
        truth = read_truth(landing.lake, DAY, DAY, moment)
        assert truth.height == 200
        frauds[moment] = truth.filter(truth["is_fraud"])["transaction_id"].to_list()
    assert list(frauds.values()) == [["t0115-3"], ["t0115-4"]]


def test_unreadable_label_is_quarantined(landing):
    rows = labelled(landing.rows())
    rows[9]["fraud"] = "maybe"
    landing.write(rows)
    report = landing.land(label=LABEL)
    assert report.broken_rules == {"is_fraud_unreadable": 1}
    assert report.labels_added == 199


def test_extra_columns_join_a_lake_that_has_rows(landing):
    landing.write(landing.rows())
    landing.land()
    extra = {
        "order": {"column": "n", "type": "numeric"},
        "channel": {"column": "how", "type": "categorical"},
    }
    rows = [row | {"n": str(i), "how": "chip"} for i, row in enumerate(landing.rows(TOMORROW))]
    rows[7]["n"] = "many"
    landing.write(rows, TOMORROW)
    report = landing.land(TOMORROW, extra=extra)
    assert report.broken_rules == {"order_unreadable": 1}
    found = landing.fetch(
        'SELECT event_date, count("order"), max("order"), count(channel) FROM lake.transactions '
        "GROUP BY ALL ORDER BY ALL"
    )
    assert found == [(DAY, 0, None, 0), (TOMORROW, 199, 199.0, 199)]
    frame = read_transactions(landing.lake, DAY, TOMORROW)
    assert {"order", "channel"} < set(frame.columns)


def test_extra_column_of_another_type_is_refused(landing):
    landing.write([row | {"n": "1"} for row in landing.rows()])
    landing.land(extra={"n": {"column": "n", "type": "numeric"}})
    with pytest.raises(SettingsError, match="n is categorical now, but the lake holds it as DOU"):
        landing.land(extra={"n": {"column": "n", "type": "categorical"}})
    assert landing.published() == 200


@on_both_back_ends
def test_ids_published_meanwhile_are_not_published_twice(landing, monkeypatch):
    """Two runs judge days that share an id at the same time; the second to commit yields."""
    from warehouse import partitions

    rows = landing.rows(TOMORROW)
    rows[0]["id"] = "t0115-0"
    landing.write(landing.rows())
    landing.write(rows, TOMORROW)
    validate = partitions.expectations.validate_day
    second = Lake.open(landing.warehouse)

    def land_the_other_day_first(*arguments):
        monkeypatch.undo()
        settings, pages = landing.settings(), landing.folder / "pages"
        partitions.land_day(second, settings, landing.limits, DAY, key=None, pages=pages)
        return validate(*arguments)

    monkeypatch.setattr(partitions.expectations, "validate_day", land_the_other_day_first)
    report = landing.land(TOMORROW)
    second.close()
    assert report.broken_rules == {"transaction_id_published_on_another_day": 1}
    assert landing.fetch("SELECT count(*), count(DISTINCT transaction_id) FROM lake.transactions")[
        0
    ] == (399, 399)


LAND = """
import os, sys
from datetime import date
from pathlib import Path
from warehouse.connection import Lake, WarehouseSettings
from warehouse.partitions import land_day
from warehouse.rules import ValidationSettings
from warehouse.source import SourceSettings

folder, *days = sys.argv[1:]
settings = SourceSettings.model_validate_json((Path(folder) / "settings.json").read_text())
names = {"catalog": "CATALOG", "data": "DATA"}
shared = {key: os.environ.get(f"NIGHTWARDEN_WAREHOUSE__{name}") for key, name in names.items()}
with Lake.open(WarehouseSettings(path=Path(folder) / "warehouse", threads=1, **shared)) as lake:
    for day in map(date.fromisoformat, days):
        report = land_day(lake, settings, ValidationSettings(), day, key=None,
                          pages=Path(folder) / "pages")
        assert report.rows_published == 200, report
"""


@pytest.mark.slow
@on_both_back_ends
def test_two_processes_land_days_while_one_reads(landing):
    days = [DAY + timedelta(days=n) for n in range(4)]
    for day in days:
        landing.write(landing.rows(day), day)
    (landing.folder / "settings.json").write_text(landing.settings().model_dump_json())
    assert landing.lake.snapshot_id() >= 0
    shared = landing.shared.environment if landing.shared else {}
    writers = [
        subprocess.Popen(  # noqa: S603 (our own script)
            [sys.executable, "-W", "ignore", "-c", LAND, landing.folder, *map(str, share)],
            cwd=Path(__file__).parents[2],
            env=os.environ | shared,
            stderr=subprocess.PIPE,
        )
        for share in (days[::2], days[1::2])
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        counts = landing.fetch("SELECT count(*) FROM lake.transactions GROUP BY event_date")
        seen |= {count for (count,) in counts}
    errors = [writer.communicate()[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert seen <= {200}
    assert list(count_transactions(landing.lake, days[0], days[-1])) == days
    assert landing.fetch("SELECT count(DISTINCT transaction_id) FROM lake.transactions") == [
        (800,)
    ]


@on_both_back_ends
def test_connections_spill_into_folders_of_their_own(landing):
    with Lake.open(landing.warehouse) as other:
        folders = [
            lake.connection.execute("SELECT current_setting('temp_directory')").fetchone()
            for lake in (landing.lake, other)
        ]
    assert folders[0] != folders[1]
