"""Tokens by which other programs use the desk's API: each an analyst's, with scopes."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, insert, or_, select, update

from warehouse.analysts import check_name, unknown_analyst
from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_audit import append_event
from warehouse.queue_tables import ANALYSTS, API_TOKENS
from warehouse.sessions import hash_token

SCOPES = ("read", "decide", "feed", "metrics")
PREFIX = "nw_"
"""By which a token is known, to people and to programs that look for leaked ones."""


@dataclass(frozen=True)
class ApiToken:
    """What is known of a token; the token itself is not."""

    id: int
    name: str
    analyst: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class TokenHolder:
    """Whom a token, by its name, stands for, with the role that the analyst has now."""

    token: str
    analyst_id: int
    name: str
    role: str
    scopes: frozenset[str]


def add_token(
    queue: Queue,
    name: str,
    analyst: str,
    scopes: Sequence[str],
    *,
    days: int | None,
    actor: str,
) -> str:
    """Make a token and give it, this once.

    Args:
        queue: The review queue.
        name: What it is for; no other token may have it.
        analyst: On whose behalf it acts; it may never do more than they.
        scopes: Which of ``SCOPES``, at least one.
        days: After how many it ends; None: never.
        actor: Who makes it.

    Raises:
        UserError: if the name is taken, or an argument is none of those there are.
    """
    check_name(name)
    check_scopes(scopes)
    token = PREFIX + secrets.token_urlsafe(32)
    with queue.database.write() as connection:
        moment = queue.clock()
        found = select(ANALYSTS.c.id).where(ANALYSTS.c.name == analyst, ANALYSTS.c.is_active)
        analyst_id = connection.scalar(found)
        if analyst_id is None:
            raise unknown_analyst(analyst)
        if connection.scalar(select(API_TOKENS.c.id).where(API_TOKENS.c.name == name)) is not None:
            raise UserError(
                f"expected a name that no token has had, got {name!r}; choose another, "
                "such as one with the year"
            )
        row = {
            "name": name,
            "token_hash": hash_token(token),
            "analyst_id": analyst_id,
            "scopes": sorted(set(scopes)),
            "created_at": moment,
            "expires_at": None if days is None else moment + timedelta(days=days),
        }
        connection.execute(insert(API_TOKENS).values(**row))
        details = {"analyst": analyst, "scopes": row["scopes"], "days": days}
        append_event(connection, moment, actor, "add_token", f"token {name}", details)
    return token


def revoke_token(queue: Queue, name: str, actor: str) -> None:
    """End a token, at once; revoking it again changes nothing.

    Raises:
        UserError: if there is no such token.
    """
    with queue.database.write() as connection:
        moment = queue.clock()
        revoked_at = select(API_TOKENS.c.revoked_at).where(API_TOKENS.c.name == name)
        row = connection.execute(revoked_at).one_or_none()
        if row is None:
            raise UserError(
                f"expected the name of a token, got {name!r}; run: nightwarden desk tokens list"
            )
        if row.revoked_at is not None:
            return
        statement = update(API_TOKENS).where(API_TOKENS.c.name == name)
        connection.execute(statement.values(revoked_at=moment))
        append_event(connection, moment, actor, "revoke_token", f"token {name}", {})


def list_tokens(queue: Queue) -> list[ApiToken]:
    """List all tokens by name, ended ones too."""
    columns = ("id", "name", "scopes", "created_at", "expires_at", "revoked_at")
    statement: Select[Any] = (
        select(*(API_TOKENS.c[name] for name in columns), ANALYSTS.c.name.label("analyst"))
        .join(ANALYSTS, ANALYSTS.c.id == API_TOKENS.c.analyst_id)
        .order_by(API_TOKENS.c.name)
    )
    with queue.database.read() as connection:
        rows = connection.execute(statement).mappings()
        return [ApiToken(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]


def find_holder(queue: Queue, token: str) -> TokenHolder | None:
    """Give whom a token stands for, if it holds and its analyst is active; one indexed read."""
    moment = queue.clock()
    statement = (
        select(
            API_TOKENS.c.name.label("token"),
            API_TOKENS.c.analyst_id,
            ANALYSTS.c.name,
            ANALYSTS.c.role,
            API_TOKENS.c.scopes,
        )
        .join(ANALYSTS, ANALYSTS.c.id == API_TOKENS.c.analyst_id)
        .where(
            API_TOKENS.c.token_hash == hash_token(token),
            API_TOKENS.c.revoked_at.is_(None),
            or_(API_TOKENS.c.expires_at.is_(None), API_TOKENS.c.expires_at > moment),
            ANALYSTS.c.is_active,
        )
    )
    with queue.database.read() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else TokenHolder(**{**row, "scopes": frozenset(row["scopes"])})


def check_scopes(scopes: Sequence[str]) -> None:
    """Refuse scopes that there are not, and none at all."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise UserError(
            f"expected one or more scopes of {', '.join(SCOPES)}, got "
            f"{', '.join(unknown) or 'none'}; name them, such as --scope read"
        )
