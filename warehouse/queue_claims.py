"""Who works on which case: claims that run out, the next case to take, cases put off to a day."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Row, exists, or_, select, update

from warehouse.errors import UserError
from warehouse.queue_filters import RANKS, CaseFilter, check_choice, is_awake, matches, order_of
from warehouse.queue_records import ConflictError
from warehouse.queue_statements import IS_WAITING
from warehouse.queue_tables import ALERTS, CASES, PROPOSALS
from warehouse.queue_work import Act, check_claim, check_note, read_case

if TYPE_CHECKING:
    from warehouse.queue import Queue

MOST_SNOOZE_DAYS = 365
NOBODY = {"claimed_by": None, "claimed_until": None}


def claim_case(queue: "Queue", case_id: int, analyst: str, *, minutes: int) -> datetime:
    """Claim a case for some minutes and give the moment until which the claim holds.

    An analyst's own claim is prolonged. A case that sleeps can be claimed and goes on sleeping.

    Raises:
        NotInQueueError: if there is no such case.
        ConflictError: if another analyst has claimed it, or it is closed.
    """
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        read_free_case(act, case_id)
        return write_claim(act, case_id, minutes)


def release_case(queue: "Queue", case_id: int, analyst: str, *, force: bool = False) -> None:
    """Give a claim back; where none holds, nothing happens.

    Args:
        queue: The review queue.
        case_id: The case.
        analyst: Who gives it back.
        force: Whether to end another analyst's claim too, as a lead may.

    Raises:
        NotInQueueError: if there is no such case.
        ConflictError: if another analyst has claimed it.
    """
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        case = read_case(connection, case_id)
        if not is_claimed(case, act):
            return
        if not force:
            check_claim(case_id, case.claimed_by, case.claimed_until, act.moment, analyst)
        statement = update(CASES).where(CASES.c.id == case_id)
        connection.execute(statement.values(**NOBODY, updated_at=act.moment))
        log_release(act, case)


def next_case(
    queue: "Queue",
    analyst: str,
    wanted: CaseFilter,
    *,
    rank: str = "priority",
    minutes: int,
) -> int | None:
    """Claim the foremost open case that nobody has claimed, and give its number; None: no such.

    Callers at the same moment get different cases. Cases that sleep are passed over, and so are
    those of which the analyst has proposed a verdict on all that waits.

    Args:
        queue: The review queue.
        analyst: Who wants to work.
        wanted: Which cases; of its states ``second`` alone narrows further, and who claimed a
            case does not matter.
        rank: In which order; see ``warehouse.queue_search``.
        minutes: How long the claim holds.

    Raises:
        UserError: if the rank is none.
    """
    check_choice("rank", rank, RANKS)
    state = "second" if wanted.state == "second" else "open"
    wanted = replace(wanted, state=state, claimed_by=None)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        conditions = [*matches(wanted, act.moment), *is_free(act), leaves_work_for(analyst)]
        statement = select(CASES.c.id).where(*conditions).order_by(*order_of(rank))
        case_id = connection.scalar(statement.limit(1))
        if case_id is not None:
            write_claim(act, case_id, minutes)
    return case_id


def snooze_case(
    queue: "Queue", case_id: int, analyst: str, until: date | None, note: str = ""
) -> None:
    """Put a case off until a day, which gives its claim back, or wake it up.

    Args:
        queue: The review queue.
        case_id: The case.
        analyst: Who puts it off.
        until: The day, in UTC, on which it comes back; None wakes it up now.
        note: Why.

    Raises:
        NotInQueueError: if there is no such case.
        ConflictError: if another analyst has claimed it, or it is closed.
        UserError: if the day is not after today, or more than a year away.
    """
    check_note(note)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        check_day(until, act.today)
        case = read_free_case(act, case_id)
        if until is None and case.snoozed_until is None:
            return
        given_back = {} if until is None else NOBODY
        statement = update(CASES).where(CASES.c.id == case_id)
        connection.execute(
            statement.values(snoozed_until=until, **given_back, updated_at=act.moment)
        )
        details = {"until": None if until is None else until.isoformat(), "note": note}
        act.log_case("snooze", "case_snoozed", case_id, details)
        if until is not None and is_claimed(case, act):
            log_release(act, case)


def is_claimed(case: Row[Any], act: Act) -> bool:
    """Tell whether a claim on a case holds."""
    return case.claimed_until is not None and case.claimed_until > act.moment


def log_release(act: Act, case: Row[Any]) -> None:
    """Say that the claim on a case was given back, and whose it was."""
    act.log_case("release", "case_released", case.id, {"claimed_by": case.claimed_by})


def read_free_case(act: Act, case_id: int) -> Row[Any]:
    """Read a case's row; it must be open, and nobody else may have claimed it."""
    case = read_case(act.connection, case_id)
    if case.state == "closed":
        raise ConflictError(
            f"case {case_id} is closed, as nothing of it waits any more; take another"
        )
    check_claim(case_id, case.claimed_by, case.claimed_until, act.moment, act.analyst)
    return case


def write_claim(act: Act, case_id: int, minutes: int) -> datetime:
    """Note that the analyst works on a case, and until when."""
    if minutes < 1:
        raise ValueError(f"expected a claim of 1 minute or more, got {minutes}; choose more")
    until = act.moment.astimezone(UTC) + timedelta(minutes=minutes)
    values = {"claimed_by": act.analyst, "claimed_until": until, "updated_at": act.moment}
    act.connection.execute(update(CASES).where(CASES.c.id == case_id).values(values))
    act.log_case("claim", "case_claimed", case_id, {"until": until.isoformat()})
    return until


def is_free(act: Act) -> list[ColumnElement[bool]]:
    """Give the conditions of a case that can be taken: open, awake, and nobody's."""
    return [
        CASES.c.state == "open",
        is_awake(act.today),
        or_(CASES.c.claimed_until.is_(None), CASES.c.claimed_until <= act.moment),
    ]


def leaves_work_for(analyst: str) -> ColumnElement[bool]:
    """Tell whether an alert of a case waits for a verdict that the analyst may give."""
    is_own = exists(
        select(PROPOSALS.c.id).where(
            PROPOSALS.c.alert_id == ALERTS.c.id,
            PROPOSALS.c.outcome.is_(None),
            PROPOSALS.c.analyst == analyst,
        )
    )
    waits = select(ALERTS.c.id).where(ALERTS.c.case_id == CASES.c.id, IS_WAITING, ~is_own)
    return or_(~CASES.c.awaits_second, exists(waits))


def check_day(until: date | None, today: date) -> None:
    """Refuse a day that is over, or too far away for anybody to remember."""
    last = today + timedelta(days=MOST_SNOOZE_DAYS)
    if until is not None and not today < until <= last:
        raise UserError(
            f"expected a day after {today} and not after {last}, got {until}; choose another"
        )
