"""Queues for tests, with a clock to move: in a file in tmp_path, and in a throw-away PostgreSQL."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url

from tests.alerts import Clock
from warehouse.queue import Queue

SERVER_USER = "nobody"


def run_as_server_user(*command):
    """PostgreSQL refuses to run as root."""
    prefix = []
    if os.getuid() == 0:
        setpriv = ["setpriv", f"--reuid={SERVER_USER}", "--regid=nogroup", "--clear-groups"]
        prefix = [*setpriv, "env", "HOME=/tmp"]
    subprocess.run(  # noqa: S603 - our own commands
        [*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120
    )


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server on a Unix socket in a folder of its own, for the session."""
    missing = [name for name in ("initdb", "pg_ctl", "setpriv") if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"PostgreSQL's tests need {', '.join(missing)}; install the server to run them"
        )
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL's tests need psycopg; run: pip install 'psycopg[binary]'")
    folder = Path(tempfile.mkdtemp(prefix="nightwarden-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, SERVER_USER)
    data = str(folder / "data")
    try:
        run_as_server_user(
            "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        )
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        log = str(folder / "log")
        run_as_server_user("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            run_as_server_user("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def queue_url(request, tmp_path):
    """The URL of an empty database of each kind; a queue has yet to be made in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.sqlite'}"
    url = make_url(request.getfixturevalue("postgres_url"))
    name = f"queue_{uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(queue_url, clock):
    """An open, empty queue in a database of each kind."""
    with Queue.open(queue_url, create=True, clock=clock) as opened:
        yield opened
