"""The SELECTs behind the queue's lists, as SQLAlchemy Core, and how their rows become records."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Case,
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    case,
    exists,
    func,
    select,
)

from warehouse.queue_records import Alert, CaseSummary, Decision, Reason
from warehouse.queue_tables import ALERTS, CASES, DECISIONS

IS_WAITING = ~exists(select(DECISIONS.c.id).where(DECISIONS.c.alert_id == ALERTS.c.id))
"""Whether nobody has decided the alert yet."""


def select_summaries() -> Select[Any]:
    """Select the cases, those with the highest score first, then those with more at risk."""
    alerts = alerts_with_state()
    score = func.coalesce(func.max(while_waiting(alerts, "score")), func.max(alerts.c.score))
    at_risk = func.coalesce(func.sum(while_waiting(alerts, "amount")), func.sum(alerts.c.amount))
    statement = select(
        *(CASES.c[name] for name in ("id", "account_id", "lane", "state", "opened_for")),
        CASES.c.created_at,
        CASES.c.updated_at,
        func.count().label("alerts"),
        func.count(while_waiting(alerts, "score")).label("alerts_waiting"),
        score.label("score"),
        at_risk.label("amount_at_risk"),
        func.sum(alerts.c.amount).label("amount"),
        func.min(alerts.c.event_date).label("first_day"),
        func.max(alerts.c.event_date).label("last_day"),
    )
    grouped = statement.join(alerts, alerts.c.case_id == CASES.c.id).group_by(CASES.c.id)
    return grouped.order_by(score.desc(), at_risk.desc(), CASES.c.id)


def alerts_with_state() -> Subquery:
    """Select what a summary needs of each alert, and whether it still waits."""
    columns = (ALERTS.c[name] for name in ("case_id", "score", "amount", "event_date"))
    return select(*columns, IS_WAITING.label("is_waiting")).subquery()


def while_waiting(alerts: Subquery, column: str) -> Case[Any]:
    """Give a column's value for alerts that still wait, and NULL for the others."""
    return case((alerts.c.is_waiting, alerts.c[column]))


def read_summaries(connection: Connection, statement: Select[Any]) -> list[CaseSummary]:
    """Read cases, each with the first reason of its foremost alert."""
    rows = connection.execute(statement).mappings().all()
    texts = top_reasons(connection, [row["id"] for row in rows])
    return [CaseSummary(**row, top_reason=texts[row["id"]]) for row in rows]


def top_reasons(connection: Connection, case_ids: Sequence[int]) -> dict[int, str]:
    """Give, by case, the first reason of the highest-scored alert, those that wait first."""
    order = (IS_WAITING.desc(), ALERTS.c.score.desc(), ALERTS.c.amount.desc(), ALERTS.c.id)
    place = func.row_number().over(partition_by=ALERTS.c.case_id, order_by=order).label("place")
    ranked = select(ALERTS.c.case_id, ALERTS.c.reasons, place).where(
        ALERTS.c.case_id.in_(case_ids)
    )
    first = ranked.subquery()
    rows = connection.execute(select(first.c.case_id, first.c.reasons).where(first.c.place == 1))
    return {row.case_id: row.reasons[0]["text"] if row.reasons else "" for row in rows}


def select_alerts(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Select alerts with their newest verdict."""
    verdict = (
        select(DECISIONS.c.verdict)
        .where(DECISIONS.c.alert_id == ALERTS.c.id)
        .order_by(DECISIONS.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(ALERTS, verdict.label("verdict")).where(*conditions)


def to_alerts(rows: Iterable[Row[Any]]) -> tuple[Alert, ...]:
    """Turn rows of ``select_alerts`` into records."""
    alerts = []
    for row in rows:
        values = dict(row._mapping)
        values["reasons"] = tuple(Reason(**reason) for reason in values["reasons"])
        alerts.append(Alert(**values))
    return tuple(alerts)


def select_decisions() -> Select[Any]:
    """Select decisions, oldest first, with what a label needs to know of their alerts."""
    of_alert = ("case_id", "transaction_id", "event_date", "account_id", "merchant_id")
    statement = select(DECISIONS, *(ALERTS.c[name] for name in of_alert))
    return statement.join(ALERTS, DECISIONS.c.alert_id == ALERTS.c.id).order_by(DECISIONS.c.id)


def to_decisions(rows: Iterable[Row[Any]]) -> tuple[Decision, ...]:
    """Turn rows of ``select_decisions`` into records."""
    return tuple(Decision(**row._mapping) for row in rows)
