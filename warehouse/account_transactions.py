"""What accounts with alerts did of late, kept in the queue, so that a case's page reads no lake.

It is a copy of rows of the lake: neither writing nor dropping it is an event of the audit trail.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import Connection, delete, exists, insert, or_, select

from warehouse.queue_tables import ACCOUNT_TRANSACTIONS, ALERTS, CASES

if TYPE_CHECKING:
    from warehouse.queue import Queue

STORY_DAYS = 60
STORY_ROWS = 100
KEPT_FOR = timedelta(days=365)

ROWS_AT_ONCE = 2_000  # an analyst who decides meanwhile waits for one part, not for all


@dataclass(frozen=True)
class AccountTransaction:
    """One transaction of an account, whether it has an alert or not."""

    transaction_id: str
    account_id: str
    event_date: date
    occurred_at: datetime
    merchant_id: str
    amount: float


COLUMNS = tuple(AccountTransaction.__dataclass_fields__)


def keep_transactions(queue: "Queue", rows: pl.DataFrame) -> int:
    """Keep transactions of accounts; those there already stay as they are.

    What these accounts did more than a year before all that is given is dropped, unless an account
    has a case on which somebody may still have to decide, and of which that is the story.

    Each part is a transaction of its own; after a crash, the same call again adds the rest.

    Args:
        queue: The queue.
        rows: ``transaction_id``, ``account_id``, ``event_date``, ``occurred_at``, ``merchant_id``
            and ``amount``.

    Returns:
        How many were added.
    """
    named = rows.select(COLUMNS).unique("transaction_id", keep="first", maintain_order=True)
    if not named.height:
        return 0
    before = named.select(pl.col("occurred_at").min()).item() - KEPT_FOR
    added = 0
    for part in named.iter_slices(ROWS_AT_ONCE):
        with queue.database.write() as connection:
            added += add_missing(connection, part)
            drop_bygones(connection, part["account_id"].unique().to_list(), before)
    return added


def add_missing(connection: Connection, rows: pl.DataFrame) -> int:
    """Add the transactions that are not there; the connection must be the only writer."""
    key = ACCOUNT_TRANSACTIONS.c.transaction_id
    there = connection.scalars(select(key).where(key.in_(rows["transaction_id"].to_list())))
    missing = rows.filter(~pl.col("transaction_id").is_in(there.all()))
    if missing.height:
        connection.execute(insert(ACCOUNT_TRANSACTIONS), missing.to_dicts())
    return missing.height


def drop_bygones(connection: Connection, account_ids: list[str], before: datetime) -> None:
    """Drop what accounts did before a moment, unless a case that is not done may tell of it."""
    table = ACCOUNT_TRANSACTIONS.c
    needed = select(ALERTS.c.id).where(
        ALERTS.c.account_id == table.account_id,
        ALERTS.c.occurred_at < before + timedelta(days=STORY_DAYS),
        ALERTS.c.case_id == CASES.c.id,
        or_(CASES.c.state == "open", CASES.c.awaits_second),
    )
    connection.execute(
        delete(ACCOUNT_TRANSACTIONS).where(
            table.account_id.in_(account_ids), table.occurred_at < before, ~exists(needed)
        )
    )


def read_account_transactions(
    connection: Connection, account_id: str, *, until: datetime
) -> list[AccountTransaction]:
    """Read the newest of an account's transactions within the story's days, oldest first."""
    table = ACCOUNT_TRANSACTIONS.c
    statement = (
        select(*(table[name] for name in COLUMNS))
        .where(
            table.account_id == account_id,
            table.occurred_at <= until,
            table.occurred_at > until - timedelta(days=STORY_DAYS),
        )
        .order_by(table.occurred_at.desc(), table.transaction_id.desc())
        .limit(STORY_ROWS)
    )
    rows = connection.execute(statement).mappings().all()
    return [AccountTransaction(**row) for row in reversed(rows)]
