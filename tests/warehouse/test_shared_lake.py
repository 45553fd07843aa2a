"""A lake that machines share: made once, written by one at a time, told apart from others."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import psycopg
import pytest
from sqlalchemy import make_url

from tests.services import (
    SharedWarehouse,
    end_sessions,
    missing_for_postgresql,
    new_shared_warehouse,
    postgresql_server,
    skip_or_fail,
)
from warehouse.connection import Lake, has_lake
from warehouse.errors import BusyError, SettingsError, WarehouseError

ROWS = 200
COUNT = "SELECT source_file, rule, count(*) FROM lake.label_quarantine GROUP BY ALL"
REPLACE = (
    "DELETE FROM lake.label_quarantine WHERE source_file = $name",
    "INSERT INTO lake.label_quarantine "
    "SELECT $name, i, NULL, $rule, NULL, '{}', now() FROM range($rows) r(i)",
)
WRITER = """
import os, sys
from pathlib import Path
from warehouse.connection import Lake, WarehouseSettings
from tests.warehouse.test_shared_lake import replace

name, path, rounds = sys.argv[1:]
where = {key: os.environ[f"NIGHTWARDEN_WAREHOUSE__{key.upper()}"] for key in ("catalog", "data")}
print("ready", flush=True)
sys.stdin.readline()
with Lake.open(WarehouseSettings(path=Path(path), threads=1, **where)) as lake:
    for turn in range(int(rounds)):
        replace(lake, name, f"turn {turn}")
        print(turn, flush=True)
"""


def replace(lake, name, rule, disturb=lambda: None):
    """Replace a part's rows by as many new ones, in one commit; ``disturb`` comes in between."""
    with lake.commit() as connection:
        connection.execute(REPLACE[0], {"name": name})
        disturb()
        connection.execute(REPLACE[1], {"name": name, "rule": rule, "rows": ROWS})


@pytest.fixture
def open_lake(shared_warehouse, tmp_path):
    """Open the shared lake as another machine, with a folder of its own."""
    opened = []

    def open_as(machine="one"):
        opened.append(Lake.open(shared_warehouse.settings(tmp_path / machine)))
        return opened[-1]

    yield open_as
    for lake in opened:
        lake.close()


def test_what_a_machine_writes_another_reads(open_lake, shared_warehouse, tmp_path):
    settings = shared_warehouse.settings(tmp_path / "one")
    assert not has_lake(settings)
    one, two = open_lake("one"), open_lake("two")
    assert has_lake(settings)
    replace(one, "a", "x")
    assert two.connection.execute(COUNT).fetchall() == [("a", "x", ROWS)]
    files = two.connection.execute(
        "SELECT data_file FROM ducklake_list_files('lake', 'label_quarantine')"
    )
    assert [row[0].startswith(shared_warehouse.data) for row in files.fetchall()] == [True]
    assert not list(tmp_path.rglob("*.parquet"))


def test_lake_in_a_shared_folder_needs_no_store(shared_warehouse, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    folder = tmp_path / "shared"
    catalog, place = shared_warehouse.settings(tmp_path / "one"), {"data": str(folder)}
    with Lake.open(catalog.model_copy(update=place)) as lake:
        replace(lake, "a", "x")
    assert len(list(folder.rglob("*.parquet"))) == 1
    with pytest.raises(SettingsError, match="lacks AWS_ACCESS_KEY_ID"):
        Lake.open(catalog)


def test_other_place_for_the_files_is_refused(open_lake, shared_warehouse, tmp_path):
    open_lake()
    settings = shared_warehouse.settings(tmp_path / "two")
    other = settings.model_copy(update={"data": f"{settings.data}-other"})
    with pytest.raises(SettingsError, match=r"keeps its files elsewhere.*-other.*must name"):
        Lake.open(other)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"database": "none_such"}, WarehouseError, "does not exist"),
        ({"password": "planted-wrong"}, WarehouseError, "authentication failed"),
        ({"port": 1}, BusyError, "refused"),
    ],
    ids=["database", "password", "server"],
)
def test_catalog_that_lets_nobody_in_is_told_without_its_password(
    shared_warehouse, tmp_path, change, kind, reason
):
    url = make_url(shared_warehouse.catalog).set(**change)
    text = url.render_as_string(hide_password=False)
    settings = SharedWarehouse(text, shared_warehouse.data, {}).settings(tmp_path)
    with pytest.raises(kind, match=f"must let this user in.*{reason}") as caught:
        Lake.open(settings)
    assert type(caught.value) is kind
    assert url.password not in str(caught.value) + repr(caught.value.__context__) + repr(settings)


def test_user_without_rights_is_told_so(shared_warehouse, tmp_path):
    with psycopg.connect(shared_warehouse.catalog, autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS weak")
        session.execute("CREATE ROLE weak LOGIN PASSWORD 'planted-weak'")
    change = {"username": "weak", "password": "planted-weak"}
    url = make_url(shared_warehouse.catalog).set(**change)
    text = url.render_as_string(hide_password=False)
    settings = SharedWarehouse(text, shared_warehouse.data, {}).settings(tmp_path)
    with pytest.raises(WarehouseError, match="permission denied for schema public") as caught:
        Lake.open(settings)
    assert "planted" not in str(caught.value) + repr(caught.value.__context__)


@pytest.mark.parametrize("lost", ["nightwarden commit", "nightwarden lake"])
def test_commit_that_lost_its_lock_or_its_catalog_writes_nothing(
    open_lake, shared_warehouse, lost
):
    one, two = open_lake("one"), open_lake("two")
    replace(one, "a", "before")

    def disturb():
        end_sessions(shared_warehouse.catalog, lost)
        if lost == "nightwarden commit":
            replace(two, "b", "meanwhile")

    with pytest.raises((BusyError, duckdb.Error)) as caught:
        replace(one, "a", "after", disturb)
    if lost == "nightwarden commit":
        assert isinstance(caught.value, BusyError)
    password = make_url(shared_warehouse.catalog).password
    assert password not in str(caught.value) + repr(caught.value.__context__)
    for lake in (one, two):
        found = {row[0]: row[1:] for row in lake.connection.execute(COUNT).fetchall()}
        assert found["a"] == ("before", ROWS)
        assert ("b" in found) == (lost == "nightwarden commit")
    replace(one, "a", "again")  # the same connection goes on
    assert ("a", "again", ROWS) in two.connection.execute(COUNT).fetchall()


def start_anew(server):
    server.control("stop")
    server.control("start")


def test_lake_goes_on_after_its_server_was_started_anew(s3, tmp_path, monkeypatch):
    skip_or_fail(missing_for_postgresql())
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with postgresql_server() as server:
        shared = new_shared_warehouse(server, s3)
        with Lake.open(shared.settings(tmp_path)) as lake:
            replace(lake, "a", "before")
            with pytest.raises(BusyError, match="nothing was written"):
                replace(lake, "a", "meanwhile", lambda: start_anew(server))
            assert lake.connection.execute(COUNT).fetchall() == [("a", "before", ROWS)]
            server.control("stop")
            with pytest.raises(BusyError, match="must let this user in"):
                replace(lake, "a", "while it was away")
            server.control("start")
            replace(lake, "a", "after")
            assert lake.connection.execute(COUNT).fetchall() == [("a", "after", ROWS)]


@pytest.mark.slow
def test_processes_replace_their_parts_while_one_reads(open_lake, shared_warehouse, tmp_path):
    """None is lost, none is half there; all make the lake at the same moment."""
    names, rounds = [f"part {n}" for n in range(4)], 6
    writers = [
        subprocess.Popen(  # noqa: S603 (our own script)
            [sys.executable, "-c", WRITER, name, tmp_path / name, str(rounds)],
            cwd=Path(__file__).parents[2],
            env=os.environ | shared_warehouse.environment | {"PYTHONPATH": "."},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    lake, seen = open_lake("reader"), Counter()
    while any(writer.poll() is None for writer in writers):
        found = lake.connection.execute(COUNT).fetchall()
        seen.update(count for _, _, count in found)
        assert len({name for name, _, _ in found}) == len(found), "two turns of a part at once"
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(names), errors
    assert set(seen) == {ROWS}
    expected = [(name, f"turn {rounds - 1}", ROWS) for name in names]
    assert sorted(lake.connection.execute(COUNT).fetchall()) == expected
    assert lake.snapshot_id() >= len(names) * rounds
