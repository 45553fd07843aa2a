"""Servers for tests: PostgreSQL and an S3 object store, each in a folder of its own on loopback."""

import glob
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url

from warehouse.connection import WarehouseSettings

SERVER_USER = "nobody"  # PostgreSQL refuses to run as root
START_SECONDS = 60.0


@dataclass(frozen=True)
class PostgresqlServer:
    """A running server: ``socket_url`` trusts whoever asks, ``url`` goes over TCP with a password."""

    folder: Path
    port: int
    password: str

    @property
    def socket_url(self) -> str:
        """Address of the server's Unix socket."""
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}"

    @property
    def url(self) -> str:
        """Address over TCP, with its password."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def new_database(
        self, kind: str = "test", *, template: str | None = None, over_tcp: bool = True
    ) -> str:
        """Make a database; gives its URL, over TCP with the password or over the trusting socket.

        Args:
            kind: What its name begins with.
            template: URL of a database of this server to clone; by default it is empty.
            over_tcp: Whether the URL goes over TCP.
        """
        name = f"{kind}_{uuid4().hex}"
        source = make_url(template).database if template else "template1"
        address = make_url(self.url).set(drivername="postgresql+psycopg")
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {source}")
        engine.dispose()
        base = make_url(self.url if over_tcp else self.socket_url)
        return base.set(database=name).render_as_string(hide_password=False)

    def control(self, action: str) -> None:
        """Tell ``pg_ctl`` to start, or to stop at once as a crash would."""
        words = ["-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", action]
        if action == "stop":
            words += ["-m", "immediate"]
        run_as_server_user(find_program("pg_ctl") or "pg_ctl", *words)


def end_sessions(url: str, application: str) -> None:
    """End an application's sessions in a database, as a server does that is told to."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = %s AND datname = current_database()",
            [application],
        )


def skip_or_fail(missing: str | None) -> None:
    """Skip a test that lacks a server, or fail it where all of them must be there, as in CI."""
    if missing and os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def find_program(name: str) -> str | None:
    """Find a program of PostgreSQL: on the path, or where Debian keeps it."""
    places = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)  # noqa: PTH207
    return shutil.which(name) or next(iter(places), None)


def missing_for_postgresql() -> str | None:
    """Say what is missing for a PostgreSQL server, if anything is."""
    names = [name for name in ("initdb", "pg_ctl") if find_program(name) is None]
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        names.append("setpriv")
    return f"PostgreSQL's tests need {', '.join(names)}; install the server" if names else None


def run_as_server_user(*command: str) -> None:
    """Run a command of the server as a user that may."""
    prefix = []
    if os.getuid() == 0:
        setpriv = ["setpriv", f"--reuid={SERVER_USER}", "--regid=nogroup", "--clear-groups"]
        prefix = [*setpriv, "env", "HOME=/tmp"]
    subprocess.run(  # noqa: S603 (our own commands)
        [*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120
    )


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Run a PostgreSQL server until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="nightwarden-pg-"))
    server = PostgresqlServer(folder, free_port(), f"planted-{secrets.token_hex(12)}")
    password_file = folder / "password"
    password_file.write_text(server.password)
    if os.getuid() == 0:
        for path in (folder, password_file):
            shutil.chown(path, SERVER_USER)
    try:
        words = f"-D {folder / 'data'} -U postgres --pwfile={password_file} -E UTF8 --no-locale -N"
        auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        run_as_server_user(find_program("initdb") or "initdb", *words.split(), *auth)
        password_file.unlink()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": server.port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 300,
        }
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        with (folder / "data" / "postgresql.conf").open("a") as stream:
            stream.write(lines)
        server.control("start")
        try:
            yield server
        finally:
            server.control("stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def free_block(number: int) -> list[int]:
    """Find ports in a row that nobody listens on, nor on those ten thousand above, below 32,768."""
    while True:
        first = 12_000 + secrets.randbelow(10_000)
        ports = list(range(first, first + number))
        try:
            with ExitStack() as held:
                for port in (*ports, *(port + 10_000 for port in ports)):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return ports


WEED_PORTS = (
    "master.port",
    "volume.port",
    "filer.port",
    "s3.port",
    "s3.port.iceberg",
    "s3.port.lance",
    "admin.port",
)
"""SeaweedFS speaks gRPC ten thousand above each."""


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server with one bucket; ``environment`` is what its clients need."""

    endpoint: str
    bucket: str
    environment: Mapping[str, str]

    def new_prefix(self) -> str:
        """Give an address in the bucket under which nothing lies."""
        return f"s3://{self.bucket}/{uuid4().hex}"


def missing_for_object_store() -> str | None:
    """Say what is missing for an S3 server, if anything is."""
    if find_weed() is None or importlib.util.find_spec("boto3") is None:
        return "the object store's tests need: pip install --group served"
    return None


def find_weed() -> str | None:
    """Find SeaweedFS beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an S3 server until the block ends."""
    keys = {
        "AWS_ACCESS_KEY_ID": f"key{secrets.token_hex(6)}",
        "AWS_SECRET_ACCESS_KEY": f"planted{secrets.token_hex(16)}",
    }
    ports = free_block(len(WEED_PORTS))
    named = dict(zip(WEED_PORTS, ports, strict=True))
    endpoint, bucket = f"http://127.0.0.1:{named['s3.port']}", "nightwarden"
    store = ObjectStore(
        endpoint, bucket, keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
    )
    folder = tempfile.mkdtemp(prefix="nightwarden-s3-")
    words = [f"-dir={folder}", "-ip=127.0.0.1", f"-bucket={bucket}", "-admin.ui=false"]
    words += [f"-{name}={port}" for name, port in named.items()]
    process = subprocess.Popen(  # noqa: S603 (our own command)
        [find_weed() or "weed", "mini", *words, "-webdav=false"],
        env=os.environ | keys,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_bucket(store)
        yield store
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_bucket(store: ObjectStore) -> None:
    """Wait until the server answers and its bucket is there."""
    import boto3

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(store.endpoint, timeout=1)  # noqa: S310 (our own server)
        except urllib.error.HTTPError:
            break  # it answers, and wants a key
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name="us-east-1",
        aws_access_key_id=store.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=store.environment["AWS_SECRET_ACCESS_KEY"],
    )
    while store.bucket not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        if time.monotonic() > until:
            raise TimeoutError(store.bucket)
        time.sleep(0.1)
    client.put_object(Bucket=store.bucket, Key="ready", Body=b"yes")  # volumes may come later


@dataclass(frozen=True)
class SharedWarehouse:
    """A database of its own for the catalog, and an empty place in the bucket for the files."""

    catalog: str
    data: str
    keys: Mapping[str, str]

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to work with it, secrets included."""
        named = {
            "NIGHTWARDEN_WAREHOUSE__CATALOG": self.catalog,
            "NIGHTWARDEN_WAREHOUSE__DATA": self.data,
        }
        return {**self.keys, **named}

    def settings(self, path: Path, threads: int = 2) -> WarehouseSettings:
        """Give the settings of a machine that keeps what is its own in ``path``."""
        catalog = SecretStr(self.catalog)
        return WarehouseSettings(path=path, catalog=catalog, data=self.data, threads=threads)


def new_shared_warehouse(server: PostgresqlServer, store: ObjectStore) -> SharedWarehouse:
    """Make an empty shared warehouse."""
    return SharedWarehouse(server.new_database("lake"), store.new_prefix(), store.environment)


on_both_back_ends = pytest.mark.parametrize("landing", ["embedded", "shared"], indirect=True)
"""Runs a test that takes ``landing`` on SQLite and a folder, and on PostgreSQL and a store."""
