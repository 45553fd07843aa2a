"""The queue's audit trail: each event carries the hash of the one before, so a changed row shows.

What it cannot show: that the newest events were cut off. Keep the last hash elsewhere for that.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from warehouse.queue_tables import AUDIT_EVENTS

FIRST_HASH = "0" * 64

_TOKEN: ContextVar[str | None] = ContextVar("token", default=None)
"""The name of the token by which somebody acts in this context, and in its threads."""


@dataclass(frozen=True)
class AuditEvent:
    """What somebody did to something; ``details`` are JSON values."""

    action: str
    subject: str
    details: Mapping[str, object]


def name_token(name: str | None) -> None:
    """Name the token by which a program acts in all events that it appends; None: it has none.

    It holds in the context of the caller alone, such as a web server gives each request.
    """
    _TOKEN.set(name)


def append_event(
    connection: Connection,
    happened_at: datetime,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, object],
) -> None:
    """Add an event to the end of the chain; the connection must be the only writer."""
    append_events(connection, happened_at, actor, [AuditEvent(action, subject, details)])


def append_events(
    connection: Connection, happened_at: datetime, actor: str, events: Sequence[AuditEvent]
) -> None:
    """Add events to the end of the chain in one go; the connection must be the only writer."""
    if not events:
        return
    newest = connection.execute(
        select(AUDIT_EVENTS.c.sequence, AUDIT_EVENTS.c.hash)
        .order_by(AUDIT_EVENTS.c.sequence.desc())
        .limit(1)
    ).one_or_none()
    sequence, previous_hash = (newest.sequence, newest.hash) if newest else (0, FIRST_HASH)
    token = _TOKEN.get()
    means = {} if token is None else {"token": token}
    rows: list[dict[str, object]] = []
    for number, event in enumerate(events, start=sequence + 1):
        row: dict[str, object] = {
            "sequence": number,
            "happened_at": happened_at,
            "actor": actor,
            "action": event.action,
            "subject": event.subject,
            "details": {**event.details, **means},
            "previous_hash": previous_hash,
        }
        previous_hash = seal(row)
        rows.append({**row, "hash": previous_hash})
    connection.execute(insert(AUDIT_EVENTS), rows)


def seal(event: Mapping[str, object]) -> str:
    """Give the SHA-256 of an event's canonical JSON: sorted keys, no spaces, moments in UTC.

    Example:
        >>> seal({"b": 1, "a": 2}) == seal({"a": 2, "b": 1})
        True
    """
    text = json.dumps(
        dict(event), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=written
    )
    return hashlib.sha256(text.encode()).hexdigest()


def written(value: object) -> str:
    """Write a moment the same way whichever database gave it."""
    if not isinstance(value, datetime):
        raise TypeError(
            f"expected JSON values and moments, got {type(value).__name__}; convert it"
        )
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def first_broken(connection: Connection) -> int | None:
    """Give the sequence number of the first event that does not fit the chain, or None."""
    previous_hash = FIRST_HASH
    rows = connection.execute(select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.sequence)).mappings()
    for expected, row in enumerate(rows, start=1):
        event = {name: value for name, value in row.items() if name != "hash"}
        fits = row["sequence"] == expected and row["previous_hash"] == previous_hash
        if not fits or row["hash"] != seal(event):
            return expected
        previous_hash = row["hash"]
    return None
