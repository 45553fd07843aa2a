"""Programs that run beside each other until one ends or somebody ends them all; each has a log file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self

from flows.keeper import adopt_orphans, descendants

CHECK_SECONDS = 0.2
START_SECONDS = 180.0
LAST_LINES = 15
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ToldToEndError(Exception):
    """A signal asked for the end; ``code`` is what shells expect then."""

    def __init__(self, number: int) -> None:
        """Note the signal."""
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class ServiceError(Exception):
    """A program ended by itself, or never became ready; the message has the end of its log."""

    def __init__(self, message: str, code: int = 1) -> None:
        """Note what happened, and the program's exit code."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Service:
    """A program and what it gets; ``name`` is its log's name, too."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Running:
    """A service that was started, with a keeper that ends whatever comes of it."""

    def __init__(self, service: Service, log: Path) -> None:
        self.name = service.name
        self._log = log
        mode = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(os.open(log, mode, 0o600), "ab") as stream:  # noqa: PTH123 (a descriptor, so that the mode is right from the beginning)
            self._begin = stream.tell()
            self.process = subprocess.Popen(  # noqa: S603 (our own command)
                [sys.executable, "-m", "flows.keeper", str(os.getpid()), *service.command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=service.environment,
                start_new_session=True,  # a terminal's Ctrl-C must not end all at once
            )

    def output(self) -> str:
        """Give what it has written since it was started."""
        with self._log.open("rb") as stream:
            stream.seek(self._begin)
            return stream.read().decode(errors="replace")

    def failure(self, what: str, code: int) -> ServiceError:
        """Put together what happened and the last lines of the log."""
        lines = self.output().strip().splitlines()[-LAST_LINES:]
        told = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return ServiceError(f"{self.name} {what}; the last lines of {self._log}:\n{told}", code)


class Services:
    """All that runs; a context that begins to listen to signals and ends everything in order."""

    def __init__(self, logs: Path, stages: Sequence[Sequence[str]]) -> None:
        """Set up without starting anything.

        Args:
            logs: Folder of the logs.
            stages: Names, in the order in which they are to end; one stage ends at a time.
        """
        self._logs = logs
        self._stages = stages
        self._running: dict[str, _Running] = {}
        self._told: list[int] = []
        self._others: set[int] = set()

    def __enter__(self) -> Self:
        """Listen to signals from here on."""
        self._others = descendants(os.getpid())
        adopt_orphans()
        for number in ENDING:
            is_under_nohup = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
            if not is_under_nohup:
                signal.signal(number, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.end()

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        self._told.append(number)

    def start(self, service: Service) -> None:
        """Start a program.

        Raises:
            ToldToEndError: if the end was asked for.
        """
        self._check()
        self._running[service.name] = _Running(service, self._logs / f"{service.name}.log")

    def run(self, service: Service) -> str:
        """Run a program to its end beside the others; gives what it wrote.

        Raises:
            ServiceError: if it or another one fails.
            ToldToEndError: if the end was asked for.
        """
        self.start(service)
        one = self._running[service.name]
        while (code := one.process.poll()) is None:
            time.sleep(CHECK_SECONDS)
            self._check(but=service.name)
        del self._running[service.name]
        if code:
            raise one.failure(f"failed with code {code}", code)
        return one.output()

    def wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a program is ready.

        Raises:
            ServiceError: if it or another one ends, or it takes too long.
            ToldToEndError: if the end was asked for.
        """
        until = time.monotonic() + START_SECONDS
        while not is_ready():
            self.pause()
            if time.monotonic() > until:
                what = f"is not ready after {START_SECONDS:.0f} seconds"
                raise self._running[name].failure(what, 1)

    def output(self, name: str) -> str:
        """Give what a program has written since it was started."""
        return self._running[name].output()

    def pause(self) -> None:
        """Let a moment pass.

        Raises:
            ServiceError: if a program has ended.
            ToldToEndError: if the end was asked for.
        """
        time.sleep(CHECK_SECONDS)
        self._check()

    def _check(self, but: str | None = None) -> None:
        if self._told:
            raise ToldToEndError(self._told[0])
        for name, one in self._running.items():
            if name != but and (code := one.process.poll()) is not None:
                raise one.failure(f"ended by itself with code {code}", 1)

    def end(self) -> None:
        """End everything in order; once another signal comes, at once."""
        given = len(self._told)
        named = {name for stage in self._stages for name in stage}
        for stage in ([name for name in self._running if name not in named], *self._stages):
            left = [self._running[name].process for name in stage if name in self._running]
            _send(left, signal.SIGTERM)
            while any(process.poll() is None for process in left):
                if len(self._told) > given:
                    _send((one.process for one in self._running.values()), signal.SIGINT)
                time.sleep(CHECK_SECONDS / 2)
        self._kill_what_keepers_left()

    def _kill_what_keepers_left(self) -> None:
        """Kill what has no keeper any more, as somebody killed that, too."""
        while left := descendants(os.getpid()) - self._others:
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(process, 0)


def _send(processes: Iterable[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        process.send_signal(number)  # one that has ended gets none
