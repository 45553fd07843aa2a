"""Reads the audit trail: whether it is whole, and what it tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from warehouse.queue import Queue
from warehouse.queue_audit import FIRST_HASH, first_broken
from warehouse.queue_tables import AUDIT_EVENTS


@dataclass(frozen=True)
class AuditCheck:
    """Whether the trail is whole.

    Attributes:
        events: How many there are.
        last_hash: The newest event's; keep it elsewhere to see whether later the end is cut off.
        first_broken: Number of the first event that was changed or is missing, or None.
        has_noted: Whether a hash that was noted earlier is still there; None if none was given.
    """

    events: int
    last_hash: str
    first_broken: int | None
    has_noted: bool | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing was changed, and nothing cut off that was noted."""
        return self.first_broken is None and self.has_noted is not False


@dataclass(frozen=True)
class LoggedEvent:
    """An event of the trail, as it was written."""

    sequence: int
    happened_at: datetime
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]


def check_trail(queue: Queue, noted: str | None = None) -> AuditCheck:
    """Check every event's hash, at one moment of the queue.

    Args:
        queue: The review queue.
        noted: A last hash that was noted earlier.
    """
    newest = AUDIT_EVENTS.c.sequence.desc()
    with queue.database.read() as connection:
        events = connection.scalar(select(func.count()).select_from(AUDIT_EVENTS)) or 0
        last = connection.scalar(select(AUDIT_EVENTS.c.hash).order_by(newest).limit(1))
        has_noted = None
        if noted is not None:
            same = select(AUDIT_EVENTS.c.sequence).where(AUDIT_EVENTS.c.hash == noted)
            has_noted = connection.scalar(same) is not None
        return AuditCheck(events, last or FIRST_HASH, first_broken(connection), has_noted)


def list_events(queue: Queue, *, limit: int, actor: str | None = None) -> list[LoggedEvent]:
    """List events, the newest first."""
    columns = (AUDIT_EVENTS.c[name] for name in LoggedEvent.__dataclass_fields__)
    statement = select(*columns).order_by(AUDIT_EVENTS.c.sequence.desc()).limit(limit)
    if actor is not None:
        statement = statement.where(AUDIT_EVENTS.c.actor == actor)
    with queue.database.read() as connection:
        return [LoggedEvent(**row) for row in connection.execute(statement).mappings()]
