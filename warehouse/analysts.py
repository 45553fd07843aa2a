"""The people who may use the review desk: their roles, their passwords, and who is locked out.

A password is kept as an argon2id hash alone. Every change is an event of the audit trail; neither
passwords nor what was typed instead of one ever get there.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_audit import AuditEvent, append_event, append_events
from warehouse.queue_tables import ANALYSTS, API_TOKENS, SESSIONS
from warehouse.queue_work import is_same_person

ROLES = ("viewer", "analyst", "lead", "admin")
"""Each may do what those before it may."""

LEAST_LETTERS = 12
MOST_LETTERS = 1024  # hashing takes longer, the longer the password is
WRONG_IN_A_ROW = 5
LOCKED_FOR = timedelta(minutes=15)
NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Analyst:
    """Somebody who may use the desk; without a password, only a trusted proxy lets them in."""

    id: int
    name: str
    role: str
    is_active: bool
    created_at: datetime
    has_password: bool
    locked_until: datetime | None


def is_at_least(role: str, needed: str) -> bool:
    """Tell whether a role may do what another may.

    Example:
        >>> is_at_least("lead", "analyst"), is_at_least("viewer", "analyst")
        (True, False)
    """
    return ROLES.index(role) >= ROLES.index(needed)


def add_analyst(queue: Queue, name: str, role: str, password: str | None, actor: str) -> int:
    """Add somebody, and give their number.

    Args:
        queue: The review queue.
        name: 1 to 64 letters, digits or ``. _ @ -``; upper and lower case make no other name.
        role: One of ``ROLES``.
        password: At least 12 characters; None for people whom a trusted proxy signs in.
        actor: Who adds them.

    Raises:
        UserError: if the name is taken or cannot be used, or the role or the password is wrong.
    """
    check_name(name)
    check_role(role)
    hashed = None if password is None else hash_password(password)
    with queue.database.write() as connection:
        check_free(connection, name)
        moment = queue.clock()
        row = {"name": name, "role": role, "is_active": True, "created_at": moment}
        added = connection.scalar(
            insert(ANALYSTS).values(**row, password_hash=hashed).returning(ANALYSTS.c.id)
        )
        details = {"role": role, "has_password": hashed is not None}
        append_event(connection, moment, actor, "add_analyst", f"analyst {name}", details)
    return int(added or 0)


def set_password(queue: Queue, name: str, password: str, actor: str) -> None:
    """Give somebody a new password, end their sessions, and unlock them.

    Raises:
        UserError: if there is no such analyst or the password is too short.
    """
    values = {"password_hash": hash_password(password), "failed_attempts": 0, "locked_until": None}
    change_analyst(queue, name, values, "set_password", actor, ends_sessions=True)


def disable_analyst(queue: Queue, name: str, actor: str) -> None:
    """Let somebody in no longer, end their sessions, revoke their tokens; their decisions stay.

    Raises:
        UserError: if there is no such analyst.
    """
    values = {"is_active": False}
    change_analyst(queue, name, values, "disable_analyst", actor, ends_sessions=True)


def enable_analyst(queue: Queue, name: str, actor: str) -> None:
    """Let somebody in again, locked or disabled; what disabling ended stays ended.

    Raises:
        UserError: if there is no such analyst.
    """
    values = {"is_active": True, "failed_attempts": 0, "locked_until": None}
    change_analyst(queue, name, values, "enable_analyst", actor)


def change_role(queue: Queue, name: str, role: str, actor: str) -> None:
    """Give somebody another role, at once, in the sessions that they have too.

    Raises:
        UserError: if there is no such analyst or role.
    """
    check_role(role)
    change_analyst(queue, name, {"role": role}, "change_role", actor)


def list_analysts(queue: Queue) -> list[Analyst]:
    """List all analysts by name, disabled ones too."""
    with queue.database.read() as connection:
        rows = connection.execute(select(ANALYSTS).order_by(ANALYSTS.c.name)).mappings()
        return [to_analyst(row) for row in rows]


def find_analyst(queue: Queue, name: str) -> Analyst | None:
    """Give the analyst of a name, or None."""
    with queue.database.read() as connection:
        row = read_row(connection, name)
    return None if row is None else to_analyst(row)


def check_password(
    queue: Queue, name: str, password: str, *, address: str = "unknown"
) -> Analyst | None:
    """Give the analyst whom a name and a password fit, or None.

    After five wrong ones in a row an account is locked for 15 minutes, and nothing fits. Unknown
    names take as long as known ones. ``address``, whence it was tried, goes into the audit trail.
    """
    with queue.database.read() as connection:
        row = read_row(connection, name)
    stored = row["password_hash"] if row is not None else None
    password = normalise(password)
    fits = is_fitting(stored or hash_of_nothing(), password) and stored is not None
    renewed = (
        hasher().hash(password)
        if fits and stored and hasher().check_needs_rehash(stored)
        else None
    )
    with queue.database.write() as connection:
        moment = queue.clock()
        row = read_row(connection, name)
        if row is None:
            note_failure(connection, moment, "unknown name", address, "no such name")
            return None
        # it may have been locked, disabled or given another password since it was read
        why_not = find_obstacle(row, moment)
        if why_not is not None or not fits or row["password_hash"] != stored:
            refuse(connection, row, moment, address, why_not)
            return None
        values: dict[str, Any] = {"failed_attempts": 0, "locked_until": None}
        if renewed is not None:
            values["password_hash"] = renewed
        connection.execute(update(ANALYSTS).where(ANALYSTS.c.id == row["id"]).values(**values))
    return replace(to_analyst(row), locked_until=None)


def find_obstacle(row: RowMapping, moment: datetime) -> str | None:
    """Tell why an account lets nobody in, whatever the password."""
    if not row["is_active"]:
        return "disabled"
    if row["password_hash"] is None:
        return "no password"
    if row["locked_until"] is not None and row["locked_until"] > moment:
        return "locked"
    return None


def refuse(
    connection: Connection,
    row: RowMapping,
    moment: datetime,
    address: str,
    why_not: str | None,
) -> None:
    """Count a wrong password, lock the account after the fifth in a row, and note it."""
    if why_not is None:
        failed = row["failed_attempts"] + 1
        is_last = failed >= WRONG_IN_A_ROW
        values = {
            "failed_attempts": 0 if is_last else failed,
            "locked_until": moment + LOCKED_FOR if is_last else None,
        }
        connection.execute(update(ANALYSTS).where(ANALYSTS.c.id == row["id"]).values(**values))
        why_not = "wrong password, now locked" if is_last else "wrong password"
    note_failure(connection, moment, f"analyst {row['name']}", address, why_not)


def note_failure(
    connection: Connection, moment: datetime, subject: str, address: str, reason: str
) -> None:
    """Write a failed sign-in into the audit trail, without what was typed.

    An unknown name is not written either: people type passwords into the wrong field.
    """
    details = {"address": address, "reason": reason}
    append_event(connection, moment, "nobody", "sign_in_failed", subject, details)


def change_analyst(
    queue: Queue,
    name: str,
    values: Mapping[str, Any],
    action: str,
    actor: str,
    *,
    ends_sessions: bool = False,
) -> None:
    """Change an analyst's row, and write that into the audit trail.

    Whoever is active no longer has no token any more, either.
    """
    with queue.database.write() as connection:
        moment = queue.clock()
        statement = update(ANALYSTS).where(ANALYSTS.c.name == name).values(**values)
        analyst_id = connection.scalar(statement.returning(ANALYSTS.c.id))
        if analyst_id is None:
            raise unknown_analyst(name)
        ended = 0
        if ends_sessions:
            of_analyst = delete(SESSIONS).where(SESSIONS.c.analyst_id == analyst_id)
            ended = connection.execute(of_analyst).rowcount
        told = {key: values[key] for key in ("role", "is_active") if key in values}
        details = {**told, "sessions_ended": ended}
        events = [AuditEvent(action, f"analyst {name}", details)]
        if not values.get("is_active", True):
            events += revoke_all_tokens(connection, analyst_id, moment)
        append_events(connection, moment, actor, events)


def revoke_all_tokens(
    connection: Connection, analyst_id: int, moment: datetime
) -> list[AuditEvent]:
    """Revoke the tokens that stand for an analyst; give the events that tell of it."""
    holding = API_TOKENS.c.analyst_id == analyst_id, API_TOKENS.c.revoked_at.is_(None)
    statement = update(API_TOKENS).where(*holding).values(revoked_at=moment)
    names = sorted(connection.scalars(statement.returning(API_TOKENS.c.name)))
    details = {"reason": "its analyst was disabled"}
    return [AuditEvent("revoke_token", f"token {name}", details) for name in names]


def unknown_analyst(name: str) -> UserError:
    """Say that nobody has this name."""
    return UserError(
        f"expected the name of an analyst, got {name!r}; run: nightwarden desk users list"
    )


def read_row(connection: Connection, name: str) -> RowMapping | None:
    """Read an analyst's row by name, which may be anything that was typed."""
    if not NAME.fullmatch(name):
        return None
    statement = select(ANALYSTS).where(ANALYSTS.c.name == name)
    return connection.execute(statement).mappings().one_or_none()


def to_analyst(row: RowMapping) -> Analyst:
    """Turn a row into a record, without its password's hash."""
    return Analyst(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        is_active=row["is_active"],
        created_at=row["created_at"],
        has_password=row["password_hash"] is not None,
        locked_until=row["locked_until"],
    )


def check_name(name: str) -> None:
    """Refuse a name that could be mistaken, or that no proxy would send."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"expected a name of 1 to 64 letters, digits or . _ @ -, got {name!r}; choose another"
        )


def check_free(connection: Connection, name: str) -> None:
    """Refuse a name that somebody has, or that differs from one in upper and lower case alone.

    Work on the queue takes such names for one person's, so a second pair of eyes would be none.
    """
    taken = [
        each for each in connection.scalars(select(ANALYSTS.c.name)) if is_same_person(each, name)
    ]
    if taken:
        raise UserError(
            f"expected a name that nobody has, whatever its case, got {name!r} beside {taken[0]!r}; "
            f"choose another, or change that one: nightwarden desk users role {taken[0]} ROLE"
        )


def check_role(role: str) -> None:
    """Refuse a role that there is not."""
    if role not in ROLES:
        raise UserError(f"expected a role of {', '.join(ROLES)}, got {role!r}; choose one")


def hash_password(password: str) -> str:
    """Give the argon2id hash of a new password.

    Raises:
        UserError: if it is too short or too long, or no text; the message does not say it.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in password):
        raise UserError("expected a password in UTF-8, got other bytes; write it in UTF-8")
    if not LEAST_LETTERS <= len(password) <= MOST_LETTERS:
        raise UserError(
            f"expected a password of {LEAST_LETTERS} to {MOST_LETTERS} characters, got "
            f"{len(password)}; several words are easy to remember"
        )
    return hasher().hash(normalise(password))


def normalise(password: str) -> str:
    """Write a password alike whichever keyboard it comes from."""
    return unicodedata.normalize("NFKC", password)


def is_fitting(stored: str, password: str) -> bool:
    """Tell whether a password fits a hash; halves of letters fit none."""
    try:
        return hasher().verify(stored, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False


@cache
def hasher() -> PasswordHasher:
    """Give what hashes passwords: argon2id with the library's parameters."""
    return PasswordHasher()


@cache
def hash_of_nothing() -> str:
    """Give a hash that no password fits, so that unknown names take as long as known ones."""
    return hasher().hash("")
