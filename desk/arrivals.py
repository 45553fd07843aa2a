"""Notes in the audit trail who comes through a trusted proxy, let in or not, as if by session."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from desk.peers import to_household
from warehouse.queue import Queue
from warehouse.sessions import (
    LONGEST_NAME,
    SessionLimits,
    note_proxy_refusal,
    note_proxy_sign_in,
)

MOST_KEYS = 10_000


class Arrivals:
    """Who is there, and since when: each counts as signed in anew after being away.

    It is kept in memory, so a desk that starts anew notes everybody anew; those who have been
    away for the longest are forgotten first.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self._there: OrderedDict[tuple[str, ...], tuple[datetime, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, queue: Queue, name: str, address: str, limits: SessionLimits) -> None:
        """Note that somebody asks from an address; the first time, in the audit trail.

        The first time is again after as long without a request, or in all, as sessions last.
        """
        key = (name, to_household(address))
        self._note(key, queue.clock(), limits, lambda: note_proxy_sign_in(queue, name, address))

    def note_refusal(
        self, queue: Queue, name: str, reason: str, address: str, limits: SessionLimits
    ) -> None:
        """Note that somebody asks whom the desk does not let in, as often as ``note`` does."""
        key = (name[:LONGEST_NAME], to_household(address), reason)
        self._note(
            key, queue.clock(), limits, lambda: note_proxy_refusal(queue, name, reason, address)
        )

    def _note(
        self,
        key: tuple[str, ...],
        moment: datetime,
        limits: SessionLimits,
        write: Callable[[], None],
    ) -> None:
        with self._lock:
            since, seen = self._there.pop(key, (moment, None))
            is_there = seen is not None and moment - seen < limits.idle
            is_there = is_there and moment - since < limits.absolute
            self._there[key] = (since if is_there else moment, moment)
            if len(self._there) > MOST_KEYS:
                self._there.popitem(last=False)
        if not is_there:
            self._write(key, write)

    def _write(self, key: tuple[str, ...], write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException:
            with self._lock:
                self._there.pop(key, None)
            raise
