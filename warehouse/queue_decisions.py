"""What analysts say about alerts: verdicts, and verdicts that a second analyst has to confirm.

No other module writes decisions and proposals. All of them go through ``record``, so that each has
its audit event and its change, and its case the figures that follow from it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, exists, select, update

from warehouse.errors import UserError
from warehouse.queue_audit import AuditEvent
from warehouse.queue_changes import Change
from warehouse.queue_figures import IS_PROPOSED, refresh_cases
from warehouse.queue_records import ConflictError
from warehouse.queue_retractions import retract_decision
from warehouse.queue_statements import IS_WAITING
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, PROPOSALS
from warehouse.queue_work import (
    Act,
    Subject,
    check_claim,
    check_note,
    is_same_person,
    read_subjects,
    write_time,
)

if TYPE_CHECKING:
    from warehouse.queue import Queue

__all__ = [
    "Outcome",
    "Proposal",
    "Verdict",
    "confirm_proposal",
    "decide_alerts",
    "open_proposals",
    "read_open_proposals",
    "record_verdicts",
    "refuse_proposal",
    "retract_decision",
]

VERDICTS = ("fraud", "genuine", "unsure")
MOST_VERDICTS = 500


@dataclass(frozen=True)
class Verdict:
    """What an analyst says about an alert.

    ``seen`` is the number of the decision that stood when the analyst looked, None: none did.
    """

    alert_id: int
    verdict: str
    note: str = ""
    seen: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a call recorded: numbers of decisions, of proposals, and of the cases it closed."""

    decided: tuple[int, ...]
    proposed: tuple[int, ...]
    closed_cases: tuple[int, ...]


@dataclass(frozen=True)
class Proposal:
    """A verdict that waits for a second analyst to confirm it."""

    id: int
    alert_id: int
    verdict: str
    analyst: str
    note: str
    proposed_at: datetime


def decide_alerts(
    queue: "Queue",
    verdicts: Sequence[Verdict],
    analyst: str,
    *,
    second_above: float | None = None,
) -> Outcome:
    """Record verdicts on alerts, all of them or none; cases that sleep wake up.

    A case closes once each of its alerts has a verdict. Where all that still waits in a case waits
    for a second analyst, the first one's claim is given back.

    Args:
        queue: The review queue.
        verdicts: At most one for each alert, and at most 500.
        analyst: Who decides.
        second_above: The amount above which ``fraud`` and ``genuine`` are only proposed, until
            another analyst confirms; None: never.

    Raises:
        NotInQueueError: if there is no such alert.
        ConflictError: if what an analyst saw is not what stands, the case is claimed by another,
            or a verdict waits for a second analyst already.
        UserError: if there are too many verdicts or none, or two on one alert.
        ValueError: if a verdict is unknown or the analyst is nobody.
    """
    check_verdicts(verdicts)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        subjects = read_subjects(connection, [verdict.alert_id for verdict in verdicts])
        own: list[Verdict] = []
        second: list[Verdict] = []
        for verdict in verdicts:
            subject = subjects[verdict.alert_id]
            check_undisturbed(act, verdict, subject)
            (second if needs_second(verdict, subject, second_above) else own).append(verdict)
        return record(act, subjects, own, second)


def record_verdicts(
    connection: Connection, moment: datetime, verdicts: Sequence[Verdict], analyst: str
) -> Outcome:
    """Record verdicts in the caller's transaction, whatever was there before and who claimed it.

    A later decision counts instead of an earlier one; both stay. What was proposed is withdrawn.

    Raises:
        NotInQueueError: if there is no such alert.
        UserError: if there are too many verdicts or none, or two on one alert.
        ValueError: if a verdict is unknown or the analyst is nobody.
    """
    check_verdicts(verdicts)
    act = Act(connection, moment, analyst)
    subjects = read_subjects(connection, [verdict.alert_id for verdict in verdicts])
    proposed = [subject for subject in subjects.values() if subject.proposal_id is not None]
    if proposed:
        resolve_proposals(act, proposed, "withdrawn")
        act.log([], [tell_refused(subject, "withdrawn", "") for subject in proposed])
    return record(act, subjects, verdicts)


def confirm_proposal(queue: "Queue", alert_id: int, analyst: str, note: str = "") -> int:
    """Make a decision of what another analyst proposed, and give its number.

    The decision is the second analyst's; its note is the second's too, or else the first's.

    Raises:
        NotInQueueError: if there is no such alert.
        ConflictError: if nothing waits for a second analyst, the analyst proposed it, or a third
            one has claimed the case.
    """
    check_note(note)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        subject = read_proposed(act, alert_id)
        if is_same_person(subject.proposed_by or "", analyst):
            raise ConflictError(
                f"alert {alert_id} was called {subject.proposed_as} by you, and needs a second "
                "pair of eyes; ask another analyst"
            )
        resolve_proposals(act, [subject], "confirmed")
        said = Verdict(alert_id, subject.proposed_as or "", note or subject.proposal_note or "")
        outcome = record(act, {alert_id: subject}, [said], proposed_by=subject.proposed_by)
        return outcome.decided[0]


def refuse_proposal(queue: "Queue", alert_id: int, analyst: str, note: str) -> None:
    """Turn down what was proposed, or withdraw one's own proposal; the alert goes on waiting.

    Raises:
        NotInQueueError: if there is no such alert.
        ConflictError: if nothing waits for a second analyst, or a third one has claimed the case.
    """
    check_note(note)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        subject = read_proposed(act, alert_id)
        is_own = is_same_person(subject.proposed_by or "", analyst)
        outcome = "withdrawn" if is_own else "refused"
        resolve_proposals(act, [subject], outcome)
        refresh_cases(connection, [subject.case_id], act.moment)
        change = tell_refused(subject, outcome, note)
        action = "withdraw" if is_own else "refuse"
        act.log([AuditEvent(action, f"alert {alert_id}", change.details)], [change])


def open_proposals(queue: "Queue", case_id: int) -> dict[int, Proposal]:
    """Give the proposals of a case that wait for a second analyst, by alert."""
    with queue.database.read() as connection:
        return read_open_proposals(connection, case_id)


def read_open_proposals(connection: Connection, case_id: int) -> dict[int, Proposal]:
    """Read the proposals of a case that wait for a second analyst, by alert."""
    names = (field.name for field in fields(Proposal))
    statement = (
        select(*(PROPOSALS.c[name] for name in names))
        .join(ALERTS, ALERTS.c.id == PROPOSALS.c.alert_id)
        .where(ALERTS.c.case_id == case_id, PROPOSALS.c.outcome.is_(None))
        .order_by(PROPOSALS.c.id)
    )
    rows = connection.execute(statement).mappings()
    return {row["alert_id"]: Proposal(**row) for row in rows}


def check_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Refuse what cannot be recorded as it is."""
    if not 1 <= len(verdicts) <= MOST_VERDICTS:
        raise UserError(
            f"expected from 1 to {MOST_VERDICTS} verdicts at once, got {len(verdicts)}; "
            "choose fewer alerts, or any"
        )
    if len({verdict.alert_id for verdict in verdicts}) < len(verdicts):
        raise UserError("expected one verdict on each alert, got two on one; leave one out")
    for verdict in verdicts:
        check_note(verdict.note)
        if verdict.verdict not in VERDICTS:
            raise ValueError(
                f"expected verdict to be one of {', '.join(VERDICTS)}, got "
                f"{verdict.verdict!r}; choose one"
            )


def check_undisturbed(act: Act, verdict: Verdict, subject: Subject) -> None:
    """Refuse a verdict on what looks different by now, or is being worked on by another."""
    number = verdict.alert_id
    claim = (subject.case_id, subject.claimed_by, subject.claimed_until)
    check_claim(*claim, act.moment, act.analyst)
    if subject.proposal_id is not None:
        raise ConflictError(
            f"alert {number} was called {subject.proposed_as} by {subject.proposed_by} and waits "
            "for a second analyst; that must be confirmed or refused first"
        )
    if subject.decision_id == verdict.seen:
        return
    if subject.decision_id is None or subject.decided_at is None:
        raise ConflictError(
            f"the decision that stood on alert {number} was taken back meanwhile; look at the "
            "case again, then decide"
        )
    raise ConflictError(
        f"alert {number} was decided by {subject.decided_by} as {subject.decided_as} at "
        f"{write_time(subject.decided_at)}; look at the case again, then decide"
    )


def needs_second(verdict: Verdict, subject: Subject, second_above: float | None) -> bool:
    """Tell whether another analyst must confirm a verdict; ``unsure`` is none to act upon."""
    is_firm = verdict.verdict != "unsure"
    return is_firm and second_above is not None and subject.amount > second_above


def read_proposed(act: Act, alert_id: int) -> Subject:
    """Read an alert on which a verdict waits for a second analyst.

    The claim of who proposed it is no obstacle: whoever confirms it helps.
    """
    subject = read_subjects(act.connection, [alert_id])[alert_id]
    if subject.proposal_id is None:
        raise ConflictError(
            f"alert {alert_id} waits for no second analyst any more; look at the case again"
        )
    claim = (subject.case_id, subject.claimed_by, subject.claimed_until)
    check_claim(*claim, act.moment, act.analyst, subject.proposed_by)
    return subject


def record(
    act: Act,
    subjects: Mapping[int, Subject],
    own: Sequence[Verdict],
    second: Sequence[Verdict] = (),
    *,
    proposed_by: str | None = None,
) -> Outcome:
    """Write decisions and proposals, and all that follows from them."""
    decided = insert_decisions(act, own, proposed_by)
    proposed = insert_proposals(act, second)
    changes = []
    for verdict, number in zip(second, proposed, strict=True):
        details = {"proposal_id": number, "verdict": verdict.verdict, "note": verdict.note}
        changes.append(tell("decision_proposed", subjects[verdict.alert_id], details))
    for verdict, number in zip(own, decided, strict=True):
        details = {"decision_id": number, "verdict": verdict.verdict, "note": verdict.note}
        details["proposed_by"] = proposed_by
        changes.append(tell("decision_made", subjects[verdict.alert_id], details))
    closed, followed = settle_cases(act, subjects.values())
    act.log(audit(subjects, own, second, closed, proposed_by), [*changes, *followed])
    return Outcome(decided, proposed, closed)


def insert_decisions(
    act: Act, verdicts: Sequence[Verdict], proposed_by: str | None
) -> tuple[int, ...]:
    """Write decisions and give their numbers, in the verdicts' order."""
    common = {"analyst": act.analyst, "decided_at": act.moment, "proposed_by": proposed_by}
    rows = [{"alert_id": v.alert_id, "verdict": v.verdict, "note": v.note} for v in verdicts]
    return act.insert(DECISIONS, [row | common for row in rows])


def insert_proposals(act: Act, verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """Write proposals and give their numbers, in the verdicts' order."""
    common = {"analyst": act.analyst, "proposed_at": act.moment}
    rows = [{"alert_id": v.alert_id, "verdict": v.verdict, "note": v.note} for v in verdicts]
    return act.insert(PROPOSALS, [row | common for row in rows])


def resolve_proposals(act: Act, subjects: Sequence[Subject], outcome: str) -> None:
    """Note what became of the proposals on alerts."""
    numbers = [subject.proposal_id for subject in subjects]
    values = {"outcome": outcome, "resolved_by": act.analyst, "resolved_at": act.moment}
    act.connection.execute(update(PROPOSALS).where(PROPOSALS.c.id.in_(numbers)).values(values))


def settle_cases(act: Act, subjects: Collection[Subject]) -> tuple[tuple[int, ...], list[Change]]:
    """Count cases anew, wake those that sleep, give back claims that are of no more use.

    Returns:
        The cases that closed, and the changes of all that was done.
    """
    case_ids = sorted({subject.case_id for subject in subjects})
    sleeping = {s.case_id for s in subjects if s.snoozed_until and s.snoozed_until > act.today}
    if sleeping:
        statement = update(CASES).where(CASES.c.id.in_(sleeping))
        act.connection.execute(statement.values(snoozed_until=None, updated_at=act.moment))
    closed = refresh_cases(act.connection, case_ids, act.moment)
    owners = {s.case_id: {"account_id": s.account_id, "lane": s.lane} for s in subjects}
    woken = {"until": None, "note": ""}
    return closed, [
        *(Change("case_snoozed", n, None, woken) for n in sorted(sleeping.difference(closed))),
        *(Change("case_closed", number, None, owners[number]) for number in closed),
        *release_proposed(act, case_ids),
    ]


def release_proposed(act: Act, case_ids: Sequence[int]) -> list[Change]:
    """Give back the claims on cases in which all that waits, waits for a second analyst."""
    is_ready = exists(
        select(ALERTS.c.id).where(ALERTS.c.case_id == CASES.c.id, IS_WAITING, ~IS_PROPOSED)
    )
    finished = [CASES.c.awaits_second, CASES.c.claimed_until > act.moment, ~is_ready]
    claims = select(CASES.c.id, CASES.c.claimed_by).where(CASES.c.id.in_(case_ids), *finished)
    released = {row.id: row.claimed_by for row in act.connection.execute(claims)}
    if not released:
        return []
    act.connection.execute(
        update(CASES)
        .where(CASES.c.id.in_(released))
        .values(claimed_by=None, claimed_until=None, updated_at=act.moment)
    )
    return [
        Change("case_released", number, None, {"claimed_by": name})
        for number, name in sorted(released.items())
    ]


def audit(
    subjects: Mapping[int, Subject],
    own: Sequence[Verdict],
    second: Sequence[Verdict],
    closed: Sequence[int],
    proposed_by: str | None,
) -> list[AuditEvent]:
    """Give the events of the audit trail, one for each verdict."""
    events = []
    for action, verdicts in (("propose", second), ("decide", own)):
        for verdict in verdicts:
            case_id = subjects[verdict.alert_id].case_id
            details = {"case_id": case_id, "verdict": verdict.verdict, "note": verdict.note}
            if action == "decide":
                details["closes_case"] = case_id in closed
            if proposed_by is not None:
                details["proposed_by"] = proposed_by
            events.append(AuditEvent(action, f"alert {verdict.alert_id}", details))
    return events


def tell_refused(subject: Subject, outcome: str, note: str) -> Change:
    """Give the change that a proposal came to nothing."""
    details = {
        "proposal_id": subject.proposal_id,
        "verdict": subject.proposed_as,
        "proposed_by": subject.proposed_by,
        "outcome": outcome,
        "note": note,
    }
    return tell("decision_refused", subject, details)


def tell(kind: str, subject: Subject, details: Mapping[str, object]) -> Change:
    """Give a change on an alert."""
    return Change(kind, subject.case_id, subject.alert_id, subject.tell(**details))
