"""``nightwarden up``: all that a schedule needs answers, a night runs by itself, nothing is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import polars as pl
import pytest

from tasks.simulate import simulate_transactions, write_days
from tests.flows.test_services import MARK, marked
from tests.services import free_port

PASSWORD = "planted-prefect-password"  # noqa: S105 (of nobody)
ANSWER_SECONDS = 60
NIGHT_SECONDS = 180


@pytest.fixture
def up(project: Path):
    """Start the command on a project, as a shell in a terminal would; gives it and its ports."""
    started = []

    def start(*words: str) -> tuple["subprocess.Popen[str]", dict[str, int]]:
        ports = {name: free_port() for name in ("prefect", "mlflow", "desk")}
        options = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-c", "from flows.cli import main; main()", "up", *options, *words],
            cwd=project.parent,
            env=clean | {MARK: str(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process, ports

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for process_id in marked(str(project)):
        os.kill(process_id, signal.SIGKILL)


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as answer:  # noqa: S310 (our own server)
            return answer.status == 200
    except OSError:
        return False


def ask(api: str, path: str, body: object) -> list[dict[str, object]]:
    """Ask Prefect's API."""
    headers = {"Content-Type": "application/json"}
    request = Request(f"{api}/{path}", json.dumps(body).encode(), headers)  # noqa: S310 (our own server)
    with urlopen(request, timeout=30) as answer:  # noqa: S310 (our own server)
        return json.load(answer)


def finished_runs(api: str) -> dict[str, str]:
    """Give the names and states of the runs that have ended."""
    body = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}}
    return {str(run["name"]): str(run["state_name"]) for run in ask(api, "flow_runs/filter", body)}


def wait_until(is_so, seconds: float, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"not within {seconds} seconds"
        time.sleep(0.5)


@pytest.mark.slow
def test_scheduled_night_runs_and_nothing_is_left(up, project: Path):
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    frame = simulate_transactions(start=yesterday, days=2, accounts=80, merchants=40, seed=8)
    frame = frame.with_columns(pl.col("transaction_id") + 1_000_000)  # new beside the template's
    write_days(frame, project.parent / "in", format="csv")  # two: midnight may pass meanwhile
    process, ports = up("--cron", "* * * * *")
    bases = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    api = f"{bases['prefect']}/api"
    pages = [bases["prefect"], f"{api}/health", bases["mlflow"], f"{bases['desk']}/healthz"]
    wait_until(lambda: all(map(answers, pages)), ANSWER_SECONDS, process)

    night = f"nightly {yesterday}"
    wait_until(lambda: finished_runs(api).get(night), NIGHT_SECONDS, process)
    assert finished_runs(api)[night] == "Completed"
    with urlopen(f"{bases['prefect']}/ui-settings", timeout=30) as answer:  # noqa: S310 (our own server)
        assert json.load(answer)["api_url"] == api, "the pages ask the server that serves them"
    models = f"{bases['mlflow']}/api/2.0/mlflow/registered-models/search"
    with urlopen(models, timeout=30) as answer:  # noqa: S310 (our own server)
        assert '"nightwarden"' in answer.read().decode()

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert marked(str(project)) == {}
    assert errors == ""
    assert all(address in output for address in (*bases.values(), api))
    assert "The next night is scheduled for" in output
    assert "desk users add NAME" in output


@pytest.mark.slow
def test_killed_command_leaves_nothing(up, project: Path):
    process, ports = up("--cron", "")
    wait_until(lambda: answers(f"http://127.0.0.1:{ports['mlflow']}/health"), 120, process)
    process.kill()
    until = time.monotonic() + 60
    while left := marked(str(project)):
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.mark.parametrize("name", ["prefect", "mlflow", "desk"])
def test_taken_port_is_said_before_anything_starts(run, project, monkeypatch, name):
    monkeypatch.delenv("PREFECT_API_URL")
    ports = dict.fromkeys(("prefect", "mlflow", "desk"), 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[name] = taken.getsockname()[1]
        options = [word for one, port in ports.items() for word in (f"--{one}-port", port)]
        code, output, message = run("up", "--config", project, *options)
    assert (code, output) == (2, "")
    assert f"port {ports[name]} of 127.0.0.1 must be free" in message
    assert f"--{name}-port" in message
    assert list((project.parent / "warehouse-data/logs").glob("*.log")) == []


def test_second_one_on_a_warehouse_is_refused(run, project, monkeypatch):
    from filelock import FileLock

    monkeypatch.delenv("PREFECT_API_URL")
    logs = project.parent / "warehouse-data/logs"
    logs.mkdir()
    with FileLock(logs / "up.lock"):
        code, _, message = run("up", "--config", project)
    assert code == 2
    assert "is running for" in message


@pytest.mark.parametrize("host", ["prefect.example", "192.0.2.1", "[2001:db8::1]", "0.0.0.0"])  # noqa: S104 (an address to refuse)
def test_server_of_another_machine_is_joined_only_on_demand(run, project, monkeypatch, host):
    monkeypatch.setenv("PREFECT_API_URL", f"http://ada:{PASSWORD}@{host}:4200/api")
    code, output, message = run("up", "--config", project)
    assert (code, output) == (2, "")
    assert f"names http://{host}:4200/api, whose deployments would be changed" in message
    assert "unset it" in message
    assert PASSWORD not in message
    assert not (project.parent / "warehouse-data/logs").exists()


def test_server_that_is_joined_on_demand_is_asked(run, project, monkeypatch):
    address = f"http://0.0.0.0:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    code, _, message = run(
        "up", "--config", project, "--join", "--mlflow-port", 0, "--desk-port", 0
    )
    assert code == 2
    assert f"must name a Prefect server that answers, {address} does not" in message


def test_server_that_does_not_answer_is_named_without_its_password(run, project, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"http://ada:{PASSWORD}@127.0.0.1:{free_port()}/api")
    options = ("--mlflow-port", 0, "--desk-port", 0)
    code, output, message = run("up", "--config", project, *options)
    assert code == 2
    assert "PREFECT_API_URL must name a Prefect server that answers" in message
    assert PASSWORD not in output + message
