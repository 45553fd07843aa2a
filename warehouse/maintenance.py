"""Keep the lake quick to read: many small files of a table become few; nothing is lost or expired.

The files that were merged stay on disk for those who read them now, and for the lake's past. What
the catalog says of them goes, and DuckDB reads an SQLite catalog over several connections: a
transaction that has begun to read before a merge may find fewer rows after it. So whoever reads
the lake does so in single statements, outside a transaction, or under the commit lock.
"""

from dataclasses import dataclass

from warehouse.connection import Lake, quote_text
from warehouse.schema import TABLES


@dataclass(frozen=True)
class MergedFiles:
    """How many files of a table were read, and how many they became."""

    table: str
    before: int
    after: int


def merge_small_files(lake: Lake) -> list[MergedFiles]:
    """Merge the small files of each table, under the commit lock for one table at a time.

    Where files hold one day each, only those of the same day are merged.

    Returns:
        The tables of which files were merged.
    """
    merged = []
    for table in TABLES:
        with lake.locked():
            # CALL, as a SELECT over it is not seen as writing and merges nothing
            rows = lake.connection.execute(
                f"CALL ducklake_merge_adjacent_files('lake', {quote_text(table.name)})"
            ).fetchall()
        if rows:
            before, after = (sum(int(row[place]) for row in rows) for place in (-2, -1))
            merged.append(MergedFiles(table.name, before, after))
    return merged
