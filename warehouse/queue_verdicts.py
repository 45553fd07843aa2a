"""How verdicts and proposals are written, with all that follows from them.

No other module writes decisions and proposals. All of them go through ``record``, so that each has
its audit event and its change, and its case the figures that follow from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, select, update

from warehouse.queue_audit import AuditEvent
from warehouse.queue_changes import Change
from warehouse.queue_figures import IS_PROPOSED, refresh_cases
from warehouse.queue_statements import IS_WAITING
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, PROPOSALS
from warehouse.queue_work import Act, Subject, wake_cases

FIRM = ("fraud", "genuine")
"""The verdicts to act upon; on a large amount they need a second analyst."""


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
    case_ids = sorted({subject.case_id for subject in subjects.values()})
    closed = refresh_cases(act.connection, case_ids, act.moment)
    owners = {s.case_id: {"account_id": s.account_id, "lane": s.lane} for s in subjects.values()}
    changes += [Change("case_closed", number, None, owners[number]) for number in closed]
    act.log(audit(subjects, own, second, closed, proposed_by), changes)
    wake_cases(act, case_ids)
    if proposed_by is None:  # who confirms goes on working
        release_proposed(act, case_ids)
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


def release_proposed(act: Act, case_ids: Sequence[int]) -> None:
    """Give back the claims on cases in which all that waits, waits for a second analyst."""
    is_ready = exists(
        select(ALERTS.c.id).where(ALERTS.c.case_id == CASES.c.id, IS_WAITING, ~IS_PROPOSED)
    )
    finished = [CASES.c.awaits_second, CASES.c.claimed_until > act.moment, ~is_ready]
    claims = select(CASES.c.id, CASES.c.claimed_by).where(CASES.c.id.in_(case_ids), *finished)
    rows = act.connection.execute(claims.order_by(CASES.c.id))
    released = {row.id: {"claimed_by": row.claimed_by} for row in rows}
    if not released:
        return
    act.connection.execute(
        update(CASES)
        .where(CASES.c.id.in_(released))
        .values(claimed_by=None, claimed_until=None, updated_at=act.moment)
    )
    act.log_cases("release", "case_released", released)


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
            subject = subjects[verdict.alert_id]
            case_id = subject.case_id
            details = {"case_id": case_id, "verdict": verdict.verdict, "note": verdict.note}
            if action == "decide":
                details["closes_case"] = case_id in closed
            if proposed_by is not None:
                details |= {"proposed_by": proposed_by, "proposal_id": subject.proposal_id}
            events.append(AuditEvent(action, f"alert {verdict.alert_id}", details))
    return events


def drop_proposals(act: Act, subjects: Sequence[Subject], outcome: str, note: str = "") -> None:
    """End the proposals on alerts, ``refused`` or ``withdrawn``; the alerts go on waiting."""
    resolve_proposals(act, subjects, outcome)
    changes = [tell_refused(subject, outcome, note) for subject in subjects]
    action = "withdraw" if outcome == "withdrawn" else "refuse"
    events = [AuditEvent(action, f"alert {c.alert_id}", c.details) for c in changes]
    act.log(events, changes)


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
