"""The trade-off of a threshold plan as a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.bootstrap import Estimate
from tasks.threshold_plan import OperatingPoint, ThresholdPlan
from warehouse.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#3b4252", "#e3e6ec"
CURVES: tuple[tuple[str, str, str, Callable[[OperatingPoint], Estimate | None]], ...] = (
    ("precision: alerts that are frauds", "-", "#0072b2", lambda point: point.precision),
    ("recall: frauds that are caught", "-", "#d55e00", lambda point: point.recall),
    ("amount caught, of all frauds'", "--", "#009e73", lambda point: point.amount_share),
)  # colours that differ for the colour-blind too: Okabe & Ito 2008
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "nightwarden",  # the same plan gives the same file
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_plan(plan: ThresholdPlan, file: Path) -> None:
    """Draw precision, recall and amount caught against alerts a day, with their intervals.

    Raises:
        UserError: if the file's name ends neither in .svg nor in .png, or cannot be written.
    """
    if file.suffix not in {".svg", ".png"}:
        message = f"a picture is an .svg or a .png file, but {file} is neither; name it so"
        raise UserError(message)
    from matplotlib import rc_context  # takes a second
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(9.5, 5.5), layout="constrained")
        axes = figure.subplots()
        for label, dashes, colour, pick in CURVES:
            found = [(point.alerts, pick(point)) for point in plan.curve]
            curve = [(alerts, share) for alerts, share in found if share is not None]
            _draw_band(axes, curve, colour)
            shares = [100 * share.value for _, share in curve]
            axes.plot([x for x, _ in curve], shares, dashes, color=colour, lw=2, label=label)
        _mark_current(axes, plan)
        _dress(axes, plan)
        figure.legend(loc="outside lower center", ncols=len(CURVES), frameon=False)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=150, metadata=metadata)
        except OSError as error:
            message = f"the picture cannot be written to {file}: {error.strerror}; name another"
            raise UserError(message) from error


def _draw_band(axes: "Axes", curve: Sequence[tuple[float, Estimate]], colour: str) -> None:
    banded = [(alerts, share.interval) for alerts, share in curve if share.interval is not None]
    axes.fill_between(
        [alerts for alerts, _ in banded],
        [100 * band.low for _, band in banded],
        [100 * band.high for _, band in banded],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _mark_current(axes: "Axes", plan: ThresholdPlan) -> None:
    current = plan.current
    if not current.alerts:
        return
    is_right = current.alerts**2 > plan.curve[0].alerts * plan.curve[-1].alerts
    axes.axvline(current.alerts, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for _, _, colour, pick in CURVES:
        share = pick(current)
        if share is not None:
            axes.plot(current.alerts, 100 * share.value, "o", color=colour, mec="white", ms=8)
    axes.annotate(
        f"{current.name}\n{round(current.alerts, 1):,g} alerts a day",
        (current.alerts, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if is_right else 6, -6),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        fontsize=9,
    )


def _dress(axes: "Axes", plan: ThresholdPlan) -> None:
    axes.set_xscale("log")
    ticks = [round(point.alerts, 1) for point in plan.points]
    axes.set_xticks(ticks, labels=[f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_xlabel("alerts a day, on average (logarithmic)")
    axes.set_ylabel("share, with its 95 % interval")
    axes.set_title(
        f"What more alerts would catch: {plan.first} to {plan.last}\n", loc="left", weight="bold"
    )
    axes.text(
        0,
        1.02,
        f"{plan.transactions:,} transactions with {plan.frauds:,} known frauds on {plan.days} days",
        transform=axes.transAxes,
        fontsize=9,
    )
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
