"""The review queue: transactions to review grouped into cases, analysts' verdicts, the audit trail.

Every write is one transaction and writers go one after another, so a crash leaves the queue as it
was before or as it is after, and enqueuing the same night again changes nothing.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Queue.open(f"{folder}/queue.sqlite", create=True) as queue:
    ...         queue.cases()
    []
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, case, func, insert, select, update

from warehouse.queue_audit import append_event, first_broken
from warehouse.queue_database import Database, open_database
from warehouse.queue_records import (
    Alert,
    CaseDetail,
    CaseSummary,
    Decision,
    EnqueueResult,
    NewAlert,
    NotInQueueError,
    QueueCount,
    Reason,
)
from warehouse.queue_statements import (
    IS_WAITING,
    read_summaries,
    select_alerts,
    select_decisions,
    select_summaries,
    to_alerts,
    to_decisions,
)
from warehouse.queue_tables import ALERTS, CASES, DECISIONS

__all__ = [
    "LANES",
    "STATES",
    "VERDICTS",
    "Alert",
    "CaseDetail",
    "CaseSummary",
    "Decision",
    "EnqueueResult",
    "NewAlert",
    "NotInQueueError",
    "Queue",
    "QueueCount",
    "Reason",
]

LANES = ("nightly", "backfill", "audit")
STATES = ("open", "closed")
VERDICTS = ("fraud", "genuine", "unsure")
ACTOR = "nightwarden"

# Databases limit the values of one statement: SQLite to 32,766, PostgreSQL to 65,535.
VALUES_PER_STATEMENT = 10_000


def now_utc() -> datetime:
    """Give the present moment in UTC."""
    return datetime.now(UTC)


class Queue:
    """The review queue; open it with ``Queue.open`` and close it after use."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Use a database whose schema is up to date; ``Queue.open`` sees to that."""
        self._database = database
        self._clock = clock

    @classmethod
    def open(
        cls, url_or_path: str | Path, *, create: bool, clock: Callable[[], datetime] = now_utc
    ) -> Self:
        """Open the queue; an older schema is upgraded.

        Args:
            url_or_path: Path of an SQLite file, or a SQLAlchemy URL of SQLite or PostgreSQL.
            create: Whether to make the queue, and its folder, where there is none.
            clock: Gives the present moment, with a time zone.

        Raises:
            WarehouseError: if it is missing, cannot be written, is no queue, or is too new.
        """
        return cls(open_database(url_or_path, create=create), clock)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def __enter__(self) -> Self:
        """Use the queue in a ``with`` statement."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the queue."""
        self.close()

    def enqueue(self, event_date: date, lane: str, alerts: Sequence[NewAlert]) -> EnqueueResult:
        """Add a day's alerts to their accounts' open cases of the lane, or open such cases.

        A transaction that is in the queue already, in whichever lane, is left exactly as it is. A
        closed case is never reopened. Repeating the call changes nothing. A day's audit sample is
        drawn once: where lane ``audit`` holds alerts of the day, nothing is added to it, as rows
        of a second draw would make the inclusion probabilities of the first untrue.

        Raises:
            ValueError: if the lane is unknown or a transaction is given twice.
            WarehouseError: if the queue cannot be written.
        """
        check_one_of("lane", lane, LANES)
        check_distinct(alerts)
        with self._database.write() as connection:
            known = known_transactions(connection, [alert.transaction_id for alert in alerts])
            fresh = [alert for alert in alerts if alert.transaction_id not in known]
            if not fresh or (lane == "audit" and count_alerts(connection, event_date, lane)):
                return EnqueueResult(0, len(known), 0, 0)
            moment = self._clock()
            accounts = list(dict.fromkeys(alert.account_id for alert in fresh))
            found = find_open_cases(connection, lane, accounts)
            touch_cases(connection, list(found.values()), event_date, moment)
            missing = [account for account in accounts if account not in found]
            opened = open_cases(connection, lane, missing, event_date, moment)
            rows = alert_rows(fresh, found | opened, event_date, lane, moment)
            connection.execute(insert(ALERTS), rows)
            result = EnqueueResult(len(fresh), len(known), len(opened), len(found))
            details = {"lane": lane, **asdict(result)}
            append_event(connection, moment, ACTOR, "enqueue", event_date.isoformat(), details)
        return result

    def cases(
        self, *, lane: str | None = None, state: str = "open", limit: int = 50
    ) -> list[CaseSummary]:
        """List cases, the highest score first, then the amount at risk.

        Args:
            lane: One lane, or None for all.
            state: ``open`` or ``closed``.
            limit: How many at most.
        """
        check_one_of("state", state, STATES)
        statement = select_summaries().where(CASES.c.state == state).limit(limit)
        if lane is not None:
            check_one_of("lane", lane, LANES)
            statement = statement.where(CASES.c.lane == lane)
        with self._database.read() as connection:
            return read_summaries(connection, statement)

    def case(self, case_id: int) -> CaseDetail:
        """Give a case with its alerts, their members and reasons, and all decisions.

        Raises:
            NotInQueueError: if there is no such case.
        """
        of_case = select_alerts(ALERTS.c.case_id == case_id)
        ranked = of_case.order_by(ALERTS.c.score.desc(), ALERTS.c.amount.desc(), ALERTS.c.id)
        decided = select_decisions().where(ALERTS.c.case_id == case_id)
        with self._database.read() as connection:
            summaries = read_summaries(connection, select_summaries().where(CASES.c.id == case_id))
            if not summaries:
                raise NotInQueueError(
                    f"expected the number of a case in the queue, got {case_id}; "
                    "run: nightwarden queue list"
                )
            alerts = to_alerts(connection.execute(ranked))
            return CaseDetail(summaries[0], alerts, to_decisions(connection.execute(decided)))

    def counts(self) -> list[QueueCount]:
        """Count cases and alerts by lane and state, in that order."""
        statement = (
            select(
                CASES.c.lane,
                CASES.c.state,
                func.count(CASES.c.id.distinct()).label("cases"),
                func.count(ALERTS.c.id).label("alerts"),
            )
            .join(ALERTS, ALERTS.c.case_id == CASES.c.id)
            .group_by(CASES.c.lane, CASES.c.state)
            .order_by(CASES.c.lane, CASES.c.state)
        )
        with self._database.read() as connection:
            return [QueueCount(**row) for row in connection.execute(statement).mappings()]

    def alerts_of_day(self, event_date: date) -> list[Alert]:
        """List a day's alerts in all lanes, by lane and rank."""
        return self.alerts_between(event_date, event_date)

    def alerts_between(self, start: date, end: date) -> list[Alert]:
        """List the alerts of the days from ``start`` to ``end``, by day, lane and rank."""
        statement = select_alerts(ALERTS.c.event_date.between(start, end))
        order = (ALERTS.c.event_date, ALERTS.c.lane, ALERTS.c.rank_of_day, ALERTS.c.id)
        with self._database.read() as connection:
            return list(to_alerts(connection.execute(statement.order_by(*order))))

    def count_of_day(self, event_date: date, lane: str) -> int:
        """Count a day's alerts in a lane, decided or not.

        Raises:
            ValueError: if the lane is unknown.
        """
        check_one_of("lane", lane, LANES)
        with self._database.read() as connection:
            return count_alerts(connection, event_date, lane)

    def last_decision(self) -> int:
        """Give the number of the newest decision; 0 where there is none."""
        with self._database.read() as connection:
            return connection.scalar(select(func.max(DECISIONS.c.id))) or 0

    def decisions(self, *, after: int = 0) -> list[Decision]:
        """List what analysts said, oldest first, beyond the decision numbered ``after``."""
        statement = select_decisions().where(DECISIONS.c.id > after)
        with self._database.read() as connection:
            return list(to_decisions(connection.execute(statement)))

    def decide(self, alert_id: int, verdict: str, analyst: str, note: str = "") -> None:
        """Record a verdict on an alert; its case closes once every alert of it has one.

        ``unsure`` is a verdict too. A later decision counts instead of an earlier one; both stay.

        Raises:
            ValueError: if the verdict is unknown or the analyst is nobody.
            NotInQueueError: if there is no such alert.
        """
        check_one_of("verdict", verdict, VERDICTS)
        if not analyst.strip():
            raise ValueError("expected an analyst's name, got an empty one; say who decides")
        with self._database.write() as connection:
            moment = self._clock()
            case_id = find_case(connection, alert_id)
            said = {"verdict": verdict, "analyst": analyst, "note": note}
            row = {"alert_id": alert_id, **said, "decided_at": moment}
            connection.execute(insert(DECISIONS).values(row))
            closes = close_if_decided(connection, case_id, moment)
            details = {"case_id": case_id, "verdict": verdict, "note": note, "closes_case": closes}
            append_event(connection, moment, analyst, "decide", f"alert {alert_id}", details)

    def verify_audit(self) -> int | None:
        """Give the sequence number of the first audit event that was tampered with, or None."""
        with self._database.read() as connection:
            return first_broken(connection)

    def export_rows(self, *, lane: str | None = None, state: str = "open") -> list[dict[str, Any]]:
        """Give a flat row per alert, for a CSV file: in the order of ``cases``, then by score."""
        check_one_of("state", state, STATES)
        conditions = [CASES.c.state == state]
        if lane is not None:
            check_one_of("lane", lane, LANES)
            conditions.append(CASES.c.lane == lane)
        of_cases = select(CASES.c.id).where(*conditions)
        waiting = select_alerts(ALERTS.c.case_id.in_(of_cases)).order_by(ALERTS.c.score.desc())
        with self._database.read() as connection:
            cases = connection.scalars(select_summaries().where(*conditions))
            place = {case_id: number for number, case_id in enumerate(cases)}
            alerts = to_alerts(connection.execute(waiting))
        return [export_row(alert) for alert in sorted(alerts, key=lambda a: place[a.case_id])]


def export_row(alert: Alert) -> dict[str, Any]:
    """Write an alert flat: without its members, its reasons as one text."""
    row = vars(alert) | {"reasons": "; ".join(reason.text for reason in alert.reasons)}
    del row["members"]
    return row


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those allowed."""
    if value not in allowed:
        raise ValueError(
            f"expected {name} to be one of {', '.join(allowed)}, got {value!r}; choose one"
        )


def check_distinct(alerts: Sequence[NewAlert]) -> None:
    """Refuse a transaction that is given twice."""
    counted = Counter(alert.transaction_id for alert in alerts)
    twice = sorted(transaction for transaction, times in counted.items() if times > 1)
    if twice:
        raise ValueError(
            f"expected each transaction once, got {len(twice)} more often, such as {twice[0]}; "
            "enqueue the rows of one scored day"
        )


def in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut a list into parts that fit into one statement."""
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        yield values[start : start + VALUES_PER_STATEMENT]


def known_transactions(connection: Connection, transaction_ids: Sequence[str]) -> set[str]:
    """Tell which transactions are in the queue already, in any lane."""
    known: set[str] = set()
    for part in in_parts(transaction_ids):
        statement = select(ALERTS.c.transaction_id).where(ALERTS.c.transaction_id.in_(part))
        known.update(connection.scalars(statement))
    return known


def count_alerts(connection: Connection, event_date: date, lane: str) -> int:
    """Count a day's alerts in a lane."""
    of_day = select(func.count()).where(ALERTS.c.event_date == event_date, ALERTS.c.lane == lane)
    return connection.scalar(of_day) or 0


def find_open_cases(connection: Connection, lane: str, accounts: Sequence[str]) -> dict[str, int]:
    """Give the number of each account's open case, for accounts that have one."""
    found: dict[str, int] = {}
    for part in in_parts(accounts):
        statement = select(CASES.c.account_id, CASES.c.id).where(
            CASES.c.state == "open", CASES.c.lane == lane, CASES.c.account_id.in_(part)
        )
        found.update((row.account_id, row.id) for row in connection.execute(statement))
    return found


def touch_cases(
    connection: Connection, case_ids: Sequence[int], event_date: date, moment: datetime
) -> None:
    """Note on cases that alerts of a day, perhaps an earlier one, are being appended."""
    newest = case(
        (CASES.c.last_event_date < event_date, event_date), else_=CASES.c.last_event_date
    )
    for part in in_parts(case_ids):
        statement = update(CASES).where(CASES.c.id.in_(part))
        connection.execute(statement.values(last_event_date=newest, updated_at=moment))


def open_cases(
    connection: Connection, lane: str, accounts: Sequence[str], event_date: date, moment: datetime
) -> dict[str, int]:
    """Open a case for each account and give their numbers."""
    if not accounts:
        return {}
    common = {
        "lane": lane,
        "state": "open",
        "opened_for": event_date,
        "last_event_date": event_date,
        "created_at": moment,
        "updated_at": moment,
    }
    rows = [{"account_id": account, **common} for account in accounts]
    statement = insert(CASES).returning(CASES.c.account_id, CASES.c.id)
    return {row.account_id: row.id for row in connection.execute(statement, rows)}


def alert_rows(
    alerts: Sequence[NewAlert],
    case_ids: dict[str, int],
    event_date: date,
    lane: str,
    moment: datetime,
) -> list[dict[str, Any]]:
    """Write alerts as rows of their table."""
    common = {"event_date": event_date, "lane": lane, "created_at": moment}
    return [
        {
            **vars(alert),
            "members": dict(alert.members),
            "reasons": [asdict(reason) for reason in alert.reasons],
            "case_id": case_ids[alert.account_id],
            **common,
        }
        for alert in alerts
    ]


def find_case(connection: Connection, alert_id: int) -> int:
    """Give the number of an alert's case."""
    case_id = connection.scalar(select(ALERTS.c.case_id).where(ALERTS.c.id == alert_id))
    if case_id is None:
        raise NotInQueueError(
            f"expected the number of an alert in the queue, got {alert_id}; "
            "run: nightwarden queue show"
        )
    return int(case_id)


def close_if_decided(connection: Connection, case_id: int, moment: datetime) -> bool:
    """Close an open case whose alerts all have a verdict; tell whether it closed now."""
    waiting = select(ALERTS.c.id).where(ALERTS.c.case_id == case_id, IS_WAITING).exists()
    statement = update(CASES).where(CASES.c.id == case_id, CASES.c.state == "open", ~waiting)
    return connection.execute(statement.values(state="closed", updated_at=moment)).rowcount == 1
