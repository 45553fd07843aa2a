"""What tests of the queue and of the desk share: a day, a clock, alerts, and a look at changes."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from warehouse.queue import NewAlert, Reason
from warehouse.queue_changes import read_changes

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: datetime = NOON

    def __call__(self):
        """Give the moment."""
        return self.now

    def advance(self, **span):
        """Move on, such as ``clock.advance(minutes=6)``."""
        self.now += timedelta(**span)


def new_alert(name, *, account="a1", merchant="m1", amount=10.0, score=3.0, day=DAY, **fields):
    """Make an alert; ``fields`` are other fields of ``NewAlert``.

    It has rank 1 and is of midnight. With a number n for a name it is the transaction ``tn``, of
    rank n + 1, n seconds after midnight.
    """
    number = name if isinstance(name, int) else 0
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    values = {
        "transaction_id": f"t{name}" if isinstance(name, int) else name,
        "occurred_at": midnight + timedelta(seconds=number),
        "account_id": account,
        "merchant_id": merchant,
        "amount": amount,
        "score": score,
        "rank_of_day": number + 1,
        "members": {"gaussian": score, "vae": 1.5},
        "reasons": [Reason("amount", amount, 2.0, f"amount {amount:.2f} is unusual")],
        "model_version": "7",
    }
    return NewAlert(**(values | fields))


def changes(queue, after=0):
    """List all changes of the queue whose number is above ``after``."""
    with queue.database.read() as connection:
        return read_changes(connection, after=after, limit=100_000)


def last_change(queue):
    return max((change.id for change in changes(queue)), default=0)
