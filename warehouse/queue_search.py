"""Finds cases for the review desk: filters, ranked pages, counts, and what can be chosen from.

Every page is read in the order of an index, from where the page before ended, so that the last
page costs as much as the first, and cases that come in meanwhile shift nothing.
"""

import base64
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    and_,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from warehouse.errors import UserError
from warehouse.queue import LANES, Queue
from warehouse.queue_filters import (
    COLUMNS,
    RANKS,
    STATES,
    CaseFilter,
    check_choice,
    matches,
    order_of,
)
from warehouse.queue_records import CaseSummary
from warehouse.queue_statements import SUMMARY, read_summaries
from warehouse.queue_tables import ALERTS, CASES, UtcDateTime
from warehouse.queue_work import LARGEST_NUMBER

__all__ = [
    "RANKS",
    "STATES",
    "CaseCounts",
    "CaseFilter",
    "CasePage",
    "FilterChoices",
    "count_cases",
    "forget_bygones",
    "list_lanes_models",
    "search_cases",
]

MOST_CASES = 500
MOST_DAYS = 60
MOST_MODELS = 100
SHOWN_LETTERS = 60


@dataclass(frozen=True)
class CasePage:
    """Some cases, in order; ``next_cursor`` asks for those after them, None: there are none."""

    cases: tuple[CaseSummary, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class CaseCounts:
    """How many cases there are; those of ``open`` do not sleep."""

    open: int
    mine: int
    snoozed: int
    second: int


@dataclass(frozen=True)
class FilterChoices:
    """What a filter may name: lanes, versions of the model and days, the newest first."""

    lanes: tuple[str, ...]
    model_versions: tuple[str, ...]
    days: tuple[date, ...]


def search_cases(
    queue: Queue,
    wanted: CaseFilter,
    *,
    rank: str = "priority",
    cursor: str | None = None,
    limit: int = 50,
) -> CasePage:
    """List cases that are wanted, the foremost first; claims that ran out are none.

    Args:
        queue: The queue.
        wanted: Which cases.
        rank: One of ``RANKS``; cases without an expected loss come last.
        cursor: A page's ``next_cursor``, of the same rank; None for the first page.
        limit: How many at most.

    Raises:
        UserError: if the rank or the cursor is none, or the limit is not from 1 to 500.
    """
    check_choice("rank", rank, RANKS)
    if not 1 <= limit <= MOST_CASES:
        raise UserError(f"expected a limit from 1 to {MOST_CASES}, got {limit}; choose one")
    now = queue.clock()
    statement = select(*SUMMARY).where(*matches(wanted, now)).order_by(*order_of(rank))
    if cursor is not None:
        statement = statement.where(comes_after(rank, *read_cursor(cursor, rank)))
    with queue.database.read() as connection:
        found = read_summaries(connection, statement.limit(limit + 1))
    page = tuple(forget_bygones(case, now) for case in found[:limit])
    return CasePage(page, write_cursor(rank, page[-1]) if len(found) > limit else None)


def count_cases(queue: Queue, analyst: str) -> CaseCounts:
    """Count the cases that can be worked on, and among them those of an analyst, from indexes."""
    now = queue.clock()
    sleeps = CASES.c.snoozed_until > now.astimezone(UTC).date()  # a closed case never does
    is_mine = and_(CASES.c.claimed_by == analyst, CASES.c.claimed_until > now)
    conditions = (CASES.c.state == "open", sleeps, is_mine, CASES.c.awaits_second)
    counts = [select(func.count()).where(each).scalar_subquery() for each in conditions]
    with queue.database.read() as connection:
        all_open, snoozed, mine, second = connection.execute(select(*counts)).one()
    return CaseCounts(all_open - snoozed, mine, snoozed, second)


def list_lanes_models(queue: Queue) -> FilterChoices:
    """List what can be chosen from: the lanes, and the newest models and days of the alerts."""
    with queue.database.read() as connection:
        models = read_distinct(connection, ALERTS.c.model_version, MOST_MODELS)
        days = read_distinct(connection, ALERTS.c.event_date, MOST_DAYS)
    newest = sorted(models, key=lambda model: (len(model), model), reverse=True)
    return FilterChoices(LANES, tuple(newest), tuple(days))


def read_distinct(connection: Connection, column: Column[Any], limit: int) -> list[Any]:
    """Read the greatest values of an indexed column, one step of the index each."""
    steps = select(func.max(column).label("value")).cte("steps", recursive=True)
    following = select(func.max(column)).where(column < steps.c.value).scalar_subquery()
    steps = steps.union_all(select(following).where(steps.c.value.is_not(None)))
    found = connection.scalars(select(steps.c.value).limit(limit + 1))
    return [value for value in found if value is not None][:limit]


def forget_bygones(case: CaseSummary, now: datetime) -> CaseSummary:
    """Give a case without a claim that ran out and without a sleep that is over."""
    if case.claimed_until is not None and case.claimed_until <= now:
        case = replace(case, claimed_by=None, claimed_until=None)
    if case.snoozed_until is not None and case.snoozed_until <= now.astimezone(UTC).date():
        case = replace(case, snoozed_until=None)
    return case


def comes_after(rank: str, value: float | datetime | None, case_id: int) -> ColumnElement[bool]:
    """Tell whether a case comes after a place in the order of a rank."""
    column = COLUMNS[rank]
    if value is None:
        return and_(column.is_(None), CASES.c.id < case_id)
    here = tuple_(column, CASES.c.id)
    there = tuple_(literal(value, column.type), literal(case_id, CASES.c.id.type))
    if rank == "oldest":
        return here > there
    return or_(here < there, column.is_(None)) if column.nullable else here < there


def write_cursor(rank: str, case: CaseSummary) -> str:
    """Write the place of a case in the order of a rank."""
    value = getattr(case, COLUMNS[rank].name)
    text = value.isoformat() if isinstance(value, datetime) else value
    content = json.dumps([rank, text, case.id], allow_nan=False)
    return base64.urlsafe_b64encode(content.encode()).decode()


def read_cursor(cursor: str, rank: str) -> tuple[float | datetime | None, int]:
    """Read the place in the order of a rank, and nothing else."""
    try:
        content = json.loads(base64.b64decode(cursor.encode("ascii"), b"-_", validate=True))
        found, value, case_id = content
        if found == rank and type(case_id) is int and 0 < case_id <= LARGEST_NUMBER:
            return read_value(value, COLUMNS[rank]), case_id
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass  # the error below tells of it
    raise UserError(
        f"expected the cursor that a page in the order of {rank} ended with, got "
        f"{cursor[:SHOWN_LETTERS]!r}; begin again without a cursor"
    )


def read_value(value: object, column: Column[Any]) -> float | datetime | None:
    """Read a value of a ranked column as a cursor holds it.

    Raises:
        ValueError: if the column holds no such value.
        OverflowError: if a moment has no place in UTC, before year 1 or after year 9999.
    """
    if isinstance(column.type, UtcDateTime):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.utcoffset() is not None:
            return moment.astimezone(UTC)
    elif isinstance(value, float) and math.isfinite(value):
        return value
    elif value is None and column.nullable:
        return None
    raise ValueError(f"expected a value of {column.name}, got {value!r}; take a page's cursor")
