"""Which cases are wanted and in which order, as conditions that a database answers by indexes.

SQLite, which keeps no statistics of its own accord, follows the index of the order and looks up
every case that a condition names a column of. So conditions that few cases may meet are subqueries
that give the cases' numbers, which are in every index.
"""

import math
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, UnaryExpression, or_, select, union_all
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from warehouse.errors import UserError
from warehouse.queue import LANES
from warehouse.queue_tables import ALERTS, CASES
from warehouse.queue_work import is_readable

RANKS = ("priority", "expected_loss", "score", "amount", "newest", "oldest")
STATES = ("open", "snoozed", "second", "closed", "all")

COLUMNS = {
    "priority": CASES.c.priority,
    "expected_loss": CASES.c.expected_loss,
    "score": CASES.c.score,
    "amount": CASES.c.amount_at_risk,
    "newest": CASES.c.created_at,
    "oldest": CASES.c.created_at,
}
LEAST_PREFIX = 3
AMONG = CASES.alias("among")


@dataclass(frozen=True)
class CaseFilter:
    """Which cases are wanted; what is None, or an empty text, does not matter.

    Attributes:
        state: One of ``STATES``. ``open`` leaves out those that sleep; ``second`` are those in
            which a verdict waits for a second analyst.
        day: A day of which the case has an alert.
        least_amount: The least amount at risk.
        claimed_by: Who has claimed it.
        text: An account, transaction or merchant, or at least three letters that it begins with.

    Raises:
        UserError: if a value can be none.
    """

    state: str = "open"
    lane: str | None = None
    day: date | None = None
    merchant: str | None = None
    account: str | None = None
    model_version: str | None = None
    least_amount: float | None = None
    claimed_by: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing could match, and what a database would choke on."""
        check_choice("state", self.state, STATES)
        if self.lane:
            check_choice("lane", self.lane, LANES)
        if self.least_amount is not None and not math.isfinite(self.least_amount):
            raise UserError(
                f"expected the least amount to be a number, got {self.least_amount}; write it "
                "as 100 or 99.50"
            )
        for name in ("merchant", "account", "model_version", "claimed_by", "text"):
            value = getattr(self, name)
            if value and not is_readable(value):
                raise UserError(
                    f"expected {name} to be a text that can be stored, got {value!r}; remove the "
                    "letters that are none"
                )


def matches(wanted: CaseFilter, now: datetime) -> list[ColumnElement[bool]]:
    """Give the conditions on ``CASES`` that wanted cases meet at a moment."""
    conditions = in_state(wanted.state, now.astimezone(UTC).date())
    if wanted.least_amount is not None:
        enough = AMONG.c.amount_at_risk >= wanted.least_amount
        conditions.append(is_among(stored_states(wanted.state), enough))
    if wanted.lane:
        conditions.append(is_among(stored_states(wanted.state), AMONG.c.lane == wanted.lane))
    if wanted.claimed_by:
        is_theirs = AMONG.c.claimed_by == wanted.claimed_by
        conditions.append(is_among(is_theirs, AMONG.c.claimed_until > now))
    if wanted.account:
        conditions.append(is_among(AMONG.c.account_id == wanted.account))
    if wanted.text and wanted.text.strip():
        conditions.append(mentions(wanted.text.strip()))
    of_alert = {
        ALERTS.c.event_date: wanted.day,
        ALERTS.c.merchant_id: wanted.merchant or None,
        ALERTS.c.model_version: wanted.model_version or None,
    }
    asked = {column: value for column, value in of_alert.items() if value is not None}
    return conditions + [has_alert(column == value) for column, value in asked.items()]


def stored_states(state: str) -> ColumnElement[bool]:
    """Give the condition on ``AMONG`` that its index begins with."""
    both = ("open", "closed")
    stored = {"closed": ("closed",), "second": both, "all": both}
    return AMONG.c.state.in_(stored.get(state, ("open",)))


def in_state(state: str, today: date) -> list[ColumnElement[bool]]:
    """Give the conditions of a state of ``STATES`` on a day."""
    is_open = CASES.c.state == "open"
    sleeps = is_among(AMONG.c.snoozed_until > today)
    waits = is_among(AMONG.c.awaits_second)  # of a closed case, too: a verdict may be changed
    conditions: dict[str, list[ColumnElement[bool]]] = {
        "open": [is_open, is_awake(today)],
        "snoozed": [is_open, sleeps],
        "second": [waits],
        "closed": [CASES.c.state == "closed"],
        "all": [],
    }
    return conditions[state]


def is_awake(today: date) -> ColumnElement[bool]:
    """Tell whether a case does not sleep on a day."""
    return or_(CASES.c.snoozed_until.is_(None), CASES.c.snoozed_until <= today)


def order_of(rank: str) -> tuple[UnaryExpression[Any], ...]:
    """Give the order of a rank; it is that of an index, and no two cases are equal in it."""
    column = COLUMNS[rank]
    if rank == "oldest":
        return (column.asc(), CASES.c.id.asc())
    if rank == "expected_loss":
        return (column.desc().nulls_last(), CASES.c.id.desc())
    return (column.desc(), CASES.c.id.desc())


def is_among(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Tell whether a case is one of those that meet conditions on ``AMONG``."""
    return CASES.c.id.in_(select(AMONG.c.id).where(*conditions))


def has_alert(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Tell whether a case has such an alert."""
    return CASES.c.id.in_(select(ALERTS.c.case_id).where(condition))


class begins_with(FunctionElement[bool]):  # noqa: N801 - SQLAlchemy's functions are written small
    """Whether a column begins with a text, byte by byte, by way of an index where there is one.

    It has no type: SQLAlchemy compares a Boolean with 1 on SQLite, which then uses no index.
    """

    inherit_cache = True


@compiles(begins_with, "sqlite")
def between_prefixes(element: begins_with, compiler: SQLCompiler, **options: object) -> str:
    """Write it as a range, for which SQLite uses an index."""
    column, prefix = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} >= {prefix} AND {column} < {prefix} || char({sys.maxunicode}))"


@compiles(begins_with, "postgresql")
def starts_with(element: begins_with, compiler: SQLCompiler, **options: object) -> str:
    """Write it as the function that knows no wildcards and no order of letters."""
    return f"starts_with({compiler.process(element.clauses, **options)})"


def mentions(text: str) -> ColumnElement[bool]:
    """Tell whether a case's account, or a transaction or merchant of it, is or begins with a text."""

    def fits(column: Column[str]) -> ColumnElement[bool]:
        return column == text if len(text) < LEAST_PREFIX else begins_with(column, text)

    return CASES.c.id.in_(
        union_all(
            select(AMONG.c.id).where(fits(AMONG.c.account_id)),
            select(ALERTS.c.case_id).where(fits(ALERTS.c.transaction_id)),
            select(ALERTS.c.case_id).where(fits(ALERTS.c.merchant_id)),
        )
    )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices."""
    if value not in choices:
        raise UserError(
            f"expected {name} to be one of {', '.join(choices)}, got {value!r}; choose one"
        )
