"""What docs/operations.md says of commands, settings, events and automations is so."""

import importlib
import json
import re
from pathlib import Path

import pytest

from flows.automations import LATE, SILENT, list_watches
from flows.deploy import SECRETS, block_name
from flows.deployments import DEPLOYMENTS
from flows.reports import MEMBER_FAILED, MISSING, REFUSED
from flows.settings import Settings
from tests.installed_programs import require_command
from tests.test_deploy_examples import LEAST_SETTINGS, ROOT
from warehouse.connection import LOCK_TIMEOUT_SECONDS

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *((?:nightwarden|prefect|mlflow) (?!.*:\n).+)$", re.MULTILINE)
LINES = sorted(
    {line for _, kind, text in BLOCKS if not kind for line in COMMAND.findall(text)}
    | set(re.findall(r"`((?:nightwarden|prefect|mlflow) [^`]+)`", TEXT))
)


def blocks(kind: str) -> list[str]:
    return [text for _, found, text in BLOCKS if found == kind]


def test_page_has_commands():
    assert len(LINES) > 15


@pytest.mark.parametrize("line", LINES)
def test_command_on_the_page_is_one(line: str):
    require_command(line)


@pytest.mark.parametrize("line", [line for line in LINES if " deployment run " in line])
def test_run_that_is_started_by_hand_has_its_parameters(line: str):
    flow_name, name = line.split()[3].split("/")
    entrypoint = next(one.entrypoint for one in DEPLOYMENTS if one.name == name)
    module, _, function = entrypoint.rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    given = set(re.findall(r"--param (\w+)=", line))
    assert flow.name == flow_name
    assert given <= set(flow.parameters.properties)
    assert set(flow.parameters.required) - {"config"} <= given


def test_settings_on_the_page_are_valid(tmp_path: Path):
    (text,) = blocks("toml")
    file = tmp_path / "nightwarden.toml"
    file.write_text(LEAST_SETTINGS + text, encoding="utf-8")
    settings = Settings.read(file, {})
    assert settings.queue.database is not None
    assert settings.mlflow.tracking_uri is not None


def test_policy_on_the_page_is_json_for_the_bucket_of_the_settings():
    (text,) = blocks("json")
    resources = [one["Resource"] for one in json.loads(text)["Statement"]]
    assert resources == ["arn:aws:s3:::nightwarden-lake", "arn:aws:s3:::nightwarden-lake/*"]
    assert "s3://nightwarden-lake/" in blocks("toml")[0]


def test_page_names_the_deployments_with_their_pools():
    told = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ", TEXT, flags=re.MULTILINE)
    assert told == [(one.name, one.pool) for one in DEPLOYMENTS]
    times = re.findall(r"(\d\d):(\d\d)", TEXT.split("| deployment |")[1].split("\n\n")[0])
    crons = [one.cron.split() for one in DEPLOYMENTS if one.cron]
    assert [(int(hour), int(minute)) for hour, minute in times] == [
        (int(cron[1]), int(cron[0])) for cron in crons
    ]


def test_page_names_every_automation_and_event():
    for watch in list_watches():
        assert f"| {watch.name} |" in TEXT
    for event in (REFUSED, MISSING, MEMBER_FAILED):
        assert f"`{event}`" in TEXT
    assert (SILENT.total_seconds(), LATE.total_seconds()) == (9 * 60, 30 * 60)
    assert LOCK_TIMEOUT_SECONDS == 600, "the page says ten minutes"


def test_secret_block_on_the_page_is_one_that_is_looked_for():
    assert f"`{block_name('NIGHTWARDEN_SOURCE_DSN')}`" in TEXT
    assert "NIGHTWARDEN_SOURCE_DSN" in SECRETS


def test_pictures_on_the_page_are_there_and_say_what_they_show():
    pictures = re.findall(r"^!\[(.+)\]\((.+)\)$", TEXT, flags=re.MULTILINE)
    assert [path for _, path in pictures if not (ROOT / "docs" / path).is_file()] == []
    shown = {path for _, path in pictures}
    assert shown == {f"images/{one.name}" for one in (ROOT / "docs/images").glob("prefect-*.png")}


def test_slots_are_kept_where_the_page_says():
    name = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
    assert f"`{name}`" in TEXT
    for file in ("systemd/nightwarden-prefect.service", "compose.yaml"):
        assert name in (ROOT / "deploy" / file).read_text(encoding="utf-8")


def test_page_names_files_of_deploy_that_there_are():
    named = set(re.findall(r"`(deploy/[\w./-]*\w)`", TEXT))
    assert named
    assert all((ROOT / name).exists() for name in named)
    users = (ROOT / "deploy" / "mlflow-auth.ini").read_text(encoding="utf-8")
    assert "mlflow-users.db" in TEXT
    assert "mlflow-users.db" in users
