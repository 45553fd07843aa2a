"""Everything that a scheduled project needs, on one machine: Prefect, workers, MLflow, the desk."""

import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout

from flows import show
from flows.engine import QUIET
from flows.probes import PrefectApi, answers, claim, is_of_this_machine, without_user
from flows.services import Service, ServiceError, Services, ToldToEndError
from flows.settings import Settings
from tasks.registry_settings import MlflowSettings
from warehouse.connection import writing_to
from warehouse.errors import UserError

HOST = "127.0.0.1"  # Prefect's and MLflow's pages ask for no password: this machine's only
POOLS = ("cpu", "gpu")
STAGES = (("desk", *(f"worker-{pool}" for pool in POOLS)), ("mlflow",), ("prefect",))
NIGHTWARDEN = (sys.executable, "-c", "from flows.cli import main; main()")
DESK_ADDRESS = re.compile(r"The review desk is at (\S+);.*\n")
# Which runs hold their deployment's slot is still known after the server was started anew.
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
SCHEDULE_SECONDS = 15.0  # after which a scheduler that has anything to schedule has done so


@dataclass(frozen=True)
class Ports:
    """Ports to listen on; 0: any free one. None is the settings' own."""

    prefect: int
    mlflow: int
    desk: int | None


def run_up(
    config: Path, ports: Ports, deploy: Sequence[str] = (), *, is_joining: bool = False
) -> int:
    """Start everything, show where it is, and wait for the end; gives the exit code.

    Args:
        config: The settings file.
        ports: Where to listen.
        deploy: Further options of ``nightwarden deploy``.
        is_joining: Whether the server of ``PREFECT_API_URL`` may be on another machine.

    Raises:
        UserError: if a port is taken, the warehouse has all this running already, or the server
            that ``PREFECT_API_URL`` names does not answer or is on another machine, which was not
            asked for; nothing has been started then.
    """
    if not is_joining:
        refuse_other_machines(os.environ.get("PREFECT_API_URL"))
    settings = Settings.read(config)
    folder = settings.warehouse.path / "logs"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(folder / "up.lock", timeout=0):
            site = Site(settings, config.resolve(), ports)
            return _run_site(site, Services(folder, STAGES), deploy)
    except Timeout:
        message = f"nightwarden up is running for {settings.warehouse.path} already; end it first"
        raise UserError(message) from None


def _run_site(site: "Site", services: Services, deploy: Sequence[str]) -> int:
    try:
        with services:
            site.start(services, deploy)
            site.say_where(services)
            while True:
                services.pause()
    except ToldToEndError as told:
        return told.code
    except ServiceError as error:
        sys.stderr.write(f"Error: {error}\nEverything was ended.\n")
        return error.code


class Site:
    """One project's programs, what they are given, and their addresses."""

    def __init__(self, settings: Settings, config: Path, ports: Ports) -> None:
        """Choose the addresses: ours must be free, those of others must answer.

        Raises:
            UserError: if one is not so.
        """
        self._settings = settings
        desk = settings.desk
        self._desk_port = claim(
            desk.host, desk.port if ports.desk is None else ports.desk, "--desk-port"
        )
        self._mlflow_address = server_address(settings.mlflow)
        self._mlflow_port = None
        if self._mlflow_address is None:
            self._mlflow_port = claim(HOST, ports.mlflow, "--mlflow-port")
            self._mlflow_address = f"http://{HOST}:{self._mlflow_port}"
        shared = os.environ.get("PREFECT_API_URL")
        self._prefect_port = None if shared else claim(HOST, ports.prefect, "--prefect-port")
        self._api_address = shared or f"http://{HOST}:{self._prefect_port}/api"
        self._api = PrefectApi(self._api_address)
        if shared and not self._api.is_healthy():
            message = (
                f"PREFECT_API_URL must name a Prefect server that answers, {without_user(shared)} "
                "does not; start that server, or unset the variable to have one started here"
            )
            raise UserError(message)
        home = {"PREFECT_HOME": str(settings.warehouse.path.resolve() / "prefect")}
        ours = {"PREFECT_API_URL": self._api_address, "NIGHTWARDEN_CONFIG": str(config)}
        self._environment = {**QUIET, **home, **os.environ, **ours}

    def start(self, services: Services, deploy: Sequence[str]) -> None:
        """Start the servers, deploy once they answer, then start the workers.

        Raises:
            ServiceError: if something fails.
            ToldToEndError: if the end was asked for.
        """
        begin = time.monotonic()

        def say(what: str) -> None:
            show.line(f"  {what} ({time.monotonic() - begin:.0f} s)")

        show.line("Starting; Ctrl-C ends everything.")
        for service in self._servers():
            services.start(service)
        if self._prefect_port is not None:
            services.wait("prefect", self._api.is_healthy)
            say("Prefect answers")
        services.run(Service("deploy", [*NIGHTWARDEN, "deploy", *deploy], self._environment))
        say("The deployments are made")
        for pool in POOLS:
            services.start(self._worker(pool))
        services.wait("desk", lambda: answers(f"{desk_address(services)}/healthz"))
        say("The review desk answers")
        if self._mlflow_port is not None:
            services.wait("mlflow", lambda: answers(f"{self._mlflow_address}/health"))
            say("MLflow answers")
        for pool in POOLS:
            services.wait(f"worker-{pool}", partial(self._api.is_pool_ready, pool))
        say("The workers are ready")

    def _servers(self) -> list[Service]:
        """List what answers by itself; Prefect first, as it takes longest and others need it."""
        servers = []
        if self._prefect_port is not None:
            words = f"-m prefect server start --host {HOST} --port {self._prefect_port}"
            told = {
                "PREFECT_UI_API_URL": self._api_address,  # else the pages ask port 4200
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
            }
            command = [sys.executable, *words.split()]
            servers.append(Service("prefect", command, told | self._environment))
        command = [*NIGHTWARDEN, "desk", "--port", str(self._desk_port)]
        servers.append(Service("desk", command, self._environment))
        if self._mlflow_port is not None:
            servers.append(self._mlflow())
        return servers

    def _mlflow(self) -> Service:
        """Serve the project's models; the database's address may hold a password: no argument."""
        settings, folder = (
            self._settings.mlflow,
            self._settings.warehouse.path.resolve() / "mlflow",
        )
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        if settings.tracking_uri is not None:
            uri, artifacts = settings.tracking_uri.get_secret_value(), settings.location or ""
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        words = f"server --host {HOST} --port {self._mlflow_port} --workers 1 --no-serve-artifacts"
        given = {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ours run elsewhere
        }
        command = [sys.executable, "-m", "mlflow", *words.split()]
        command += ["--uvicorn-opts", "--no-access-log"]  # pages that stay open ask all day
        return Service("mlflow", command, self._environment | given)

    def _worker(self, pool: str) -> Service:
        """Run a pool's flows; one training takes all GPUs."""
        name = f"{socket.gethostname()}-{pool}"
        words = f"worker start --pool {pool} --type process --install-policy never --name"
        command = [sys.executable, "-m", "prefect", *words.split(), name]
        command += ["--limit", "1"] if pool == "gpu" else []
        return Service(f"worker-{pool}", command, self._environment)

    def say_where(self, services: Services) -> None:
        """Print the addresses, the next night, and where to read more.

        Raises:
            ServiceError: if a program has ended.
            ToldToEndError: if the end was asked for.
        """
        api = without_user(self._api_address)
        rows = [
            ("Prefect's pages", os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")),
            ("Prefect's API, for PREFECT_API_URL", api),
            ("MLflow", self._mlflow_address),
            ("review desk", desk_address(services)),
        ]
        show.print_table("", ("", "address"), rows)
        for line in DESK_ADDRESS.sub("", services.output("desk")).splitlines():
            show.line(line)
        show.line(self._say_when(services))
        show.line(f"Logs: {self._settings.warehouse.path / 'logs'}. Ctrl-C ends everything.")

    def _say_when(self, services: Services) -> str:
        until = time.monotonic() + SCHEDULE_SECONDS
        while (found := self._api.next_run("nightly")) is None:
            services.pause()
            if time.monotonic() > until:
                return (
                    "No night is scheduled; give one with --cron, or resume it on Prefect's pages."
                )
        zone = self._settings.source.time_zone
        when = f"{found.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}"
        return f"The next night is scheduled for {when} ({zone})."


def refuse_other_machines(address: str | None) -> None:
    """Refuse a Prefect server elsewhere: its runs would be done here, with these settings.

    Raises:
        UserError: if it is not on this machine.
    """
    if address and not is_of_this_machine(address):
        message = (
            "PREFECT_API_URL must name a Prefect server of this machine, and names "
            f"{without_user(address)}, whose deployments would be changed and whose runs would be "
            "done here; unset it to have a server started here, or give --join to want that"
        )
        raise UserError(message)


def server_address(settings: MlflowSettings) -> str | None:
    """Give the address of an MLflow server that runs elsewhere, if there is one."""
    uri = settings.tracking_uri.get_secret_value() if settings.tracking_uri else ""
    return without_user(uri) if uri.startswith(("http://", "https://")) else None


def desk_address(services: Services) -> str:
    """Give where the desk says that it is; nothing that answers as long as it says nothing."""
    found = DESK_ADDRESS.search(services.output("desk"))
    return found[1] if found else ""
