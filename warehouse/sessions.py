"""Who is signed in to the desk: sessions of browsers, kept as hashes of their tokens."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, or_, select, update

from warehouse.analysts import Analyst
from warehouse.queue import Queue
from warehouse.queue_audit import append_event
from warehouse.queue_tables import ANALYSTS, SECRETS, SESSIONS

NOTED_EVERY = timedelta(minutes=1)
LONGEST_NAME = 64  # as long as an analyst's may be


@dataclass(frozen=True)
class SessionLimits:
    """When a session ends: so long after its last use, and so long after it began."""

    idle: timedelta
    absolute: timedelta


@dataclass(frozen=True)
class NewSession:
    """A session just begun; ``token`` is what the browser keeps, and nobody else."""

    token: str
    csrf_token: str
    expires_at: datetime


@dataclass(frozen=True)
class Session:
    """A session that holds, and whose it is, with the role that the analyst has now."""

    analyst_id: int
    name: str
    role: str
    csrf_token: str
    seen_at: datetime


def hash_token(token: str) -> str:
    """Give what is stored of a token: its SHA-256. It is random, so it needs no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def start_session(
    queue: Queue,
    analyst: Analyst,
    limits: SessionLimits,
    *,
    instead_of: str | None = None,
    address: str = "unknown",
) -> NewSession | None:
    """Begin a session with a token of its own, and delete those that have ended.

    Whoever was disabled since the password was checked gets none: it would hold again as soon as
    they are enabled.

    Args:
        queue: The review queue.
        analyst: Who signed in.
        limits: When sessions end.
        instead_of: Token of the session that the browser had so far; it ends.
        address: Whence; for the audit trail.
    """
    token, csrf_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    with queue.database.write() as connection:
        moment = queue.clock()
        delete_ended(connection, moment, limits)
        if not connection.scalar(select(ANALYSTS.c.is_active).where(ANALYSTS.c.id == analyst.id)):
            return None
        if instead_of is not None:
            of_token = SESSIONS.c.token_hash == hash_token(instead_of)
            connection.execute(delete(SESSIONS).where(of_token))
        row = {
            "token_hash": hash_token(token),
            "analyst_id": analyst.id,
            "csrf_token": csrf_token,
            "created_at": moment,
            "seen_at": moment,
            "expires_at": moment + limits.absolute,
        }
        connection.execute(insert(SESSIONS).values(**row))
        subject, details = f"analyst {analyst.name}", {"address": address}
        append_event(connection, moment, analyst.name, "sign_in", subject, details)
    return NewSession(token, csrf_token, moment + limits.absolute)


def note_proxy_sign_in(queue: Queue, name: str, address: str) -> None:
    """Write into the audit trail that a proxy has signed somebody in, who gets no session here."""
    details = {"address": address, "by": "proxy"}
    with queue.database.write() as connection:
        append_event(connection, queue.clock(), name, "sign_in", f"analyst {name}", details)


def note_proxy_refusal(queue: Queue, name: str, reason: str, address: str) -> None:
    """Write into the audit trail that a proxy named somebody whom the desk does not let in."""
    name = name.encode("unicode_escape").decode()[:LONGEST_NAME]  # it is shown in terminals
    details = {"address": address, "by": "proxy", "reason": reason}
    with queue.database.write() as connection:
        moment = queue.clock()
        append_event(connection, moment, "nobody", "sign_in_failed", f"analyst {name}", details)


def read_csrf_key(queue: Queue) -> bytes:
    """Give the key of the CSRF tokens of people without a session; the first call makes it.

    All desks over the queue share it, and it outlives them.
    """
    statement = select(SECRETS.c.value).where(SECRETS.c.name == "csrf")
    with queue.database.read() as connection:
        known = connection.scalar(statement)
    if known is None:
        with queue.database.write() as connection:
            known = connection.scalar(statement)  # another desk may have been quicker
            if known is None:
                known = secrets.token_hex(32)
                connection.execute(insert(SECRETS).values(name="csrf", value=known))
    return bytes.fromhex(known)


def find_session(queue: Queue, token: str, limits: SessionLimits) -> Session | None:
    """Give the session of a token, if it holds and its analyst is active; one indexed read."""
    moment = queue.clock()
    statement = (
        select(
            SESSIONS.c.analyst_id,
            ANALYSTS.c.name,
            ANALYSTS.c.role,
            SESSIONS.c.csrf_token,
            SESSIONS.c.seen_at,
        )
        .join(ANALYSTS, ANALYSTS.c.id == SESSIONS.c.analyst_id)
        .where(
            SESSIONS.c.token_hash == hash_token(token),
            SESSIONS.c.expires_at > moment,
            SESSIONS.c.seen_at > moment - limits.idle,
            ANALYSTS.c.is_active,
        )
    )
    with queue.database.read() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else Session(**row)


def is_due(session: Session, moment: datetime, limits: SessionLimits) -> bool:
    """Tell whether the session's use should be noted: at most once a minute, as it is a write."""
    return moment - session.seen_at >= min(NOTED_EVERY, limits.idle / 10)


def note_use(queue: Queue, token: str) -> None:
    """Note that a session was used now, so that it does not end for being idle."""
    with queue.database.write() as connection:
        of_token = SESSIONS.c.token_hash == hash_token(token)
        connection.execute(update(SESSIONS).where(of_token).values(seen_at=queue.clock()))


def end_session(queue: Queue, token: str, name: str) -> None:
    """End the session of a token: its analyst signs out."""
    with queue.database.write() as connection:
        of_token = SESSIONS.c.token_hash == hash_token(token)
        connection.execute(delete(SESSIONS).where(of_token))
        append_event(connection, queue.clock(), name, "sign_out", f"analyst {name}", {})


def delete_ended(connection: Connection, moment: datetime, limits: SessionLimits) -> None:
    """Delete the sessions that have ended, everybody's."""
    has_ended = or_(SESSIONS.c.expires_at <= moment, SESSIONS.c.seen_at <= moment - limits.idle)
    connection.execute(delete(SESSIONS).where(has_ended))
