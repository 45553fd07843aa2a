"""What accounts with alerts did of late, kept in the queue, so that a case's page reads no lake.

It is a copy of rows of the lake: writing it is no event of the audit trail.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import Connection, insert, select

from warehouse.queue_tables import ACCOUNT_TRANSACTIONS

if TYPE_CHECKING:
    from warehouse.queue import Queue

STORY_DAYS = 60
STORY_ROWS = 100

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

    Each part is a transaction of its own; after a crash, the same call again adds the rest.

    Args:
        queue: The queue.
        rows: ``transaction_id``, ``account_id``, ``event_date``, ``occurred_at``, ``merchant_id``
            and ``amount``.

    Returns:
        How many were added.
    """
    named = rows.select(COLUMNS).unique("transaction_id", keep="first", maintain_order=True)
    added = 0
    for part in named.iter_slices(ROWS_AT_ONCE):
        with queue.database.write() as connection:
            added += add_missing(connection, part)
    return added


def add_missing(connection: Connection, rows: pl.DataFrame) -> int:
    """Add the transactions that are not there; the connection must be the only writer."""
    key = ACCOUNT_TRANSACTIONS.c.transaction_id
    there = connection.scalars(select(key).where(key.in_(rows["transaction_id"].to_list())))
    missing = rows.filter(~pl.col("transaction_id").is_in(there.all()))
    if missing.height:
        connection.execute(insert(ACCOUNT_TRANSACTIONS), missing.to_dicts())
    return missing.height


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
