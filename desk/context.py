"""What every page and endpoint needs, handed down by the command line as plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from desk.settings import DeskSettings
from warehouse.connection import WarehouseSettings
from warehouse.queue import Queue, now_utc


@dataclass(frozen=True)
class LabelRules:
    """When labels are known.

    ``delay_days`` is None where the source has none; see ``warehouse.maturity``.
    """

    time_zone: str
    maturity_days: int
    delay_days: int | None


@dataclass(frozen=True)
class DeskContext:
    """The queue and the lake that the desk shows, and by which rules.

    The queue is open for as long as the desk runs; ``clock`` is the queue's, too.
    """

    settings: DeskSettings
    queue: Queue
    warehouse: WarehouseSettings
    labels: LabelRules
    clock: Callable[[], datetime] = now_utc


async def get_context(request: Request) -> DeskContext:
    """Give the context of the application that answers; it needs no thread."""
    context: DeskContext = request.app.state.context
    return context


Context = Annotated[DeskContext, Depends(get_context)]
