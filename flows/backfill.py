"""A range of past days through the same steps as a night, in parallel, resumable from the ledger."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from prefect import flow

from flows.catch_up import NightProblem, problem_of
from flows.days import days_between
from flows.options import find_config
from flows.reports import (
    BackfillProgress,
    log_steps,
    tell_of_backfill,
    tell_of_failed_members,
)
from flows.settings import Settings
from flows.workers import at_a_time
from tasks.context import Context
from tasks.score import require_model_of_the_past
from tasks.steps import collect_decisions, enqueue_day, ingest_day, score_day, train_as_of
from tasks.tracking import RegisteredModel, Registry
from warehouse.errors import UserError
from warehouse.ledger import PartitionRun, day_states, is_queued
from warehouse.partitions import ingest_digest

LANE = "backfill"
Retrain = Literal["never", "weekly"]
Problems = dict[date, NightProblem]
AS_OF = "as of "
SHOWN_DAYS = 10  # of those that failed, in a sentence


@dataclass(frozen=True)
class DayPlan:
    """What a backfill will do with a day; ``model`` is a version, or the day as of which to train."""

    day: date
    ingest: bool
    score: bool
    model: str


@dataclass(frozen=True)
class BackfillReport:
    """What a backfill did: days done now, days that were done before, and days that failed."""

    done: list[date]
    skipped: list[date]
    failed: dict[date, str]
    alerts_added: int


class BackfillFailedError(UserError):
    """Some days of a backfill could not be done; the others were, as its report says."""

    def __init__(self, report: BackfillReport) -> None:
        """Take the report of the whole backfill."""
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        """Say in one sentence which days failed."""
        report = self.report
        days = sorted(report.failed)
        total = len({*report.done, *report.skipped, *days})
        more = f" and {len(days) - SHOWN_DAYS} more" if len(days) > SHOWN_DAYS else ""
        return (
            f"{len(days)} of {total} days failed: {', '.join(map(str, days[:SHOWN_DAYS]))}{more}; "
            "the others are done; put right what the list of days says, and run the same again"
        )


def plan_backfill(
    context: Context,
    days: list[date],
    *,
    retrain: Retrain,
    force: bool,
    failed: Collection[date] = (),
) -> list[DayPlan]:
    """Decide for each day what is left to do.

    A day is scored anew when a day that its features look back on is landed, now or since. Days in
    ``failed`` could not be landed.

    Raises:
        ModelMissingError: if no model may score a day: there is none, or it knows the day's future.
    """
    states = day_states(context.lake(), days[0] - context.lookback, days[-1])
    registry = context.registry()
    weekly = _weekly_versions(registry, context, days, force=force) if retrain == "weekly" else {}
    champion = None if weekly else registry.champion()
    plans: list[DayPlan] = []
    for day in days:
        if champion:
            require_model_of_the_past(champion, day)
            model = champion.version
        else:
            start = _week_start(day)
            known = weekly[start]
            model = known.version if known else f"{AS_OF}{start}"
        landing = force or (day not in failed and not _is_landed(states, day, context))
        behind = any(plan.ingest and plan.day >= day - context.lookback for plan in plans)
        finished = not (landing or behind) and is_queued(
            states,
            day,
            model_version=model,
            settings_digest=context.scoring_digest(),
            lookback=context.lookback,
        )
        plans.append(DayPlan(day, ingest=landing, score=force or not finished, model=model))
    return plans


def _week_start(day: date) -> date:
    """Give the Monday of a day's week."""
    return day - timedelta(days=day.weekday())


def _weekly_versions(
    registry: Registry, context: Context, days: list[date], *, force: bool
) -> dict[date, RegisteredModel | None]:
    """Find, for each week, the newest model that was trained as of its Monday; none with force."""
    wanted = context.training_digest()
    oldest_first = reversed(registry.versions())
    mine = {m.as_of: m for m in oldest_first if m.tags.get("settings_digest") == wanted}
    starts = {_week_start(day) for day in days}
    return {start: None if force else mine.get(start) for start in sorted(starts)}


def _is_landed(states: dict[tuple[date, str], PartitionRun], day: date, context: Context) -> bool:
    run = states.get((day, "ingest"))
    wanted = ingest_digest(context.source, context.validation)
    return run is not None and (run.status, run.settings_digest) == ("done", wanted)


@flow(name="backfill", flow_run_name="backfill {start} to {end}")
def backfill(
    config: Path | None,
    start: date,
    end: date,
    *,
    workers: int | None = None,
    retrain: Retrain = "never",
    force: bool = False,
) -> BackfillReport:
    """Ingest, score and queue the days from ``start`` to ``end`` in the backfill lane.

    Days are ingested in order, then scored in parallel, then queued in order, so that the queue is
    the same whatever the number of workers. A day that a user's mistake stops does not stop the
    others.

    Args:
        config: The settings file; else ``NIGHTWARDEN_CONFIG`` names it.
        start: The first day.
        end: The last day.
        workers: Days that are scored at a time, instead of ``run.workers``.
        retrain: Whether days are scored with a model as of their week's Monday.
        force: Whether to do again what is done.

    Raises:
        BackfillFailedError: if days failed, after all others are done.
    """
    log_steps()
    days = days_between(start, end)
    settings = Settings.read(find_config(config))
    with settings.context().closing() as context, at_a_time(workers or settings.run.workers):
        collect_decisions(context)
        plans = plan_backfill(context, days, retrain=retrain, force=force)
        failed = _ingest_days(context, plans, force=force)
        if failed:  # what could not be landed is no reason to score the days behind it anew
            plans = plan_backfill(context, days, retrain=retrain, force=force, failed=failed)
        left = [plan for plan in plans if plan.score and plan.day not in failed]
        versions = _train_weeks(context, left, failed)
        able = [plan for plan in left if plan.day not in failed]
        added = _score_and_queue(context, able, versions, failed)
    report = BackfillReport(
        done=[plan.day for plan in left if plan.day not in failed],
        skipped=[plan.day for plan in plans if not plan.score],
        failed={day: problem.reason for day, problem in failed.items()},
        alerts_added=added,
    )
    tell_of_backfill(report, failed.values())
    if report.failed:
        raise BackfillFailedError(report)
    return report


def _ingest_days(context: Context, plans: list[DayPlan], *, force: bool) -> Problems:
    failed: Problems = {}
    for plan in plans:
        if not plan.ingest:
            continue
        try:
            ingest_day(context, plan.day, force=force)
        except UserError as error:
            failed[plan.day] = problem_of(plan.day, error)
    return failed


def _train_weeks(context: Context, plans: list[DayPlan], failed: Problems) -> dict[str, str]:
    """Train the weekly models that are missing; give each plan's model the version that it is.

    The days of a week whose model cannot be trained are noted in ``failed``.
    """
    versions: dict[str, str] = {}
    for model in dict.fromkeys(plan.model for plan in plans):
        as_of = model.removeprefix(AS_OF)
        if as_of == model:
            versions[model] = model
            continue
        try:
            trained = train_as_of(context, date.fromisoformat(as_of), aliased=False)
        except UserError as error:
            failed |= {p.day: problem_of(p.day, error) for p in plans if p.model == model}
        else:
            versions[model] = trained.version
            tell_of_failed_members(trained)
    return versions


def _score_and_queue(
    context: Context, plans: list[DayPlan], versions: dict[str, str], failed: Problems
) -> int:
    """Score the days in parallel and queue them in order; a failed day is noted in ``failed``."""
    futures = [
        (plan.day, score_day.submit(context, plan.day, versions[plan.model])) for plan in plans
    ]
    added, progress = 0, BackfillProgress(len(plans))
    for day, future in futures:
        try:
            added += enqueue_day(context, future.result(), LANE).added
        except UserError as error:
            failed[day] = problem_of(day, error)
        progress.advance()
    return added
