"""Catch up: every night that is due and not done, oldest first; one that fails stops no other."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from flows.days import days_between
from tasks.context import Context
from tasks.steps import NIGHTLY
from warehouse.arrival import has_day_come
from warehouse.errors import (
    BusyError,
    DayMissingError,
    DayRefusedError,
    SourceError,
    UserError,
)
from warehouse.ledger import DueNight, day_states, due_nights, first_night
from warehouse.source import SourceSettings

if TYPE_CHECKING:
    from flows.nightly import NightReport

POLL_SECONDS = 30.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NightProblem:
    """Why a night that was due is not done."""

    day: date
    kind: Literal["missing", "refused", "failed", "too old"]
    reason: str


def problem_of(day: date, error: UserError) -> NightProblem:
    """Name what kind of mistake kept a day from being done."""
    if isinstance(error, DayMissingError):
        return NightProblem(day, "missing", str(error))
    if isinstance(error, DayRefusedError):
        return NightProblem(day, "refused", str(error))
    return NightProblem(day, "failed", str(error))


@dataclass(frozen=True)
class CaughtUp:
    """The nights that were done, and those that could not be."""

    done: list["NightReport"] = field(default_factory=list)
    problems: list[NightProblem] = field(default_factory=list)
    missing_before: frozenset[date] = frozenset()

    @property
    def news(self) -> list[NightProblem]:
        """The problems, but for what an earlier run has reported: a missing day, or one too old."""
        told = {"too old": {p.day for p in self.problems}, "missing": self.missing_before}
        return [p for p in self.problems if p.day not in told.get(p.kind, ())]

    def require_all(self) -> None:
        """Refuse to end well where nights are not done; a missing day is reported once.

        Raises:
            NightsFailedError: if there is one.
        """
        if self.news:
            raise NightsFailedError(self)


class NightsFailedError(UserError):
    """Some nights that were due could not be done; the others were, as the outcome says."""

    def __init__(self, outcome: CaughtUp) -> None:
        """Take the outcome of the whole run."""
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        """Say in one sentence which nights are not done."""
        news = self.outcome.news
        kinds = dict.fromkeys(problem.kind for problem in news)
        named = "; ".join(
            f"{kind} {', '.join(str(p.day) for p in news if p.kind == kind)}" for kind in kinds
        )
        return (
            f"{len(news)} of {len(news) + len(self.outcome.done)} nights that were due "
            f"are not done: {named}; the run of each says why, and the next run without a day "
            "tries them again"
        )


def plan_nights(context: Context, last: date, *, catch_up_days: int) -> list[DueNight]:
    """List the nights that are due and not done, oldest first, the newest being ``last``.

    No night is due before the first that was ever queued: a new project begins with ``last``.
    """
    lake = context.lake()
    earliest = last - timedelta(days=catch_up_days - 1)
    start = max(first_night(lake, NIGHTLY) or last, earliest)
    if start > last:
        return []
    states = day_states(lake, start - context.lookback, last)
    return due_nights(states, days_between(start, last), lookback=context.lookback)


def list_too_old(context: Context, last: date, *, catch_up_days: int) -> list[NightProblem]:
    """List the nights that were missed before those that are still caught up, as far back again."""
    lake, since = context.lake(), timedelta(days=catch_up_days)
    end = last - since
    start = max(first_night(lake, NIGHTLY) or last, end - since + timedelta(days=1))
    if start > end:
        return []
    states = day_states(lake, start, end)
    reason = f"missed more than {catch_up_days} days ago: run nightwarden backfill over it"
    missed = [day for day in days_between(start, end) if (day, "enqueue") not in states]
    return [NightProblem(day, "too old", reason) for day in missed]


def run_due_nights(
    plan: Callable[[], list[DueNight]],
    run: Callable[[DueNight], "NightReport"],
    wait: Callable[[date], None],
    last: date,
) -> CaughtUp:
    """Run the planned nights, each once; what another run does meanwhile is not done again.

    Args:
        plan: Lists what is due now; asked again before each night.
        run: Runs a night.
        wait: Waits for a day's data; called before the night of ``last`` alone.
        last: The last finished day.
    """
    outcome, tried, has_waited = CaughtUp(), set[date](), False
    while night := next((one for one in plan() if one.day not in tried), None):
        if night.day == last and not has_waited:
            wait(last)
            has_waited = True
            continue
        tried.add(night.day)
        problem = _attempt(run, night, outcome.done)
        if problem:
            logger.warning("%s %s: %s", problem.day, problem.kind, problem.reason)
            outcome.problems.append(problem)
    return outcome


def _attempt(
    run: Callable[[DueNight], "NightReport"], night: DueNight, done: list["NightReport"]
) -> NightProblem | None:
    try:
        done.append(run(night))
    except UserError as error:
        return problem_of(night.day, error)
    except Exception as error:  # noqa: BLE001 (any trouble of a night is its own, not the next one's)
        # a driver's own words may hold a password, so only the kind of trouble is passed on
        return NightProblem(
            night.day, "failed", f"{type(error).__name__}, see the night's own run"
        )
    return None


def wait_for_day(
    source: SourceSettings,
    day: date,
    until: datetime,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a day's data has come, at most until a moment; the night then says what it found."""
    said = False
    while (left := (until - clock()).total_seconds()) > 0 and not _has_come(source, day):
        if not said:
            logger.info("waiting for the data of %s until %s", day, f"{until:%Y-%m-%d %H:%M} UTC")
            said = True
        sleep(min(POLL_SECONDS, left))


def _has_come(source: SourceSettings, day: date) -> bool:
    try:
        return has_day_come(source, day)
    except (SourceError, BusyError):
        return False  # a database that does not answer may do so in a while
