"""The label maturity ledger: of each day, how many of the labels expected by now are in.

A day is mature once ``maturity_days`` have passed since its end where the source is: a transaction
of it without a label counts as genuine then. One of an immature day without a label is unknown.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from warehouse.connection import Lake
from warehouse.errors import UserError
from warehouse.reads import TRUTH

WINDOW_DAYS = 90

_OF_LABELLED_SOURCE = f"""
    WITH truth AS ({TRUTH}), judged AS (
        SELECT event_date, is_fraud, occurred_at + to_days($delay) <= $as_of AS is_due
        FROM lake.transactions LEFT JOIN truth USING (event_date, transaction_id)
        WHERE event_date BETWEEN $start AND $end
    )
    SELECT event_date, count(*), count(is_fraud), count(*) FILTER (is_fraud),
        avg(is_due::INT), count(is_fraud) FILTER (is_due) / nullif(count(*) FILTER (is_due), 0),
        event_date <= $newest
    FROM judged GROUP BY event_date ORDER BY event_date
"""

_OF_REPORTED_FRAUDS = f"""
    WITH truth AS ({TRUTH}), window_labels AS (
        FROM lake.labels
        WHERE event_date BETWEEN $window_start AND $newest AND known_at <= $as_of
    ), window_frauds AS (
        SELECT event_date, transaction_id, min(known_at) FILTER (is_fraud) AS first_known_at
        FROM window_labels SEMI JOIN (FROM window_labels WHERE is_fraud)
            USING (event_date, transaction_id)
        GROUP BY event_date, transaction_id
        HAVING arg_max(is_fraud, (known_at, recorded_at))
    ), delays AS (
        SELECT epoch_us(first_known_at) - epoch_us(occurred_at) AS delay
        FROM lake.transactions JOIN window_frauds USING (event_date, transaction_id)
        WHERE event_date BETWEEN $window_start AND $newest
          AND first_known_at <= occurred_at + to_days($maturity)
    ), curve AS (
        SELECT delay, max(place) / max(max(place)) OVER () AS share
        FROM (SELECT delay, row_number() OVER (ORDER BY delay) AS place FROM delays)
        GROUP BY delay
    ), usual AS (
        SELECT (SELECT count(*) FROM delays) / nullif(count(*), 0) AS fraud_share
        FROM lake.transactions WHERE event_date BETWEEN $window_start AND $newest
    ), aged AS (
        SELECT event_date, epoch_us($as_of) - epoch_us(occurred_at) AS age, is_fraud
        FROM lake.transactions LEFT JOIN truth USING (event_date, transaction_id)
        WHERE event_date BETWEEN $start AND $end
    ), days AS (
        SELECT event_date, count(*) AS transactions, count(is_fraud) AS labelled,
            count(*) FILTER (is_fraud) AS frauds, avg(coalesce(share, 0)) AS share
        FROM aged ASOF LEFT JOIN curve ON age >= delay GROUP BY event_date
    )
    SELECT event_date, transactions, labelled, frauds,
        CASE WHEN fraud_share > 0 THEN share END,
        frauds / nullif(transactions * fraud_share * share, 0), event_date <= $newest
    FROM days, usual ORDER BY event_date
"""


@dataclass(frozen=True)
class DayMaturity:
    """How far a day's labels are.

    Attributes:
        transactions: Transactions of the day.
        labelled: Those with a label that was known. frauds: Those of which it says fraud.
        expected_share: Share of the day's labels that should be known by now, 0 to 1; None while
            nothing tells.
        known_share: Of the labels expected by now, the share that is in; None where none is
            expected. Above 1 where an estimate stands for the expected ones, and there are more.
        is_mature: Whether what has no label counts as genuine.
    """

    day: date
    transactions: int
    labelled: int
    frauds: int
    expected_share: float | None
    known_share: float | None
    is_mature: bool


def last_mature_day(now: datetime, time_zone: str, maturity_days: int) -> date:
    """Give the newest day that has been over for ``maturity_days`` days of the source's calendar.

    Where clocks went forward meanwhile, the labels of its last hour may come an hour later.

    Args:
        now: A moment, with its time zone.
        time_zone: Where a day begins at midnight.
        maturity_days: Days after which what has no label counts as genuine.

    Example:
        >>> evening = datetime.fromisoformat("2026-03-19 17:30-07:00")  # the 20th in UTC
        >>> last_mature_day(evening, "America/Los_Angeles", maturity_days=7)
        datetime.date(2026, 3, 11)
    """
    return now.astimezone(ZoneInfo(time_zone)).date() - timedelta(days=maturity_days + 1)


def day_maturities(
    lake: Lake,
    start: date,
    end: date,
    as_of: datetime,
    *,
    time_zone: str,
    maturity_days: int,
    label_delay_days: int | None,
) -> list[DayMaturity]:
    """Tell, for each day with transactions, how many of the labels expected by now are in.

    A source that labels every transaction owes a label once ``label_delay_days`` have passed since
    the transaction. Where only frauds are ever reported (``label_delay_days`` is None), what to
    expect is estimated from the newest ``WINDOW_DAYS`` mature days: the share of a day's frauds
    known at an age is the empirical distribution function of the delays from a transaction to the
    first label that called it a fraud, over the frauds that became known within ``maturity_days``,
    averaged over the ages of the day's transactions; and a day is taken to have the usual share
    of frauds. That is not valid where the reporting has changed since.

    Args:
        lake: The lake.
        start: First day.
        end: Last day.
        as_of: The moment up to which labels are known.
        time_zone: Where a day begins at midnight.
        maturity_days: Days after which what has no label counts as genuine.
        label_delay_days: Days until the source's label of a transaction is known; None if it has
            none.

    Raises:
        UserError: if ``end`` is before ``start``.
    """
    if end < start:
        message = f"the last day must not be before the first; got {start} to {end}"
        raise UserError(message)
    newest = last_mature_day(as_of, time_zone, maturity_days)
    values: dict[str, object] = {
        "start": start,
        "end": end,
        "as_of": as_of,
        "newest": newest,
    }
    if label_delay_days is not None:
        query, values = _OF_LABELLED_SOURCE, values | {"delay": label_delay_days}
    else:
        window = {
            "window_start": newest - timedelta(days=WINDOW_DAYS - 1),
            "maturity": maturity_days,
        }
        query, values = _OF_REPORTED_FRAUDS, values | window
    rows = lake.connection.execute(query, values).fetchall()
    return [DayMaturity(*row) for row in rows]
