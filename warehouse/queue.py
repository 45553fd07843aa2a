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

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Select, func, select

from warehouse.queue_audit import first_broken
from warehouse.queue_database import Database, open_database
from warehouse.queue_decisions import VERDICTS, Verdict, record_verdicts
from warehouse.queue_enqueue import add_alerts, check_distinct, count_alerts
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
    IS_RETRACTED,
    SETTLED_AFTER,
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


def now_utc() -> datetime:
    """Give the present moment in UTC."""
    return datetime.now(UTC)


class Queue:
    """The review queue; open it with ``Queue.open`` and close it after use."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Use a database whose schema is up to date; ``Queue.open`` sees to that."""
        self.database = database
        self.clock = clock

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
        self.database.close()

    def __enter__(self) -> Self:
        """Use the queue in a ``with`` statement."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the queue."""
        self.close()

    def enqueue(self, event_date: date, lane: str, alerts: Sequence[NewAlert]) -> EnqueueResult:
        """Add a day's alerts to their accounts' open cases of the lane, or open such cases.

        A transaction that is in the queue already, in whichever lane, is left exactly as it is. A
        closed case is never reopened; one that sleeps wakes up. Repeating the call changes
        nothing. A day's audit sample is drawn once: where lane ``audit`` holds alerts of the day,
        nothing is added to it, as rows of a second draw would make the inclusion probabilities of
        the first untrue.

        What a suppression holds for is logged instead of queued, but never in lane ``audit``; it
        stays out of the queue when the suppression has ended.

        Raises:
            ValueError: if the lane is unknown or a transaction is given twice.
            WarehouseError: if the queue cannot be written.
        """
        check_one_of("lane", lane, LANES)
        check_distinct(alerts)
        with self.database.write() as connection:
            return add_alerts(connection, event_date, lane, alerts, self.clock())

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
        with self.database.read() as connection:
            return read_summaries(connection, statement)

    def case(self, case_id: int) -> CaseDetail:
        """Give a case with its alerts, their members and reasons, and all decisions.

        Raises:
            NotInQueueError: if there is no such case.
        """
        of_case = select_alerts(ALERTS.c.case_id == case_id)
        ranked = of_case.order_by(ALERTS.c.score.desc(), ALERTS.c.amount.desc(), ALERTS.c.id)
        decided = select_decisions().where(ALERTS.c.case_id == case_id)
        with self.database.read() as connection:
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
        with self.database.read() as connection:
            return [QueueCount(**row) for row in connection.execute(statement).mappings()]

    def alerts_of_day(self, event_date: date) -> list[Alert]:
        """List a day's alerts in all lanes, by lane and rank."""
        return self.alerts_between(event_date, event_date)

    def alerts_between(self, start: date, end: date) -> list[Alert]:
        """List the alerts of the days from ``start`` to ``end``, by day, lane and rank."""
        statement = select_alerts(ALERTS.c.event_date.between(start, end))
        order = (ALERTS.c.event_date, ALERTS.c.lane, ALERTS.c.rank_of_day, ALERTS.c.id)
        with self.database.read() as connection:
            return list(to_alerts(connection.execute(statement.order_by(*order))))

    def count_of_day(self, event_date: date, lane: str) -> int:
        """Count a day's alerts in a lane, decided or not.

        Raises:
            ValueError: if the lane is unknown.
        """
        check_one_of("lane", lane, LANES)
        with self.database.read() as connection:
            return count_alerts(connection, event_date, lane)

    def last_decision(self) -> int:
        """Give the number of the newest decision; 0 where there is none."""
        with self.database.read() as connection:
            return connection.scalar(select(func.max(DECISIONS.c.id))) or 0

    def decisions(
        self, *, after: int = 0, settled_before: datetime | None = None
    ) -> list[Decision]:
        """List what analysts said, oldest first, beyond the decision numbered ``after``.

        Args:
            after: The number of a decision; 0 for all.
            settled_before: A moment of ``settled_before``: the list then ends before the first
                decision that may still be taken back, or that such a one follows on the same
                alert. It leaves out those that were taken back, and those that a later one in the
                list follows on the same alert, ``unsure`` too. Who goes on after the last one
                given misses none.
        """
        statement = select_decisions().where(DECISIONS.c.id > after)
        with self.database.read() as connection:
            if settled_before is None:
                return list(to_decisions(connection.execute(statement)))
            end = connection.scalar(select_first_open(after, settled_before))
            statement = statement.where(DECISIONS.c.id.in_(select_settled(after, end)))
            return list(to_decisions(connection.execute(statement)))

    def settled_before(self) -> datetime:
        """Give the moment so that no decision made before it can be taken back any more.

        The clock is read as the only writer: every retraction that was in time is written by then,
        unless a clock elsewhere is a minute behind this one.
        """
        with self.database.write():
            return self.clock() - SETTLED_AFTER

    def decide(self, alert_id: int, verdict: str, analyst: str, note: str = "") -> None:
        """Record a verdict on an alert, whoever has claimed its case and whatever was said before.

        The case closes once every alert of it has a verdict; ``unsure`` is one, too. A later
        decision counts instead of an earlier one; both stay.

        Raises:
            ValueError: if the verdict is unknown or the analyst is nobody.
            NotInQueueError: if there is no such alert.
        """
        said = [Verdict(alert_id, verdict, note)]
        with self.database.write() as connection:
            record_verdicts(connection, self.clock(), said, analyst)

    def verify_audit(self) -> int | None:
        """Give the sequence number of the first audit event that was tampered with, or None."""
        with self.database.read() as connection:
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
        with self.database.read() as connection:
            cases = connection.scalars(select_summaries().where(*conditions))
            place = {case_id: number for number, case_id in enumerate(cases)}
            alerts = to_alerts(connection.execute(waiting))
        return [export_row(alert) for alert in sorted(alerts, key=lambda a: place[a.case_id])]


def select_first_open(after: int, settled_before: datetime) -> Select[Any]:
    """Select the first decision of which it is open whether it will stand or be followed."""
    later = DECISIONS.alias()
    young = select(later.c.alert_id).where(
        later.c.id > after, later.c.decided_at >= settled_before
    )
    return select(func.min(DECISIONS.c.id)).where(
        DECISIONS.c.id > after, DECISIONS.c.alert_id.in_(young)
    )


def select_settled(after: int, before: int | None) -> Select[Any]:
    """Select the newest decision of each alert that stands, of the numbers between two."""
    conditions = [DECISIONS.c.id > after, ~IS_RETRACTED]
    if before is not None:
        conditions.append(DECISIONS.c.id < before)
    return select(func.max(DECISIONS.c.id)).where(*conditions).group_by(DECISIONS.c.alert_id)


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
