"""The pictures of an evaluation: SVG to stand inside a page, in the page's own colours and type."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.bootstrap import Estimate
from tasks.evaluation import DayFigures, Evaluation, ProbabilityQuality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Each colour stands for a variable of the page's style, so that it can be another one in the dark.
INK, MUTED, GRID, PAPER = "#1f2430", "#636b7a", "#e1e4ea", "#fffffe"
FIRST, SECOND, THIRD = "#0072b2", "#d55e00", "#00795b"  # after Okabe & Ito, 2008
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    FIRST: "first",
    SECOND: "second",
    THIRD: "third",
}
STYLE: dict[Any, Any] = {  # (matplotlib types the keys one by one)
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "date.converter": "concise",
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 10,
    "grid.color": GRID,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is a name
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}
WIDTH, HEIGHT = 6.4, 4.2  # inches
SHOWN_MEMBERS = 2  # with a colour and a name; the others are grey
QUANTILE_NAMES = ("median", "highest tenth", "highest 1 in 100", "highest 1 in 1,000")


@dataclass(frozen=True)
class Picture:
    """A picture with its title, and in words what it shows."""

    name: str
    title: str
    caption: str
    svg: str


def draw_pictures(evaluation: Evaluation) -> list[Picture]:
    """Draw everything that the evaluation has figures for; the same figures give the same text."""
    pictures = [
        _draw_precision_recall(evaluation),
        _draw_card_precision(evaluation),
        _draw_caught(evaluation),
    ]
    if evaluation.probability is not None:
        pictures.append(_draw_reliability(evaluation.probability))
    return [*pictures, _draw_daily_quality(evaluation), _draw_scores(evaluation)]


def percent(share: float) -> str:
    """Write a share as percent, a small one with its leading digits.

    Example:
        >>> percent(0.3358), percent(0.00217)
        ('33.6 %', '0.22 %')
    """
    return f"{100 * share:.2g} %" if 0 < share < 0.01 else f"{100 * share:.1f} %"


def _draw_precision_recall(evaluation: Evaluation) -> Picture:
    ranked = sorted(evaluation.qualities, key=lambda q: (q.name != "ensemble", -q.ap))
    named, others = ranked[: 1 + SHOWN_MEMBERS], ranked[1 + SHOWN_MEMBERS :]

    def paint(axes: "Axes") -> None:
        for quality in others:
            recall, precision = evaluation.curves[quality.name]
            axes.step(recall, precision, color=MUTED, linewidth=0.8, alpha=0.6)
        styles = zip(named, (FIRST, SECOND, THIRD), (2.4, 1.5, 1.5), strict=False)
        for quality, colour, width in reversed(list(styles)):
            recall, precision = evaluation.curves[quality.name]
            axes.step(  # back to the step before: the area below is the average precision
                recall,
                precision,
                color=colour,
                linewidth=width,
                label=f"{quality.name}, AP {quality.ap:.3f}",
            )
        if others:
            axes.plot([], [], color=MUTED, linewidth=0.8, label=f"{len(others)} other members")
        axes.legend(loc="upper right", reverse=True)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall: share of all frauds found")
        axes.set_ylabel("precision: frauds among the rows looked at")
        _as_percent(axes.xaxis)
        _as_percent(axes.yaxis)

    best = ranked[0]
    return Picture(
        "precision-recall",
        "Precision and recall",
        "Going down the ranking of all days, from the most suspicious transaction: how many of the "
        f"rows seen so far were fraud, and how many of all frauds they are. The {best.name} has an "
        f"average precision of {best.ap:.3f}.",
        _draw("precision-recall", paint),
    )


def _draw_card_precision(evaluation: Evaluation) -> Picture:
    points = evaluation.by_capacity
    found = [point.card_precision for point in points]
    now = next(p for p in points if p.capacity >= min(evaluation.capacity, points[-1].capacity))

    def paint(axes: "Axes") -> None:
        _line_with_band(axes, [p.capacity for p in points], found, FIRST)
        _mark_capacity(axes, evaluation.capacity)
        axes.plot(now.capacity, now.card_precision.value, "o", color=FIRST, mec=PAPER, ms=8)
        axes.annotate(
            percent(now.card_precision.value),
            (now.capacity, now.card_precision.value),
            xytext=(-8, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color=FIRST,
            weight="bold",
        )
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("card precision: compromised of k")
        _by_capacity(axes, points[-1].capacity, "accounts reviewed a day, k")
        _as_percent(axes.yaxis)

    return Picture(
        "card-precision",
        "Card precision by capacity",
        "Of the k most suspicious accounts of a day, how many were compromised, on average over "
        "the days; an account that was caught is not counted again. With "
        f"{now.capacity:,} accounts a day it is {percent(now.card_precision.value)}. The band is the "
        "95 % interval.",
        _draw("card-precision", paint),
    )


def _draw_caught(evaluation: Evaluation) -> Picture:
    points = evaluation.by_capacity
    capacities = [point.capacity for point in points]
    curves = (
        ("of the frauds' amount", [p.amount_share for p in points], THIRD),
        ("of the frauds", [p.recall for p in points], FIRST),
    )
    known = [
        (name, [one for one in estimates if one is not None], colour)
        for name, estimates, colour in curves
        if all(one is not None for one in estimates)
    ]

    def paint(axes: "Axes") -> None:
        _mark_capacity(axes, evaluation.capacity)
        for name, estimates, colour in known:
            _line_with_band(axes, capacities, estimates, colour)
            place = len(capacities) * 2 // 5
            above = name.endswith("amount")
            axes.annotate(
                name,
                (capacities[place], estimates[place].value),
                xytext=(-10, 8) if above else (10, -8),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                color=colour,
                weight="bold",
            )
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("share that is caught")
        _by_capacity(axes, capacities[-1], "alerts reviewed a day")
        _as_percent(axes.yaxis)

    now = next(p for p in points if p.capacity >= min(evaluation.capacity, capacities[-1]))
    said = [
        f"{percent(one.value)} of the {name}"
        for one, name in ((now.recall, "frauds"), (now.amount_share, "frauds' amount"))
        if one is not None
    ]
    return Picture(
        "caught",
        "Frauds and amount caught by capacity",
        "What reviewing each day's most suspicious transactions catches. With "
        f"{now.capacity:,} alerts a day it is {' and '.join(said)}. Bands are 95 % intervals.",
        _draw("caught", paint),
    )


def _draw_reliability(found: ProbabilityQuality) -> Picture:
    shown = [one for one in found.bins if one.frauds and one.mean_probability > 0]
    least = min([one.mean_probability for one in shown] + [one.fraud_share.value for one in shown])
    start = 10.0 ** floor(log10(least))

    def paint(axes: "Axes") -> None:
        axes.plot([start, 1], [start, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "as it should be",
            (start**0.6, start**0.6),
            xytext=(7, -3),
            textcoords="offset points",
            va="top",
            color=MUTED,
        )
        for one in shown:
            if one.fraud_share.interval is not None:
                ends = [max(one.fraud_share.interval.low, start), one.fraud_share.interval.high]
                axes.plot([one.mean_probability] * 2, ends, color=FIRST, linewidth=1.5, alpha=0.6)
        axes.plot(
            [one.mean_probability for one in shown],
            [one.fraud_share.value for one in shown],
            "o",
            color=FIRST,
            mec=PAPER,
            ms=8,
        )
        axes.set(xscale="log", yscale="log", xlim=(start, 1.15), ylim=(start, 1.15))
        axes.set_xlabel("probability of fraud that was said (logarithmic)")
        axes.set_ylabel("share of frauds that was found")
        for axis in (axes.xaxis, axes.yaxis):
            _as_percent(axis)
        axes.minorticks_off()

    return Picture(
        "reliability",
        "Reliability of the probability",
        "Each dot stands for transactions of like probability, and each for about as many expected "
        "frauds. On the dashed line they were as often fraud as was said; below it, less often. "
        "Strokes are 95 % intervals.",
        _draw("reliability", paint),
    )


def _draw_daily_quality(evaluation: Evaluation) -> Picture:
    days = evaluation.judged_days

    def paint(axes: "Axes") -> None:
        curves = (
            ("average precision", [d.ap for d in days], FIRST),
            ("card precision", [d.card_precision for d in days], SECOND),
        )
        for name, values, colour in curves:
            axes.plot(
                _dates(days),
                [np.nan if value is None else value for value in values],
                "o-",
                color=colour,
                mec=PAPER,
                ms=6,
                linewidth=1.5,
                label=name,
            )
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("figure of the day")
        axes.margins(x=0.02)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        _as_percent(axes.yaxis)

    return Picture(
        "daily-quality",
        "Quality day by day",
        "The ensemble's average precision and card precision of each mature day. Card precision "
        "can sink over the days only because caught accounts are left out.",
        _draw("daily-quality", paint),
    )


def _draw_scores(evaluation: Evaluation) -> Picture:
    days = evaluation.days

    def paint(axes: "Axes") -> None:
        shades = (0.35, 0.55, 0.75, 1.0)
        for place, (name, shade) in enumerate(zip(QUANTILE_NAMES, shades, strict=True)):
            values = [day.quantiles[place] for day in days]
            _direct_label(axes, days, values, name, FIRST, shade)
        cuts = [day.cut for day in days]
        axes.plot(_dates(days), cuts, color=SECOND, linewidth=1.5, linestyle="--")
        axes.set_ylabel("score, -log₁₀ of a tail probability")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.plot([], [], color=SECOND, linewidth=1.5, linestyle="--", label="last alert's score")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)
        _shade_immature(axes, evaluation)

    return Picture(
        "scores",
        "Scores over time",
        f"Each day's score at the {', '.join(QUANTILE_NAMES)} of its transactions, and the score of "
        f"the last of its {evaluation.capacity:,} alerts. A level that shifts means that the "
        "transactions, or the model, have changed. Days in the shade are not mature.",
        _draw("scores", paint),
    )


def _direct_label(
    axes: "Axes",
    days: Sequence[DayFigures],
    values: Sequence[float],
    name: str,
    colour: str,
    shade: float,
) -> None:
    marker = "o" if len(days) == 1 else ""  # a line of one point is invisible
    axes.plot(_dates(days), values, color=colour, alpha=shade, marker=marker)
    axes.annotate(
        name,
        (1, values[-1]),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=colour,
        annotation_clip=False,
    )


def _shade_immature(axes: "Axes", evaluation: Evaluation) -> None:
    young = _dates([day for day in evaluation.days if not day.is_mature])
    if young.size:
        ends = young[[0, 0, -1, -1]]
        corners = (ends, [0, 1, 1, 0])
        axes.fill(*corners, color=MUTED, alpha=0.12, lw=0, transform=axes.get_xaxis_transform())


def _line_with_band(
    axes: "Axes", x: Sequence[int], estimates: Sequence[Estimate], colour: str
) -> None:
    ranges = [one.interval for one in estimates if one.interval is not None]
    if len(ranges) == len(estimates):
        low, high = [one.low for one in ranges], [one.high for one in ranges]
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, [one.value for one in estimates], color=colour)


def _mark_capacity(axes: "Axes", capacity: int) -> None:
    axes.axvline(capacity, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"capacity {capacity:,}",
        (capacity, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5, -4),
        textcoords="offset points",
        va="top",
        color=MUTED,
    )


def _by_capacity(axes: "Axes", most: int, label: str) -> None:
    axes.set_xscale("log")
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if tick <= most]
    axes.set_xticks(shown, labels=[f"{tick:,}" for tick in shown])
    axes.minorticks_off()
    axes.set_xlabel(f"{label} (logarithmic)")


def _as_percent(axis: "Axis") -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _dates(days: Sequence[DayFigures]) -> NDArray[np.datetime64]:
    return np.array([day.day for day in days], dtype="datetime64[D]")


def _draw(name: str, paint: Callable[["Axes"], None]) -> str:
    """Draw on a figure of our own, and make it part of a page."""
    from matplotlib import rc_context  # takes a second
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": name}):  # the same figures give the same text
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        paint(figure.subplots())
        content = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing)
    return _embed(content.getvalue(), name)


def _embed(svg: str, name: str) -> str:
    """Fit a file's SVG into a page: no prologue, ids of its own, the page's colours and type."""
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#|url\(#', lambda found: f"{found.group()}{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    size = re.compile(r'<svg [^>]*viewBox="([^"]*)"[^>]*>')
    labelled = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-caption"'
    return size.sub(rf'<svg viewBox="\1" {labelled}>', svg, count=1)
