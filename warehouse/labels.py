"""The label store: statements from files and from analysts, appended and never changed.

A transaction's newest statement with ``known_at <= T`` holds at T, ``recorded_at`` breaks ties. A
statement that is there already (same transaction, label, moment and source) is not written again,
so importing or recording anything twice changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl

from warehouse.connection import Lake
from warehouse.errors import UserError
from warehouse.label_file import (
    LABEL_SOURCES,
    LINE_UNREADABLE,
    has_private_ids,
    judge_labels,
    read_label_file,
)
from warehouse.privacy import PseudonymKey, record_key, require_same_key
from warehouse.queue_records import Decision
from warehouse.schema import LABEL_QUARANTINE, LABELS
from warehouse.source import SourceSettings

ANALYST = "analyst"
SAID = {"fraud": True, "genuine": False}  # an unsure analyst states nothing
COLLECTED = "decisions"  # stage of the ledger: its digest is the number of the newest one


@dataclass(frozen=True)
class RejectedLabels:
    """How many imported labels broke a rule, with one of them as an example."""

    rule: str
    rows: int
    example_file: str
    example_row_number: int
    example_value: str | None
    example_raw: str


@dataclass(frozen=True)
class LabelImport:
    """What an import did: every row read was added, was there already, or was set aside.

    ``conflicts`` counts the transactions of which an added statement says the opposite of what
    another source had said before.
    """

    file: str
    rows_read: int
    added: int
    already_there: int
    set_aside: int
    rejected: tuple[RejectedLabels, ...]
    conflicts: int


def import_labels(
    lake: Lake,
    file: Path,
    settings: SourceSettings,
    *,
    key: PseudonymKey | None,
    default_source: str = "import",
    now: datetime | None = None,
) -> LabelImport:
    """Append a file's labels in one commit; rows that break a rule are set aside.

    The file (CSV with a header, or Parquet) has the columns transaction_id, label, known_at and,
    optionally, source; others are not read. See ``warehouse.label_file`` for what they may say.

    Args:
        lake: The lake.
        file: The file.
        settings: The source's: its time zone, and whether its transaction ids are pseudonymised.
        key: The key of the pseudonyms.
        default_source: Who says so, where the file does not.
        now: The moment that the rows are recorded at; the clock's if not given.

    Raises:
        SourceError: if the file is missing, empty, neither CSV nor Parquet, or lacks a column.
        SettingsError: if ids are pseudonymised and the key is missing or another one.
        UserError: if the default source is none that an import may have.
    """
    if default_source not in LABEL_SOURCES:
        message = (
            f"expected the labels' source to be one of {', '.join(LABEL_SOURCES)}, "
            f"got {default_source!r}; choose one"
        )
        raise UserError(message)
    used = key if has_private_ids(settings) else None
    if used:
        require_same_key(lake, used)
    place, moment = file.absolute(), now or datetime.now(UTC)
    read_label_file(lake.connection, place, settings, key)
    judge_labels(lake.connection, settings.time_zone, default_source, moment)
    _collect_set_aside(lake.connection, str(place), moment)
    _collect_statements(lake.connection)
    return _publish(lake, str(place), moment, used)


def _collect_statements(connection: duckdb.DuckDBPyConnection) -> None:
    """Make ``statements`` of the rows that broke no rule."""
    connection.execute(
        "CREATE OR REPLACE TABLE statements AS SELECT event_date, "
        "transaction_id_text AS transaction_id, account_id, merchant_id, is_fraud, known_at, "
        "source FROM label_checked WHERE rule IS NULL"
    )


def _collect_set_aside(connection: duckdb.DuckDBPyConnection, file: str, now: datetime) -> None:
    """Make ``labels_set_aside`` of the rows that broke a rule and the lines that were no rows."""
    names = ", ".join(LABEL_QUARANTINE.column_names())
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE labels_set_aside ({names}) AS
        SELECT $file::VARCHAR, row_number, transaction_id_text, rule, value,
            json_object('transaction_id', transaction_id_text, 'label', label_text,
                        'known_at', known_at_text, 'source', source_text)::VARCHAR,
            $now::TIMESTAMPTZ
        FROM label_checked WHERE rule IS NOT NULL
        UNION ALL
        SELECT $file, row_number, NULL, $unreadable, value, '{{}}', $now FROM label_lines
        """,
        {"file": file, "now": now, "unreadable": LINE_UNREADABLE},
    )


def _publish(lake: Lake, file: str, now: datetime, key: PseudonymKey | None) -> LabelImport:
    """Write what is new of ``statements`` and ``labels_set_aside``; nothing new, no commit."""
    connection = lake.connection
    with lake.locked():
        added = _find_new_statements(connection)
        conflicts = _count_conflicts(connection)
        changed = _find_quarantine_changes(connection, file)
        if added or changed:
            with lake.commit():
                _append_new_statements(connection, now)
                _change_quarantine(connection)
                if key:
                    record_key(lake, key)
    stated, rejected = _count(connection, "statements"), _rejected(connection, "labels_set_aside")
    set_aside = sum(one.rows for one in rejected)
    return LabelImport(
        file, stated + set_aside, added, stated - added, set_aside, rejected, conflicts
    )


def _find_new_statements(connection: duckdb.DuckDBPyConnection) -> int:
    """Make ``new_statements`` of those in ``statements`` that the lake lacks, and count them.

    Only the days that the statements are about are read.
    """
    low, high = connection.execute(
        "SELECT min(event_date), max(event_date) FROM statements"
    ).fetchone() or (None, None)
    connection.execute(
        """
        CREATE OR REPLACE TABLE earlier_statements AS
        SELECT transaction_id, is_fraud, known_at, source FROM lake.labels
        WHERE event_date BETWEEN $low AND $high
          AND transaction_id IN (SELECT transaction_id FROM statements)
        """,
        {"low": low, "high": high},
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE new_statements AS
        SELECT DISTINCT s.* FROM statements s ANTI JOIN earlier_statements
            USING (transaction_id, is_fraud, known_at, source)
        """
    )
    return _count(connection, "new_statements")


def _append_new_statements(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Append ``new_statements``; inside a commit."""
    names = ", ".join(LABELS.column_names())
    columns = ", ".join(name for name in LABELS.column_names() if name != "recorded_at")
    connection.execute(
        f"INSERT INTO lake.labels ({names}) SELECT {columns}, ? FROM new_statements "
        "ORDER BY event_date, known_at, transaction_id",
        [now],
    )


def _count_conflicts(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute(
        "SELECT count(DISTINCT transaction_id) FROM new_statements n "
        "JOIN earlier_statements e USING (transaction_id) "
        "WHERE e.source <> n.source AND e.is_fraud <> n.is_fraud"
    ).fetchone()
    return int(row[0]) if row else 0


def _find_quarantine_changes(connection: duckdb.DuckDBPyConnection, file: str) -> int:
    """Make ``stale_rejections`` and ``new_rejections``, and count both.

    What was set aside of a row stays until the row is judged otherwise: a row of the same number
    about the same transaction, or about any where none could be read before.
    """
    connection.execute(
        "CREATE OR REPLACE TABLE known_rejections AS "
        "SELECT *, rowid AS _rejection FROM lake.label_quarantine WHERE source_file = ?",
        [file],
    )
    same = "(row_number, rule, raw)"
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE new_rejections AS
        SELECT * FROM labels_set_aside WHERE {same} NOT IN (SELECT {same} FROM known_rejections);
        CREATE OR REPLACE TABLE stale_rejections AS
        SELECT _rejection FROM known_rejections k JOIN label_checked c USING (row_number)
        WHERE (k.transaction_id IS NULL OR k.transaction_id = c.transaction_id_text)
          AND (row_number, k.rule, k.raw) NOT IN (SELECT {same} FROM labels_set_aside)
        """
    )
    return _count(connection, "new_rejections") + _count(connection, "stale_rejections")


def _change_quarantine(connection: duckdb.DuckDBPyConnection) -> None:
    """Replace stale rejections by the new ones; inside a commit."""
    names = ", ".join(LABEL_QUARANTINE.column_names())
    connection.execute(
        "DELETE FROM lake.label_quarantine "
        "WHERE rowid IN (SELECT _rejection FROM stale_rejections)"
    )
    connection.execute(
        f"INSERT INTO lake.label_quarantine ({names}) SELECT {names} FROM new_rejections "
        "ORDER BY row_number"
    )


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0


def _rejected(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[RejectedLabels, ...]:
    rows = connection.execute(
        f"""
        SELECT rule, count(*) OVER (PARTITION BY rule) AS n, source_file, row_number, value, raw
        FROM {relation}
        QUALIFY row_number() OVER (PARTITION BY rule ORDER BY quarantined_at DESC, row_number) = 1
        ORDER BY n DESC, rule
        """
    ).fetchall()
    return tuple(RejectedLabels(*row) for row in rows)


def list_rejected_labels(lake: Lake) -> list[RejectedLabels]:
    """Count the imported labels that were set aside by rule, each with a row set aside lately."""
    return list(_rejected(lake.connection, "lake.label_quarantine"))


def record_decisions(
    lake: Lake, decisions: Sequence[Decision], *, now: datetime | None = None
) -> int:
    """Append analysts' verdicts that are no labels yet, known from when they were decided.

    ``unsure`` states nothing. All is one commit, and there is none where nothing is new.

    Args:
        lake: The lake.
        decisions: Decisions of the queue, on transactions of any day, recorded before or not.
        now: The moment that the rows are recorded at; the clock's if not given.

    Returns:
        How many labels were appended.
    """
    stated = [decision for decision in decisions if decision.verdict in SAID]
    if not stated:
        return 0
    _make_statements(lake.connection, stated)
    with lake.locked():
        added = _find_new_statements(lake.connection)
        if added:
            with lake.commit():
                _append_new_statements(lake.connection, now or datetime.now(UTC))
    return added


def _make_statements(connection: duckdb.DuckDBPyConnection, decisions: Sequence[Decision]) -> None:
    """Make ``statements`` of decisions; of two at one moment the later in the queue counts."""
    same = ("event_date", "transaction_id", "account_id", "merchant_id")
    columns = {name: [getattr(one, name) for one in decisions] for name in (*same, "id")}
    frame = pl.DataFrame(
        columns
        | {
            "is_fraud": [SAID[one.verdict] for one in decisions],
            "known_at": [one.decided_at.astimezone(UTC) for one in decisions],
        }
    )
    connection.register("decided", frame.to_arrow())
    try:
        connection.execute(
            "CREATE OR REPLACE TABLE statements AS SELECT * EXCLUDE (id), ? AS source FROM decided "
            "QUALIFY row_number() OVER (PARTITION BY transaction_id, known_at ORDER BY id DESC) = 1",
            [ANALYST],
        )
    finally:
        connection.unregister("decided")


def last_collected_decision(lake: Lake) -> int:
    """Give the number of the newest decision that became a label, or said nothing; 0 at first.

    The ledger keeps it: the moments of labels would not do, since clocks differ, and an import may
    state what analysts said, too.
    """
    row = lake.connection.execute(
        "SELECT data_digest FROM lake.partition_runs WHERE stage = ? "
        "ORDER BY finished_at DESC LIMIT 1",
        [COLLECTED],
    ).fetchone()
    return int(row[0]) if row else 0


def label_conflicts(lake: Lake, start: date, end: date, as_of: datetime) -> pl.DataFrame:
    """List the transactions whose statements known as of a moment disagree.

    Returns:
        One row per transaction, by day and id: ``event_date``, ``transaction_id``,
        ``account_id``; ``says_fraud`` and ``says_genuine``, how many statements do;
        ``is_fraud``, ``source`` and ``known_at`` of the one that holds; ``decided_by``, why it
        does: ``known_at`` (it is the newest) or ``recorded_at`` (one that says otherwise counts
        from the same moment, and was written earlier); and all ``statements``, oldest first.
    """
    return lake.connection.execute(
        """
        WITH known AS (
            FROM lake.labels WHERE event_date BETWEEN $start AND $end AND known_at <= $as_of
        ), disputed AS (
            SELECT event_date, transaction_id, any_value(account_id) AS account_id,
                count(*) FILTER (is_fraud) AS says_fraud,
                count(*) FILTER (NOT is_fraud) AS says_genuine,
                max(known_at) FILTER (is_fraud) = max(known_at) FILTER (NOT is_fraud) AS is_tied
            FROM known GROUP BY event_date, transaction_id
            HAVING says_fraud > 0 AND says_genuine > 0
        ), listed AS (
            SELECT event_date, transaction_id, list(
                {'is_fraud': is_fraud, 'source': source, 'known_at': known_at,
                 'recorded_at': recorded_at} ORDER BY known_at, recorded_at) AS statements
            FROM known SEMI JOIN disputed USING (event_date, transaction_id)
            GROUP BY event_date, transaction_id
        )
        SELECT event_date, transaction_id, account_id, says_fraud, says_genuine,
            statements[-1].is_fraud AS is_fraud, statements[-1].source AS source,
            statements[-1].known_at AS known_at,
            CASE WHEN is_tied THEN 'recorded_at' ELSE 'known_at' END AS decided_by, statements
        FROM disputed JOIN listed USING (event_date, transaction_id)
        ORDER BY event_date, transaction_id
        """,
        {"start": start, "end": end, "as_of": as_of},
    ).pl()
