"""Limits how often somebody may try to sign in, in memory that stays bounded."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

AT_ONCE = 20
REFILL_SECONDS = 15.0  # for one more; 20 in five minutes
MOST_KEYS = 10_000


class Attempts:
    """A bucket of attempts for each key; the longest unused keys are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets; ``clock`` gives seconds."""
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take an attempt and give 0, or give the seconds until there is one."""
        with self._lock:
            left = self._count(key)
            if left >= 1:
                self._keep(key, left - 1)
                return 0.0
            return (1 - left) * REFILL_SECONDS

    def give_back(self, key: str) -> None:
        """Return an attempt, as it was a right one."""
        with self._lock:
            self._keep(key, min(self._count(key) + 1, AT_ONCE))

    def _count(self, key: str) -> float:
        now = self._clock()
        left, since = self._left.get(key, (float(AT_ONCE), now))
        return min(left + (now - since) / REFILL_SECONDS, AT_ONCE)

    def _keep(self, key: str, left: float) -> None:
        self._left[key] = (left, self._clock())
        self._left.move_to_end(key)
        if len(self._left) > MOST_KEYS:
            self._left.popitem(last=False)
