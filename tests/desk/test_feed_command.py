"""``nightwarden feed`` as another program runs it: each change once, whatever happens between."""

import csv
import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
import typer
from filelock import FileLock
from typer.testing import CliRunner

from flows.commands.feed import feed
from tests.desk.conftest import seed
from warehouse.errors import UserError
from warehouse.feed import newest_change
from warehouse.queue import Queue
from warehouse.queue_changes import Change, append_changes

SETTINGS = '[source]\nformat = "csv"\npath = "in/{date}.csv"\n[source.columns]\n'
COLUMNS = ("transaction_id", "occurred_at", "account_id", "merchant_id", "amount", "category")


@pytest.fixture
def folder(tmp_path):
    """A folder with settings; its queue is the warehouse's."""
    columns = "".join(f'{name} = "{name}"\n' for name in COLUMNS)
    (tmp_path / "nightwarden.toml").write_text(SETTINGS + columns)
    return tmp_path


@pytest.fixture
def queue(folder):
    from flows.settings import Settings

    path = Settings.read(folder / "nightwarden.toml").warehouse.queue_path
    with Queue.open(path, create=True) as opened:
        yield opened


@pytest.fixture
def run(folder):
    """Run the command and give its result: ``run("--cursor", 3)``."""
    app = typer.Typer()
    app.command()(feed)

    def run_it(*arguments):
        config = ("--config", str(folder / "nightwarden.toml"))
        found = CliRunner().invoke(app, [*map(str, arguments), *config])
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == 0, found.output
        return found

    return run_it


def numbers(text):
    return [json.loads(line)["id"] for line in text.splitlines()]


def add_changes(queue, count):
    with queue.database.write() as connection:
        changes = [Change("case_claimed", None, None, {"mark": n}) for n in range(count)]
        append_changes(connection, queue.clock(), "ana", changes)


def test_lines_of_json_go_to_the_standard_output_and_the_cursor_beside_it(queue, run):
    seed(queue, 2)
    everything = run()
    assert numbers(everything.stdout) == [1, 2, 3, 4, 5, 6]
    assert everything.stderr == "Next cursor: 6\n"
    assert numbers(run("--cursor", 4).stdout) == [5, 6]
    assert run("--cursor", 6).stdout == ""
    with pytest.raises(UserError, match="at most 6"):
        run("--cursor", 7)


def test_more_than_a_block_comes_whole_and_in_order(queue, run):
    add_changes(queue, 1234)
    assert numbers(run().stdout) == list(range(1, 1235))


def test_all_formats_say_the_same(queue, run, folder):
    seed(queue, 3)
    seed(queue, 2, lane="audit", merchant_id="=HYPERLINK(1)", amount=-5.0)
    rows = [json.loads(line) for line in run().stdout.splitlines()]
    run("--format", "parquet", "--output", folder / "out.parquet")
    frame = pl.read_parquet(folder / "out.parquet")
    assert frame["id"].to_list() == [row["id"] for row in rows]
    facts = [row["alert"] or {} for row in rows]
    for name in ("merchant_id", "amount", "account_id", "score", "lane", "transaction_id"):
        assert frame[name].to_list() == [fact.get(name) for fact in facts]
    assert [json.loads(text) for text in frame["details"]] == [row["details"] for row in rows]
    run("--format", "csv", "--output", folder / "out.csv")
    flat = list(csv.DictReader(io.StringIO((folder / "out.csv").read_text(encoding="utf-8"))))
    assert [int(row["id"]) for row in flat] == frame["id"].to_list()
    assert {row["merchant_id"] for row in flat if row["lane"] == "audit"} == {"'=HYPERLINK(1)"}
    assert {row["amount"] for row in flat if row["lane"] == "audit"} == {"-5.0"}
    assert [json.loads(row["details"]) for row in flat] == [row["details"] for row in rows]


@pytest.mark.parametrize("name", ["shop\r=HYPERLINK(1)", "shop\n=1+1", "shop\r\n@x", '",\r=1,"'])
def test_a_name_with_an_end_of_line_begins_no_row_of_csv(queue, run, folder, name):
    seed(queue, 1, alerts_each=1, merchant_id=name)
    run("--format", "csv", "--output", folder / "out.csv")
    with (folder / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert {row["merchant_id"] for row in rows if row["alert_id"]} == {name}
    assert {None} & {key for row in rows for key in row} == set()


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_without_changes_the_file_is_there_and_empty(queue, run, folder, form):
    assert newest_change(queue) == 0
    run("--format", form, "--output", folder / "out")
    content = (folder / "out").read_bytes()
    assert {"jsonl": content == b"", "csv": content.count(b"\n") == 1, "parquet": True}[form]
    if form == "parquet":
        assert pl.read_parquet(folder / "out").is_empty()


def test_the_state_goes_on_where_the_run_before_ended(queue, run, folder):
    state = folder / "feed.cursor"
    output = folder / "changes-{cursor}.jsonl"
    for _ in range(3):
        add_changes(queue, 5)
        run("--state", state, "--output", output)
    run("--state", state, "--output", output)
    files = sorted(folder.glob("changes-*"), key=lambda path: int(path.stem.split("-")[1]))
    assert [file.name for file in files] == [f"changes-{n}.jsonl" for n in (0, 5, 10, 15)]
    found = [number for file in files for number in numbers(file.read_text())]
    assert found == list(range(1, 16))
    assert state.read_text() == "15\n"


def test_a_cursor_beside_a_state_begins_it_and_must_not_contradict_it(queue, run, folder):
    add_changes(queue, 5)
    state = folder / "feed.cursor"
    assert numbers(run("--state", state, "--cursor", 3).stdout) == [4, 5]
    add_changes(queue, 1)
    with pytest.raises(UserError, match="contradicts"):
        run("--state", state, "--cursor", 3)
    assert numbers(run("--state", state).stdout) == [6]


def test_a_state_that_holds_no_number_or_is_in_use_is_refused(queue, run, folder):
    assert newest_change(queue) == 0
    state = folder / "feed.cursor"
    state.write_text("seven")
    with pytest.raises(UserError, match="'seven'"):
        run("--state", state)
    with FileLock(f"{state}.lock"), pytest.raises(UserError, match="another feed"):
        run("--state", state)
    with pytest.raises(UserError, match="folder of --output"):
        run("--output", folder / "missing" / "out")


@pytest.mark.parametrize("option", ["--state", "--output"])
def test_a_folder_or_an_impossible_name_is_refused_before_anything_is_written(
    queue, run, folder, option
):
    add_changes(queue, 1)
    (folder / "there").mkdir()
    before = sorted(folder.rglob("*.jsonl"))
    for name in ("there", "x" * 300):
        others = {"--state": folder / "kept", "--output": folder / "out.jsonl"}
        given = [part for pair in (others | {option: folder / name}).items() for part in pair]
        with pytest.raises(UserError, match="must be a file"):
            run(*given)
    assert not (folder / "kept").exists()
    assert sorted(folder.rglob("*.jsonl")) == before
    assert list((folder / "there").iterdir()) == []


CRASHES = """
import os, signal, sys
from pathlib import Path
from flows.commands.feed import FeedFormat, feed

folder, place = Path(sys.argv[1]), sys.argv[2]
replace = Path.replace

def die_or_replace(draft, target):
    if Path(target).name.startswith(place):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(draft, target)

Path.replace = die_or_replace
feed(None, folder / "feed.cursor", folder / "changes-{cursor}.jsonl", FeedFormat.JSONL,
     folder / "nightwarden.toml")
"""


@pytest.mark.parametrize("place", ["changes-", "feed.cursor"])
def test_a_killed_run_is_repeated_and_no_change_is_lost_or_doubled(queue, run, folder, place):
    state, output = folder / "feed.cursor", folder / "changes-{cursor}.jsonl"
    add_changes(queue, 4)
    run("--state", state, "--output", output)
    add_changes(queue, 4)
    command = [sys.executable, "-c", CRASHES, str(folder), place]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL  # noqa: S603 - our own
    assert state.read_text() == "4\n"
    add_changes(queue, 4)
    run("--state", state, "--output", output)
    files = [folder / "changes-0.jsonl", folder / "changes-4.jsonl"]
    assert sorted(folder.glob("changes-*")) == files
    assert numbers("".join(file.read_text() for file in files)) == list(range(1, 13))


def test_what_is_written_meanwhile_comes_in_the_next_run(queue, run, folder):
    add_changes(queue, 700)
    state = folder / "feed.cursor"
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [add_changes(queue, 20) for _ in range(30)])
        found = []
        while not writing.done():
            found += numbers(run("--state", state).stdout)
        writing.result()
    found += numbers(run("--state", state).stdout)
    assert found == list(range(1, 1301))
