"""Where the lines and bars of pictures go; ``templates/_pictures.html`` draws them as SVG.

Belongs here: charts for any numbers. Does not: a case's pictures (``desk.story_pictures``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 26.0  # room for the axes, in the picture's units
LABEL_WIDTH = 56.0  # of a label below the axis, with the room beside it
BAR_SHARE = 0.72  # of a bar's place
LEAST_AXIS = 1e-6  # what is less is drawn as nothing
LEAST_HEIGHT = 1.5  # of a bar that is not nothing


@dataclass(frozen=True)
class Tick:
    """A label on an axis and where it stands."""

    position: float
    label: str


@dataclass(frozen=True)
class Frame:
    """The size of a picture and the edges of its plot."""

    width: float
    height: float

    @property
    def left(self) -> float:
        """Where the plot begins."""
        return LEFT

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def top(self) -> float:
        """Where the highest value stands."""
        return TOP

    @property
    def bottom(self) -> float:
        """Where zero stands."""
        return self.height - BOTTOM


@dataclass(frozen=True)
class Part:
    """One piece of a bar, of the series ``name``."""

    name: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """One bar, from bottom to top; ``title`` says it in words."""

    x: float
    width: float
    parts: tuple[Part, ...]
    title: str


@dataclass(frozen=True)
class BarChart:
    """Bars over an axis from zero; ``rows`` are the same numbers for a table."""

    frame: Frame
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Dot:
    """One value of a line; ``title`` says it in words."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class LineChart:
    """A line with gaps where there is no value; ``paths`` are the points of its pieces."""

    frame: Frame
    paths: tuple[str, ...]
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rows: tuple[tuple[str, ...], ...]


def plain(value: float) -> str:
    """Write a number with as few digits as it has, at most two of them decimals.

    Example:
        >>> plain(1500), plain(2.5)
        ('1,500', '2.5')
    """
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    width: float = 720,
    height: float = 200,
    written: Callable[[float], str] = plain,
) -> BarChart:
    """Place a bar for each label, the series stacked in their order.

    Args:
        labels: What stands below the bars; where they are many, every so many.
        series: Name to values >= 0, one for each label; the name becomes the class ``is-NAME``.
        width: Of the picture.
        height: Of the picture.
        written: How a value is written.
    """
    frame = Frame(width, height)
    columns = [[values[place] for values in series.values()] for place in range(len(labels))]
    ticks = nice_ticks(max((sum(column) for column in columns), default=0))
    step = (frame.right - frame.left) / max(len(labels), 1)
    bars = tuple(
        Bar(
            x=round(frame.left + step * (place + (1 - BAR_SHARE) / 2), 2),
            width=round(step * BAR_SHARE, 2),
            parts=stack(frame, series, place, ticks[-1]),
            title=describe(labels[place], dict(zip(series, columns[place], strict=True)), written),
        )
        for place in range(len(labels))
    )
    rows = tuple(
        (label, *(written(value) for value in column))
        for label, column in zip(labels, columns, strict=True)
    )
    middles = [frame.left + step * (place + 0.5) for place in range(len(labels))]
    x_ticks = thin_out(middles, labels, frame)
    return BarChart(frame, bars, x_ticks, y_axis(frame, ticks, written), tuple(series), rows)


def line_chart(
    labels: Sequence[str],
    values: Sequence[float | None],
    *,
    highest: float | None = None,
    width: float = 720,
    height: float = 200,
    written: Callable[[float], str] = plain,
) -> LineChart:
    """Place a line over an axis from zero; None leaves a gap.

    Args:
        labels: What stands below the values; where they are many, every so many.
        values: One for each label.
        highest: Where the axis ends, such as 1 for a share; by the values where it is None.
        width: Of the picture.
        height: Of the picture.
        written: How a value is written.
    """
    frame = Frame(width, height)
    known = [value for value in values if value is not None]
    ticks = nice_ticks(highest or max(known, default=0))
    step = (frame.right - frame.left) / max(len(labels), 1)
    middles = [round(frame.left + step * (place + 0.5), 2) for place in range(len(labels))]
    dots = [
        None
        if value is None
        else Dot(x, height_of(frame, value, ticks[-1]), f"{label}: {written(value)}")
        for x, label, value in zip(middles, labels, values, strict=True)
    ]
    rows = tuple(
        (label, "none" if value is None else written(value))
        for label, value in zip(labels, values, strict=True)
    )
    return LineChart(
        frame,
        pieces(dots),
        tuple(dot for dot in dots if dot is not None),
        thin_out(middles, labels, frame),
        y_axis(frame, ticks, written),
        rows,
    )


def nice_ticks(highest: float, most: int = 4) -> list[float]:
    """Give round values from zero to at least ``highest``, in at most ``most`` + 1 steps.

    Example:
        >>> nice_ticks(93), nice_ticks(1), nice_ticks(0)
        ([0.0, 25.0, 50.0, 75.0, 100.0], [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 1.0])
    """
    if highest < LEAST_AXIS:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(highest / most))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor * most >= highest)
    return [round(step * number, 10) for number in range(math.ceil(highest / step - 1e-9) + 1)]


def height_of(frame: Frame, value: float, highest: float) -> float:
    """Give where a value stands."""
    share = min(max(value / highest, 0.0), 1.0)
    return round(frame.bottom - share * (frame.bottom - frame.top), 2)


def stack(
    frame: Frame, series: Mapping[str, Sequence[float]], place: int, highest: float
) -> tuple[Part, ...]:
    """Put the values of one label on top of each other; nothing is drawn for a zero."""
    parts, below = [], 0.0
    for name, values in series.items():
        lower, upper = (
            height_of(frame, amount, highest) for amount in (below, below + values[place])
        )
        if values[place] > 0:
            height = max(round(lower - upper, 2), LEAST_HEIGHT)
            parts.append(Part(name, round(lower - height, 2), height))
        below += values[place]
    return tuple(parts)


def describe(label: str, values: Mapping[str, float], written: Callable[[float], str]) -> str:
    """Say a bar in words."""
    return f"{label}: " + ", ".join(f"{written(value)} {name}" for name, value in values.items())


def y_axis(
    frame: Frame, ticks: Sequence[float], written: Callable[[float], str]
) -> tuple[Tick, ...]:
    """Label the values at the side."""
    return tuple(Tick(height_of(frame, value, ticks[-1]), written(value)) for value in ticks)


def thin_out(positions: Sequence[float], labels: Sequence[str], frame: Frame) -> tuple[Tick, ...]:
    """Leave out labels that would run into each other."""
    room = max(int((frame.right - frame.left) // LABEL_WIDTH), 1)
    every = max(math.ceil(len(labels) / room), 1)
    pairs = list(zip(positions, labels, strict=True))[::every]
    return tuple(Tick(round(position, 2), label) for position, label in pairs)


def pieces(dots: Sequence[Dot | None]) -> tuple[str, ...]:
    """Write the points of each unbroken piece of a line, as SVG's ``points``."""
    ends = [-1, *(place for place, dot in enumerate(dots) if dot is None), len(dots)]
    found = []
    for begin, end in pairwise(ends):
        run = [dot for dot in dots[begin + 1 : end] if dot is not None]
        if len(run) > 1:
            found.append(" ".join(f"{dot.x},{dot.y}" for dot in run))
    return tuple(found)
