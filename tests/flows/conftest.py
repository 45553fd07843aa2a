"""A small real warehouse, made once: simulated days landed, a model trained, Prefect's own server."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from flows import cli
from flows.ingest import ingest
from flows.settings import Settings
from flows.train import train
from tasks.simulate import simulate_transactions, write_days
from tests.services import ObjectStore, PostgresqlServer
from warehouse.connection import WarehouseSettings
from warehouse.lake_copy import LakeCopy

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
    # else two threads of the server write its new record, and one may find it locked
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
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


@pytest.fixture(scope="session")
def shared_template(
    template: Path, postgresql: PostgresqlServer, s3: ObjectStore
) -> Iterator[WarehouseSettings]:
    """The template's lake, copied into PostgreSQL and an object store; projects clone it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)  # for processes that a test starts, too
        shared = WarehouseSettings(
            path=template / "shared",
            catalog=SecretStr(postgresql.new_database("lake", over_tcp=False)),
            data=s3.new_prefix(),
        )
        embedded = Settings.read(template / "nightwarden.toml").warehouse
        with LakeCopy.begin(embedded, shared) as copy:
            copy.run()
        yield shared


@pytest.fixture
def new_project(
    request: pytest.FixtureRequest, template: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Make copies of the template, or of another project, by name; gives the settings file.

    Parametrised with "shared" (see ``on_both_back_ends``), their lake is in PostgreSQL and an object
    store, and their queue in PostgreSQL.
    """
    is_shared = getattr(request, "param", "embedded") == "shared"
    shared = request.getfixturevalue("shared_template") if is_shared else None

    def make(name: str, base: Path | None = None) -> Path:
        config = copy_project(base.parent if base else template, tmp_path / name)
        if shared:
            share(config, shared, request.getfixturevalue("postgresql"))
        return config

    return make


@pytest.fixture
def project(new_project: Callable[..., Path]) -> Path:
    """A copy of the template of the test's own; gives its settings file."""
    return new_project("project")


on_both_back_ends = pytest.mark.parametrize(
    "new_project", ["embedded", "shared"], indirect=True, ids=["embedded", "shared"]
)
"""Runs a test on SQLite and a folder, and on PostgreSQL and an object store."""


def share(config: Path, template: WarehouseSettings, server: PostgresqlServer) -> None:
    """Give a copied project databases of its own: clones of those that its settings name.

    Files are never changed once written, so the clones of a lake may write beside each other.
    """
    text = config.read_text()
    named = dict(re.findall(r'^(catalog|database) = "(.+)"$', text, re.MULTILINE))
    base = template.catalog.get_secret_value() if template.catalog else ""
    catalog = server.new_database("lake", template=named.get("catalog", base), over_tcp=False)
    queue = server.new_database("queue", template=named.get("database"), over_tcp=False)
    text = re.sub(r'^(catalog|data|database) = ".+"\n', "", text, flags=re.MULTILINE)
    text = text.replace("[queue]\n", f'[queue]\ndatabase = "{queue}"\n')
    place = f'catalog = "{catalog}"\ndata = "{template.data}"\n'
    config.write_text(text.replace("[warehouse]\n", f"[warehouse]\n{place}"))
    shutil.rmtree(config.parent / "warehouse-data" / "lake", ignore_errors=True)


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
