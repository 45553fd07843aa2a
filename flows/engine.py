"""Prefect in one process: where it keeps its record, and a server that starts while modules load.

With ``PREFECT_API_URL`` set, that server is used. Otherwise each command starts a temporary one on
the warehouse's own record. It takes some seconds, so it starts before the heavy imports, as a process
of its own: Prefect's own temporary server would import its whole code into this process first.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warehouse.connection import writing_to

IDLE_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
QUIET: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""A bank's nightly job phones nobody."""
DEFAULTS: Mapping[str, str] = {
    **QUIET,
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command line reports errors itself
} | {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE_SERVICES}


START_SECONDS = 120.0
ATTEMPTS = 3


@dataclass
class _Server:
    """A temporary server: the socket that it is to serve, and its process."""

    listener: socket.socket
    process: subprocess.Popen[bytes]
    attempt: int = 1


_servers: list[_Server] = []


def set_defaults() -> None:
    """Set Prefect up for this process where the environment says nothing else."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def prepare(record: Path) -> None:
    """Set Prefect up for this process, before it is imported, and start its server.

    Args:
        record: Folder in which Prefect keeps its record of runs.

    Raises:
        WarehouseError: if the folder cannot be made.
    """
    set_defaults()
    if "PREFECT_API_URL" in os.environ:
        return
    with writing_to(record):
        record.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(record.resolve()))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))  # held from here on, so that no one else gets the port
    server = _Server(listener, _start(listener))
    _servers.append(server)
    atexit.register(lambda: server.process.terminate())
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def _start(listener: socket.socket) -> subprocess.Popen[bytes]:
    handle = str(listener.fileno())
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    return subprocess.Popen(  # noqa: S603 (our own module)
        [sys.executable, "-m", "flows.server", handle, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env=environment,
    )


def wait_for_server() -> None:
    """Wait until the server that ``prepare`` started answers; call it before the first flow.

    Two servers that make the same new record at once may get in each other's way; the one that
    fails is started again.

    Raises:
        RuntimeError: if it ends again and again, or does not answer within two minutes.
    """
    until = time.monotonic() + START_SECONDS
    while _servers:
        server = _servers[-1]
        ended = server.process.poll() is not None
        if not ended and _answers(server.listener.getsockname()[1]):
            _servers.clear()
        elif time.monotonic() > until or (ended and server.attempt == ATTEMPTS):
            message = f"Prefect's temporary server did not start: code {server.process.poll()}"
            raise RuntimeError(message)
        elif ended:
            server.attempt += 1
            server.process = _start(server.listener)
        else:
            time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
