"""How far each webhook has been told of changes, and which process may tell it now.

A webhook's changes go out in order, one block at a time. Before it sends, a process leases the
webhook for a short time, so that two never send at once; whoever dies leaves a lease that runs out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, func, insert, or_, select, update

from warehouse.feed import last_number
from warehouse.queue import Queue
from warehouse.queue_tables import CHANGES, WEBHOOK_DELIVERIES

MOST_CHANGES = 100  # in a block
LEASE = timedelta(seconds=30)  # well over the 10 seconds that one delivery may take
LONGEST_ERROR = 300  # characters


@dataclass(frozen=True)
class WebhookLease:
    """The right to tell a webhook of a block of changes, ``until`` a moment.

    The block begins beyond ``last_change`` and ends with ``block_last``. It is written down before
    it is sent: whoever repeats it, repeats the same.
    """

    webhook: str
    last_change: int
    block_last: int
    attempts: int
    until: datetime


@dataclass(frozen=True)
class WebhookProgress:
    """How far a webhook is, after ``attempts`` failures in a row.

    ``lag`` is the newest change's number less that of the last one taken: so many wait.
    """

    webhook: str
    last_change: int
    lag: int
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    delivered_at: datetime | None


def start_webhooks(queue: Queue, webhooks: Sequence[str]) -> None:
    """Note webhooks that are new; they are told of what happens from now on."""
    with queue.database.write() as connection:
        known = set(connection.scalars(select(WEBHOOK_DELIVERIES.c.webhook)))
        begin = {"last_change": last_number(connection), "attempts": 0}
        fresh = [
            {"webhook": webhook, "next_attempt_at": queue.clock(), **begin}
            for webhook in webhooks
            if webhook not in known
        ]
        if fresh:
            connection.execute(insert(WEBHOOK_DELIVERIES), fresh)


def lease_webhook(queue: Queue, webhook: str) -> WebhookLease | None:
    """Lease a webhook, or give None if it is leased, has nothing to be told, or must wait."""
    table = WEBHOOK_DELIVERIES.c
    with queue.database.read() as connection:
        if not is_due(connection, webhook, queue.clock()):
            return None
    with queue.database.write() as connection:
        moment = queue.clock()
        if not is_due(connection, webhook, moment):
            return None
        until = moment + LEASE
        row = connection.execute(select(WEBHOOK_DELIVERIES).where(table.webhook == webhook)).one()
        begun = row.block_last is not None and row.block_last > row.last_change
        block_last = row.block_last if begun else find_block_end(connection, row.last_change)
        of_webhook = update(WEBHOOK_DELIVERIES).where(table.webhook == webhook)
        connection.execute(of_webhook.values(leased_until=until, block_last=block_last))
    return WebhookLease(webhook, row.last_change, block_last, row.attempts, until)


def find_block_end(connection: Connection, last_change: int) -> int:
    """Give the number of the last change of the block that begins beyond a number."""
    block = (
        select(CHANGES.c.id)
        .where(CHANGES.c.id > last_change)
        .order_by(CHANGES.c.id)
        .limit(MOST_CHANGES)
        .subquery()
    )
    return connection.scalar(select(func.max(block.c.id))) or last_change


def is_due(connection: Connection, webhook: str, moment: datetime) -> bool:
    """Tell whether a webhook has changes to be told of, and may be told at the moment."""
    table = WEBHOOK_DELIVERIES.c
    conditions: tuple[ColumnElement[bool], ...] = (
        table.webhook == webhook,
        table.last_change < last_number(connection),
        table.next_attempt_at <= moment,
        or_(table.leased_until.is_(None), table.leased_until <= moment),
    )
    return connection.scalar(select(table.webhook).where(*conditions)) is not None


def note_delivered(queue: Queue, lease: WebhookLease, last_change: int) -> bool:
    """Note that a webhook has taken the changes up to a number, and end the lease.

    Returns:
        Whether the lease was still this one; if not, another process goes on from where it was.
    """
    moment = queue.clock()
    values = {"last_change": last_change, "attempts": 0, "last_error": None}
    return _end(queue, lease, {**values, "next_attempt_at": moment, "delivered_at": moment})


def note_failed(queue: Queue, lease: WebhookLease, error: str, wait: timedelta) -> bool:
    """Note that a webhook has not taken the changes, and when to try again; end the lease."""
    values = {"attempts": lease.attempts + 1, "last_error": error[:LONGEST_ERROR]}
    return _end(queue, lease, {**values, "next_attempt_at": queue.clock() + wait})


def give_lease_back(queue: Queue, lease: WebhookLease) -> bool:
    """End a lease without a word about the delivery, so that others need not wait for its end."""
    return _end(queue, lease, {})


def _end(queue: Queue, lease: WebhookLease, values: dict[str, Any]) -> bool:
    with queue.database.write() as connection:
        statement = _of_lease(lease).values(leased_until=None, **values)
        return connection.execute(statement).rowcount == 1


def _of_lease(lease: WebhookLease) -> Update:
    """Give the update of a lease's row; no two leases of a webhook end at the same moment."""
    table = WEBHOOK_DELIVERIES.c
    return update(WEBHOOK_DELIVERIES).where(
        table.webhook == lease.webhook, table.leased_until == lease.until
    )


def list_webhooks(queue: Queue, names: Sequence[str] | None = None) -> list[WebhookProgress]:
    """List how far webhooks are, by name.

    Args:
        queue: The review queue.
        names: Which, such as those of the settings; None: all that there ever were.
    """
    table = WEBHOOK_DELIVERIES.c
    columns = (table[name] for name in WebhookProgress.__dataclass_fields__ if name != "lag")
    statement = select(*columns).order_by(table.webhook)
    if names is not None:
        statement = statement.where(table.webhook.in_(names))
    with queue.database.read() as connection:
        newest = last_number(connection)
        rows = connection.execute(statement).mappings()
        return [WebhookProgress(**row, lag=newest - row["last_change"]) for row in rows]
