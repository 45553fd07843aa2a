"""How far the labels of a range of days are, read from the lake and kept for a minute."""

import threading
import time
from collections.abc import Callable
from datetime import date

import duckdb

from desk.context import DeskContext
from warehouse.connection import Lake, has_lake
from warehouse.errors import BusyError, WarehouseError
from warehouse.maturity import DayMaturity, day_maturities

KEPT_SECONDS = 60.0
WAIT_SECONDS = 2.0  # a page is shown without labels rather than later
KEPT_RANGES = 20


class NoLakeError(WarehouseError):
    """Nothing was ever ingested."""


class LabelProgress:
    """Reads one range at a time, over one connection to the lake that stays open."""

    def __init__(
        self, context: DeskContext, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        """Take where the lake is, and by which rules labels are known; nothing is opened yet."""
        self._context = context
        self._seconds = seconds
        self._lock = threading.Lock()
        self._lake: Lake | None = None
        self._kept: dict[tuple[date, date], tuple[float, list[DayMaturity]]] = {}

    def read(self, start: date, end: date) -> list[DayMaturity]:
        """Give the days from ``start`` to ``end`` that have transactions.

        Raises:
            BusyError: if the lake is being written, or read for another page.
            NoLakeError: if there is no lake.
            SettingsError: if the settings of a shared lake cannot be used.
            WarehouseError: if it cannot be read.
        """
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise BusyError("the labels of other days are being counted; try again in a moment")
        try:
            if (start, end) not in self._kept or self._is_old(start, end):
                self._keep(start, end, self._count(start, end))
            return self._kept[start, end][1]
        finally:
            self._lock.release()

    def _is_old(self, start: date, end: date) -> bool:
        return self._seconds() - self._kept[start, end][0] >= KEPT_SECONDS

    def _keep(self, start: date, end: date, found: list[DayMaturity]) -> None:
        self._kept.pop((start, end), None)
        self._kept[start, end] = (self._seconds(), found)
        if len(self._kept) > KEPT_RANGES:
            self._kept.pop(next(iter(self._kept)))

    def _count(self, start: date, end: date) -> list[DayMaturity]:
        rules = self._context.labels
        try:
            self._lake = self._lake or self._open()
            return day_maturities(
                self._lake,
                start,
                end,
                self._context.clock(),
                time_zone=rules.time_zone,
                maturity_days=rules.maturity_days,
                label_delay_days=rules.delay_days,
            )
        except duckdb.Error as error:
            self._forget()  # files that maintenance removed, or a lake that was moved
            raise WarehouseError(f"the lake cannot be read: {error}; try again") from error

    def _open(self) -> Lake:
        """Open the lake, if there is one and nobody is writing to it for longer."""
        if not has_lake(self._context.warehouse):
            raise NoLakeError("expected a lake where [warehouse] says, found none; ingest first")
        return Lake.open(self._context.warehouse, lock_seconds=WAIT_SECONDS)

    def _forget(self) -> None:
        if self._lake is not None:
            self._lake.close()
        self._lake = None
