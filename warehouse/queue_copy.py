"""Copies a queue of one machine into a database that several share: all of it, or nothing.

Rows keep their ids, so cases keep their numbers, the audit trail its chain and the feed its cursors.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Column, Connection, String, Table, func, insert, select, text

from warehouse.copied import Copied, refuse
from warehouse.errors import WarehouseError
from warehouse.queue_audit import first_broken
from warehouse.queue_database import (
    Database,
    connectable,
    open_database,
    parse,
    stored_revision,
)
from warehouse.queue_tables import (
    ACCOUNT_TRANSACTIONS,
    ALERTS,
    AUDIT_EVENTS,
    CHANGES,
    DECISIONS,
    HEAD,
    METADATA,
    SESSIONS,
)

BLOCK = 2_000  # rows in memory at a time
Columns = Sequence[Column[Any]]
Row = tuple[Any, ...]

LASTING: dict[Table, Columns] = {
    ALERTS: (ALERTS.c.id, ALERTS.c.transaction_id),
    **{table: tuple(table.c) for table in (DECISIONS, CHANGES, AUDIT_EVENTS)},
}
"""Columns that never change, in rows that are never deleted: they tell one queue from another."""
PASSING = (SESSIONS, ACCOUNT_TRANSACTIONS)
"""Tables whose rows are deleted in time, so that a later count says nothing."""


class QueueCopy:
    """A queue in a file, which nobody may write meanwhile, and the database that it goes to."""

    def __init__(self, reader: Connection, url: str) -> None:
        """Take the source's only connection that may write; ``QueueCopy.begin`` gets it."""
        self._reader, self._url = reader, url

    @classmethod
    @contextmanager
    def begin(cls, path: Path, url: str) -> Iterator[Self]:
        """Keep others from writing to a queue until the block ends.

        Args:
            path: SQLite file of the source, which must be there; an older schema is upgraded.
            url: Address of the target, which may hold nothing yet.

        Raises:
            WarehouseError: if the source cannot be opened, another keeps it locked, or the target
                is a file.
        """
        if parse(url).get_backend_name() == "sqlite":
            message = (
                "[queue] database must be a PostgreSQL URL to be copied to, and names a file; "
                "write postgresql://user@host/database"
            )
            raise WarehouseError(message)
        with closing(open_database(path, create=False)) as source, source.write() as reader:
            yield cls(reader, url)

    def look(self) -> list[Copied]:
        """Count what is in the source, and what of it is at the target; writes nothing.

        Raises:
            WarehouseError: if the target cannot be read, or holds another queue.
        """
        with closing(connectable(parse(self._url))) as target:
            revision = stored_revision(target)
            if revision not in (None, HEAD):
                raise refuse("queue", target.where, f"a queue of schema {revision}, not {HEAD}")
            if revision is None:
                return self._nothing_arrived()
            with target.read() as connection:
                if is_empty(connection):
                    return self._nothing_arrived()
                self._require_copy(connection, target)
                return [
                    self._count_again(table, connection)
                    for table in METADATA.sorted_tables
                    if table not in PASSING
                ]

    def run(self) -> list[Copied]:
        """Copy every row in one transaction and compare it at the target; nothing if it is there.

        Raises:
            WarehouseError: if the target cannot be written, holds another queue, or gives back
                other rows than it got.
        """
        with closing(open_database(self._url, create=True)) as target:
            with target.write() as connection:
                is_new = is_empty(connection)
                if is_new:
                    for table in METADATA.sorted_tables:
                        self._copy(table, connection)
                    found = [self._compare(table, connection) for table in METADATA.sorted_tables]
                    require_whole(found, connection)
            return found if is_new else self.look()

    def _nothing_arrived(self) -> list[Copied]:
        return [
            Copied("queue", table.name, count_rows(self._reader, table), 0)
            for table in METADATA.sorted_tables
        ]

    def _copy(self, table: Table, target: Connection) -> None:
        for block in read_blocks(self._reader, tuple(table.c)):
            rows = [dict(zip(table.c.keys(), row, strict=True)) for row in block]
            target.execute(insert(table), rows)
        key = key_of(table)
        if table.dialect_options["sqlite"]["autoincrement"]:
            # SQLite remembers the largest number ever given, also of a row that is gone.
            used = self._reader.scalar(
                text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}
            )
            if used:
                sequence = func.pg_get_serial_sequence(table.name, key.name)
                target.execute(select(func.setval(sequence, used)))

    def _compare(self, table: Table, target: Connection) -> Copied:
        mine, theirs = (read_blocks(each, tuple(table.c)) for each in (self._reader, target))
        is_same = all(one == other for one, other in zip_longest(mine, theirs))
        there, arrived = (count_rows(each, table) for each in (self._reader, target))
        return Copied("queue", table.name, there, arrived, is_same)

    def _require_copy(self, target: Connection, database: Database) -> None:
        """Refuse a target where a row that never changes is missing, or is another."""
        same = [
            block == read_same(target, columns, block)
            for columns in LASTING.values()
            for block in read_blocks(self._reader, columns)
        ]
        if not same or not all(same):
            raise refuse("queue", database.where, "other alerts or decisions")

    def _count_again(self, table: Table, target: Connection) -> Copied:
        """Count the source's rows at a target that may have gone on since it was copied."""
        key = (key_of(table),)
        keys = list(read_blocks(self._reader, key))
        arrived = sum(len(read_same(target, key, block)) for block in keys)
        return Copied("queue", table.name, sum(map(len, keys)), arrived)


def key_of(table: Table) -> Column[Any]:
    """Give a table's key; each table of the queue has one of one column."""
    (key,) = table.primary_key.columns
    return key


def read_blocks(connection: Connection, columns: Columns) -> Iterator[list[Row]]:
    """Read columns of a table in the order of its key, some rows at a time."""
    key = key_of(columns[0].table)
    is_sorted_by_language = isinstance(key.type, String) and connection.dialect.name != "sqlite"
    order = key.collate("C") if is_sorted_by_language else key
    statement = select(*columns).order_by(order).execution_options(yield_per=BLOCK)
    for block in connection.execute(statement).partitions():
        yield [tuple(row) for row in block]


def read_same(connection: Connection, columns: Columns, block: list[Row]) -> list[Row]:
    """Read the rows that have the keys of a block; the key is the first of the columns."""
    keys = columns[0].in_([row[0] for row in block])
    rows = connection.execute(select(*columns).where(keys).order_by(columns[0]))
    return [tuple(row) for row in rows]


def count_rows(connection: Connection, table: Table) -> int:
    """Count a table's rows."""
    return connection.scalar(select(func.count()).select_from(table)) or 0


def is_empty(connection: Connection) -> bool:
    """Tell whether no table of a queue has a row."""
    return not any(
        connection.scalar(select(select(table).exists())) for table in METADATA.sorted_tables
    )


def require_whole(found: Iterable[Copied], target: Connection) -> None:
    """Refuse to keep a copy of which a row or the audit trail's chain differs.

    Raises:
        WarehouseError: if one does; the transaction then leaves nothing.
    """
    different = [table.name for table in found if not table.is_whole]
    if broken := first_broken(target):
        different.append(f"audit event {broken}")
    if different:
        message = (
            "the queue must arrive as it was, and the target gave other rows back "
            f"({', '.join(different)}); nothing was kept there: look whether the source's audit "
            "trail is whole (nightwarden audit verify), and run this again"
        )
        raise WarehouseError(message)
