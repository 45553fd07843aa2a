"""A real server and a real worker: a schedule becomes a night by itself, with its secret."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.simulate import simulate_transactions, write_days
from tests.flows.contents import queued_as_flagged, read_contents
from tests.flows.prefect_service import PrefectService

KEY = "nightwarden-pseudonym-key"


def ended(service: PrefectService) -> list[dict]:
    states = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}
    runs = service.find("flow_runs", flow_runs={"state": states})
    return [run for run in runs if run["name"].startswith("nightly up to")]


def files_holding(folder: Path, text: str) -> list[str]:
    return [
        file.name
        for file in folder.rglob("*")
        if file.is_file() and text.encode() in file.read_bytes()
    ]


@pytest.mark.slow
def test_cron_schedule_becomes_a_night_by_itself(project: Path, tmp_path: Path):
    """The worker, in another folder, gets the pseudonym key from a Secret block."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    frame = simulate_transactions(start=yesterday, days=2, accounts=80, merchants=40, seed=9)
    free = frame.with_columns(pl.col("transaction_id") + 1_000_000)  # the template has the others
    write_days(free, project.parent / "in", format="csv")  # two, as midnight may pass meanwhile
    key = project.parent / "nightwarden.key"
    secret = key.read_text()
    key.unlink()
    logs = tmp_path / "service"
    logs.mkdir()
    with PrefectService(logs) as service:
        with temporary_settings({PREFECT_API_URL: service.url}):
            Secret(value=secret).save(KEY)
        done = service.command("deploy", "--config", project, "--cron", "* * * * *")
        assert done.returncode == 0, done.stderr
        assert "From Secret blocks: NIGHTWARDEN_PSEUDONYM_KEY" in done.stdout
        service.start_worker("cpu", project)
        service.wait(lambda: ended(service), "a scheduled night", 300)
        run = ended(service)[-1]
        nights = service.find("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [run["id"]]}})
        messages = [(log["name"], log["message"]) for log in service.find("logs", limit=200)]
        artifacts = service.find("artifacts", limit=200)
    assert (run["auto_scheduled"], run["state_type"]) == (True, "COMPLETED"), messages
    assert run["parameters"] == {"config": None}
    assert run["name"].replace("up to ", "") in {night["name"] for night in nights}
    contents = read_contents(project)
    assert queued_as_flagged(contents)
    assert len(contents["alerts"]) > 0
    assert any(name == "tasks.steps" and "queued in lane nightly" in m for name, m in messages)
    assert {"night", "night-rows", "nights"} <= {one["key"] for one in artifacts}
    accounts = {row[2] for row in contents["alerts"]}
    assert [a for a in accounts if a in str(artifacts)] == []
    assert files_holding(logs, secret) == []
