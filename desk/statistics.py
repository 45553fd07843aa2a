"""The statistics page: what the queue brought, what analysts made of it, how far labels are."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from desk.access import Viewer
from desk.context import Context, DeskContext
from desk.kept_statistics import Statistics
from desk.label_progress import LabelProgress, NoLakeError
from desk.pictures import BarChart, LineChart, bar_chart, line_chart
from desk.rendering import percent, render
from warehouse.errors import BusyError, UserError
from warehouse.maturity import DayMaturity
from warehouse.queue_search import list_lanes_models
from warehouse.queue_statistics import MOST_DAYS, DayCount, QueueStatistics

USUAL_DAYS = 30
YEARS = range(1900, 3000)  # those far from the ends of the calendar
FEW = 5  # decisions of a day, below which its precision says little
NO_LAKE = "There is no lake yet, so nothing is known of labels. It comes with the first ingest."
BUSY = "The lake is busy at the moment. Load the page again in a minute."
UNREADABLE = "The lake cannot be read at the moment. Load the page again in a minute."

logger = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Labels:
    """How far labels are: the days, a picture of them, or why there is none."""

    days: Sequence[DayMaturity] = ()
    picture: LineChart | None = None
    newest_mature: date | None = None
    problem: str = ""


async def get_progress(request: Request, context: Context) -> LabelProgress:
    """Give the application's one reader of labels; it is made in the event loop, so only once."""
    state = request.app.state
    if not hasattr(state, "label_progress"):
        state.label_progress = LabelProgress(context)
    progress: LabelProgress = state.label_progress
    return progress


@router.get("/statistics")
async def show_statistics(
    request: Request,
    context: Context,
    statistics: Statistics,
    progress: Annotated[LabelProgress, Depends(get_progress)],
    person: Viewer,  # noqa: ARG001 (guards the page)
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
) -> HTMLResponse:
    """Show the figures of a range of days; without one, of the newest thirty."""
    start, end = await run_in_threadpool(choose_days, context, first, last)
    found = await statistics.read(start, end)
    return await run_in_threadpool(draw_page, request, progress, found, start, end)


def draw_page(
    request: Request, progress: LabelProgress, found: QueueStatistics, start: date, end: date
) -> HTMLResponse:
    """Draw the page, for which the lake may have to be read."""
    return render(
        request,
        "statistics.html",
        start=start,
        end=end,
        ranges=[(days, end - timedelta(days=days - 1)) for days in (7, 30, 90)],
        found=found,
        alerts=draw_alerts(found),
        precision=draw_precision(found.by_day),
        few=FEW,
        ages=draw_ages(found),
        labels=read_labels(progress, start, end),
    )


def choose_days(context: DeskContext, first: str, last: str) -> tuple[date, date]:
    """Give the first and the last day of a range, of which either may be left out.

    Raises:
        UserError: if a text is no day, the last day is before the first, or the range is longer
            than ``MOST_DAYS``.
    """
    end = read_day(last, "to") if last else usual_end(context)
    start = read_day(first, "from") if first else end - timedelta(days=USUAL_DAYS - 1)
    if not last:
        end = max(start, end)
    if end < start:
        raise UserError(
            f"the last day must not be before the first; got {start} to {end}; exchange them"
        )
    if (end - start).days >= MOST_DAYS:
        raise UserError(
            f"expected at most {MOST_DAYS} days at once, got {(end - start).days + 1}; choose fewer"
        )
    return start, end


def read_day(text: str, name: str) -> date:
    """Read a day.

    Raises:
        UserError: if the text is none.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.year not in YEARS:
        raise UserError(
            f"expected a day such as 2026-01-31 for {name!r}, got {text[:40]!r}; correct it"
        )
    return day


def usual_end(context: DeskContext) -> date:
    """Give today, or the newest day with alerts where that is longer ago than a range goes."""
    today = context.clock().astimezone(UTC).date()
    days = list_lanes_models(context.queue).days
    is_recent = not days or today - days[0] < timedelta(days=USUAL_DAYS)
    return today if is_recent else days[0]


def name_day(day: date) -> str:
    """Write a day below a picture.

    Example:
        >>> name_day(date(2026, 3, 2))
        '2 Mar'
    """
    return f"{day.day} {day:%b}"


def draw_alerts(found: QueueStatistics) -> BarChart:
    """Place each day's alerts, by what was decided."""
    series = {
        "fraud": [day.frauds for day in found.by_day],
        "genuine": [day.genuine for day in found.by_day],
        "unsure": [day.unsure for day in found.by_day],
        "waiting": [day.alerts - day.decided for day in found.by_day],
    }
    return bar_chart([name_day(day.day) for day in found.by_day], series)


def draw_precision(days: Sequence[DayCount]) -> tuple[LineChart, tuple[bool, ...]]:
    """Place each day's precision, and tell for each dot whether few decisions are behind it."""
    values = [day.precision for day in days]
    names = [name_day(day.day) for day in days]
    chart = line_chart(names, values, highest=1, written=percent)
    known = [day for day in days if day.precision is not None]
    dots = tuple(
        replace(dot, title=f"{dot.title}, {day.frauds} of {day.frauds + day.genuine}")
        for dot, day in zip(chart.dots, known, strict=True)
    )
    rows = tuple(
        (*row, str(day.frauds), str(day.frauds + day.genuine))
        for row, day in zip(chart.rows, days, strict=True)
    )
    has_few = tuple(day.frauds + day.genuine < FEW for day in known)
    return replace(chart, dots=dots, rows=rows), has_few


def draw_ages(found: QueueStatistics) -> BarChart:
    """Place the open cases by how old they are."""
    labels = [band.label for band in found.open_ages]
    return bar_chart(labels, {"cases": [band.cases for band in found.open_ages]}, height=160)


def read_labels(progress: LabelProgress, start: date, end: date) -> Labels:
    """Read how far labels are; where the lake does not tell, say why."""
    try:
        days = progress.read(start, end)
    except BusyError:
        return Labels(problem=BUSY)
    except NoLakeError:
        return Labels(problem=NO_LAKE)
    except UserError as error:
        logger.warning("%s", error)  # it names paths, which are for whoever runs the desk
        return Labels(problem=UNREADABLE)
    names = [name_day(day.day) for day in days]
    shares = [day.known_share for day in days]
    mature = [day.day for day in days if day.is_mature]
    picture = line_chart(names, shares, highest=highest_of(shares), height=160, written=percent)
    return Labels(days, picture, max(mature, default=None))


def highest_of(shares: Sequence[float | None]) -> float:
    """Give where the axis of shares ends: at 1, or beyond it where an estimate was too low."""
    return max([1.0, *(share for share in shares if share is not None)])
