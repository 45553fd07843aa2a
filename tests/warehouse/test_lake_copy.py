"""A lake moves from its folder into PostgreSQL and an object store, with every snapshot."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from subprocess import PIPE

import psycopg
import pytest

from warehouse import schema
from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import BusyError, WarehouseError
from warehouse.lake_copy import LakeCopy

TABLES = ("transactions", "quarantine", "scores", "promotions")
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
PROMOTE = (
    "INSERT INTO lake.promotions SELECT now(), 'promote', '2', NULL, 'ada', 'größer 😀', '[1]'"
)
FILL = (
    *[
        f"INSERT INTO lake.transactions BY NAME SELECT DATE '{day}' AS event_date, '{day}-' || i AS "
        "transaction_id, TIMESTAMPTZ '2026-01-01 00:00:00+00' + INTERVAL 1 MINUTE * i AS "
        "occurred_at, 'a' || i % 40 AS account_id, 'ü' AS merchant_id, i / 3 AS amount, "
        "'b' AS batch_id, now() AS ingested_at FROM range(400) AS numbers (i)"
        for day in DAYS
    ],
    # a corrected day, then deleted rows: many, in a file of their own, and a few, in the catalog
    f"DELETE FROM lake.transactions WHERE event_date = '{DAYS[0]}'",
    f"INSERT INTO lake.transactions BY NAME SELECT * REPLACE (DATE '{DAYS[0]}' AS event_date, 'x' || "
    f"transaction_id AS transaction_id) FROM lake.transactions WHERE event_date = '{DAYS[1]}'",
    f"DELETE FROM lake.transactions WHERE event_date = '{DAYS[1]}' AND amount > 20",
    f"DELETE FROM lake.transactions WHERE transaction_id = '{DAYS[2]}-3'",
    # small inserts stay in the catalog: texts with quotes, nulls, maps, numbers that are none
    "INSERT INTO lake.scores VALUES (DATE '2026-01-01', 'it''s \\x41 \"é\"', 'nan', "
    "map {'a b, c={1}': 1e300, 'd': NULL}, 1, true, '1', now(), NULL), "
    "(DATE '2026-01-01', '', '-inf', map {}, 2, false, '1', now(), 0.1)",
    PROMOTE,
    "ALTER TABLE lake.transactions ADD COLUMN later INTEGER",
    "INSERT INTO lake.transactions BY NAME SELECT * REPLACE ('late' AS transaction_id, 7 AS later) "
    "FROM lake.transactions LIMIT 1",
    "DELETE FROM lake.scores WHERE rank_of_day = 2",
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A lake with a corrected day, deleted rows, an added column and small inserts; its settings."""
    return fill(WarehouseSettings(path=tmp_path_factory.mktemp("source") / "warehouse", threads=1))


def fill(settings):
    with Lake.open(settings) as lake:
        for statement in FILL:
            with lake.commit() as connection:
                connection.execute(statement)
    return settings


@pytest.fixture(params=["folder", "s3"])
def target(request, postgresql, tmp_path, monkeypatch):
    """The settings of a shared lake that nobody has made yet."""
    data = str(tmp_path / "shared")
    if request.param == "s3":
        store = request.getfixturevalue("s3")
        data = store.new_prefix()
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
    return shared(postgresql, tmp_path, data)


@pytest.fixture
def folder_target(postgresql, tmp_path):
    return shared(postgresql, tmp_path, str(tmp_path / "shared"))


def shared(postgresql, tmp_path, data):
    catalog = postgresql.new_database("lake")
    return WarehouseSettings(path=tmp_path / "local", catalog=catalog, data=data, threads=1)


def copy(source, target):
    with LakeCopy.begin(source, target) as work:
        return work.run()


def history(lake, newest):
    """Every table at every snapshot up to one; a text compares NaN, too."""
    found = {}
    for version in range(1, newest + 1):
        for table in TABLES:
            sql = f"FROM lake.{table} AT (VERSION => {version}) ORDER BY ALL"
            found[version, table] = repr(lake.connection.execute(sql).fetchall())
    return found


def rows(lake, sql):
    return lake.connection.execute(sql).fetchall()


def test_every_snapshot_reads_the_same_and_work_goes_on(filled, target):
    assert all(each.is_whole for each in copy(filled, target))
    with Lake.open(filled) as mine, Lake.open(target) as theirs:
        newest = mine.snapshot_id()
        assert newest == theirs.snapshot_id() == len(FILL) + 1
        before = history(mine, newest)
        assert history(theirs, newest) == before
        with theirs.commit() as connection:
            connection.execute(f"DELETE FROM lake.transactions WHERE event_date = '{DAYS[1]}'")
            connection.execute(FILL[1])
            connection.execute("DELETE FROM lake.scores")
            connection.execute(PROMOTE)
        for change in ("ducklake_flush_inlined_data", "ducklake_merge_adjacent_files"):
            theirs.connection.execute(f"CALL {change}('lake')")
        ids = "SELECT count(*) = count(DISTINCT transaction_id) FROM lake.transactions"
        assert rows(theirs, ids) == [(True,)]
        days = "SELECT event_date::VARCHAR, count(*) FROM lake.transactions GROUP BY 1 ORDER BY 1"
        assert rows(theirs, days)[1] == (DAYS[1], 400)
        assert [row[0] for row in rows(mine, days)] == [row[0] for row in rows(theirs, days)]
        assert rows(theirs, "SELECT count(*) FROM lake.promotions") == [(2,)]
        assert history(theirs, newest) == before


def test_the_source_has_files_deleted_rows_and_small_inserts(filled):
    catalog = sqlite3.connect(filled.lake_folder / "catalog.sqlite")
    with closing(catalog):
        kinds = {
            name: catalog.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert kinds["ducklake_data_file"] >= 4
    assert kinds["ducklake_delete_file"] >= 1
    for kind in ("ducklake_inlined_data_", "ducklake_inlined_delete_"):
        assert any(n for name, n in kinds.items() if name.startswith(kind) and name[-1].isdigit())


def test_rows_in_the_catalog_get_the_types_that_the_lake_itself_would_give(
    filled, folder_target, postgresql, tmp_path
):
    copy(filled, folder_target)
    own = shared(postgresql, tmp_path, str(tmp_path / "own"))
    with Lake.open(own):
        pass
    copied, made = (inlined_types(each) for each in (folder_target, own))
    for table in schema.TABLES:
        assert copied[table.name] == made[table.name]


def inlined_types(settings):
    """The types of the tables that hold small inserts, by the lake's table."""
    sql = (
        "SELECT DISTINCT t.table_name, c.column_name, c.data_type "
        "FROM ducklake_inlined_data_tables i JOIN ducklake_table t USING (table_id) "
        "JOIN information_schema.columns c ON c.table_name = i.table_name "
        "WHERE c.column_name <> 'later'"
    )
    found = {}
    with psycopg.connect(settings.catalog.get_secret_value()) as connection:
        for table, column, kind in connection.execute(sql).fetchall():
            found.setdefault(table, set()).add((column, kind))
    return found


def test_copying_again_changes_nothing_even_after_the_copy_went_on(filled, folder_target):
    with LakeCopy.begin(filled, folder_target) as work:
        assert not any(each.arrived for each in work.look())
        first = work.run()
        assert work.look() == work.run() == first
    with Lake.open(folder_target) as lake:
        with lake.commit() as connection:
            connection.execute("DELETE FROM lake.transactions")
        newest = lake.snapshot_id()
    files = {file: file.stat().st_mtime_ns for file in Path(folder_target.data).rglob("*.parquet")}
    assert copy(filled, folder_target) == first
    assert {f: f.stat().st_mtime_ns for f in Path(folder_target.data).rglob("*.parquet")} == files
    with Lake.open(folder_target) as lake:
        assert lake.snapshot_id() == newest


def test_an_empty_shared_lake_that_somebody_looked_at_is_filled(filled, folder_target):
    with Lake.open(folder_target):
        pass
    assert all(each.is_whole for each in copy(filled, folder_target))


def test_another_lake_is_left_alone(filled, folder_target):
    with Lake.open(folder_target) as lake, lake.commit() as connection:
        connection.execute(FILL[0])
    with Lake.open(folder_target) as lake:
        newest = lake.snapshot_id()
    with (
        LakeCopy.begin(filled, folder_target) as work,
        pytest.raises(WarehouseError, match="another lake") as refused,
    ):
        work.run()
    assert "planted" not in str(refused.value)
    with Lake.open(folder_target) as lake:
        assert lake.snapshot_id() == newest
        assert rows(lake, "SELECT count(*) FROM lake.transactions") == [(400,)]


def test_a_folder_that_went_on_is_not_taken_for_its_copy(folder_target, tmp_path):
    source = fill(WarehouseSettings(path=tmp_path / "mine", threads=1))
    copy(source, folder_target)
    with Lake.open(source) as lake, lake.commit() as connection:
        connection.execute("DELETE FROM lake.scores")
    with pytest.raises(WarehouseError, match="at another time"):
        copy(source, folder_target)


def test_nobody_commits_while_it_is_copied(filled, folder_target):
    with Lake.open(filled, lock_seconds=0.2) as other, LakeCopy.begin(filled, folder_target):
        with pytest.raises(BusyError, match=r"commit\.lock"), other.commit():
            pass
        assert rows(other, "SELECT count(*) FROM lake.promotions") == [(1,)]


def test_a_lost_file_is_named_and_leaves_nothing_at_the_target(folder_target, tmp_path):
    source = fill(WarehouseSettings(path=tmp_path / "mine", threads=1))
    lost = min((source.lake_folder / "data").rglob("*.parquet"))
    lost.unlink()
    with pytest.raises(WarehouseError, match=lost.name):
        copy(source, folder_target)
    assert not count_at(folder_target)


def count_at(target):
    """How many tables at a target ever had a row; none where there is no lake."""
    with psycopg.connect(target.catalog.get_secret_value()) as connection:
        if connection.execute("SELECT to_regclass('ducklake_table_stats')").fetchone() == (None,):
            return 0
        sql = "SELECT count(*) FROM ducklake_table_stats WHERE next_row_id > 0"
        return connection.execute(sql).fetchone()[0]


COPY = """
import sys
from warehouse.connection import WarehouseSettings
from warehouse.lake_copy import LakeCopy
source, local, catalog, data = sys.argv[1:]
target = WarehouseSettings(path=local, catalog=catalog, data=data, threads=1)
with LakeCopy.begin(WarehouseSettings(path=source, threads=1), target) as work:
    print("begun", flush=True)
    work.run()
"""


def test_a_copy_that_was_killed_shows_nothing_or_all_and_can_be_finished(filled, folder_target):
    moments = random.Random(3)  # noqa: S311 (moments, not secrets)
    url = folder_target.catalog.get_secret_value()
    words = [str(filled.path), str(folder_target.path), url, str(folder_target.data)]
    killed = 0
    for _ in range(6):
        command = [sys.executable, "-c", COPY, *words]
        with subprocess.Popen(command, stdout=PIPE) as process:  # noqa: S603 (our own command)
            process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.05, 2.5))
            process.kill()
        killed += process.returncode != 0
        assert count_at(folder_target) in (0, 3)
    assert killed
    assert all(each.is_whole for each in copy(filled, folder_target))
    with Lake.open(filled) as mine, Lake.open(folder_target) as theirs:
        newest = mine.snapshot_id()
        assert history(theirs, newest) == history(mine, newest)
