"""What analysts say about alerts: verdicts, and verdicts that a second analyst has to confirm.

Belongs here: who may say what, and when. Does not: how it is written (``queue_verdicts``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from warehouse.errors import UserError
from warehouse.queue_figures import refresh_cases
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_retractions import retract_decision
from warehouse.queue_tables import ALERTS, PROPOSALS
from warehouse.queue_verdicts import (
    FIRM,
    Outcome,
    Verdict,
    drop_proposals,
    record,
    resolve_proposals,
)
from warehouse.queue_work import (
    Act,
    Subject,
    check_claim,
    check_note,
    find_row,
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

VERDICTS = (*FIRM, "unsure")
MOST_VERDICTS = 500


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
        UserError: if there are too many verdicts or none, or two on one alert, or if ``unsure``
            would alone end what two analysts agreed on.
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
            is_large = second_above is not None and subject.amount > second_above
            if is_large and verdict.verdict not in FIRM:
                check_not_firm(subject)
            (second if is_large and verdict.verdict in FIRM else own).append(verdict)
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
        drop_proposals(act, proposed, "withdrawn")
    return record(act, subjects, verdicts)


def confirm_proposal(queue: "Queue", proposal_id: int, analyst: str, note: str = "") -> int:
    """Make a decision of what another analyst proposed, and give its number.

    The decision is the second analyst's; its note is the second's too, or else the first's.

    Args:
        queue: The review queue.
        proposal_id: The proposal as the analyst saw it; another one on the same alert is not meant.
        analyst: Who confirms it.
        note: What the second analyst adds.

    Raises:
        NotInQueueError: if there is no such proposal.
        ConflictError: if it was answered or withdrawn, the analyst made it, or a third one has
            claimed the case.
    """
    check_note(note)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        subject = read_proposed(act, proposal_id)
        number = subject.alert_id
        if is_same_person(subject.proposed_by or "", analyst):
            raise ConflictError(
                f"alert {number} was called {subject.proposed_as} by you, and needs a second "
                "pair of eyes; ask another analyst"
            )
        resolve_proposals(act, [subject], "confirmed")
        said = Verdict(number, subject.proposed_as or "", note or subject.proposal_note or "")
        outcome = record(act, {number: subject}, [said], proposed_by=subject.proposed_by)
        return outcome.decided[0]


def refuse_proposal(queue: "Queue", proposal_id: int, analyst: str, note: str) -> None:
    """Turn down what was proposed, or withdraw one's own proposal; the alert goes on waiting.

    Raises:
        NotInQueueError: if there is no such proposal.
        ConflictError: if it was answered or withdrawn, or a third one has claimed the case.
    """
    check_note(note)
    with queue.database.write() as connection:
        act = Act(connection, queue.clock(), analyst)
        subject = read_proposed(act, proposal_id)
        is_own = is_same_person(subject.proposed_by or "", analyst)
        drop_proposals(act, [subject], "withdrawn" if is_own else "refused", note)
        refresh_cases(connection, [subject.case_id], act.moment)


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


def check_not_firm(subject: Subject) -> None:
    """Refuse ``unsure`` on a large amount where a firm verdict stands: one would undo two."""
    if subject.decided_as in FIRM:
        raise UserError(
            f"expected fraud or genuine on alert {subject.alert_id}, which {subject.decided_by} "
            f"called {subject.decided_as} and which needs two analysts, got unsure; say fraud or "
            "genuine, and a second analyst must confirm it"
        )


def read_proposed(act: Act, proposal_id: int) -> Subject:
    """Read the alert of a proposal that waits for a second analyst.

    The claim of who proposed it is no obstacle: whoever confirms it helps.
    """
    row = find_row(act.connection, PROPOSALS, proposal_id)
    if row is None:
        raise NotInQueueError(
            f"expected the number of a proposal in the queue, got {proposal_id}; look at its case"
        )
    if row.outcome is not None:
        raise ConflictError(
            f"that {row.analyst} called alert {row.alert_id} {row.verdict} was taken back or "
            "answered meanwhile; look at the case again"
        )
    subject = read_subjects(act.connection, [row.alert_id])[row.alert_id]
    claim = (subject.case_id, subject.claimed_by, subject.claimed_until)
    check_claim(*claim, act.moment, act.analyst, subject.proposed_by)
    return subject
