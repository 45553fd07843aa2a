"""A project moves from one machine to shared back ends, and its nights go on as if it had not."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest

from flows.nightly import nightly
from flows.settings import Settings
from flows.train import train
from tests.alerts import new_alert
from tests.flows.conftest import day
from tests.flows.contents import queued_as_flagged, read_contents
from warehouse.connection import Lake
from warehouse.feed import newest_change
from warehouse.ledger import day_states
from warehouse.queue import Queue

pytestmark = pytest.mark.slow
SECTIONS = {
    "[queue]\n": '[queue]\ndatabase = "{queue}"\n',
    "[warehouse]\n": '[warehouse]\ncatalog = "{catalog}"\ndata = "{data}"\n',
}


@pytest.fixture(scope="module")
def worked(template, tmp_path_factory):
    """A project after two nights, a corrected day, decisions and a second training."""
    folder = tmp_path_factory.mktemp("worked") / "project"
    shutil.copytree(template, folder)
    config = folder / "nightwarden.toml"
    nightly(config, day(0))
    file = folder / "in" / f"{day(0)}.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    nightly(config, day(0))
    nightly(config, day(1))
    with Queue.open(Settings.read(config).queue_address, create=False) as queue:
        for alert in queue.alerts_of_day(day(1))[:3]:
            queue.decide(alert.id, "fraud", "ada", "größer als üblich")
    train(config, day(2))
    return config


@pytest.fixture
def project(worked, tmp_path):
    """A copy of the project of the test's own; gives its settings file."""
    shutil.copytree(worked.parent, tmp_path / "project")
    return tmp_path / "project" / "nightwarden.toml"


@pytest.fixture
def shared(project, postgresql, s3, monkeypatch):
    """Settings beside the project's that name shared back ends with nothing in them."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    queue, catalog, models = (
        postgresql.new_database(kind, over_tcp=False) for kind in ("queue", "lake", "mlflow")
    )
    text = project.read_text()
    for section, lines in SECTIONS.items():
        text = text.replace(
            section, lines.format(queue=queue, catalog=catalog, data=s3.new_prefix())
        )
    models = models.replace("postgresql://", "postgresql+psycopg://")
    text += f'[mlflow]\ntracking_uri = "{models}"\nartifacts = "{s3.new_prefix()}"\n'
    text = text.replace("[warehouse]\n", '[warehouse]\npath = "local"\n')
    config = project.with_name("shared.toml")
    config.write_text(text)
    return config


def copy_words(project, shared):
    folder = project.parent / "warehouse-data"
    return ["warehouse", "copy", "--from", str(folder), "--config", str(shared)]


def test_nights_go_on_at_the_copy_as_they_would_have_in_the_folder(project, shared, run):
    words = copy_words(project, shared)
    code, planned, _ = run(*words, "--dry-run", "--json")
    planned = json.loads(planned)
    assert code == 0
    assert not any(table["arrived"] for table in planned["tables"])
    code, output, _ = run(*words, "--json")
    found = json.loads(output)
    assert (code, found["not_copied"]) == (0, {})
    assert all(table["there"] == table["arrived"] for table in found["tables"])
    rows = {(table["part"], table["name"]): table["arrived"] for table in found["tables"]}
    assert {part for part, _ in rows} == {"lake", "queue", "models"}
    assert rows["models", "nightwarden"] == 2
    assert rows["queue", "decisions"] == 3
    before = read_contents(project)
    assert read_contents(shared) == before
    check_snapshots(project, shared)
    twin = shutil.copytree(project.parent, project.parent.with_name("twin"))
    check_night(twin / project.name, shared, run)
    code, output, _ = run(*words)
    assert code == 0
    assert "nothing was changed" in output


def check_snapshots(project, shared):
    """What a run of the ledger read gives the same rows in the copy."""
    with (
        Lake.open(Settings.read(project).warehouse) as mine,
        Lake.open(Settings.read(shared).warehouse) as theirs,
    ):
        sql = "SELECT DISTINCT snapshot_id FROM lake.partition_runs WHERE snapshot_id IS NOT NULL"
        snapshots = [number for (number,) in mine.connection.execute(sql).fetchall()]
        assert len(snapshots) > 3
        for number in snapshots:
            query = f"FROM lake.transactions AT (VERSION => {number}) ORDER BY ALL"
            expected = mine.connection.execute(query).fetchall()
            assert theirs.connection.execute(query).fetchall() == expected
        assert day_states(theirs, day(0), day(1)) == day_states(mine, day(0), day(1))


def check_night(twin, shared, run):
    """A night gives the same on both; one that was done before queues nothing."""
    for config in (twin, shared):
        assert run("nightly", "--date", day(2), "--config", config)[0] == 0
    after = read_contents(shared)
    assert after == read_contents(twin)
    assert queued_as_flagged(after)
    with Queue.open(Settings.read(shared).queue_address, create=False) as queue:
        newest = newest_change(queue)
        code, output, _ = run("nightly", "--date", day(1), "--config", shared)
        assert code == 0
        assert "the same as before" in output
        assert re.search(r"^0 new alerts", output, re.MULTILINE)
        assert newest_change(queue) == newest
    assert run("audit", "verify", "--config", shared)[0] == 0


def test_a_copy_that_was_killed_is_finished_by_the_same_command(project, shared, run):
    words, moments = copy_words(project, shared), random.Random(11)  # noqa: S311 (no secret)
    program = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    killed, seconds = 0, 8.0
    for _ in range(12):  # one that ended before its moment tells how long the next takes
        started = time.monotonic()
        with subprocess.Popen(program, stdout=PIPE, stderr=PIPE) as copy:  # noqa: S603 (our own command)
            with suppress(subprocess.TimeoutExpired):
                copy.wait(moments.uniform(0.3, 1) * seconds)
            copy.kill()
            copy.communicate()
        if copy.returncode == 0:
            seconds = time.monotonic() - started
        killed += copy.returncode != 0
        if killed == 3:
            break
    assert killed == 3
    code, output, _ = run(*words)
    assert code == 0, output
    assert read_contents(shared) == read_contents(project)
    assert (
        run("models", "list", "--config", shared)[1]
        == run("models", "list", "--config", project)[1]
    )


def test_a_target_with_other_data_is_refused_before_anything_is_written(project, shared, run):
    with Queue.open(Settings.read(shared).queue_address, create=True) as queue:
        queue.enqueue(day(0), "nightly", [new_alert(1)])
    code, _, problem = run(*copy_words(project, shared))
    assert code == 2
    assert "other alerts or decisions" in problem
    contents = read_contents(shared)
    assert contents["transactions"] == []
    assert len(contents["alerts"]) == 1


def test_a_folder_without_a_warehouse_is_named(shared, run, tmp_path):
    code, _, problem = run("warehouse", "copy", "--from", tmp_path / "away", "--config", shared)
    assert code == 2
    assert str(tmp_path / "away" / "lake/catalog.sqlite") in problem
    assert not (tmp_path / "away").exists()


def test_settings_that_share_nothing_leave_nothing_to_copy(project, run):
    code, _, problem = run(*copy_words(project, project))
    assert code == 2
    assert "[queue] database is not set" in problem


def test_what_stays_embedded_is_said_and_skipped(project, shared, run):
    text = shared.read_text()
    shared.write_text(
        text[: text.index("[mlflow]")].replace("catalog", "#").replace("data = ", "#")
    )
    code, output, _ = run(*copy_words(project, shared))
    assert code == 0, output
    assert "lake not copied: [warehouse] catalog and data are not set" in output
    assert "models not copied: [mlflow] tracking_uri is not set" in output
    with Queue.open(Settings.read(shared).queue_address, create=False) as queue:
        assert len(queue.decisions()) == 3
    assert not (Path(shared).parent / "local" / "lake" / "catalog.sqlite").exists()
