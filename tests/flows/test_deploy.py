"""Deploying: four deployments with pools, queues, schedules, automations; again changes nothing."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate

from flows.deploy import SECRETS, block_name
from flows.deployments import DEPLOYMENTS, JOB_ENVIRONMENT
from tests.flows.conftest import AS_OF, CONFIG
from tests.flows.prefect_service import NIGHTWARDEN, PREFECT, clean_environment

ROOT = Path(__file__).parents[2]
NAMES = [f"{one.name}/{one.name}" for one in DEPLOYMENTS]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "nightwarden.toml"
    file.write_text(CONFIG.replace("[source]\n", '[source]\ntime_zone = "Europe/Berlin"\n'))
    return file


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A server on which nothing is deployed."""
    with get_client(sync_client=True) as found:
        for deployment in found.read_deployments():
            found.delete_deployment(deployment.id)
        for pool in found.read_work_pools():
            found.delete_work_pool(pool.name)
        for automation in found.read_automations():
            found.delete_automation(automation.id)
        yield found


def look(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    """Read what matters of each deployment; nothing that is different each time."""
    kept = (
        "entrypoint",
        "description",
        "tags",
        "work_pool_name",
        "work_queue_name",
        "job_variables",
        "concurrency_options",
        "pull_steps",
        "parameters",
        "paused",
        "enforce_parameter_schema",
        "parameter_openapi_schema",
    )
    found = {}
    for name in NAMES:
        one = client.read_deployment_by_name(name)
        limit = one.global_concurrency_limit
        found[name] = {field: getattr(one, field) for field in kept} | {
            "limit": limit.limit if limit else None,
            "schedules": [(s.schedule.cron, s.schedule.timezone, s.active) for s in one.schedules],
        }
    return found


def test_deploying_again_changes_nothing(client: SyncPrefectClient, config: Path, run):
    code, output, messages = run("deploy", "--config", config)
    assert (code, messages) == (0, "")
    assert "From Secret blocks: none" in output
    first = look(client)
    nightly = first["nightly/nightly"]
    assert nightly["schedules"] == [("30 3 * * *", "Europe/Berlin", True)]
    assert nightly["job_variables"] == {"env": dict(JOB_ENVIRONMENT)}
    assert nightly["limit"] == 1
    assert nightly["concurrency_options"].collision_strategy == "ENQUEUE"
    assert set(nightly["parameter_openapi_schema"]["properties"]) == {"config", "day", "version"}
    assert first["backfill/backfill"]["schedules"] == []
    pools = {pool.name: (pool.type, pool.concurrency_limit) for pool in client.read_work_pools()}
    assert pools == {"cpu": ("process", 3), "gpu": ("process", 1)}
    queues = {q.name: q.priority for q in client.read_work_queues(work_pool_name="cpu")}
    assert (queues["nightly"], queues["backfill"], queues["maintain"]) == (1, 10, 20)
    automations = {one.name: one.actions for one in client.read_automations()}
    assert len(automations) == 4
    assert run("deploy", "--config", config)[0] == 0
    assert look(client) == first
    assert {one.name: one.actions for one in client.read_automations()} == automations


def test_what_somebody_paused_or_chose_stays(client: SyncPrefectClient, config: Path, run):
    client.create_work_pool(WorkPoolCreate(name="gpu", type="docker", base_job_template={}))
    assert run("deploy", "--config", config)[0] == 0
    assert client.read_work_pool("gpu").type == "docker"
    client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=1))
    nightly, train = (client.read_deployment_by_name(f"{n}/{n}") for n in ("nightly", "train"))
    client.update_deployment(nightly.id, DeploymentUpdate(paused=True))
    client.update_deployment_schedule(train.id, train.schedules[0].id, active=False)
    watch = client.read_automations()[0]
    client.pause_automation(watch.id)
    assert run("deploy", "--config", config, "--train-cron", "0 7 * * 1")[0] == 0
    found = look(client)
    assert found["nightly/nightly"]["paused"] is True
    assert found["train/train"]["schedules"] == [("0 7 * * 1", "Europe/Berlin", False)]
    assert client.read_work_pool("cpu").concurrency_limit == 3
    assert client.read_automation(watch.id).enabled is False


def test_schedule_that_is_given_up_is_removed(client: SyncPrefectClient, config: Path, run):
    assert run("deploy", "--config", config)[0] == 0
    assert run("deploy", "--config", config, "--cron", "")[0] == 0
    assert look(client)["nightly/nightly"]["schedules"] == []
    assert run("deploy", "--config", config, "--cron", "0 4 * * *", "--time-zone", "UTC")[0] == 0
    chosen = [("0 4 * * *", "UTC", True)]
    assert look(client)["nightly/nightly"]["schedules"] == chosen
    code, output, _ = run("deploy", "--config", config)  # as nightwarden up does each time
    assert code == 0
    assert look(client)["nightly/nightly"]["schedules"] == chosen
    told = "0 4 * * * (UTC), as before; the source's time zone is Europe/Berlin"
    assert output.count("as before") == 3  # of nightly, train, maintain
    assert told in output


def test_time_zone_alone_leaves_the_hours_that_somebody_chose(
    client: SyncPrefectClient, config: Path, run
):
    hours = ("--cron", "0 4 * * *", "--train-cron", "")
    assert run("deploy", "--config", config, *hours)[0] == 0
    code, output, _ = run("deploy", "--config", config, "--time-zone", "Asia/Tokyo")
    assert code == 0
    assert "0 4 * * * (Asia/Tokyo)" in output
    assert "as before" not in output
    found = {name: one["schedules"] for name, one in look(client).items()}
    assert found == {
        "nightly/nightly": [("0 4 * * *", "Asia/Tokyo", True)],
        "train/train": [],
        "backfill/backfill": [],
        "maintain/maintain": [("0 12 * * *", "Asia/Tokyo", True)],
    }


def test_settings_file_of_the_workers_stays_until_another_is_named(
    client: SyncPrefectClient, config: Path, run
):
    def deploy(*words: str) -> list[dict[str, Any]]:
        assert run("deploy", "--config", config, *words)[0] == 0
        return [one["parameters"] for one in look(client).values()]

    where = "/srv/fraud/nightwarden.toml"
    assert deploy("--worker-config", where) == [{"config": where}] * 4
    assert deploy() == [{"config": where}] * 4  # as nightwarden up does, on a server that it joins
    assert deploy("--worker-config", "") == [{"config": None}] * 4


def test_secret_blocks_are_named_and_never_opened(client: SyncPrefectClient, config: Path, run):
    Secret(value="p4ssw0rd").save(block_name("NIGHTWARDEN_QUEUE__DATABASE"), overwrite=True)
    where = Path("/srv/fraud/nightwarden.toml")
    code, output, _ = run("deploy", "--config", config, "--worker-config", where, "--json")
    assert code == 0
    assert '"NIGHTWARDEN_QUEUE__DATABASE"' in output
    assert "p4ssw0rd" not in output
    found = look(client)
    given = found["nightly/nightly"]["job_variables"]["env"]["NIGHTWARDEN_QUEUE__DATABASE"]
    assert given == "{{ prefect.blocks.secret.nightwarden-queue--database }}"
    for one in found.values():
        assert one["parameters"] == {"config": str(where)}
    client.delete_block_document(
        client.read_block_document_by_name("nightwarden-queue--database", "secret").id
    )


def test_each_deployment_gets_the_secrets_that_it_needs_and_no_other(
    client: SyncPrefectClient, config: Path, run
):
    offered = {*SECRETS, "NIGHTWARDEN_WEBHOOK_SECRET"}
    for name in offered:
        Secret(value="p4ssw0rd").save(block_name(name), overwrite=True)
    try:
        assert run("deploy", "--config", config)[0] == 0
    finally:
        for name in offered:
            block = client.read_block_document_by_name(block_name(name), "secret")
            client.delete_block_document(block.id)
    given = {
        name.split("/")[0]: offered & set(one["job_variables"]["env"])
        for name, one in look(client).items()
    }
    source = {"NIGHTWARDEN_SOURCE_DSN", "NIGHTWARDEN_PSEUDONYM_KEY"}
    lake = {"NIGHTWARDEN_WAREHOUSE__CATALOG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert given["nightly"] == given["backfill"] == offered - {"NIGHTWARDEN_WEBHOOK_SECRET"}
    assert given["train"] == given["nightly"] - source
    assert given["maintain"] == lake


def test_training_and_maintenance_need_no_source_no_key_and_no_secret_of_the_desk(
    project: Path, run
):
    text = project.read_text()
    table = text.replace('"csv"', '"postgres"').replace("path =", "table =")
    hook = '[[desk.webhooks]]\nname = "cases"\nurl = "http://127.0.0.1:9/"\n'
    project.write_text(table + hook)
    (project.parent / "nightwarden.key").unlink()
    shutil.rmtree(project.parent / "in")
    code, output, messages = run("train", "--config", project, "--as-of", AS_OF)
    assert code == 0, output + messages
    assert "Model version 2" in output
    assert run("maintain", "--config", project)[0] == 0


@pytest.mark.slow
def test_prefect_yaml_deploys_the_same(client: SyncPrefectClient, config: Path, run):
    assert run("deploy", "--config", config, "--time-zone", "UTC")[0] == 0
    ours = look(client)
    for name in NAMES:
        client.delete_deployment(client.read_deployment_by_name(name).id)
    done = subprocess.run(  # noqa: S603 (our own command)
        [*PREFECT, "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=clean_environment(config.parent / "home", PREFECT_API_URL=str(client.api_url)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert look(client) == ours


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cron", "at three"], "the schedule of nightly needs five fields of cron"),
        (["--train-cron", "0 0 * * *", "--time-zone", "Berlin"], "got '30 3 * * *' and 'Berlin'"),
        (["--notify", "slack"], "--notify must name a notification block of the server"),
    ],
)
def test_mistake_is_said_in_a_sentence(config: Path, run, words: list[str], told: str):
    code, _, messages = run("deploy", "--config", config, *words)
    assert code == 2
    assert told in messages
    assert len(messages.splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ({}, "deploying needs a Prefect server, and none is named; set PREFECT_API_URL"),
        (
            {"PREFECT_API_URL": "http://ana:s3cret@127.0.0.1:9/api"},
            "the Prefect server http://127.0.0.1:9/api must answer, and does not",
        ),
    ],
)
def test_server_that_is_not_there_is_said(config: Path, address: dict[str, str], told: str):
    done = subprocess.run(  # noqa: S603 (our own command)
        [*NIGHTWARDEN, "deploy", "--config", str(config)],
        env=clean_environment(config.parent / "home", **address),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "s3cret" not in done.stderr + done.stdout


def test_dry_run_asks_no_server(config: Path, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PREFECT_API_URL")
    code, output, _ = run("deploy", "--config", config, "--dry-run", "--cron", "")
    assert code == 0
    assert "Europe/Berlin" in output
    assert "30 3" not in output
    assert "A deployment that exists keeps its own schedule unless an option names one" in output
    code, output, _ = run("deploy", "--config", config, "--dry-run", "--json")
    assert json.loads(output)["time_zone"] == "Europe/Berlin"
