"""Fills a queue with months of nights, by its own functions, for benchmarks/review_desk.py.

A case has four alerts. Of the cases of the first half of the nights three in five are decided;
their accounts get a second case, and as many new accounts their first, that the sums come out.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.account_transactions import keep_transactions
from warehouse.queue import NewAlert, Queue, Reason
from warehouse.queue_decisions import Verdict, decide_alerts

ALERTS_PER_CASE = 4
DECIDED_OF_FIVE = 3
NIGHTS = 60
VERDICTS_AT_ONCE = 500
MINUTES_APART = 4
USUAL_ROWS = 16  # transactions of an account without an alert
LANES = ("nightly",) * 9 + ("backfill",)
MEMBERS = ("boosted", "gaussian", "tails", "autoencoder", "recurrent")


@dataclass
class Calendar:
    """A clock that is set, so that the nights lie in the past."""

    moment: datetime

    def __call__(self) -> datetime:
        """Give the moment that it is set to."""
        return self.moment


@dataclass(frozen=True)
class Plan:
    """Which account has a case on which night: so many cases in two equal halves."""

    cases: int
    last_day: date
    seed: int
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Begin to draw."""
        object.__setattr__(self, "draw", random.Random(self.seed))  # noqa: S311 (no secrets)

    @property
    def again(self) -> int:
        """How many accounts get a second case."""
        return self.cases // 2 * DECIDED_OF_FIVE // 5

    def halves(self) -> Iterator[tuple[list[date], range]]:
        """Give the days and the accounts of each half."""
        half, again = self.cases // 2, self.again
        days = [self.last_day - timedelta(days=back) for back in range(NIGHTS, 0, -1)]
        yield days[: NIGHTS // 2], range(half)
        yield days[NIGHTS // 2 :], range(half - again, 2 * half - again)


def account_name(number: int) -> str:
    """Give an account's pseudonym; those of a second case are the last of the first half."""
    return f"{number * 2654435761 % 2**32:08x}{number:08x}"


def fill_queue(path: Path, plan: Plan) -> dict[str, Any]:
    """Fill a new queue, and say how much is in it and how long it took."""
    started = time.perf_counter()
    calendar = Calendar(datetime.now(UTC))
    with Queue.open(path, create=True, clock=calendar) as queue:
        for number, (days, accounts) in enumerate(plan.halves()):
            enqueue_half(queue, calendar, plan, days, accounts)
            if number == 0:
                again = accounts[len(accounts) - plan.again :]
                decide_cases(queue, calendar, plan, {account_name(a) for a in again})
        counts = queue.counts()
    return {
        "cases": sum(count.cases for count in counts),
        "alerts": sum(count.alerts for count in counts),
        "open": sum(count.cases for count in counts if count.state == "open"),
        "seconds": time.perf_counter() - started,
    }


def enqueue_half(
    queue: Queue, calendar: Calendar, plan: Plan, days: list[date], accounts: range
) -> None:
    """Enqueue the cases of some nights, each account's alerts within four of them."""
    nights: dict[date, dict[str, list[NewAlert]]] = {day: {} for day in days}
    rows: list[tuple[Any, ...]] = []
    for place, account in enumerate(accounts):
        first = place * (len(days) - ALERTS_PER_CASE + 1) // len(accounts)
        lane = LANES[account % len(LANES)]
        for day in days[first : first + ALERTS_PER_CASE]:
            alert = draw_alert(plan, account, day, len(nights[day].get(lane, ())))
            nights[day].setdefault(lane, []).append(alert)
            at = alert.occurred_at
            rows.append(
                (alert.transaction_id, alert.account_id, day, at, alert.merchant_id, alert.amount)
            )
        rows += draw_usual(plan, account, days[first])
    names = ("transaction_id", "account_id", "event_date", "occurred_at", "merchant_id", "amount")
    keep_transactions(queue, pl.DataFrame(rows, schema=names, orient="row"))
    for day, lanes in nights.items():
        calendar.moment = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
        for lane, alerts in lanes.items():
            queue.enqueue(day, lane, alerts)


def draw_alert(plan: Plan, account: int, day: date, rank: int) -> NewAlert:
    """Draw an alert of an account on a day."""
    draw = plan.draw
    score, amount = 2.0 + draw.expovariate(1.0), round(draw.lognormvariate(4.5, 1.2), 2)
    moment = datetime.combine(day, datetime.min.time(), UTC)
    return NewAlert(
        transaction_id=f"t{day:%y%m%d}{account:08d}",
        occurred_at=moment + timedelta(seconds=draw.randrange(86_400)),
        account_id=account_name(account),
        merchant_id=f"shop-{int(draw.paretovariate(0.6)) % 20_000:05d}",
        amount=amount,
        score=score,
        rank_of_day=rank + 1,
        members={name: max(0.0, score + draw.gauss(0.0, 0.7)) for name in MEMBERS},
        reasons=[
            Reason("amount", amount, 41.5, f"amount {amount:.2f}, usually about 41.50"),
            Reason("account_count_1d", 9.0, 2.0, "9 transactions within a day, usually 2"),
            Reason("is_night", 1.0, 0.0, "at night, which is rare for the account"),
        ],
        model_version=str(1 + day.timetuple().tm_yday // 14),
        probability=min(0.99, score / 12),
        snapshot_id=day.toordinal(),
    )


def draw_usual(plan: Plan, account: int, day: date) -> Iterator[tuple[Any, ...]]:
    """Draw what an account did in the month before its first alert."""
    draw, name = plan.draw, account_name(account)
    shops = [f"shop-{draw.randrange(20_000):05d}" for _ in range(5)]
    for number in range(USUAL_ROWS):
        happened = day - timedelta(days=1 + draw.randrange(30))
        moment = datetime.combine(happened, datetime.min.time(), UTC)
        at = moment + timedelta(seconds=draw.randrange(28_800, 79_200))
        amount = round(draw.lognormvariate(3.5, 0.6), 2)
        yield (
            f"u{day:%y%m%d}{account:08d}-{number}",
            name,
            happened,
            at,
            draw.choice(shops),
            amount,
        )


def decide_cases(queue: Queue, calendar: Calendar, plan: Plan, accounts: set[str]) -> None:
    """Decide all alerts of accounts, many at a time and some minutes apart."""
    with queue.database.read() as connection:
        alerts = [
            row.id
            for row in connection.exec_driver_sql("SELECT id, account_id FROM alerts ORDER BY id")
            if row.account_id in accounts
        ]
    draw = plan.draw
    for begin in range(0, len(alerts), VERDICTS_AT_ONCE):
        verdicts = [
            Verdict(alert, draw.choices(("fraud", "genuine", "unsure"), (3, 6, 1))[0])
            for alert in alerts[begin : begin + VERDICTS_AT_ONCE]
        ]
        calendar.moment += timedelta(minutes=MINUTES_APART)
        decide_alerts(queue, verdicts, f"analyst-{begin // VERDICTS_AT_ONCE % 20:02d}")
