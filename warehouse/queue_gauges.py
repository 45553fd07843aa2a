"""Figures of the whole queue for a monitoring system, each cheap enough to be read every minute."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, case, func, select

from warehouse.queue import Queue
from warehouse.queue_filters import is_awake
from warehouse.queue_statements import IS_RETRACTED
from warehouse.queue_tables import CASES, DECISIONS


@dataclass(frozen=True)
class QueueGauges:
    """How full the queue is.

    Attributes:
        open_cases: By lane, without those that are snoozed.
        snoozed_cases: By lane.
        awaiting_second: Open cases in which a verdict waits for a second analyst.
        alerts: By lane, decided or not.
        decisions: By verdict, without those taken back.
        oldest_open: When the oldest open case that is not snoozed was opened.
    """

    open_cases: dict[str, int]
    snoozed_cases: dict[str, int]
    awaiting_second: int
    alerts: dict[str, int]
    decisions: dict[str, int]
    oldest_open: datetime | None


def read_gauges(queue: Queue) -> QueueGauges:
    """Read the figures, all of one moment."""
    is_open, today = CASES.c.state == "open", queue.clock().date()
    is_asleep = and_(is_open, CASES.c.snoozed_until > today)
    can_be_worked = and_(is_open, is_awake(today))
    by_lane = select(
        CASES.c.lane,
        func.count(case((can_be_worked, 1))).label("awake"),
        func.count(case((is_asleep, 1))).label("asleep"),
        func.count(case((and_(is_open, CASES.c.awaits_second), 1))).label("second"),
        func.sum(CASES.c.alert_count).label("alerts"),
        func.min(case((can_be_worked, CASES.c.created_at))).label("oldest"),
    ).group_by(CASES.c.lane)
    by_verdict = (
        select(DECISIONS.c.verdict, func.count().label("decisions"))
        .where(~IS_RETRACTED)
        .group_by(DECISIONS.c.verdict)
    )
    with queue.database.read() as connection:
        lanes = connection.execute(by_lane).all()
        verdicts = connection.execute(by_verdict).all()
    return QueueGauges(
        open_cases={row.lane: row.awake for row in lanes},
        snoozed_cases={row.lane: row.asleep for row in lanes},
        awaiting_second=sum(row.second for row in lanes),
        alerts={row.lane: int(row.alerts) for row in lanes},
        decisions={row.verdict: row.decisions for row in verdicts},
        oldest_open=min((row.oldest for row in lanes if row.oldest), default=None),
    )


def answer(queue: Queue) -> None:
    """Read one row of the queue, to see that its database answers.

    Raises:
        WarehouseError: if it cannot be read.
    """
    with queue.database.read() as connection:
        connection.execute(select(CASES.c.id).limit(1)).all()
