"""Keeps one service: ``python -m flows.keeper PARENT COMMAND...`` runs a command until one of them ends.

The keeper takes in whatever the command starts, also what outlives its own parent, so that nothing is
left when it ends: workers start flow runs, servers start workers. It ends when the command does, when
its own parent does, however that went, and when it is told to: SIGTERM gives everything some seconds
to end by itself, flow runs before the worker that reports them; SIGINT kills at once. It imports
nothing of the project, to stay small.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 10.0
CHECK_SECONDS = 0.2
SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl(2)


class Keeper:
    """Runs a command, and ends all that came of it."""

    def __init__(self, parent: int, command: Sequence[str]) -> None:
        """Start the command.

        Args:
            parent: Process whose end is the command's end, too.
            command: Program and arguments.
        """
        self._parent = parent
        self._asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        adopt_orphans()
        self._process = subprocess.Popen(command)  # noqa: S603 (our parent's command)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked.append(number)

    def keep(self) -> int:
        """Wait for an end; gives the command's exit code, as shells count it."""
        while self._process.poll() is None and not self._asked and os.getppid() == self._parent:
            self._reap()
            time.sleep(CHECK_SECONDS)
        self._end_gently()
        while self._send(signal.SIGKILL):
            time.sleep(CHECK_SECONDS / 10)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _end_gently(self) -> None:
        """Tell what the command started to end, then the command, and give both time."""
        for is_last in (False, True):
            until = time.monotonic() + GRACE_SECONDS / 2
            self._send(signal.SIGTERM, spare=None if is_last else self._process.pid)
            while signal.SIGINT not in self._asked and time.monotonic() < until:
                if self._left() <= (set() if is_last else {self._process.pid}):
                    break
                time.sleep(CHECK_SECONDS)

    def _send(self, number: int, spare: int | None = None) -> bool:
        """Send a signal to all that came of the command; gives whether anything is left."""
        left = self._left()
        for process in left - {spare}:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        return bool(left)

    def _left(self) -> set[int]:
        self._reap()
        running = {self._process.pid} if self._process.poll() is None else set()
        return running | descendants(os.getpid())

    def _reap(self) -> None:
        """Take note of the end of what was taken in; the command's own is asked for elsewhere."""
        with suppress(ChildProcessError):  # none is there
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == self._process.pid:
                    return
                os.waitpid(ended.si_pid, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends; Linux alone knows that."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(ancestor: int) -> set[int]:
    """Give what a process started, and what that started, and so on; nothing without ``/proc``."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # the name, in parentheses, may hold anything; after it come the state and the parent
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    level = {ancestor}
    while level := {process for process, parent in parents.items() if parent in level}:
        found |= level
    return found


if __name__ == "__main__":
    sys.exit(Keeper(int(sys.argv[1]), sys.argv[2:]).keep())
