"""How alerts get into the queue: what is there already, what is suppressed, cases, and rows.

Belongs here: the steps of ``Queue.enqueue`` within its one transaction. Each statement is for all
alerts of the day; none is for one row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from warehouse.queue_audit import append_event
from warehouse.queue_changes import Change, append_changes
from warehouse.queue_figures import refresh_cases
from warehouse.queue_records import EnqueueResult, NewAlert
from warehouse.queue_statements import in_parts
from warehouse.queue_tables import ALERTS, CASES, SUPPRESSED_ALERTS
from warehouse.queue_work import Act, wake_cases
from warehouse.suppressions import find_suppressed

ACTOR = "nightwarden"
AUDIT = "audit"


def add_alerts(
    connection: Connection,
    event_date: date,
    lane: str,
    alerts: Sequence[NewAlert],
    moment: datetime,
) -> EnqueueResult:
    """Add a day's alerts that are not there, and wake the cases that they come into.

    The connection must be the only writer.
    """
    known = known_transactions(connection, [alert.transaction_id for alert in alerts])
    fresh = [alert for alert in alerts if alert.transaction_id not in known]
    if not fresh or (lane == AUDIT and count_alerts(connection, event_date, lane)):
        return EnqueueResult(0, len(known), 0, 0, 0)
    common = {"event_date": event_date, "lane": lane, "created_at": moment}
    held = {} if lane == AUDIT else find_suppressed(connection, fresh, moment.date())
    wanted = [alert for alert in fresh if alert.transaction_id not in held]
    accounts = list(dict.fromkeys(alert.account_id for alert in wanted))
    found = find_open_cases(connection, lane, accounts)
    opened = open_cases(connection, [a for a in accounts if a not in found], common)
    changes = log_suppressed(connection, fresh, held, common)
    changes += [case_opened(number, account, common) for account, number in opened.items()]
    changes += insert_alerts(connection, wanted, found | opened, common)
    append_changes(connection, moment, ACTOR, changes)
    refresh_cases(connection, list((found | opened).values()), moment)
    result = EnqueueResult(len(wanted), len(known), len(opened), len(found), len(held))
    details = {"lane": lane, **asdict(result)}
    append_event(connection, moment, ACTOR, "enqueue", event_date.isoformat(), details)
    for part in in_parts(list(found.values())):
        wake_cases(Act(connection, moment, ACTOR), part)
    return result


def check_distinct(alerts: Sequence[NewAlert]) -> None:
    """Refuse a transaction that is given twice."""
    counted = Counter(alert.transaction_id for alert in alerts)
    twice = sorted(transaction for transaction, times in counted.items() if times > 1)
    if twice:
        raise ValueError(
            f"expected each transaction once, got {len(twice)} more often, such as {twice[0]}; "
            "enqueue the rows of one scored day"
        )


def known_transactions(connection: Connection, transaction_ids: Sequence[str]) -> set[str]:
    """Tell which transactions are there already, in any lane or suppressed."""
    known: set[str] = set()
    for part in in_parts(transaction_ids):
        for key in (ALERTS.c.transaction_id, SUPPRESSED_ALERTS.c.transaction_id):
            known.update(connection.scalars(select(key).where(key.in_(part))))
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


def open_cases(
    connection: Connection, accounts: Sequence[str], common: Mapping[str, Any]
) -> dict[str, int]:
    """Open a case for each account and give their numbers; the figures are yet to be counted."""
    if not accounts:
        return {}
    day, moment = common["event_date"], common["created_at"]
    of_day = {
        "lane": common["lane"],
        "state": "open",
        "opened_for": day,
        "last_event_date": day,
        "created_at": moment,
        "updated_at": moment,
    }
    rows = [{"account_id": account, **of_day} for account in accounts]
    statement = insert(CASES).returning(CASES.c.account_id, CASES.c.id)
    return {row.account_id: row.id for row in connection.execute(statement, rows)}


def case_opened(case_id: int, account: str, common: Mapping[str, Any]) -> Change:
    """Say that a case was opened."""
    day = common["event_date"].isoformat()
    details = {"account_id": account, "lane": common["lane"], "event_date": day}
    return Change("case_opened", case_id, None, details)


def insert_alerts(
    connection: Connection,
    alerts: Sequence[NewAlert],
    case_ids: Mapping[str, int],
    common: Mapping[str, Any],
) -> list[Change]:
    """Insert alerts into their accounts' cases and say so of each, in the order given."""
    if not alerts:
        return []
    rows = [
        {**table_row(alert), "case_id": case_ids[alert.account_id], **common} for alert in alerts
    ]
    statement = insert(ALERTS).returning(ALERTS.c.transaction_id, ALERTS.c.id)
    numbers = {row.transaction_id: row.id for row in connection.execute(statement, rows)}
    return [
        Change(
            "alert_queued",
            case_ids[alert.account_id],
            numbers[alert.transaction_id],
            in_short(alert, common),
        )
        for alert in alerts
    ]


def log_suppressed(
    connection: Connection,
    alerts: Sequence[NewAlert],
    held: Mapping[str, int],
    common: Mapping[str, Any],
) -> list[Change]:
    """Keep the alerts that a suppression holds for apart from the cases, and say so of each."""
    kept = [alert for alert in alerts if alert.transaction_id in held]
    if kept:
        rows = [
            {**table_row(alert), "suppression_id": held[alert.transaction_id], **common}
            for alert in kept
        ]
        connection.execute(insert(SUPPRESSED_ALERTS), rows)
    return [
        Change(
            "alert_suppressed",
            None,
            None,
            {**in_short(alert, common), "suppression_id": held[alert.transaction_id]},
        )
        for alert in kept
    ]


def table_row(alert: NewAlert) -> dict[str, Any]:
    """Write an alert as a row of a table, without what the queue adds."""
    reasons = [asdict(reason) for reason in alert.reasons]
    return {**vars(alert), "members": dict(alert.members), "reasons": reasons}


def in_short(alert: NewAlert, common: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a program that follows the changes needs to know of an alert."""
    names = ("transaction_id", "account_id", "merchant_id", "amount", "score", "model_version")
    of_alert = {name: getattr(alert, name) for name in names}
    return {**of_alert, "lane": common["lane"], "event_date": common["event_date"].isoformat()}
