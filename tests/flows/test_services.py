"""Programs beside each other: they end in order, together, and leave nothing, whatever happens."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

MARK = "MARK_OF_A_TEST"  # no setting: those begin with NIGHTWARDEN_
DRIVER = """
import os, sys
from pathlib import Path
from flows.services import Service, ServiceError, Services, ToldToEndError

folder = Path(sys.argv[1])
try:
    with Services(folder, [["first"], ["last"]]) as services:
        for name in ("last", "first"):
            services.start(Service(name, ["bash", str(folder / f"{name}.sh")], os.environ))
            services.wait(name, (folder / f"{name}.ready").exists)
        print("ready", flush=True)
        while True:
            services.pause()
except ToldToEndError as told:
    sys.exit(told.code)
except ServiceError as error:
    sys.stderr.write(str(error))
    sys.exit(error.code)
"""


def marked(mark: str) -> dict[int, str]:
    """Find the processes that carry a mark in their environment, but for those that have ended."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in file.read_bytes():
                found[int(file.parent.name)] = (file.parent / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


def wait_until_gone(mark: str, seconds: float) -> dict[int, str]:
    """Give the processes with a mark that are left after a while."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


class Driven:
    """Two services in a process of their own."""

    def __init__(self, folder: Path) -> None:
        """Choose a mark for all processes."""
        self.folder, self.mark = folder, uuid4().hex

    def write(self, name: str, on_term: str, then: str = "wait") -> None:
        """Write a service: what it does when it is told to end, and after its beginning."""
        lines = [
            f"trap '{on_term}' TERM",
            f"echo {name} begins",
            "setsid sleep 600 &",
            f"(trap '{on_term}' TERM; while true; do sleep 600 & wait; done) &",
            f"touch {self.folder}/{name}.ready",
            "sleep 600 &",
            then,
        ]
        (self.folder / f"{name}.sh").write_text("\n".join(lines) + "\n")

    def start(self) -> "subprocess.Popen[str]":
        """Start both, and wait until they are ready."""
        process = subprocess.Popen(  # noqa: S603 (our own code)
            [sys.executable, "-c", DRIVER, str(self.folder)],
            env=os.environ | {MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=10)
        assert len(marked(self.mark)) > 8, "the driver, keepers, services, what these started"
        return process


@pytest.fixture
def driven(tmp_path: Path):
    made = Driven(tmp_path)
    for name in ("first", "last"):
        made.write(name, f"echo {name} >> {tmp_path}/order; exit 0")
    yield made
    for process in marked(made.mark):
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_all_in_order(driven, number):
    process = driven.start()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (128 + number, "", "")
    assert marked(driven.mark) == {}
    order = (driven.folder / "order").read_text().split()
    assert sorted(order, key=["first", "last"].index) == order
    assert set(order) == {"first", "last"}


def test_second_signal_kills_what_does_not_end(driven):
    driven.write("first", "", "while true; do wait; done")
    process = driven.start()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first service ignores being told"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - begin < 4
    assert process.returncode == 128 + signal.SIGINT
    assert marked(driven.mark) == {}


def test_what_never_ends_by_itself_is_killed(driven):
    driven.write("first", "", "while true; do wait; done")
    process = driven.start()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert marked(driven.mark) == {}


def test_killed_parent_leaves_nothing(driven):
    process = driven.start()
    process.kill()
    process.communicate()
    assert wait_until_gone(driven.mark, 20) == {}


def test_service_that_ends_is_named_with_its_last_lines(driven):
    driven.write("first", "exit 0", "echo the disk is full; sleep 1; exit 3")
    process = driven.start()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"first ended by itself with code 3; the last lines of {driven.folder}" in errors
    assert "  the disk is full" in errors
    assert marked(driven.mark) == {}


def test_killed_keeper_leaves_nothing(driven):
    process = driven.start()
    keepers = [pid for pid, words in marked(driven.mark).items() if "flows.keeper" in words]
    assert len(keepers) == 2
    os.kill(keepers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ended by itself" in errors
    assert marked(driven.mark) == {}


def test_log_is_appended_and_for_its_owner_alone(driven):
    for _ in range(2):
        process = driven.start()
        process.terminate()
        process.communicate(timeout=30)
        (driven.folder / "first.ready").unlink()
    log = driven.folder / "first.log"
    assert log.read_text().count("first begins") == 2
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
