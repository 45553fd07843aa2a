"""The SELECTs behind the queue's lists, as SQLAlchemy Core, and how their rows become records."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    exists,
    func,
    select,
)

from warehouse.queue_records import Alert, CaseSummary, Decision, Reason
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, RETRACTIONS

UNDO_WINDOW = timedelta(minutes=5)
"""How long a decision may be taken back."""

SETTLED_AFTER = UNDO_WINDOW + timedelta(minutes=1)
"""When a decision becomes a label: a little later, as the clocks of several machines differ."""

# Databases limit the values of one statement: SQLite to 32,766, PostgreSQL to 65,535.
VALUES_PER_STATEMENT = 10_000

IS_RETRACTED = exists(
    select(RETRACTIONS.c.decision_id).where(RETRACTIONS.c.decision_id == DECISIONS.c.id)
)
"""Whether the decision was taken back."""

IS_WAITING = ~exists(
    select(DECISIONS.c.id).where(DECISIONS.c.alert_id == ALERTS.c.id, ~IS_RETRACTED)
)
"""Whether no decision on the alert stands."""

SUMMARY = tuple(CASES.c[name] for name in CaseSummary.__dataclass_fields__ if name != "reasons")


def in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut a list into parts that fit into one statement."""
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        yield values[start : start + VALUES_PER_STATEMENT]


def select_summaries() -> Select[Any]:
    """Select the cases, those with the highest score first, then those with more at risk."""
    return select(*SUMMARY).order_by(
        CASES.c.score.desc(), CASES.c.amount_at_risk.desc(), CASES.c.id
    )


def read_summaries(connection: Connection, statement: Select[Any]) -> list[CaseSummary]:
    """Read cases, each with the reasons of its foremost alert."""
    rows = connection.execute(statement).mappings().all()
    texts = foremost_reasons(connection, [row["id"] for row in rows])
    return [CaseSummary(**row, reasons=texts.get(row["id"], ())) for row in rows]


def foremost_reasons(
    connection: Connection, case_ids: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """Give, by case, the reasons of the highest-scored alert, those that wait first."""
    order = (IS_WAITING.desc(), ALERTS.c.score.desc(), ALERTS.c.amount.desc(), ALERTS.c.id)
    place = func.row_number().over(partition_by=ALERTS.c.case_id, order_by=order).label("place")
    ranked = select(ALERTS.c.case_id, ALERTS.c.reasons, place).where(
        ALERTS.c.case_id.in_(case_ids)
    )
    first = ranked.subquery()
    rows = connection.execute(select(first.c.case_id, first.c.reasons).where(first.c.place == 1))
    return {row.case_id: tuple(reason["text"] for reason in row.reasons) for row in rows}


def select_alerts(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Select alerts with their newest verdict that stands."""
    verdict = newest_standing(DECISIONS.c.verdict).label("verdict")
    return select(ALERTS, verdict).where(*conditions)


def newest_standing(column: Column[Any]) -> ScalarSelect[Any]:
    """Select a column of the newest decision on an alert that stands."""
    return (
        select(column)
        .where(DECISIONS.c.alert_id == ALERTS.c.id, ~IS_RETRACTED)
        .order_by(DECISIONS.c.id.desc())
        .limit(1)
        .correlate(ALERTS)
        .scalar_subquery()
    )


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
    statement = select(
        DECISIONS, *(ALERTS.c[name] for name in of_alert), IS_RETRACTED.label("is_retracted")
    )
    return statement.join(ALERTS, DECISIONS.c.alert_id == ALERTS.c.id).order_by(DECISIONS.c.id)


def to_decisions(rows: Iterable[Row[Any]]) -> tuple[Decision, ...]:
    """Turn rows of ``select_decisions`` into records."""
    return tuple(Decision(**row._mapping) for row in rows)
