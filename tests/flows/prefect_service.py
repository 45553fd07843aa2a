"""A Prefect server with its services and a worker, in processes of their own, as a team runs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tests.services import free_port

START_SECONDS = 180.0
PREFECT = (sys.executable, "-m", "prefect")
NIGHTWARDEN = (sys.executable, "-c", "from flows.cli import main; main()")


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Give this process's environment without what other tests set for Prefect."""
    ours = ("PREFECT", "NIGHTWARDEN")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return {**kept, **quiet, "PREFECT_HOME": str(home), **more}


class PrefectService:
    """A server on a free port of this machine, its record in a folder; ends with the block."""

    def __init__(self, folder: Path) -> None:
        """Choose the port; ``with`` starts the server."""
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.home = folder / "server"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start the server with all its services, and wait until it answers."""
        words = f"server start --host 127.0.0.1 --port {self.port} --no-ui"
        often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
        self.start("server", [*PREFECT, *words.split()], clean_environment(self.home, **often))
        self.wait(lambda: self.get("/health") is True, "the server to answer")
        return self

    def __exit__(self, *_: object) -> None:
        """End what was started, the last first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start a program in a folder and a group of its own; its log is a file of its name."""
        place = self.folder / f"{name}-folder"
        place.mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 (our own command)
                command, env=environment, cwd=place, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)

    def start_worker(self, pool: str, config: Path) -> None:
        """Start a worker of a pool that knows a project's settings file."""
        words = f"worker start --pool {pool} --type process --install-policy never --name {pool}"
        told = {
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "NIGHTWARDEN_CONFIG": str(config),
        }
        environment = clean_environment(self.folder / f"home-{pool}", **told)
        self.start(f"worker-{pool}", [*PREFECT, *words.split()], environment)

    def command(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a nightwarden command against the server, in a process of its own."""
        told = {"PREFECT_API_URL": self.url, **more}
        return subprocess.run(  # noqa: S603 (our own command)
            [*NIGHTWARDEN, *map(str, words)],
            env=clean_environment(self.folder / "home", **told),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def get(self, path: str) -> Any:
        """Ask the server; None where it does not answer."""
        try:
            return httpx.get(self.url + path, timeout=10).raise_for_status().json()
        except httpx.HTTPError:
            return None

    def find(self, kind: str, **filters: object) -> list[dict[str, Any]]:
        """List what the server has of a kind, such as ``flow_runs``."""
        answer = httpx.post(f"{self.url}/{kind}/filter", json=filters, timeout=30)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    def wait(self, is_so: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: if it takes too long; with the ends of all logs.
        """
        until = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > until:
                logs = [f"{f.name}: {f.read_text()[-3000:]}" for f in self.folder.glob("*.log")]
                raise TimeoutError("\n".join([f"waited {seconds:g} s for {what}", *logs]))
            time.sleep(0.5)
