"""Suppressions: accounts and merchants whose alerts are logged instead of queued, until a day.

Lane ``audit`` is never suppressed: what is missing from the sample would bias the estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from warehouse.errors import UserError
from warehouse.queue_audit import AuditEvent
from warehouse.queue_changes import Change
from warehouse.queue_records import ConflictError, NewAlert, NotInQueueError
from warehouse.queue_tables import SUPPRESSED_ALERTS, SUPPRESSIONS
from warehouse.queue_work import Act, check_readable, find_row

if TYPE_CHECKING:
    from warehouse.queue import Queue

KINDS = ("account", "merchant")
MOST_DAYS = 365
LONGEST_VALUE = 300
LONGEST_REASON = 2000


@dataclass(frozen=True)
class Suppression:
    """An account or merchant to leave alone, who says so and why.

    Attributes:
        until: The day, in UTC, from which its alerts are queued again.
        matches: How many alerts it kept out of the queue.
    """

    id: int
    kind: str
    value: str
    until: date
    reason: str
    created_by: str
    created_at: datetime
    lifted_by: str | None
    lifted_at: datetime | None
    matches: int


def suppress(queue: "Queue", kind: str, value: str, until: date, reason: str, analyst: str) -> int:
    """Keep the alerts of an account or a merchant out of the queue until a day; give its number.

    Alerts that are in the queue already stay there.

    Raises:
        UserError: if the kind is unknown, the value or the reason is empty, too long or not
            readable, or the day is not after today and within a year.
        ConflictError: if the account or merchant is suppressed already.
    """
    value, reason = value.strip(), reason.strip()
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        check_wish(kind, value, until, reason, act.today)
        check_not_yet(connection, kind, value, act.today)
        said = {"kind": kind, "value": value, "until": until, "reason": reason}
        row = {**said, "created_by": analyst, "created_at": act.moment}
        statement = insert(SUPPRESSIONS).values(row).returning(SUPPRESSIONS.c.id)
        number = int(connection.execute(statement).scalar_one())
        details = {"suppression_id": number, **said, "until": until.isoformat()}
        event = AuditEvent("suppress", f"suppression {number}", details)
        act.log([event], [Change("suppression_made", None, None, details)])
    return number


def lift_suppression(queue: "Queue", suppression_id: int, analyst: str) -> None:
    """End a suppression now; what it kept out of the queue stays out.

    Raises:
        NotInQueueError: if there is no such suppression.
        ConflictError: if it has ended already.
    """
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        found = find_row(connection, SUPPRESSIONS, suppression_id)
        if found is None:
            raise NotInQueueError(
                f"expected the number of a suppression, got {suppression_id}; look into the list"
            )
        if found.lifted_at is not None or found.until <= act.today:
            raise ConflictError(
                f"expected a suppression that still holds, but {suppression_id} ended; load the "
                "list again"
            )
        of_it = update(SUPPRESSIONS).where(SUPPRESSIONS.c.id == found.id)
        connection.execute(of_it.values(lifted_by=analyst, lifted_at=act.moment))
        details = {"suppression_id": found.id, "kind": found.kind, "value": found.value}
        event = AuditEvent("lift_suppression", f"suppression {found.id}", details)
        act.log([event], [Change("suppression_lifted", None, None, details)])


def list_suppressions(queue: "Queue", *, active_only: bool = True) -> list[Suppression]:
    """List suppressions, the newest first, each with how many alerts it kept out of the queue."""
    matches = (
        select(func.count())
        .where(SUPPRESSED_ALERTS.c.suppression_id == SUPPRESSIONS.c.id)
        .scalar_subquery()
        .label("matches")
    )
    statement = select(SUPPRESSIONS, matches).order_by(SUPPRESSIONS.c.id.desc())
    if active_only:
        statement = statement.where(is_active(queue.clock().date()))
    with queue.database.read() as connection:
        return [Suppression(**row) for row in connection.execute(statement).mappings()]


def find_suppressed(
    connection: Connection, alerts: Sequence[NewAlert], today: date
) -> dict[str, int]:
    """Give the suppression of each alert that one holds for, by transaction; the account's first."""
    columns = (SUPPRESSIONS.c.kind, SUPPRESSIONS.c.value, SUPPRESSIONS.c.id)
    rows = connection.execute(select(*columns).where(is_active(today)))
    active = {(row.kind, row.value): row.id for row in rows}
    found = {}
    for alert in alerts:
        of_merchant = active.get(("merchant", alert.merchant_id))
        number = active.get(("account", alert.account_id), of_merchant)
        if number is not None:
            found[alert.transaction_id] = number
    return found


def is_active(today: date) -> ColumnElement[bool]:
    """Tell which suppressions hold on a day."""
    return and_(SUPPRESSIONS.c.until > today, SUPPRESSIONS.c.lifted_at.is_(None))


def check_wish(kind: str, value: str, until: date, reason: str, today: date) -> None:
    """Refuse what is no suppression, or one without an end."""
    if kind not in KINDS:
        raise UserError(f"expected one of {', '.join(KINDS)} to suppress, got {kind!r}")
    check_text(f"the {kind}'s id", value, LONGEST_VALUE)
    check_text("a reason", reason, LONGEST_REASON)
    if not value:
        raise UserError(f"expected the id of the {kind} to suppress, got an empty one; name it")
    if not reason:
        raise UserError(
            f"expected a reason why {kind} {value} is suppressed, got none; say it, so that others "
            "can judge it later"
        )
    last = today + timedelta(days=MOST_DAYS)
    if not today < until <= last:
        raise UserError(
            f"expected a day after {today} and not after {last}, got {until}; a suppression ends "
            f"within {MOST_DAYS} days"
        )


def check_text(what: str, text: str, longest: int) -> None:
    """Refuse a text that is too long, or that not every database can hold."""
    check_readable(what, text)
    if len(text) > longest:
        raise UserError(
            f"expected {what} of at most {longest} letters, got {len(text)}; shorten it"
        )


def check_not_yet(connection: Connection, kind: str, value: str, today: date) -> None:
    """Refuse a second suppression beside one that holds."""
    same = (SUPPRESSIONS.c.kind == kind, SUPPRESSIONS.c.value == value, is_active(today))
    found = connection.execute(select(SUPPRESSIONS).where(*same)).first()
    if found is not None:
        raise ConflictError(
            f"{found.created_by} has suppressed {kind} {value} until {found.until} already; lift "
            f"suppression {found.id} first"
        )
