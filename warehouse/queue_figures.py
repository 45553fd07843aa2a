"""The figures that each case carries, so that no list has to add up alerts.

Whoever adds alerts to a case, or decides one, calls ``refresh_cases`` in the same transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    case,
    exists,
    func,
    null,
    or_,
    select,
    update,
)

from warehouse.queue_statements import IS_WAITING, in_parts
from warehouse.queue_tables import ALERTS, CASES, PROPOSALS

LEAST_PROBABILITY = 1e-100
ENDS_WITH_CASE = ("claimed_by", "claimed_until", "snoozed_until")

IS_PROPOSED = exists(
    select(PROPOSALS.c.id).where(
        PROPOSALS.c.alert_id == ALERTS.c.id, PROPOSALS.c.outcome.is_(None)
    )
)
"""Whether a verdict on the alert waits for a second analyst."""


def refresh_cases(
    connection: Connection, case_ids: Sequence[int], moment: datetime
) -> tuple[int, ...]:
    """Count the alerts of cases anew, and close open cases of which no alert waits.

    A closed case stays closed; who takes a decision back opens it again first. A case of which
    nothing changes is not touched, so that ``updated_at`` of a closed one tells when it closed.

    Returns:
        The cases that closed.
    """
    closed: list[int] = []
    for part in in_parts(case_ids):
        is_open = select(CASES.c.id).where(CASES.c.id.in_(part), CASES.c.state == "open")
        before = connection.scalars(is_open).all()
        write_figures(connection, part, moment)
        after = set(connection.scalars(is_open))
        closed += [number for number in before if number not in after]
    return tuple(sorted(closed))


def write_figures(connection: Connection, case_ids: Sequence[int], moment: datetime) -> None:
    """Write the figures of cases where they differ; a case that closes is nobody's any more."""
    figures = select_figures(case_ids).c
    values: dict[str, ColumnElement[Any]] = {
        column.name: column for column in figures if column.name != "case_id"
    }
    closes = figures.waiting_count == 0
    values["state"] = case((closes, "closed"), else_=CASES.c.state)
    differs = or_(*(CASES.c[name].is_distinct_from(value) for name, value in values.items()))
    ended = {name: case((closes, null()), else_=CASES.c[name]) for name in ENDS_WITH_CASE}
    connection.execute(
        update(CASES)
        .where(CASES.c.id == figures.case_id, differs)
        .values(**values, **ended, updated_at=moment)
    )


def select_figures(case_ids: Sequence[int]) -> Subquery:
    """Select the figures of cases from their alerts; a case may have lost all of them."""
    columns = ("id", "case_id", "event_date", "score", "amount", "probability")
    alerts = (
        select(
            *(ALERTS.c[name] for name in columns),
            IS_WAITING.label("is_waiting"),
            IS_PROPOSED.label("is_proposed"),
        )
        .where(ALERTS.c.case_id.in_(case_ids))
        .subquery()
    )
    a = alerts.c
    waiting = func.count(case((a.is_waiting, 1)))
    is_none = a.probability < LEAST_PROBABILITY  # PostgreSQL refuses a product that underflows
    probability = case((is_none, 0.0), else_=a.probability)

    def of_waiting(
        total: Callable[..., ColumnElement[float]], value: ColumnElement[float]
    ) -> ColumnElement[float]:
        """Take the alerts that wait, or all once none does."""
        return case((waiting > 0, total(case((a.is_waiting, value)))), else_=total(value))

    figures: dict[str, ColumnElement[Any]] = {
        "alert_count": func.count(a.id),
        "waiting_count": waiting,
        "score": func.coalesce(of_waiting(func.max, a.score), 0.0),
        "amount": func.coalesce(func.sum(a.amount), 0.0),
        "amount_at_risk": func.coalesce(of_waiting(func.sum, a.amount), 0.0),
        "priority": func.coalesce(of_waiting(func.sum, a.score * a.amount), 0.0),
        "expected_loss": of_waiting(func.sum, probability * a.amount),
        "first_event_date": func.coalesce(func.min(a.event_date), CASES.c.opened_for),
        "last_event_date": func.coalesce(func.max(a.event_date), CASES.c.opened_for),
        "awaits_second": func.count(case((a.is_proposed, 1))) > 0,
    }
    return (
        select(CASES.c.id.label("case_id"), *(v.label(name) for name, v in figures.items()))
        .outerjoin(alerts, a.case_id == CASES.c.id)
        .where(CASES.c.id.in_(case_ids))
        .group_by(CASES.c.id)
        .subquery()
    )
