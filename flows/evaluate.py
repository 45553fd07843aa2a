"""Judge the stored scores of a range of days, and write the page that shows it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_link_artifact

from flows.days import days_between
from flows.settings import Settings
from tasks.context import Context
from tasks.evaluate import Criteria, evaluate_scores, read_segments
from tasks.evaluation import Evaluation
from tasks.report import newest_model, summarise, write_report
from tasks.steps import collect_decisions
from warehouse.errors import UserError
from warehouse.maturity import last_mature_day
from warehouse.reads import read_scores, read_truth


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found, and the page that shows it."""

    evaluation: Evaluation
    page: Path


@flow(name="evaluate", validate_parameters=False)
def evaluate(config: Path, start: date, end: date) -> EvaluationReport:
    """Judge the ensemble and each member by the labels known now.

    The page is kept with the newest model that scored the range, too.

    Raises:
        UserError: if nothing is scored in the range, or too little is known of it.
    """
    days_between(start, end)  # refuses a range the wrong way round
    with Settings.read(config).context().closing() as context:
        collect_decisions(context)
        now = datetime.now(UTC)
        evaluation = _judge(context, start, end, now)
        page = write_report(evaluation, context.warehouse.path / "reports", now)
        registry = context.registry()
        model = newest_model(evaluation, registry.versions())
        if model is not None:
            registry.keep_report(model, page)
    create_link_artifact(
        page.as_uri(),
        link_text=f"Evaluation from {start} to {end}",
        key="evaluation",
        description=summarise(evaluation),
    )
    return EvaluationReport(evaluation, page)


def _judge(context: Context, start: date, end: date, now: datetime) -> Evaluation:
    lake, settings = context.lake(), context.evaluate
    scored = read_scores(lake, start, end)
    if scored.is_empty():
        message = f"no scores from {start} to {end}: run nightwarden backfill over them first"
        raise UserError(message)
    criteria = Criteria(
        capacity=context.capacity,
        last_mature=last_mature_day(now, context.source.time_zone, context.maturity_days),
        segments=settings.segments,
        amount_bands=settings.amount_bands,
        resamples=settings.resamples,
    )
    scored = read_segments(lake, scored, settings.segments, start, end)
    return evaluate_scores(scored, read_truth(lake, start, end, now), criteria)
