"""``nightwarden threshold``: how many alerts a day are worth it."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.days import days_between
from flows.options import DEFAULT_CONFIG, Config, From, Json, To
from warehouse.errors import UserError

if TYPE_CHECKING:
    from models.bootstrap import Estimate
    from tasks.threshold_plan import OperatingPoint, ThresholdPlan

WHOLE_FROM = 100  # smaller figures are printed with decimals

app = typer.Typer(help="What is flagged, and what that costs.", no_args_is_help=True)


@app.command("plan")
def threshold_plan(
    start: From,
    end: To,
    config: Config = DEFAULT_CONFIG,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where to draw it, .svg or .png; by default among the reports."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what more or fewer alerts a day would catch and cost, and draw it.

    Judged on the stored scores of the days whose frauds are known by now.

    Example: `nightwarden threshold plan --from 2026-01-15 --to 2026-01-31`
    """
    first, last = start.date(), end.date()
    days_between(first, last)  # refuses a range the wrong way round
    from flows.settings import Settings
    from tasks.threshold_picture import draw_plan
    from tasks.threshold_plan import plan_thresholds
    from warehouse.maturity import last_mature_day
    from warehouse.reads import read_scores, read_truth

    now = datetime.now(UTC)
    with Settings.read(config).context().closing() as context:
        scored = read_scores(context.lake(), first, last)
        if scored.is_empty():
            message = f"no scores from {first} to {last}: run nightwarden backfill over them first"
            raise UserError(message)
        plan = plan_thresholds(
            scored,
            read_truth(context.lake(), first, last, now),
            context.queue,
            last_mature=last_mature_day(now, context.source.time_zone, context.maturity_days),
            resamples=context.evaluate.resamples,
        )
        reports = context.warehouse.path / "reports"
    file = picture or reports / f"threshold_{first}_{last}.svg"
    draw_plan(plan, file)
    _print_plan(plan, file, as_json=as_json)


def _print_plan(plan: "ThresholdPlan", file: Path, *, as_json: bool) -> None:
    if as_json:
        record = {name: value for name, value in asdict(plan).items() if name != "curve"}
        show.print_json(record | {"picture": file})
        return
    points = (*plan.points, plan.current)
    columns = ["", "least score", "alerts a day", "precision %", "recall %", "amount %"]
    columns += ["amount a day", "genuine a day"]
    if plan.current.net_value:
        columns.append("net value a day")
    show.print_table("Thresholds, with 95 % intervals", columns, [_row(point) for point in points])
    left_out = f"; {plan.immature_days} newer days left out" if plan.immature_days else ""
    show.line(
        f"Judged on {plan.days} days from {plan.first} to {plan.last}: {plan.transactions:,} "
        f"transactions with {plan.frauds:,} known frauds{left_out}"
    )
    show.line(f"Picture: {file}")


def _row(point: "OperatingPoint") -> Sequence[str]:
    least = "by gain" if point.least_score is None else f"{point.least_score:.2f}"
    alerts = f"{_number(point.alerts, 1)} ({point.fewest_alerts:,} to {point.most_alerts:,})"
    shares = (point.precision, point.recall, point.amount_share)
    amounts = [point.amount, point.false_positives]
    amounts += [point.net_value] if point.net_value else []
    return (
        point.name,
        least,
        alerts,
        *(_words(share, 100, 0) for share in shares),
        *(_words(amount, 1, 1) for amount in amounts),
    )


def _words(estimate: "Estimate | None", unit: float, decimals: int) -> str:
    """Write a figure and its interval; a dash where there is nothing to measure."""
    if estimate is None:
        return "-"
    value, band = _number(estimate.value * unit, decimals), estimate.interval
    if band is None:
        return value
    low, high = (_number(end * unit, decimals) for end in (band.low, band.high))
    return f"{value} ({low} to {high})"


def _number(figure: float, decimals: int) -> str:
    return f"{figure:,.{0 if abs(figure) >= WHOLE_FROM else decimals}f}"
