"""The evaluation as one page: HTML without scripts that fetches nothing from anywhere."""

from collections.abc import Sequence
from datetime import date, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.evaluation import DayFigures, Evaluation
from tasks.report_plots import draw_pictures, percent
from warehouse.errors import UserError

if TYPE_CHECKING:
    from tasks.tracking import RegisteredModel

TEMPLATES = Path(__file__).with_name("templates")


def write_report(evaluation: Evaluation, folder: Path, made_at: datetime) -> Path:
    """Write the page of the days asked for as ``evaluation_FROM_TO.html``; whole or not at all.

    Raises:
        UserError: if the page cannot be written there.
    """
    days = evaluation.days
    page = folder / f"evaluation_{days[0].day}_{days[-1].day}.html"
    draft = page.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(render_report(evaluation, made_at), encoding="utf-8")
        draft.replace(page)
    except OSError as error:
        message = f"the report cannot be written to {page}: {error.strerror}; make room for it"
        raise UserError(message) from error
    return page


def newest_model(
    evaluation: Evaluation, registered: Sequence["RegisteredModel"]
) -> "RegisteredModel | None":
    """Find the newest model that scored any of the days, if it is still registered."""
    versions = {name for day in evaluation.days for name in day.model_version.split(", ")}
    found = (model for model in registered if model.version in versions)
    return max(found, key=lambda model: int(model.version), default=None)


def render_report(evaluation: Evaluation, made_at: datetime) -> str:
    """Give the page as text; the same evaluation and moment give the same text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    days = evaluation.days
    return (
        environment.get_template("evaluation.html")
        .render(
            title=f"Evaluation from {days[0].day} to {days[-1].day}",
            summary=summarise(evaluation),
            evaluation=evaluation,
            judged=evaluation.judged_days,
            versions=_versions(days),
            has_intervals=any(one.ap_interval for one in evaluation.qualities),
            pictures=draw_pictures(evaluation),
            groups=[
                (name, list(g)) for name, g in groupby(evaluation.groups, attrgetter("column"))
            ],
            made_at=f"{made_at:%Y-%m-%d %H:%M %Z}",
            number="{:,}".format,
            percent=percent,
        )
        .lstrip()
    )


def summarise(evaluation: Evaluation) -> str:
    """Say in a sentence what the analysts' work would have caught."""
    points = evaluation.by_capacity
    now = max((p for p in points if p.capacity <= evaluation.capacity), key=attrgetter("capacity"))
    caught = "" if now.recall is None else f"{percent(now.recall.value)} of the known frauds"
    amount = "" if now.amount_share is None else f", {percent(now.amount_share.value)} by amount"
    return (
        f"The {now.capacity:,} most suspicious transactions of each day hold {caught}{amount}. "
        f"Of as many accounts, the most suspicious of each day, {percent(now.card_precision.value)} "
        "were compromised."
    )


def _versions(days: list[DayFigures]) -> list[tuple[str, date, date]]:
    """Give each model version with the first and last day of its turn."""
    turns = [list(turn) for _, turn in groupby(days, attrgetter("model_version"))]
    return [(turn[0].model_version, turn[0].day, turn[-1].day) for turn in turns]
