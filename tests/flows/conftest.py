"""A small real warehouse, made once: simulated days landed, a model trained, Prefect's own server."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows import cli
from flows.ingest import ingest
from flows.train import train
from tasks.simulate import simulate_transactions, write_days

FIRST_DAY = date(2026, 1, 1)
AS_OF = date(2026, 2, 14)
LAST_INGESTED = date(2026, 2, 13)

CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
pseudonymise = ["card_number"]
drop = ["fraud_scenario"]
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "card_number"
merchant_id = "merchant_id"
amount = "amount"
category = "category"
[source.label]
column = "is_fraud"
delay_days = 7
[train]
history_days = 25
held_out_days = 7
members = ["gaussian"]
[queue]
capacity = 8
[warehouse]
threads = 1
"""


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[str]:
    """Run one Prefect server for all tests; processes that a test starts find it, too."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"  # else two threads write its new record
    with prefect_test_harness(server_startup_timeout=120):
        url = PREFECT_API_URL.value() or ""
        os.environ["PREFECT_API_URL"] = url
        os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
        yield url
        del os.environ["PREFECT_API_URL"]


@pytest.fixture(scope="session")
def template(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """A folder with 60 simulated days, the first 44 landed, and a champion as of the 45th.

    The workers of one test run share it: the first one makes it.
    """
    assert prefect_server, "the flows below need the server's address"
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "template"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            make_template(draft)
            draft.rename(folder)
    return folder


def make_template(folder: Path) -> None:
    """Simulate, land and train."""
    frame = simulate_transactions(start=FIRST_DAY, days=60, accounts=80, merchants=40, seed=7)
    write_days(frame, folder / "in", format="csv")
    config = folder / "nightwarden.toml"
    config.write_text(CONFIG)
    key = folder / "nightwarden.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    reports, refused = ingest(config, FIRST_DAY, LAST_INGESTED)
    assert not refused
    assert len(reports) == (LAST_INGESTED - FIRST_DAY).days + 1
    assert train(config, AS_OF).alias == "champion"


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy of the template of the test's own; gives its settings file."""
    return copy_project(template, tmp_path / "project")


@pytest.fixture
def new_project(template: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make further copies of the template by name."""
    return lambda name: copy_project(template, tmp_path / name)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line as a shell does; gives exit code, output and messages."""

    def run_command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nightwarden", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return code, *capsys.readouterr()

    return run_command


def copy_project(template: Path, folder: Path) -> Path:
    """Copy a project; its models are read where the template registered them."""
    shutil.copytree(template, folder)
    return folder / "nightwarden.toml"


def day(number: int) -> date:
    """Give the n-th day after the model was trained; 0 is ``AS_OF``."""
    return AS_OF + timedelta(days=number)
