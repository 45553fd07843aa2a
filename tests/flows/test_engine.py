"""Prefect's own server of a command, and retries: trouble is tried again, a mistake is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow, task

from flows import engine
from tasks.steps import RETRIED, score_day
from warehouse.errors import SourceError

ROOT = Path(__file__).parents[2]
AT_ONCE = RETRIED | {"retry_delay_seconds": 0}


@pytest.mark.parametrize(("error", "tries"), [(SourceError, 1), (OSError, 4)])
def test_trouble_is_tried_again_and_a_mistake_is_not(error, tries):
    calls = []

    @task(**AT_ONCE)
    def fail() -> None:
        calls.append(1)
        raise error("no")

    @flow
    def run() -> None:
        fail()

    with pytest.raises(error):
        run()
    assert len(calls) == tries


def test_step_waits_for_a_database_that_takes_minutes_to_come_back():
    assert score_day.retry_delay_seconds == [5.0, 30.0, 120.0]
    assert score_day.retries == len(score_day.retry_delay_seconds)


def test_trouble_that_passes_is_done():
    calls = []

    @task(**AT_ONCE)
    def pass_at_last() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise OSError("busy")
        return "done"

    @flow
    def run() -> str:
        return pass_at_last()

    assert run() == "done"


def test_given_server_is_used(tmp_path, prefect_server):
    engine.prepare(tmp_path / "record")
    engine.wait_for_server()
    assert os.environ["PREFECT_API_URL"] == prefect_server
    assert not (tmp_path / "record").exists()


START = """
import os, sys
from pathlib import Path
from flows import engine
engine.prepare(Path(sys.argv[1]))
engine.wait_for_server()
children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
print(children.split()[-1], os.environ["PREFECT_API_URL"].startswith("http://127.0.0.1:"))
from prefect import flow
print(flow(lambda: 7, name="seven")())
"""


@pytest.mark.slow
def test_server_starts_beside_and_ends_with_its_command(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", START, str(tmp_path / "record")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("\n")[:2]
    pid, is_own = first.split()
    assert (is_own, second) == ("True", "7")
    assert (tmp_path / "record").is_dir()
    assert not _is_running(int(pid))


def _is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
