"""Where the marks of a case's pictures go: the account's amounts, its hours, the members' scores.

Belongs here: geometry of one case. Does not: charts for any numbers (``desk.pictures``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from desk.pictures import Bar, Frame, Part, Tick, plain
from desk.rendering import amount, moment
from warehouse.queue_records import Alert
from warehouse.queue_story import CaseStory, StoryTransaction

TIMELINE = Frame(720, 236)
HOURS = Frame(360, 96)
LEAST_SPAN = timedelta(days=7)
EDGE = 14.0  # so that the first and the last mark are whole
TICK_ROOM = 26.0  # between labels at the side
DATES = 6
MEMBER_WIDTH = 100.0
USUAL_END = 5.0  # of the members' axis: one normal transaction in 100,000
RARE = 3.0  # one normal transaction in 1,000; marked on the members' axis


@dataclass(frozen=True)
class Mark:
    """One transaction; ``kind`` is ordinary, earlier, waiting, fraud, genuine or unsure."""

    x: float
    y: float
    kind: str
    title: str
    alert_id: int | None


@dataclass(frozen=True)
class Timeline:
    """The account's amounts over time, on a square-root scale; what was flagged is drawn last.

    A square root keeps a large amount large and still lets small ones be told apart.
    """

    frame: Frame
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    usual_y: float | None
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Hours:
    """How many usual transactions each hour of the day has, in UTC, and which hours stand out."""

    frame: Frame
    bars: tuple[Bar, ...]
    flagged: tuple[float, ...]
    x_ticks: tuple[Tick, ...]
    summary: str


@dataclass(frozen=True)
class MemberBar:
    """A member's score as a bar of at most ``MEMBER_WIDTH``."""

    name: str
    score: float
    width: float
    is_rare: bool


@dataclass(frozen=True)
class MemberBars:
    """The members' scores, highest first; ``rare_x`` is where one in 1,000 stands."""

    bars: tuple[MemberBar, ...]
    rare_x: float


def draw_timeline(story: CaseStory) -> Timeline:
    """Place the account's transactions by moment and amount."""
    highest = max((t.amount for t in story.transactions), default=0.0)
    first, last = span([t.occurred_at for t in story.transactions])
    verdicts = {alert.id: alert.verdict or "waiting" for alert in story.alerts}
    marks = [
        Mark(
            x=place_moment(transaction.occurred_at, first, last),
            y=place_amount(transaction.amount, highest),
            kind=kind_of(transaction, verdicts),
            title=describe(transaction, kind_of(transaction, verdicts)),
            alert_id=transaction.alert_id if transaction.alert_id in verdicts else None,
        )
        for transaction in story.transactions
    ]
    usual = story.usual_amount
    return Timeline(
        frame=TIMELINE,
        marks=tuple(sorted(marks, key=lambda mark: mark.kind != "ordinary")),
        x_ticks=date_ticks(first, last),
        y_ticks=amount_ticks(highest),
        usual_y=None if usual is None else place_amount(usual, highest),
        kinds=tuple(dict.fromkeys(mark.kind for mark in marks)),
    )


def kind_of(transaction: StoryTransaction, verdicts: Mapping[int, str]) -> str:
    """Tell what became of a transaction; ``earlier`` was flagged in another case."""
    if transaction.alert_id is None:
        return "ordinary"
    return verdicts.get(transaction.alert_id, "earlier")


def describe(transaction: StoryTransaction, kind: str) -> str:
    """Say a transaction in words."""
    words = {"ordinary": "", "waiting": ", flagged, waits", "earlier": ", flagged in another case"}
    is_new = ", merchant new to the account" if transaction.is_new_merchant else ""
    return (
        f"{moment(transaction.occurred_at)}: {amount(transaction.amount)} "
        f"at {transaction.merchant_id}{words.get(kind, ', ' + kind)}{is_new}"
    )


def span(moments: Sequence[datetime]) -> tuple[datetime, datetime]:
    """Give the first and the last moment of the axis, a week apart at least."""
    last = max(moments, default=datetime(1970, 1, 1, tzinfo=UTC))
    return min(min(moments, default=last), last - LEAST_SPAN), last


def place_moment(value: datetime, first: datetime, last: datetime) -> float:
    """Give where a moment stands."""
    room = TIMELINE.right - TIMELINE.left - 2 * EDGE
    return round(TIMELINE.left + EDGE + (value - first) / (last - first) * room, 1)


def place_amount(value: float, highest: float) -> float:
    """Give where an amount stands, by its square root; what is below zero stands at zero."""
    share = math.sqrt(max(value, 0.0) / highest) if highest > 0 else 0.0
    return round(TIMELINE.bottom - share * (TIMELINE.bottom - TIMELINE.top), 1)


def amount_ticks(highest: float) -> tuple[Tick, ...]:
    """Label round amounts, as many as have room, the largest first."""
    ticks: list[Tick] = []
    power = math.floor(math.log10(highest)) if highest > 0 else 0
    wanted = [10.0**p * factor for p in range(power, power - 5, -1) for factor in (5, 2, 1)]
    for value in wanted:
        position = place_amount(value, highest)
        above = ticks[-1].position if ticks else -TICK_ROOM
        if value <= highest and position - above >= TICK_ROOM <= TIMELINE.bottom - position:
            ticks.append(Tick(position, plain(value)))
    return (*ticks, Tick(TIMELINE.bottom, "0"))


def date_ticks(first: datetime, last: datetime) -> tuple[Tick, ...]:
    """Label days at even distances."""
    moments = [first + (last - first) * number / (DATES - 1) for number in range(DATES)]
    return tuple(
        Tick(place_moment(value, first, last), f"{value.day} {value:%b}") for value in moments
    )


def draw_hours(story: CaseStory) -> Hours:
    """Place a bar for each hour of the day, and a mark at the hours of what was flagged."""
    step = (HOURS.width - 2) / 24
    most = max(story.usual_hours, default=0) or 1
    bars = []
    for hour, number in enumerate(story.usual_hours):
        height = round(number / most * (HOURS.bottom - HOURS.top), 1)
        parts = (Part("usual", round(HOURS.bottom - height, 1), height),) if number else ()
        title = f"{hour:02}:00 to {hour:02}:59: {number}"
        bars.append(Bar(round(1 + step * (hour + 0.14), 1), round(step * 0.72, 1), parts, title))
    flagged = sorted({alert.occurred_at.astimezone(UTC).hour for alert in story.alerts})
    return Hours(
        frame=HOURS,
        bars=tuple(bars),
        flagged=tuple(round(1 + step * (hour + 0.5), 1) for hour in flagged),
        x_ticks=tuple(
            Tick(round(1 + step * (hour + 0.5), 1), f"{hour:02}") for hour in (0, 6, 12, 18, 23)
        ),
        summary=summarise_hours(story.usual_hours, flagged),
    )


def summarise_hours(counts: Sequence[int], flagged: Sequence[int]) -> str:
    """Say in words how usual the hours of what was flagged are.

    Example:
        >>> summarise_hours([0] * 8 + [5] * 16, [3])
        'Flagged at 03 h: 0 of 80 usual transactions fall into that hour.'
    """
    total = sum(counts)
    if not total:
        return "No usual transactions to compare with."
    inside = sum(counts[hour] for hour in flagged)
    hours = ", ".join(f"{hour:02}" for hour in flagged)
    those = "that hour" if len(flagged) == 1 else "those hours"
    return f"Flagged at {hours} h: {inside} of {total} usual transactions fall into {those}."


def draw_members(alert: Alert) -> MemberBars:
    """Place a bar for each member, the highest score first."""
    ranked = sorted(alert.members.items(), key=lambda item: (-item[1], item[0]))
    end = max([USUAL_END, *alert.members.values()])
    bars = tuple(
        MemberBar(
            name.replace("_", " "),
            score,
            round(max(score, 0.0) / end * MEMBER_WIDTH, 1),
            score >= RARE,
        )
        for name, score in ranked
    )
    return MemberBars(bars, round(RARE / end * MEMBER_WIDTH, 1))
