"""The log of changes: what happened to alerts and cases, each change once, in order.

Every change is written in the transaction that makes it, and writers go one after another, so the
numbers rise in the order of the commits: a reader who has seen number n has missed none before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from warehouse.queue_tables import CHANGES

KINDS = (
    "alert_queued",
    "alert_suppressed",
    "alert_moved",
    "case_opened",
    "case_closed",
    "case_reopened",
    "case_claimed",
    "case_released",
    "case_snoozed",
    "decision_proposed",
    "decision_refused",
    "decision_made",
    "decision_retracted",
    "suppression_made",
    "suppression_lifted",
)


@dataclass(frozen=True)
class Change:
    """One change; ``details`` are JSON values that its kind needs."""

    kind: str
    case_id: int | None
    alert_id: int | None
    details: Mapping[str, Any]


@dataclass(frozen=True)
class LoggedChange(Change):
    """A change with its number, its moment, and who made it."""

    id: int
    happened_at: datetime
    actor: str


def append_changes(
    connection: Connection, moment: datetime, actor: str, changes: Sequence[Change]
) -> None:
    """Write changes in their order; the connection must be the only writer."""
    if changes:
        rows = [{"happened_at": moment, "actor": actor, **vars(change)} for change in changes]
        connection.execute(insert(CHANGES), rows)


def read_changes(connection: Connection, *, after: int, limit: int) -> list[LoggedChange]:
    """Read the changes beyond the number ``after``, oldest first, at most ``limit``."""
    statement = select(CHANGES).where(CHANGES.c.id > after).order_by(CHANGES.c.id).limit(limit)
    return [LoggedChange(**row) for row in connection.execute(statement).mappings()]
