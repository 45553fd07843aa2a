"""A project for benchmarks/review_desk.py: days landed, a champion, and commands that run on it."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from flows.settings import Settings
from warehouse.connection import Lake
from warehouse.ledger import day_states

LANDED_DAYS = 44
NIGHTS_LEFT = 16
START_SECONDS = 60.0

CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
pseudonymise = ["card_number"]
drop = ["fraud_scenario"]
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "card_number"
merchant_id = "merchant_id"
amount = "amount"
category = "category"
[source.label]
column = "is_fraud"
delay_days = 7
[train]
history_days = 25
held_out_days = 7
members = ["gaussian"]
[queue]
capacity = 100
[warehouse]
threads = 1
[desk]
port = 0
"""


def run_command(folder: Path, *words: object) -> None:
    """Run a command of Nightwarden in a project.

    Raises:
        RuntimeError: if it fails, with the end of what it said.
    """
    done = subprocess.run(  # noqa: S603 (our own command)
        command_line(*words), cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} failed: {done.stderr[-2000:]}")


def command_line(*words: object) -> list[str]:
    """Give the words by which a command is started, whatever the PATH says."""
    start = "from flows.cli import main; main()"
    return [sys.executable, "-c", start, *map(str, words)]


def make_project(folder: Path, last_day: date) -> None:
    """Simulate days up to the last one, land all but those of the nights to come, and train."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nightwarden.toml").write_text(CONFIG)
    key = folder / "nightwarden.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    first = last_day - timedelta(days=LANDED_DAYS + NIGHTS_LEFT - 1)
    landed = first + timedelta(days=LANDED_DAYS - 1)
    days = LANDED_DAYS + NIGHTS_LEFT
    size = ("--accounts", 400, "--merchants", 100, "--seed", 7)
    run_command(folder, "simulate", "in", "--from", first, "--days", days, *size)
    run_command(folder, "ingest", "--from", first, "--to", landed)
    run_command(folder, "train", "--as-of", landed + timedelta(days=1))


def nights_left(folder: Path, last_day: date) -> list[date]:
    """Give the days on which no night has run yet."""
    first = last_day - timedelta(days=NIGHTS_LEFT - 1)
    settings = Settings.read(folder / "nightwarden.toml")
    with Lake.open(settings.warehouse) as lake:
        done = {day for day, stage in day_states(lake, first, last_day) if stage == "enqueue"}
    days = [first + timedelta(days=number) for number in range(NIGHTS_LEFT)]
    return [day for day in days if day not in done]


@dataclass
class Nights:
    """Runs one night after the other until it is told to stop; ``failed`` says why one did."""

    folder: Path
    days: Sequence[date]
    done: list[date] = field(default_factory=list)
    failed: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run nights while the block runs; the last one is let end."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        for day in self.days:
            if self._stop.is_set():
                return
            try:
                run_command(self.folder, "nightly", "--date", day)
            except RuntimeError as error:
                self.failed = str(error)
                return
            self.done.append(day)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the project's desk in a process of its own, and give its address.

    Raises:
        RuntimeError: if it does not begin.
    """
    process = subprocess.Popen(  # noqa: S603 (our own command)
        command_line("desk"), cwd=folder, stdout=subprocess.PIPE, text=True
    )
    watch = threading.Timer(START_SECONDS, process.kill)
    watch.start()
    try:
        said = process.stdout.readline() if process.stdout else ""
        watch.cancel()
        if "http://" not in said:
            raise RuntimeError(f"the desk did not begin, it said {said!r}")
        yield said[said.index("http://") :].split(";")[0].strip()
    finally:
        watch.cancel()
        process.terminate()
        process.wait(30)
