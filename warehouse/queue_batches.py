"""What is decided, or taken back, in one go: all that waits in cases, and an analyst's batches.

Belongs here: reads alone. Does not: verdicts (``queue_decisions``) and their end
(``queue_retractions``).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, exists, func, select

from warehouse.queue import Queue
from warehouse.queue_decisions import MOST_VERDICTS
from warehouse.queue_figures import IS_PROPOSED
from warehouse.queue_records import CaseSummary
from warehouse.queue_statements import IS_RETRACTED, IS_WAITING, UNDO_WINDOW
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, PROPOSALS, RETRACTIONS

LATER = DECISIONS.alias("later")
IS_FOLLOWED = exists(
    select(LATER.c.id).where(
        LATER.c.alert_id == DECISIONS.c.alert_id,
        LATER.c.id > DECISIONS.c.id,
        ~exists(select(RETRACTIONS.c.decision_id).where(RETRACTIONS.c.decision_id == LATER.c.id)),
    )
)
"""Whether a later decision on the same alert stands."""


@dataclass(frozen=True)
class WaitingAlert:
    """An alert without a verdict that stands, and what a list shows of its case by now.

    ``is_proposed``: a verdict on it waits for a second analyst.
    """

    alert_id: int
    case_id: int
    amount: float
    is_proposed: bool
    alert_count: int
    amount_at_risk: float


@dataclass(frozen=True)
class StandingDecision:
    """A decision that can still be taken back, and what became of its case."""

    id: int
    alert_id: int
    case_id: int
    case_state: str
    verdict: str
    decided_at: datetime


def read_waiting(queue: Queue, case_ids: Sequence[int]) -> dict[int, list[WaitingAlert]]:
    """Read the alerts that wait in cases, by case; cases in which none does are left out."""
    statement = (
        select(
            ALERTS.c.id.label("alert_id"),
            ALERTS.c.case_id,
            ALERTS.c.amount,
            IS_PROPOSED.label("is_proposed"),
            CASES.c.alert_count,
            CASES.c.amount_at_risk,
        )
        .join(CASES, ALERTS.c.case_id == CASES.c.id)
        .where(ALERTS.c.case_id.in_(case_ids), IS_WAITING)
        .order_by(ALERTS.c.case_id, ALERTS.c.id)
    )
    found: dict[int, list[WaitingAlert]] = {}
    with queue.database.read() as connection:
        for row in connection.execute(statement).mappings():
            found.setdefault(row["case_id"], []).append(WaitingAlert(**row))
    return found


def fingerprint(shown: CaseSummary | WaitingAlert, alerts: Sequence[WaitingAlert]) -> str:
    """Write what is shown of a case and which alerts wait in it, such that a change of it shows.

    What is shown may have been read a little earlier than the alerts: it is part of the text, so
    that alerts which came in between make it one that fits no more.
    """
    figures = (shown.alert_count, shown.amount_at_risk)
    numbers = [(alert.alert_id, alert.is_proposed) for alert in alerts]
    return hashlib.sha256(repr((figures, numbers)).encode()).hexdigest()[:20]


def read_batch(queue: Queue, decision_id: int, analyst: str) -> tuple[StandingDecision, ...]:
    """Read what an analyst decided in one go with a decision, if it can still be taken back."""
    is_it = (DECISIONS.c.id == decision_id, DECISIONS.c.analyst == analyst)
    return read_decided_at(queue, analyst, select(DECISIONS.c.decided_at).where(*is_it))


def read_last_batch(queue: Queue, analyst: str) -> tuple[StandingDecision, ...]:
    """Read what an analyst decided last, in one go, if it can still be taken back.

    Where others have decided anew all that is in it, or a proposal of the analyst waits that is
    newer, there is no such batch: to take back an older one is not what the analyst would expect.
    """
    newest = select(func.max(DECISIONS.c.decided_at)).where(*is_fresh(queue, analyst))
    decided_at = newest.correlate(None).scalar_subquery()
    is_newer = (
        PROPOSALS.c.outcome.is_(None),
        PROPOSALS.c.analyst == analyst,
        PROPOSALS.c.proposed_at > decided_at,
    )
    return read_decided_at(queue, analyst, newest.where(~exists().where(*is_newer)))


def read_decided_at(
    queue: Queue, analyst: str, moment: Select[tuple[datetime]]
) -> tuple[StandingDecision, ...]:
    """Read what can still be taken back of what an analyst decided at a moment, newest first."""
    columns = (DECISIONS.c.id, DECISIONS.c.alert_id, ALERTS.c.case_id, DECISIONS.c.verdict)
    decided_at = moment.correlate(None).scalar_subquery()
    statement = (
        select(*columns, CASES.c.state.label("case_state"), DECISIONS.c.decided_at)
        .join(ALERTS, DECISIONS.c.alert_id == ALERTS.c.id)
        .join(CASES, ALERTS.c.case_id == CASES.c.id)
        .where(*is_fresh(queue, analyst), ~IS_FOLLOWED, DECISIONS.c.decided_at == decided_at)
        .order_by(DECISIONS.c.id.desc())
        .limit(MOST_VERDICTS)
    )
    with queue.database.read() as connection:
        rows = connection.execute(statement).mappings()
        return tuple(StandingDecision(**row) for row in rows)


def is_fresh(queue: Queue, analyst: str) -> list[ColumnElement[bool]]:
    """Give the conditions of an analyst's decisions that are no labels yet, nor taken back."""
    return [
        DECISIONS.c.analyst == analyst,
        DECISIONS.c.decided_at > queue.clock() - UNDO_WINDOW,
        ~IS_RETRACTED,
    ]
