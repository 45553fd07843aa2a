"""Flows in processes of their own, forked from one that has everything imported."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["flows.nightly", "flows.backfill", "flows.ingest", "warehouse.expectations"]


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a function of this module in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    now = {name: os.environ[name] for name in os.environ if name.startswith(("PREFECT", "AWS_"))}
    process = context.Process(target=_quietly, args=(target, arguments, now))
    process.start()
    return process


def _quietly(
    target: Callable[..., None], arguments: tuple[object, ...], environment: Mapping[str, str]
) -> None:
    """Run in the environment of now; the fork server's is older."""
    os.environ.update(environment, PREFECT_LOGGING_LEVEL="CRITICAL")
    target(*arguments)
    sys.stdout.flush()


def run_nightly(config: Path, night: date) -> None:
    """Run one night."""
    from flows.nightly import nightly

    nightly(config, night)


def run_backfill(config: Path, first: date, last: date, workers: int) -> None:
    """Run a backfill; a day that fails is an error."""
    from flows.backfill import backfill

    backfill(config, first, last, workers=workers)


def run_ingest(config: Path, first: date, last: date) -> None:
    """Land days; a refused day is an error."""
    from flows.ingest import ingest

    _, refused = ingest(config, first, last)
    if refused:
        raise RuntimeError(str(refused))


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Kill a process at a moment, unless it has ended by then; tell whether it was killed."""
    process.join(seconds)
    if process.exitcode is not None:
        return False
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return True


class Killer:
    """Kills processes at random moments of the time that one takes undisturbed."""

    def __init__(self, seconds: float, seed: int) -> None:
        """Aim within so many seconds from the start."""
        self.seconds = seconds
        self._moments = random.Random(seed)  # noqa: S311 (moments, not secrets)

    def kill(self, process: BaseProcess) -> bool:
        """Kill a process; tell whether it was. One that ended before tells how long to aim."""
        started = time.monotonic()
        killed = kill_after(process, self._moments.uniform(0.05, self.seconds))
        if not killed:
            self.seconds = time.monotonic() - started
        return killed


def finish(process: BaseProcess) -> None:
    """Wait for a process, which must succeed."""
    process.join(300)
    assert process.exitcode == 0, f"exit code {process.exitcode}"


def timed(target: Callable[..., None], *arguments: object) -> float:
    """Run a process to its end and give its seconds."""
    started = time.monotonic()
    finish(start(target, *arguments))
    return time.monotonic() - started
