"""The feed: every change as other programs read it, with the facts of the alert it is about.

The numbers of changes rise in the order of the commits, so whoever keeps the number of the last
change read, the cursor, gets each change exactly once and in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, func, select

from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_changes import LoggedChange, read_changes
from warehouse.queue_tables import ALERTS, CHANGES


@dataclass(frozen=True)
class AlertFacts:
    """What never changes of an alert; ``reasons`` are sentences, the strongest first."""

    id: int
    transaction_id: str
    event_date: date
    occurred_at: datetime
    account_id: str
    merchant_id: str
    amount: float
    lane: str
    score: float
    probability: float | None
    model_version: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FeedChange(LoggedChange):
    """A change with the facts of its alert, or None where it is about none."""

    alert: AlertFacts | None


@dataclass(frozen=True)
class FeedBlock:
    """Changes in their order; ``next_cursor`` is where to go on, now or later."""

    changes: tuple[FeedChange, ...]
    next_cursor: int
    has_more: bool


def read_feed(queue: Queue, *, cursor: int, limit: int, until: int | None = None) -> FeedBlock:
    """Read the changes beyond a cursor, oldest first, at most ``limit``.

    Args:
        queue: The review queue.
        cursor: Number of the last change that was read; 0 at the very start.
        limit: How many changes at most.
        until: Number of the last change wanted; None for all there are.

    Raises:
        UserError: if no change with the cursor's number can have been read: it is another queue's.
    """
    with queue.database.read() as connection:
        found = read_changes(connection, after=cursor, limit=limit + 1)
        if not found:
            check_cursor(connection, cursor)
        wanted = [change for change in found if until is None or change.id <= until]
        changes = with_alerts(connection, wanted[:limit])
    next_cursor = changes[-1].id if changes else cursor
    return FeedBlock(changes, next_cursor, has_more=len(wanted) > limit)


def newest_change(queue: Queue) -> int:
    """Give the number of the newest change; 0 where there is none."""
    with queue.database.read() as connection:
        return last_number(connection)


def last_number(connection: Connection) -> int:
    """Give the number of the newest change that the connection sees."""
    return connection.scalar(select(func.max(CHANGES.c.id))) or 0


def check_cursor(connection: Connection, cursor: int) -> None:
    """Refuse a cursor beyond the newest change: following it would leave changes out."""
    newest = last_number(connection)
    if cursor > newest:
        raise UserError(
            f"expected a cursor of at most {newest}, the newest change, got {cursor}; it belongs "
            "to another queue, or this one was restored: start again from a number that you know"
        )


def with_alerts(connection: Connection, changes: Sequence[LoggedChange]) -> tuple[FeedChange, ...]:
    """Add to each change the facts of its alert."""
    alert_ids = {change.alert_id for change in changes if change.alert_id is not None}
    columns = [ALERTS.c[name] for name in AlertFacts.__dataclass_fields__]
    statement = select(*columns).where(ALERTS.c.id.in_(alert_ids))
    rows = connection.execute(statement).mappings() if alert_ids else ()
    facts = {
        row["id"]: AlertFacts(
            **{**row, "reasons": tuple(reason["text"] for reason in row["reasons"])}
        )
        for row in rows
    }
    return tuple(
        FeedChange(**vars(change), alert=facts.get(change.alert_id or 0)) for change in changes
    )
