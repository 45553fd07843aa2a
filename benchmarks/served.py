"""A served installation through ordinary nights and bad ones, on real servers.

    python benchmarks/served.py [--folder FOLDER] [--json]

PostgreSQL, an S3 server, MLflow and Prefect; a worker of pool ``cpu`` and one of pool ``gpu``, each
with a HOME, a working folder and settings of its own, so that they share nothing but the servers.
Files of simulated days are delivered one after another, while a cron schedule of every minute runs
the nights:

- schedule: nights land by themselves;
- gpu: a training on the other worker, promoted, scores the next night;
- overlap: two schedules at once do one night;
- killed: the worker is killed in the middle of a night, and the next run finishes it;
- outage: Prefect's server is down, and the missed nights are caught up in order.

At last everything is counted, and planted secrets are looked for in every log, record, page and
table. The exit code is 1 where something is not as it should be. Takes about ten minutes. Needs
PostgreSQL's programs and ``pip install --group served``.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers are those of the tests

import polars as pl
from served_secrets import find_texts
from served_stack import BIN, Host, Servers, servers

from flows.settings import Settings
from tasks.simulate import simulate_transactions
from warehouse.connection import Lake
from warehouse.ledger import PartitionRun, day_states
from warehouse.queue import Queue

HISTORY = 45  # days before the first night
NIGHTS = 10
WAIT_SECONDS = 600.0
SETTINGS = """
[source]
format = "csv"
path = "{source}"
pseudonymise = ["card_number", "account"]
drop = ["fraud_scenario"]
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "account"
merchant_id = "merchant_id"
amount = "amount"
category = "category"
[source.label]
column = "is_fraud"
delay_days = 7
[warehouse]
data = "{data}"
threads = 1
[mlflow]
tracking_uri = "{mlflow}"
[train]
history_days = 25
held_out_days = 7
members = ["gaussian", "tails"]
[queue]
capacity = 8
"""


@dataclass
class Finding:
    """One thing that was measured or must be true."""

    step: str
    what: str
    value: object
    is_right: bool = True


@dataclass
class Scenario:
    """What is played, by which hosts, and what was found."""

    servers: Servers
    cpu: Host
    gpu: Host
    files: Path
    days: dict[date, pl.DataFrame]
    found: list[Finding] = field(default_factory=list)

    def say(self, step: str, what: str, value: object, *, right: bool = True) -> None:
        """Note a finding, and print it at once."""
        self.found.append(Finding(step, what, value, right))
        mark = "" if right else "   <- WRONG"
        sys.stderr.write(f"{step:>9}: {what}: {value}{mark}\n")

    def deliver(self, day: date) -> None:
        """Put a day's file where the source looks for it, whole or not at all."""
        draft = self.files / f"{day}.draft"
        self.days[day].write_csv(draft)
        draft.rename(self.files / f"{day}.csv")

    def settings(self) -> Settings:
        """Read the settings as the first host's worker does."""
        return Settings.read(self.cpu.settings, {**os.environ, **self.servers.secrets})

    def state(self, day: date, stage: str) -> PartitionRun | None:
        """Read the ledger's newest run of a stage of a day."""
        with Lake.open(self.settings().warehouse) as lake:
            return day_states(lake, day, day).get((day, stage))

    def wait_for_night(self, day: date) -> tuple[PartitionRun, float]:
        """Wait until a night is in the queue; gives its record and the seconds."""
        started = time.monotonic()
        while True:
            run = self.state(day, "enqueue")
            if run is not None:
                return run, time.monotonic() - started
            if time.monotonic() - started > WAIT_SECONDS:
                message = f"the night of {day} did not come within {WAIT_SECONDS:g} s"
                raise TimeoutError(message)
            time.sleep(0.5)

    def deployment(self, name: str) -> dict[str, Any]:
        """Read a deployment."""
        wanted = {"deployments": {"name": {"any_": [name]}}}
        found: list[dict[str, Any]] = self.servers.request("POST", "/deployments/filter", wanted)
        return found[0]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """List a deployment's runs that began, newest first."""
        wanted = {
            "flow_runs": {"deployment_id": {"any_": [self.deployment(name)["id"]]}},
            "sort": "START_TIME_DESC",
        }
        found = self.servers.request("POST", "/flow_runs/filter", wanted)
        return [run for run in found if run["state_type"] not in ("SCHEDULED", "PENDING")]

    def wait_for_run(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended; gives it."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            run: dict[str, Any] = self.servers.request("GET", f"/flow_runs/{run_id}")
            if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return run
            if time.monotonic() > until:
                raise TimeoutError(run["name"])
            time.sleep(0.5)

    def start_worker(self, host: Host, pool: str, name: str) -> None:
        """Start a worker of a pool on a host."""
        command = [str(BIN / "prefect"), "worker", "start", "--pool", pool, "--name", name]
        host.start(f"worker-{name}", *command, PREFECT_WORKER_QUERY_SECONDS="2")


def play(scenario: Scenario, days: list[date]) -> None:
    """Play all of it; ``days`` are the nights', oldest first, up to the last finished day."""
    prepare(scenario, days)
    play_schedule(scenario, days[1:4])
    play_gpu(scenario, days[4])
    play_overlap(scenario, days[5])
    play_killed(scenario, days[6])
    play_outage(scenario, days[7:])
    count(scenario, days)
    look_into_prefect(scenario, days)
    planted = [scenario.servers.postgresql.password, *scenario.servers.s3.environment.values()][:3]
    rows = pl.concat(scenario.days.values())
    planted += rows["account"].unique().to_list() + rows["card_number"].unique().to_list()
    for host in (scenario.cpu, scenario.gpu, scenario.servers.host):
        host.stop()
    name, merchant = f"nightly {days[-1]}", rows["merchant_id"].unique().sort()[0]
    known = [name, f"'{merchant}'"]  # to show that what is there is found
    found = find_texts(scenario.servers, [*planted, *known], scenario.cpu, scenario.gpu)
    for text in known:
        places = sorted({place.rpartition("/")[0] or place for place in found.pop(text)})
        scenario.say("secrets", f"{text} is found in", places[:6], right=bool(places))
    where = sorted({place for places in found.values() for place in places})
    scenario.say("secrets", f"{len(planted)} planted texts found in", where, right=not where)


def prepare(scenario: Scenario, days: list[date]) -> None:
    """Land the history and train by command; one night by hand; deploy; start the workers."""
    cpu, secrets = scenario.cpu, scenario.servers.secrets
    first, last = min(scenario.days), days[0] - timedelta(days=1)
    for day in scenario.days:
        if day <= days[0]:
            scenario.deliver(day)
    started = time.monotonic()
    cpu.run("ingest", "--from", str(first), "--to", str(last), **secrets)
    seconds = time.monotonic() - started
    scenario.say("prepare", f"{HISTORY} days ingested, s", round(seconds, 1))
    cpu.run("train", "--as-of", str(days[0]), **secrets)
    cpu.run("nightly", "--date", str(days[0]), **secrets)
    for variable, value in secrets.items():
        make_secret_block(scenario.servers, variable.lower().replace("_", "-"), value)
    cpu.run("deploy", "--cron", "* * * * *", **secrets)
    cpu.run("deploy", "--cron", "* * * * *", **secrets)
    schedules = scenario.deployment("nightly")["schedules"]
    scenario.say(
        "prepare", "schedules after deploying twice", len(schedules), right=len(schedules) == 1
    )
    scenario.start_worker(cpu, "cpu", "cpu-1")
    scenario.start_worker(scenario.gpu, "gpu", "gpu-1")


def make_secret_block(servers: Servers, name: str, value: str) -> None:
    """Store a value in a Secret block, as a user does in Prefect's pages."""
    kind = servers.request("GET", "/block_types/slug/secret")
    wanted = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}}
    schema = servers.request("POST", "/block_schemas/filter", wanted)[0]
    block = {
        "name": name,
        "data": {"value": value},
        "block_type_id": kind["id"],
        "block_schema_id": schema["id"],
    }
    servers.request("POST", "/block_documents/", block)


def play_schedule(scenario: Scenario, days: list[date]) -> None:
    """Let the schedule do nights by itself."""
    for day in days:
        scenario.deliver(day)
    seconds = [scenario.wait_for_night(day)[1] for day in days]
    scenario.say("schedule", "nights landed by themselves after, s", round(sum(seconds), 1))
    run = scenario.runs("nightly")[-1]
    scenario.say(
        "schedule", "made by the scheduler", run["auto_scheduled"], right=run["auto_scheduled"]
    )


def play_gpu(scenario: Scenario, day: date) -> None:
    """Train on the other host, promote, and see the next night use the model."""
    deployment = scenario.deployment("train")
    asked = {"parameters": {"as_of": day.isoformat()}}
    path = f"/deployments/{deployment['id']}/create_flow_run"
    run = scenario.wait_for_run(scenario.servers.request("POST", path, asked)["id"])
    done = run["state_type"] == "COMPLETED"
    scenario.say(
        "gpu", f"{run['name']!r} in pool {run['work_pool_name']}", run["state_name"], right=done
    )
    newest = scenario.cpu.run("models", "list", **scenario.servers.secrets)[0]
    version = str(newest["version"])
    reason = ("--force", "--reason", "the benchmark says so", "--as", "benchmark")
    scenario.cpu.run("models", "promote", version, *reason, **scenario.servers.secrets)
    scenario.deliver(day)
    night, seconds = scenario.wait_for_night(day)
    scenario.say(
        "gpu",
        f"next night, after {seconds:.1f} s, scored with version",
        night.model_version,
        right=night.model_version == version,
    )


def play_overlap(scenario: Scenario, day: date) -> None:
    """Let a second schedule, without the first one's limit, do the same night at the same time."""
    first = scenario.deployment("nightly")
    kept = ("flow_id", "entrypoint", "path", "pull_steps", "work_pool_name", "work_queue_name")
    second = {name: first[name] for name in kept} | {
        "name": "nightly-again",
        "job_variables": first["job_variables"],
        "schedules": [{"active": True, "schedule": {"cron": "* * * * *", "timezone": "UTC"}}],
    }
    made = scenario.servers.request("POST", "/deployments/", second)
    scenario.deliver(day)
    delivered = datetime.now(UTC)
    scenario.wait_for_night(day)
    pair = wait_for_overlap(scenario, delivered)
    scenario.servers.request("PATCH", f"/deployments/{made['id']}", {"paused": True})
    wait_for_quiet(scenario, "nightly-again")
    scenario.say("overlap", "two runs at the same time", pair is not None, right=pair is not None)
    with Queue.open(scenario.settings().queue_address, create=False) as queue:
        alerts = [alert.transaction_id for alert in queue.alerts_between(day, day)]
    once = len(alerts) == len(set(alerts)) > 0
    scenario.say("overlap", "alerts of the night, each once", len(alerts), right=once)


def wait_for_quiet(scenario: Scenario, name: str) -> None:
    """Wait until no run of a deployment is under way."""
    until = time.monotonic() + WAIT_SECONDS
    while any(run["end_time"] is None for run in scenario.runs(name)):
        if time.monotonic() > until:
            raise TimeoutError(name)
        time.sleep(1)


def wait_for_overlap(scenario: Scenario, since: datetime) -> tuple[str, str] | None:
    """Wait until two runs, one of each schedule, both begun since, overlapped and ended."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        ours, theirs = (
            [span for run in scenario.runs(name) if (span := span_of(run)) and span[0] > since]
            for name in ("nightly", "nightly-again")
        )
        for begin, end, name in ours:
            for other_begin, other_end, other in theirs:
                if begin < other_end and other_begin < end:
                    return name, other
        time.sleep(1)
    return None


def span_of(run: dict[str, Any]) -> tuple[datetime, datetime, str] | None:
    """Give when a run began and ended, and its name; None for one that has not ended."""
    if run["end_time"] is None:
        return None
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
    return begin, end, run["name"]


def play_killed(scenario: Scenario, day: date) -> None:
    """Kill the worker and its runs once the night has begun, and start another worker."""
    scenario.deliver(day)
    until = time.monotonic() + WAIT_SECONDS
    while scenario.state(day, "ingest") is None and time.monotonic() < until:
        time.sleep(0.05)
    killed = scenario.cpu.kill("worker-cpu-1")
    unfinished = scenario.state(day, "enqueue") is None
    scenario.say("killed", "processes killed in the middle of the night", killed, right=unfinished)
    scenario.start_worker(scenario.cpu, "cpu", "cpu-2")
    _, seconds = scenario.wait_for_night(day)
    scenario.say("killed", "the next run finished it after, s", round(seconds, 1))


def play_outage(scenario: Scenario, days: list[date]) -> None:
    """Take Prefect's server away over a scheduled minute, while files come; then start it."""
    scenario.servers.host.kill("prefect")
    for day in days:
        scenario.deliver(day)
    scenario.deliver(days[-1] + timedelta(days=1))  # in case midnight passes meanwhile
    time.sleep(75)
    missed = all(scenario.state(day, "enqueue") is None for day in days)
    scenario.say("outage", f"{len(days)} nights missed", missed, right=missed)
    scenario.servers.start_prefect()
    started = time.monotonic()
    ends = [scenario.wait_for_night(day)[0].finished_at for day in days]
    seconds = round(time.monotonic() - started, 1)
    scenario.say("outage", "caught up in order after, s", seconds, right=ends == sorted(ends))


def count(scenario: Scenario, days: list[date]) -> None:
    """Count what is in the lake and in the queue: nothing lost, nothing twice."""
    settings = scenario.settings()
    with Lake.open(settings.warehouse) as lake:
        stored = dict(
            lake.connection.execute(
                "SELECT event_date, count(*) FROM lake.transactions GROUP BY 1"
            ).fetchall()
        )
        aside = dict(
            lake.connection.execute(
                "SELECT event_date, count(*) FROM lake.quarantine GROUP BY 1"
            ).fetchall()
        )
        flagged = {
            row[0]
            for row in lake.connection.execute(
                "SELECT transaction_id FROM lake.scores WHERE is_flagged AND event_date >= ?",
                [days[0]],
            ).fetchall()
        }
    delivered = {day: frame.height for day, frame in scenario.days.items() if day <= days[-1]}
    landed = {day: stored.get(day, 0) + aside.get(day, 0) for day in delivered}
    lost = sum(delivered.values()) - sum(landed.values())
    scenario.say("count", "rows lost or doubled", lost, right=landed == delivered)
    with Queue.open(settings.queue_address, create=False) as queue:
        alerts = [
            a.transaction_id for a in queue.alerts_between(days[0], days[-1]) if a.lane != "audit"
        ]
        broken = queue.verify_audit()
    scenario.say("count", "alerts", len(alerts), right=sorted(alerts) == sorted(flagged))
    scenario.say("count", "audit chain broken at", broken, right=broken is None)


def look_into_prefect(scenario: Scenario, days: list[date]) -> None:
    """See that a night can be read in the server's pages."""
    wanted = {"flow_runs": {"name": {"like_": str(days[-1])}}}
    names = {run["name"] for run in scenario.servers.request("POST", "/flow_runs/filter", wanted)}
    scenario.say("pages", "runs of the last night", sorted(names), right=bool(names))
    logs = scenario.servers.request(
        "POST", "/logs/filter", {"logs": {"level": {"ge_": 20}}, "limit": 200}
    )
    steps = {
        log["name"] for log in logs if log["name"].startswith(("tasks", "warehouse", "flows"))
    }
    scenario.say("pages", "loggers of steps", sorted(steps), right=bool(steps))
    artifacts = scenario.servers.request("POST", "/artifacts/filter", {"limit": 200})
    keys = sorted({str(one["key"]) for one in artifacts})
    scenario.say("pages", "artifacts", keys, right=len(keys) >= 3)
    last = [run["state_name"] for run in scenario.runs("nightly")[:1]]
    scenario.say("pages", "state of the newest scheduled run", last)


def simulate(last: date) -> dict[date, pl.DataFrame]:
    """Simulate the days, with an account column that is planted: it must show up nowhere."""
    start = last - timedelta(days=HISTORY + NIGHTS - 1)
    frame = simulate_transactions(
        start=start, days=HISTORY + NIGHTS + 1, accounts=80, merchants=40, seed=7
    )
    account = pl.format("PLANTED-ACCOUNT-{}", pl.col("account_id"))
    frame = frame.with_columns(account=account, day=pl.col("occurred_at").dt.date())
    by_day = frame.drop("account_id").partition_by("day", as_dict=True, include_key=False)
    return {day[0]: rows for day, rows in sorted(by_day.items())}


@contextmanager
def staged(folder: Path) -> Iterator[tuple[Scenario, list[date]]]:
    """Start the servers and make the hosts."""
    last = datetime.now(UTC).date() - timedelta(days=1)
    days = [last - timedelta(days=NIGHTS - 1 - n) for n in range(NIGHTS)]
    with servers(folder) as found:
        os.environ.update(found.s3.environment)
        shared = {
            "PREFECT_API_URL": found.prefect_url,
            "AWS_ENDPOINT_URL": found.s3.endpoint,
            "AWS_REGION": "us-east-1",
            "NIGHTWARDEN_PSEUDONYM_KEY": "0123456789abcdef0123456789abcdef",
        }
        texts = {
            name: SETTINGS.format(
                source=folder / name / "in" / "{date}.csv",
                data=f"s3://{found.s3.bucket}/lake",
                mlflow=found.mlflow_url,
            )
            for name in ("cpu", "gpu")
        }
        cpu, gpu = (Host.make(folder / name, text, shared) for name, text in texts.items())
        files = folder / "cpu" / "in"
        files.mkdir()
        try:
            yield Scenario(found, cpu, gpu, files, simulate(last)), days
        finally:
            for host in (cpu, gpu):
                host.stop()


def run(folder: Path, act: Callable[[Scenario, list[date]], None] = play) -> list[Finding]:
    """Play in a folder; gives the findings."""
    with staged(folder) as (scenario, days):
        act(scenario, days)
        return scenario.found


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="keep logs and settings here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended, too
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(folder.resolve())
    if options.json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], default=str, indent=1) + "\n")
    return int(not all(one.is_right for one in found))


if __name__ == "__main__":
    sys.exit(main())
