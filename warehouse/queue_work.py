"""What all work of analysts on the queue has in common: who acts, on what, and on what terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, and_, insert, select, update

from warehouse.errors import UserError
from warehouse.queue_audit import AuditEvent, append_events
from warehouse.queue_changes import Change, append_changes
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_statements import newest_standing
from warehouse.queue_tables import ALERTS, CASES, DECISIONS, PROPOSALS

LARGEST_NUMBER = 2**63 - 1
"""Databases number rows up to here, and refuse to look for more."""


@dataclass(frozen=True)
class Act:
    """What one analyst does at one moment, in one transaction that writes.

    Raises:
        ValueError: if the analyst is nobody.
    """

    connection: Connection
    moment: datetime
    analyst: str

    def __post_init__(self) -> None:
        """Refuse work that nobody does."""
        if not self.analyst.strip():
            raise ValueError("expected an analyst's name, got an empty one; say who decides")

    @property
    def today(self) -> date:
        """The day in UTC."""
        return self.moment.astimezone(UTC).date()

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> tuple[int, ...]:
        """Write one row for each of some alerts in one go; give their numbers in that order."""
        if not rows:
            return ()
        # Databases give the rows back in any order; sorting them costs a statement each on SQLite.
        statement = insert(table).returning(table.c.alert_id, table.c.id)
        numbers = {row.alert_id: row.id for row in self.connection.execute(statement, rows)}
        return tuple(numbers[row["alert_id"]] for row in rows)

    def log(self, events: Sequence[AuditEvent], changes: Sequence[Change]) -> None:
        """Write what was done to the audit trail and to the log of changes."""
        append_events(self.connection, self.moment, self.analyst, events)
        append_changes(self.connection, self.moment, self.analyst, changes)

    def log_case(self, action: str, kind: str, case_id: int, details: dict[str, Any]) -> None:
        """Write what was done to a case to the audit trail and to the log of changes."""
        self.log_cases(action, kind, {case_id: details})

    def log_cases(self, action: str, kind: str, details: Mapping[int, dict[str, Any]]) -> None:
        """Write what was done to cases, its details by case, as ``log_case`` does."""
        self.log(
            [AuditEvent(action, f"case {number}", said) for number, said in details.items()],
            [Change(kind, number, None, said) for number, said in details.items()],
        )


@dataclass(frozen=True)
class Subject:
    """An alert as an analyst finds it: its case, what stands on it, and what is proposed.

    ``decision_id`` and what follows are of the newest decision that stands, ``proposal_id`` and
    what follows of the proposal that waits for a second analyst; None where there is no such.
    """

    alert_id: int
    transaction_id: str
    event_date: date
    amount: float
    account_id: str
    lane: str
    case_id: int
    state: str
    claimed_by: str | None
    claimed_until: datetime | None
    decision_id: int | None
    decided_as: str | None
    decided_by: str | None
    decided_at: datetime | None
    proposal_id: int | None
    proposed_as: str | None
    proposed_by: str | None
    proposal_note: str | None

    def tell(self, **details: object) -> dict[str, Any]:
        """Give the details of a change on the alert."""
        day = self.event_date.isoformat()
        return {**details, "transaction_id": self.transaction_id, "event_date": day}


def read_subjects(connection: Connection, alert_ids: Sequence[int]) -> dict[int, Subject]:
    """Read alerts as they stand, by number.

    Raises:
        NotInQueueError: if there is no such alert.
    """
    numbers = [number for number in alert_ids if abs(number) <= LARGEST_NUMBER]
    rows = connection.execute(select_subjects().where(ALERTS.c.id.in_(numbers))).mappings()
    found = {row["alert_id"]: Subject(**row) for row in rows}
    missing = [number for number in alert_ids if number not in found]
    if missing:
        raise NotInQueueError(
            f"expected the number of an alert in the queue, got {missing[0]}; "
            "run: nightwarden queue show"
        )
    return found


def select_subjects() -> Select[Any]:
    """Select alerts with their cases, what stands on them, and what is proposed."""
    is_open = and_(PROPOSALS.c.alert_id == ALERTS.c.id, PROPOSALS.c.outcome.is_(None))
    stands = DECISIONS.alias("stands")
    return (
        select(
            ALERTS.c.id.label("alert_id"),
            *(ALERTS.c[name] for name in ("transaction_id", "event_date", "amount")),
            *(ALERTS.c[name] for name in ("account_id", "lane", "case_id")),
            *(CASES.c[name] for name in ("state", "claimed_by", "claimed_until")),
            stands.c.id.label("decision_id"),
            stands.c.verdict.label("decided_as"),
            stands.c.analyst.label("decided_by"),
            stands.c.decided_at,
            PROPOSALS.c.id.label("proposal_id"),
            PROPOSALS.c.verdict.label("proposed_as"),
            PROPOSALS.c.analyst.label("proposed_by"),
            PROPOSALS.c.note.label("proposal_note"),
        )
        .join(CASES, CASES.c.id == ALERTS.c.case_id)
        .outerjoin(stands, stands.c.id == newest_standing(DECISIONS.c.id))
        .outerjoin(PROPOSALS, is_open)
    )


def find_row(connection: Connection, table: Table, number: int) -> Row[Any] | None:
    """Give the row of a number, or None; none has a number that no database holds."""
    if abs(number) > LARGEST_NUMBER:
        return None
    return connection.execute(select(table).where(table.c.id == number)).one_or_none()


def read_case(connection: Connection, case_id: int) -> Row[Any]:
    """Read a case's row.

    Raises:
        NotInQueueError: if there is no such case.
    """
    row = find_row(connection, CASES, case_id)
    if row is None:
        raise NotInQueueError(
            f"expected the number of a case in the queue, got {case_id}; "
            "run: nightwarden queue list"
        )
    return row


def wake_cases(act: Act, case_ids: Sequence[int]) -> None:
    """Wake those of some cases that sleep, and say so of each."""
    sleeps = (CASES.c.id.in_(case_ids), CASES.c.snoozed_until > act.today)
    values = {"snoozed_until": None, "updated_at": act.moment}
    statement = update(CASES).where(*sleeps).values(values).returning(CASES.c.id)
    woken = sorted(act.connection.scalars(statement))
    said: dict[str, Any] = {"until": None, "note": ""}
    act.log_cases("snooze", "case_snoozed", dict.fromkeys(woken, said))


def check_claim(
    case_id: int,
    claimed_by: str | None,
    claimed_until: datetime | None,
    moment: datetime,
    *allowed: str | None,
) -> None:
    """Refuse work on a case that somebody else than those allowed has claimed.

    Raises:
        ConflictError: saying who works on it, and until when.
    """
    if claimed_by is None or claimed_until is None or claimed_until <= moment:
        return
    if not any(name is not None and is_same_person(claimed_by, name) for name in allowed):
        raise ConflictError(
            f"case {case_id} is claimed by {claimed_by} until {write_time(claimed_until)}; "
            "take another, or wait"
        )


def is_same_person(one: str, other: str) -> bool:
    """Tell whether two names are one analyst's; upper and lower case make no difference.

    Example:
        >>> is_same_person("Ana", "ana ")
        True
    """
    return one.strip().casefold() == other.strip().casefold()


def check_note(note: str) -> None:
    """Refuse a note that not every database can hold.

    Raises:
        UserError: if there are zero characters or halves of characters in it.
    """
    check_readable("a note", note)


def check_readable(what: str, text: str) -> None:
    """Refuse a text that not every database can hold, as ``check_note`` does."""
    if not is_readable(text):
        raise UserError(
            f"expected {what} of readable characters, got {text[:40]!a}; remove those that are "
            "written as codes here"
        )


def is_readable(text: str) -> bool:
    """Tell whether a text has no zero characters and no halves of characters in it."""
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)


def write_time(moment: datetime) -> str:
    """Write the time of day of a moment for people.

    Example:
        >>> write_time(datetime(2026, 3, 2, 14, 32, tzinfo=UTC))
        '14:32 UTC'
    """
    return f"{moment.astimezone(UTC):%H:%M} UTC"
