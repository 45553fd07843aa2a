"""A case's story for its page: its alerts, what was said of them, and what the account did before.

Everything is of one moment and found by indexes, however full the queue is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, func, select

from warehouse.account_transactions import (
    STORY_DAYS,
    STORY_ROWS,
    AccountTransaction,
    read_account_transactions,
)
from warehouse.queue import Queue
from warehouse.queue_decisions import Proposal, read_open_proposals
from warehouse.queue_records import Alert, CaseSummary, Decision
from warehouse.queue_search import forget_bygones
from warehouse.queue_statements import (
    SUMMARY,
    read_summaries,
    select_alerts,
    select_decisions,
    to_alerts,
    to_decisions,
)
from warehouse.queue_tables import ALERTS, CASES
from warehouse.queue_work import read_case

EARLIER_CASES = 20
LEAST_BEFORE_NEW = 5
HIGH_SHARE = 0.95


@dataclass(frozen=True)
class StoryTransaction:
    """One transaction of the account.

    Attributes:
        hour: Of the day, in UTC.
        is_new_merchant: Whether none of the transactions before was at this merchant; never true
            of the story's first five, before which too little is known.
        alert_id: Its alert, in this case or another of the account, or None.
        case_id: The case of that alert.
    """

    transaction_id: str
    event_date: date
    occurred_at: datetime
    hour: int
    merchant_id: str
    amount: float
    is_new_merchant: bool
    alert_id: int | None
    case_id: int | None


@dataclass(frozen=True)
class EarlierCase:
    """Another case of the account, and the verdicts that stand on its alerts."""

    id: int
    lane: str
    state: str
    opened_for: date
    alert_count: int
    frauds: int
    genuine: int
    unsure: int


@dataclass(frozen=True)
class CaseStory:
    """Everything that the case page shows.

    Attributes:
        summary: The case; a claim that ran out is none.
        alerts: The highest score first.
        decisions: The oldest first, those taken back among them.
        proposals: What waits for a second analyst, by alert.
        transactions: The oldest first, of the days up to the newest alert, the alerts among them.
        usual_hours: Transactions without an alert in each hour of the day, in UTC.
        usual_amount: Median of the transactions without an alert; None if there are none.
        high_amount: What 95 % of them do not exceed.
        new_merchants: Merchants that were new to the account on the days of the alerts.
        earlier_cases: The account's other cases, the newest first.
    """

    summary: CaseSummary
    alerts: tuple[Alert, ...]
    decisions: tuple[Decision, ...]
    proposals: dict[int, Proposal]
    transactions: tuple[StoryTransaction, ...]
    usual_hours: tuple[int, ...]
    usual_amount: float | None
    high_amount: float | None
    new_merchants: tuple[str, ...]
    earlier_cases: tuple[EarlierCase, ...]


def read_story(queue: Queue, case_id: int) -> CaseStory:
    """Read what there is to know about a case, in one transaction.

    Raises:
        NotInQueueError: if there is no such case.
    """
    of_case = ALERTS.c.case_id == case_id
    ranked = select_alerts(of_case).order_by(
        ALERTS.c.score.desc(), ALERTS.c.amount.desc(), ALERTS.c.id
    )
    with queue.database.read() as connection:
        account = read_case(connection, case_id).account_id
        (summary,) = read_summaries(connection, select(*SUMMARY).where(CASES.c.id == case_id))
        alerts = to_alerts(connection.execute(ranked))
        decisions = to_decisions(connection.execute(select_decisions().where(of_case)))
        proposals = read_open_proposals(connection, case_id)
        # none is left where all were moved into another case
        until = max((alert.occurred_at for alert in alerts), default=queue.clock())
        known = read_account_transactions(connection, account, until=until)
        alerted = read_alerted(connection, account, until)
        earlier = read_earlier_cases(connection, account, case_id)
    transactions = tell_transactions(known, alerted | by_transaction(alerts))
    usual = [row for row in transactions if row.alert_id is None]
    days = {alert.event_date for alert in alerts}
    new = (row for row in transactions if row.is_new_merchant and row.event_date in days)
    return CaseStory(
        summary=forget_bygones(summary, queue.clock()),
        alerts=alerts,
        decisions=decisions,
        proposals=proposals,
        transactions=transactions,
        usual_hours=count_hours(usual),
        usual_amount=median(row.amount for row in usual) if usual else None,
        high_amount=find_high_amount(usual),
        new_merchants=tuple(row.merchant_id for row in new),
        earlier_cases=earlier,
    )


def by_transaction(alerts: Sequence[Any]) -> dict[str, Any]:
    """Give alerts by their transaction."""
    return {alert.transaction_id: alert for alert in alerts}


def read_alerted(connection: Connection, account_id: str, until: datetime) -> dict[str, Any]:
    """Read the newest alerts of an account in all its cases, by transaction."""
    names = ("id", "case_id", *AccountTransaction.__dataclass_fields__)
    statement = (
        select(*(ALERTS.c[name] for name in names))
        .where(
            ALERTS.c.account_id == account_id,
            ALERTS.c.occurred_at <= until,
            ALERTS.c.occurred_at > until - timedelta(days=STORY_DAYS),
        )
        .order_by(ALERTS.c.occurred_at.desc())
        .limit(STORY_ROWS)
    )
    return by_transaction(connection.execute(statement).all())


def read_earlier_cases(
    connection: Connection, account_id: str, case_id: int
) -> tuple[EarlierCase, ...]:
    """Read the account's newest other cases, with the verdicts on their alerts."""
    columns = tuple(CASES.c[n] for n in ("id", "lane", "state", "opened_for", "alert_count"))
    others = (
        select(*columns)
        .where(CASES.c.account_id == account_id, CASES.c.id != case_id)
        .order_by(CASES.c.id.desc())
        .limit(EARLIER_CASES)
    )
    cases = connection.execute(others).mappings().all()
    if not cases:
        return ()
    judged = select_alerts(ALERTS.c.case_id.in_([row["id"] for row in cases])).subquery()
    statement = select(judged.c.case_id, judged.c.verdict, func.count().label("alerts"))
    counted = connection.execute(statement.group_by(judged.c.case_id, judged.c.verdict))
    said = {(row.case_id, row.verdict): row.alerts for row in counted}
    return tuple(
        EarlierCase(
            **row,
            frauds=said.get((row["id"], "fraud"), 0),
            genuine=said.get((row["id"], "genuine"), 0),
            unsure=said.get((row["id"], "unsure"), 0),
        )
        for row in cases
    )


def tell_transactions(
    known: Sequence[AccountTransaction], alerted: Mapping[str, Any]
) -> tuple[StoryTransaction, ...]:
    """Put an account's transactions in order, and say what stands out in each.

    An alert is told even where its transaction was not kept.
    """
    kept = by_transaction(known)
    rows: list[Any] = [*known, *(row for name, row in alerted.items() if name not in kept)]
    rows.sort(key=lambda row: (row.occurred_at, row.transaction_id))
    seen: set[str] = {""}  # no merchant at all is none that is new
    told = []
    for place, row in enumerate(rows):
        is_new = place >= LEAST_BEFORE_NEW and row.merchant_id not in seen
        seen.add(row.merchant_id)
        told.append(tell_transaction(row, alerted.get(row.transaction_id), is_new=is_new))
    return tuple(told)


def tell_transaction(row: Any, alert: Any | None, *, is_new: bool) -> StoryTransaction:  # noqa: ANN401 - rows of two tables
    """Tell of one transaction, or of an alert that stands for one."""
    return StoryTransaction(
        transaction_id=row.transaction_id,
        event_date=row.event_date,
        occurred_at=row.occurred_at,
        hour=row.occurred_at.astimezone(UTC).hour,
        merchant_id=row.merchant_id,
        amount=row.amount,
        is_new_merchant=is_new,
        alert_id=alert.id if alert else None,
        case_id=alert.case_id if alert else None,
    )


def count_hours(rows: Sequence[StoryTransaction]) -> tuple[int, ...]:
    """Count transactions in each hour of the day."""
    hours = [row.hour for row in rows]
    return tuple(hours.count(hour) for hour in range(24))


def find_high_amount(rows: Sequence[StoryTransaction]) -> float | None:
    """Give the least amount that 95 % of the transactions do not exceed."""
    amounts = sorted(row.amount for row in rows)
    return amounts[math.ceil(HIGH_SHARE * len(amounts)) - 1] if amounts else None
