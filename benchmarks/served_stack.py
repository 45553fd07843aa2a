"""The servers and hosts of a served installation on one machine: all real, all on loopback.

PostgreSQL, an S3 server, an MLflow server and a Prefect server as in docs/operations.md. A *host* is
a folder with a HOME, a working folder and settings of its own; hosts share no local path.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.services import (
    ObjectStore,
    PostgresqlServer,
    free_port,
    object_store,
    postgresql_server,
)

START_SECONDS = 120.0
BIN = Path(sys.executable).parent
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Host:
    """A machine: its folder, what its processes find in their environment, and these."""

    folder: Path
    environment: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.folder / "etc" / "nightwarden.toml"

    @property
    def logs(self) -> Path:
        """Where processes write what they print."""
        return self.folder / "logs"

    @classmethod
    def make(cls, folder: Path, settings: str, environment: Mapping[str, str]) -> "Host":
        """Make the folder, with settings."""
        for name in ("home", "work", "etc", "logs"):
            (folder / name).mkdir(parents=True)
        own = {
            "HOME": str(folder / "home"),
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "NIGHTWARDEN_CONFIG": str(folder / "etc" / "nightwarden.toml"),
            "OMP_NUM_THREADS": "1",
        }
        host = cls(folder, own | QUIET | environment)
        host.settings.write_text(settings)
        return host

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a process in a session of its own; what it prints goes into a log."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 (our own commands)
                command,
                cwd=self.folder / "work",
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *words: str, seconds: float = 600, **environment: str) -> Any:  # noqa: ANN401 (JSON)
        """Run a command of Nightwarden with ``--json``; gives what it prints.

        Raises:
            RuntimeError: if it fails; with what it said.
        """
        done = subprocess.run(  # noqa: S603 (our own command)
            [str(BIN / "nightwarden"), *words, "--json"],
            cwd=self.folder / "work",
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        with (self.logs / "commands.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode:
            message = f"nightwarden {' '.join(words)}: exit {done.returncode}: {done.stderr}"
            raise RuntimeError(message)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def kill(self, name: str) -> int:
        """Kill a process and all its descendants at once, as a power cut would; gives how many."""
        process = self.processes.pop(name)
        doomed = [process.pid, *descendants(process.pid)]
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        return len(doomed)

    def stop(self) -> None:
        """End every process, those started last first."""
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if name in self.processes:
                self.kill(name)


def descendants(pid: int) -> list[int]:
    """List a process's children, their children, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def wait_for_url(url: str, seconds: float = START_SECONDS) -> float:
    """Wait until an address answers; gives the seconds."""
    started = time.monotonic()
    while True:
        try:
            httpx.get(url, timeout=2).raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() - started > seconds:
                raise
            time.sleep(0.2)
        else:
            return time.monotonic() - started


@dataclass
class Servers:
    """The servers that all hosts reach, and nothing else that they share."""

    postgresql: PostgresqlServer
    s3: ObjectStore
    host: Host
    addresses: dict[str, str]
    ports: dict[str, int]

    @property
    def prefect_url(self) -> str:
        """Address of Prefect's API."""
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def secrets(self) -> dict[str, str]:
        """The variables that hold a password or key, as a worker's secret blocks give them."""
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return {
            "NIGHTWARDEN_WAREHOUSE__CATALOG": self.addresses["lake"],
            "NIGHTWARDEN_QUEUE__DATABASE": self.addresses["queue"],
            **{key: self.s3.environment[key] for key in keys},
        }

    def start_mlflow(self) -> None:
        """Start the MLflow server: records in PostgreSQL, models in the object store."""
        store = self.addresses["mlflow"].replace("postgresql://", "postgresql+psycopg://")
        port = str(self.ports["mlflow"])
        self.host.start(
            "mlflow",
            *(str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", port),
            *("--workers", "1"),
            *("--artifacts-destination", f"s3://{self.s3.bucket}/mlflow"),
            **self.s3.environment,
            MLFLOW_BACKEND_STORE_URI=store,
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )

    def start_prefect(self) -> None:
        """Start the Prefect server with its services on a PostgreSQL record."""
        record = self.addresses["prefect"].replace("postgresql://", "postgresql+asyncpg://")
        port = str(self.ports["prefect"])
        self.host.start(
            "prefect",
            *(str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", port),
            PREFECT_API_DATABASE_CONNECTION_URL=record,
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=(
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5",
        )
        wait_for_url(f"{self.prefect_url}/health")

    def request(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 (JSON)
        """Ask Prefect's API."""
        content = None if method == "GET" else body or {}
        answer = httpx.request(method, f"{self.prefect_url}{path}", json=content, timeout=30)
        if answer.is_error:
            message = f"{method} {path}: {answer.status_code}: {answer.text}"
            raise RuntimeError(message)
        return answer.json() if answer.content else None


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run all servers until the block ends."""
    with ExitStack() as stack:
        postgresql = stack.enter_context(postgresql_server())
        s3 = stack.enter_context(object_store())
        names = ("lake", "queue", "mlflow", "prefect")
        addresses = {name: postgresql.new_database(name) for name in names}
        ports = {name: free_port() for name in ("mlflow", "prefect")}
        host = Host.make(folder / "servers", "", {})
        stack.callback(host.stop)
        found = Servers(postgresql, s3, host, addresses, ports)
        found.start_mlflow()
        found.start_prefect()
        wait_for_url(f"{found.mlflow_url}/health")
        yield found
