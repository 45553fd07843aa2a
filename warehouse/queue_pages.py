"""Alerts and decisions by number, a page at a time, for programs that read them all."""

from datetime import date

from warehouse.queue import Queue
from warehouse.queue_records import Alert, Decision, NotInQueueError
from warehouse.queue_statements import (
    select_alerts,
    select_decisions,
    to_alerts,
    to_decisions,
)
from warehouse.queue_tables import ALERTS, DECISIONS


def page_of_alerts(
    queue: Queue, *, after: int, limit: int, day: date | None = None, lane: str | None = None
) -> tuple[Alert, ...]:
    """List alerts with a number beyond ``after``, in the order of their numbers.

    Args:
        queue: The review queue.
        after: Number of the last alert of the page before; 0 for the first page.
        limit: How many at most.
        day: The day on which their transactions happened; None for all.
        lane: One lane, or None for all.
    """
    statement = select_alerts(ALERTS.c.id > after).order_by(ALERTS.c.id).limit(limit)
    if day is not None:
        statement = statement.where(ALERTS.c.event_date == day)
    if lane is not None:
        statement = statement.where(ALERTS.c.lane == lane)
    with queue.database.read() as connection:
        return to_alerts(connection.execute(statement))


def find_alert(queue: Queue, alert_id: int) -> Alert:
    """Give an alert.

    Raises:
        NotInQueueError: if there is no such alert.
    """
    with queue.database.read() as connection:
        found = to_alerts(connection.execute(select_alerts(ALERTS.c.id == alert_id)))
    if not found:
        raise NotInQueueError(
            f"expected the number of an alert in the queue, got {alert_id}; list them to see "
            "which there are"
        )
    return found[0]


def page_of_decisions(queue: Queue, *, after: int, limit: int) -> tuple[Decision, ...]:
    """List decisions with a number beyond ``after``, those taken back among them."""
    statement = select_decisions().where(DECISIONS.c.id > after).limit(limit)
    with queue.database.read() as connection:
        return to_decisions(connection.execute(statement))
