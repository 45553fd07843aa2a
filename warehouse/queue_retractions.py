"""Taking decisions back within minutes, before they have become labels."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, insert, select, update

from warehouse.errors import UserError
from warehouse.queue_audit import AuditEvent
from warehouse.queue_changes import Change
from warehouse.queue_figures import refresh_cases
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_statements import IS_RETRACTED, IS_WAITING, UNDO_WINDOW
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, RETRACTIONS
from warehouse.queue_work import (
    LARGEST_NUMBER,
    Act,
    Subject,
    is_same_person,
    read_subjects,
    wake_cases,
)

if TYPE_CHECKING:
    from warehouse.queue import Queue


def retract_decision(
    queue: "Queue", decision_id: int, analyst: str, *, is_lead: bool = False
) -> int:
    """Take a decision back and give the number of the case that its alert is in now.

    As ``retract_decisions`` does.
    """
    return retract_decisions(queue, [decision_id], analyst, is_lead=is_lead)[0]


def retract_decisions(
    queue: "Queue", decision_ids: Sequence[int], analyst: str, *, is_lead: bool = False
) -> tuple[int, ...]:
    """Take decisions back, all or none, and give the cases that their alerts are in now.

    The decision before one, where one stands, counts again. Where none does, the alert waits again
    and its closed case opens. An account has one open case in a lane: where there is another by
    now, the alert moves into it and wakes it, and the closed case stays closed, without alerts if
    need be.

    Args:
        queue: The review queue.
        decision_ids: The decisions: each the newest that stands on its alert.
        analyst: Who takes them back: who said it, or a lead.
        is_lead: Whether the analyst may take back what others said.

    Raises:
        NotInQueueError: if there is no such decision.
        ConflictError: if one was taken back already, is too old, or a later one stands.
        UserError: if another analyst said it, or there are none or one twice.
    """
    if not decision_ids or len(set(decision_ids)) < len(decision_ids):
        raise UserError(
            f"expected decisions, each once, got {list(decision_ids)[:5]}; name each once"
        )
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        decisions = read_decisions(act, decision_ids)
        subjects = read_subjects(connection, [decision.alert_id for decision in decisions])
        rows, events, changes = [], [], []
        for decision in decisions:
            subject = subjects[decision.alert_id]
            check_retractable(act, decision, subject, is_lead=is_lead)
            rows.append(
                {"decision_id": decision.id, "analyst": analyst, "retracted_at": act.moment}
            )
            said = {"decision_id": decision.id, "verdict": decision.verdict}
            details = subject.tell(**said, decided_by=decision.analyst)
            events.append(AuditEvent("retract", f"alert {subject.alert_id}", details))
            changes.append(
                Change("decision_retracted", subject.case_id, subject.alert_id, details)
            )
        connection.execute(insert(RETRACTIONS), rows)
        act.log(events, changes)
        places = bring_back(act, subjects)
        return tuple(places[decision.alert_id] for decision in decisions)


def read_decisions(act: Act, decision_ids: Sequence[int]) -> list[Row[Any]]:
    """Read decisions in the order given, and whether they were taken back."""
    numbers = [number for number in decision_ids if abs(number) <= LARGEST_NUMBER]
    statement = select(DECISIONS, IS_RETRACTED.label("is_retracted"))
    rows = act.connection.execute(statement.where(DECISIONS.c.id.in_(numbers)))
    found = {row.id: row for row in rows}
    missing = [number for number in decision_ids if number not in found]
    if missing:
        raise NotInQueueError(
            f"expected the number of a decision in the queue, got {missing[0]}; look at its case"
        )
    return [found[number] for number in decision_ids]


def check_retractable(act: Act, decision: Row[Any], subject: Subject, *, is_lead: bool) -> None:
    """Refuse to take back what is gone, another's, superseded, or a label by now."""
    if decision.is_retracted:
        raise ConflictError(f"decision {decision.id} was taken back already; look at its case")
    if not (is_lead or is_same_person(decision.analyst, act.analyst)):
        raise UserError(
            f"expected {decision.analyst}, who made decision {decision.id}, or a lead to take it "
            f"back, got {act.analyst}; ask one of them"
        )
    if subject.decision_id != decision.id:
        raise ConflictError(
            f"decision {decision.id} on alert {decision.alert_id} was followed by decision "
            f"{subject.decision_id} of {subject.decided_by}, and only the newest can be taken "
            "back; take that back first, or decide anew"
        )
    if act.moment - decision.decided_at >= UNDO_WINDOW:
        raise ConflictError(
            f"decision {decision.id} is older than {UNDO_WINDOW // timedelta(minutes=1)} minutes "
            "and counts as a label; decide anew instead"
        )


def bring_back(act: Act, subjects: Mapping[int, Subject]) -> dict[int, int]:
    """See to it that alerts that wait again are in open cases; give each alert's case."""
    closed = [subject for subject in subjects.values() if subject.state == "closed"]
    numbers = [subject.alert_id for subject in closed]
    waits = select(ALERTS.c.id).where(ALERTS.c.id.in_(numbers), IS_WAITING)
    waiting = set(act.connection.scalars(waits))
    places = {subject.alert_id: subject.case_id for subject in subjects.values()}
    open_cases = find_open_cases(act, closed)
    for subject in closed:
        if subject.alert_id not in waiting:
            continue
        there = open_cases.setdefault((subject.account_id, subject.lane), subject.case_id)
        if there == subject.case_id:
            reopen_case(act, subject)
        else:
            move_alert(act, subject, there)
            places[subject.alert_id] = there
    touched = {*places.values(), *(subject.case_id for subject in closed)}
    refresh_cases(act.connection, sorted(touched), act.moment)
    wake_cases(act, sorted({places[alert] for alert in waiting}))
    return places


def find_open_cases(act: Act, subjects: Sequence[Subject]) -> dict[tuple[str, str], int]:
    """Give the numbers of the open cases of alerts' accounts, by account and lane."""
    accounts = {subject.account_id for subject in subjects}
    statement = select(CASES.c.account_id, CASES.c.lane, CASES.c.id).where(
        CASES.c.state == "open", CASES.c.account_id.in_(accounts)
    )
    return {(row.account_id, row.lane): row.id for row in act.connection.execute(statement)}


def reopen_case(act: Act, subject: Subject) -> None:
    """Open an alert's case again, unless an alert before it has done so."""
    is_closed = (CASES.c.id == subject.case_id, CASES.c.state == "closed")
    statement = update(CASES).where(*is_closed)
    done = act.connection.execute(statement.values(state="open", updated_at=act.moment))
    if done.rowcount:
        details = {"account_id": subject.account_id, "lane": subject.lane}
        act.log_case("reopen", "case_reopened", subject.case_id, details)


def move_alert(act: Act, subject: Subject, target: int) -> None:
    """Move an alert into another case of its account."""
    of_alert = update(ALERTS).where(ALERTS.c.id == subject.alert_id)
    act.connection.execute(of_alert.values(case_id=target))
    details = subject.tell(from_case=subject.case_id, to_case=target)
    event = AuditEvent("move", f"alert {subject.alert_id}", details)
    act.log([event], [Change("alert_moved", target, subject.alert_id, details)])
