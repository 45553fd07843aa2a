"""What the queue brought and what analysts made of it, counted by the database.

Verdicts are the newest that stand: what was taken back, or said anew, does not count. Precision is
frauds over frauds and genuine ones, as ``unsure`` tells neither. The audit sample is counted apart:
it is drawn from what the model did not flag.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

from sqlalchemy import Connection, Double, Subquery, case, cast, func, select

from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_statements import IS_RETRACTED, select_alerts
from warehouse.queue_tables import ALERTS, CASES, DECISIONS

MOST_DAYS = 366
LONGEST_GAP = timedelta(minutes=30)
AGES = {"today": 0, "1 to 2 days": 2, "3 to 7 days": 7}
OLDER = "over a week"


@dataclass(frozen=True)
class VerdictCount:
    """How many alerts there were, and the verdicts on them; no precision without a verdict."""

    alerts: int
    decided: int
    frauds: int
    genuine: int
    unsure: int
    precision: float | None


@dataclass(frozen=True)
class DayCount(VerdictCount):
    """The alerts of the transactions of one day."""

    day: date


@dataclass(frozen=True)
class MemberCount:
    """The decided alerts in which a member of the ensemble had the highest score."""

    member: str
    decided: int
    frauds: int
    precision: float | None


@dataclass(frozen=True)
class AgeBand:
    """How many open cases were opened so many days ago."""

    label: str
    cases: int


@dataclass(frozen=True)
class AnalystCount:
    """What an analyst decided on the days, in UTC, whenever the transactions happened.

    Attributes:
        median_minutes: From one decision to the next, where that is at most half an hour; what
            was decided at once is one.
        per_day: Decisions per day with any.
    """

    analyst: str
    decisions: int
    frauds: int
    genuine: int
    unsure: int
    median_minutes: float | None
    per_day: float


@dataclass(frozen=True)
class QueueStatistics:
    """What the statistics page shows of the queue; days without an alert are left out.

    What was written after ``counted_at`` may be left out.
    """

    counted_at: datetime
    by_day: tuple[DayCount, ...]
    totals: VerdictCount
    audit: VerdictCount
    by_member: tuple[MemberCount, ...]
    open_ages: tuple[AgeBand, ...]
    analysts: tuple[AnalystCount, ...]


def read_statistics(queue: Queue, start: date, end: date) -> QueueStatistics:
    """Count the alerts of the days from ``start`` to ``end``, and what was decided on those days.

    Args:
        queue: The queue.
        start: The first day.
        end: The last day; both with all between them are at most 366.

    Raises:
        UserError: if the days are in no order, or too many.
    """
    if not 0 <= (end - start).days < MOST_DAYS:
        raise UserError(
            f"expected a first and a last day, at most {MOST_DAYS} days, got {start} and {end}; "
            "choose others"
        )
    judged = select_alerts(ALERTS.c.event_date.between(start, end)).subquery()
    now = queue.clock()
    with queue.database.read() as connection:
        by_day = read_by_day(connection, judged)
        by_member = read_by_member(connection, judged, is_sqlite=queue.database.is_sqlite)
        open_ages = read_open_ages(connection, now)
        analysts = read_analysts(connection, start, end)
    flagged = {day: verdicts for (day, is_audit), verdicts in by_day.items() if not is_audit}
    audit = [verdicts for (_, is_audit), verdicts in by_day.items() if is_audit]
    return QueueStatistics(
        counted_at=now,
        by_day=tuple(DayCount(**tell(said), day=day) for day, said in sorted(flagged.items())),
        totals=VerdictCount(**tell(add_up(flagged.values()))),
        audit=VerdictCount(**tell(add_up(audit))),
        by_member=by_member,
        open_ages=open_ages,
        analysts=analysts,
    )


def read_by_day(
    connection: Connection, judged: Subquery
) -> dict[tuple[date, bool], Counter[str | None]]:
    """Read the verdicts on the alerts of each day, the audit sample apart."""
    is_audit = (judged.c.lane == "audit").label("is_audit")
    keys = (judged.c.event_date, is_audit, judged.c.verdict)
    counted = select(*keys, func.count().label("alerts")).group_by(*keys)
    found: dict[tuple[date, bool], Counter[str | None]] = defaultdict(Counter)
    for row in connection.execute(counted):
        found[row.event_date, row.is_audit][row.verdict] = row.alerts
    return found


def read_by_member(
    connection: Connection, judged: Subquery, *, is_sqlite: bool
) -> tuple[MemberCount, ...]:
    """Read the verdicts by the member that scored highest, the most frequent member first."""
    unfold = func.json_each if is_sqlite else func.json_each_text
    member = unfold(judged.c.members).table_valued("key", "value")
    by_score = select(member.c.key).order_by(cast(member.c.value, Double).desc(), member.c.key)
    foremost = by_score.limit(1).scalar_subquery().label("member")
    decided = (
        select(foremost, judged.c.verdict)
        .where(judged.c.verdict.is_not(None), judged.c.lane != "audit")
        .subquery()
    )
    keys = (decided.c.member, decided.c.verdict)
    counted = select(*keys, func.count().label("alerts")).group_by(*keys)
    found: dict[str, Counter[str | None]] = defaultdict(Counter)
    for row in connection.execute(counted.where(decided.c.member.is_not(None))):
        found[row.member][row.verdict] = row.alerts
    ranked = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    return tuple(
        MemberCount(member, said.total(), said["fraud"], find_precision(said))
        for member, said in ranked
    )


def read_open_ages(connection: Connection, now: datetime) -> tuple[AgeBand, ...]:
    """Read how many open cases, snoozed ones among them, are how old."""
    today = now.astimezone(UTC).date()
    since = {label: at_midnight(today - timedelta(days=days)) for label, days in AGES.items()}
    columns = [
        func.count(case((CASES.c.created_at >= moment, 1))).label(label)
        for label, moment in since.items()
    ]
    counted = select(*columns, func.count().label(OLDER)).where(CASES.c.state == "open")
    row = connection.execute(counted).one()
    younger = (0, *row[:-1])
    return tuple(
        AgeBand(label, at_most - less)
        for label, at_most, less in zip((*AGES, OLDER), row, younger, strict=True)
    )


def read_analysts(connection: Connection, start: date, end: date) -> tuple[AnalystCount, ...]:
    """Read what each analyst decided from ``start`` to ``end``, the busiest first."""
    first, last = at_midnight(start), datetime.combine(end, time.max, UTC)
    statement = (
        select(DECISIONS.c.analyst, DECISIONS.c.verdict, DECISIONS.c.decided_at)
        .where(DECISIONS.c.decided_at.between(first, last), ~IS_RETRACTED)
        .order_by(DECISIONS.c.analyst, DECISIONS.c.decided_at)
    )
    said: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
    for analyst, verdict, moment in connection.execute(statement):
        said[analyst].append((verdict, moment))
    counted = (count_analyst(analyst, decisions) for analyst, decisions in said.items())
    return tuple(sorted(counted, key=lambda count: (-count.decisions, count.analyst)))


def count_analyst(analyst: str, decisions: Sequence[tuple[str, datetime]]) -> AnalystCount:
    """Count an analyst's decisions, given in the order of time."""
    verdicts = Counter(verdict for verdict, _ in decisions)
    moments = list(dict.fromkeys(moment for _, moment in decisions))
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    minutes = [gap / timedelta(minutes=1) for gap in gaps if gap <= LONGEST_GAP]
    return AnalystCount(
        analyst=analyst,
        decisions=len(decisions),
        frauds=verdicts["fraud"],
        genuine=verdicts["genuine"],
        unsure=verdicts["unsure"],
        median_minutes=median(minutes) if minutes else None,
        per_day=len(decisions) / len({moment.date() for moment in moments}),
    )


def at_midnight(day: date) -> datetime:
    """Give the moment at which a day begins in UTC."""
    return datetime.combine(day, time(), UTC)


def add_up(counted: Iterable[Counter[str | None]]) -> Counter[str | None]:
    """Add up the verdicts of several days."""
    total: Counter[str | None] = Counter()
    for verdicts in counted:
        total.update(verdicts)
    return total


def find_precision(verdicts: Counter[str | None]) -> float | None:
    """Give the share of frauds in what was found to be fraud or genuine, if anything was."""
    judged = verdicts["fraud"] + verdicts["genuine"]
    return verdicts["fraud"] / judged if judged else None


def tell(verdicts: Counter[str | None]) -> dict[str, Any]:
    """Give the fields of a ``VerdictCount``."""
    return {
        "alerts": verdicts.total(),
        "decided": verdicts.total() - verdicts[None],
        "frauds": verdicts["fraud"],
        "genuine": verdicts["genuine"],
        "unsure": verdicts["unsure"],
        "precision": find_precision(verdicts),
    }
