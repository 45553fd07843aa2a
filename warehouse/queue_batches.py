"""What is decided, or taken back, in one go: all that waits in cases, and an analyst's last batch.

Belongs here: reads alone. Does not: verdicts (``queue_decisions``) and their end
(``queue_retractions``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from warehouse.queue import Queue
from warehouse.queue_figures import IS_PROPOSED
from warehouse.queue_statements import IS_RETRACTED, IS_WAITING, UNDO_WINDOW
from warehouse.queue_tables import ALERTS, CASES, DECISIONS

MOST_DECISIONS = 500  # as many as one call of decide_alerts takes


@dataclass(frozen=True)
class WaitingAlert:
    """An alert without a verdict that stands, and how many its case has by now.

    ``is_proposed``: a verdict on it waits for a second analyst.
    """

    alert_id: int
    case_id: int
    amount: float
    is_proposed: bool
    alert_count: int
    waiting_count: int


@dataclass(frozen=True)
class StandingDecision:
    """A decision that can still be taken back, and what became of its case."""

    id: int
    alert_id: int
    case_id: int
    case_state: str
    verdict: str
    decided_at: datetime


def read_waiting(queue: Queue, case_ids: Sequence[int]) -> tuple[WaitingAlert, ...]:
    """Read the alerts that wait in cases, by case."""
    names = ("alert_count", "waiting_count")
    statement = (
        select(
            ALERTS.c.id.label("alert_id"),
            ALERTS.c.case_id,
            ALERTS.c.amount,
            IS_PROPOSED.label("is_proposed"),
            *(CASES.c[name] for name in names),
        )
        .join(CASES, ALERTS.c.case_id == CASES.c.id)
        .where(ALERTS.c.case_id.in_(case_ids), IS_WAITING)
        .order_by(ALERTS.c.case_id, ALERTS.c.id)
    )
    with queue.database.read() as connection:
        return tuple(WaitingAlert(**row) for row in connection.execute(statement).mappings())


def read_last_batch(queue: Queue, analyst: str) -> tuple[StandingDecision, ...]:
    """Read what an analyst decided last, in one go, if it can still be taken back."""
    can_end = (
        DECISIONS.c.analyst == analyst,
        DECISIONS.c.decided_at > queue.clock() - UNDO_WINDOW,
        ~IS_RETRACTED,
    )
    newest = select(func.max(DECISIONS.c.decided_at)).where(*can_end)
    columns = (DECISIONS.c.id, DECISIONS.c.alert_id, ALERTS.c.case_id, DECISIONS.c.verdict)
    statement = (
        select(*columns, CASES.c.state.label("case_state"), DECISIONS.c.decided_at)
        .join(ALERTS, DECISIONS.c.alert_id == ALERTS.c.id)
        .join(CASES, ALERTS.c.case_id == CASES.c.id)
        .where(*can_end, DECISIONS.c.decided_at == newest.scalar_subquery())
        .order_by(DECISIONS.c.id.desc())
        .limit(MOST_DECISIONS)
    )
    with queue.database.read() as connection:
        rows = connection.execute(statement).mappings()
        return tuple(StandingDecision(**row) for row in rows)
