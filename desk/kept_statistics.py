"""The queue's figures of a range of days, counted once a minute at most, whoever asks for them."""

import asyncio
from datetime import date, timedelta
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from desk.context import Context, DeskContext
from warehouse.queue_statistics import QueueStatistics, read_statistics

KEPT_FOR = timedelta(minutes=1)
KEPT_RANGES = 20
COUNTS_AT_ONCE = 2  # a year of many alerts takes seconds, and pages shall not wait for them

Counting = asyncio.Future[QueueStatistics]


class KeptStatistics:
    """Counts a range in a thread of its own; who asks meanwhile waits for the same count.

    It is used in the event loop alone, so nothing else happens between a look and the next. What it
    keeps is the same for everybody: who may see what of it is up to the page.
    """

    def __init__(self, context: DeskContext) -> None:
        """Take the queue to count in, and the clock; nothing is counted yet."""
        self._context = context
        self._limiter = CapacityLimiter(COUNTS_AT_ONCE)
        self._kept: dict[tuple[date, date], Counting] = {}

    async def read(self, start: date, end: date) -> QueueStatistics:
        """Give the figures from ``start`` to ``end``, at most a minute old.

        Raises:
            UserError: if the days are in no order, or too many.
            WarehouseError: if the queue cannot be read.
        """
        counting = self._kept.pop((start, end), None)
        if counting is None or self._is_over(counting):
            counting = asyncio.ensure_future(self._count(start, end))
        self._kept[start, end] = counting
        if len(self._kept) > KEPT_RANGES:
            self._kept.pop(next(iter(self._kept)))
        return await asyncio.shield(counting)  # others may wait for it, too

    async def _count(self, start: date, end: date) -> QueueStatistics:
        return await to_thread.run_sync(
            read_statistics, self._context.queue, start, end, limiter=self._limiter
        )

    def _is_over(self, counting: Counting) -> bool:
        """Tell whether figures are too old, or were not found."""
        if not counting.done():
            return False
        if counting.cancelled() or counting.exception() is not None:
            return True
        age = self._context.clock() - counting.result().counted_at
        return not timedelta() <= age < KEPT_FOR


async def get_statistics(request: Request, context: Context) -> KeptStatistics:
    """Give the application's one keeper; it is made in the event loop, so only once."""
    state = request.app.state
    if not hasattr(state, "kept_statistics"):
        state.kept_statistics = KeptStatistics(context)
    kept: KeptStatistics = state.kept_statistics
    return kept


Statistics = Annotated[KeptStatistics, Depends(get_statistics)]
