"""The nightly run: a day ingested, scored with the champion, queued; or every night that is due."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from prefect import flow, tags
from prefect.runtime import flow_run

from flows.catch_up import (
    CaughtUp,
    list_too_old,
    plan_nights,
    problem_of,
    run_due_nights,
    wait_for_day,
)
from flows.days import last_finished_day
from flows.deployments import NIGHT_TAG
from flows.options import find_config
from flows.reports import (
    log_steps,
    show_problem,
    tell_of_night,
    tell_of_nights,
    tell_of_problem,
)
from flows.settings import Settings
from tasks.context import Context
from tasks.promotion import champion_of
from tasks.shadow import shadow_day
from tasks.steps import (
    NIGHTLY,
    ScoredDay,
    collect_decisions,
    enqueue_day,
    ingest_day,
    score_day,
)
from warehouse.arrival import has_day_come
from warehouse.errors import UserError
from warehouse.ledger import DueNight, days_noted_missing, note_missing_days
from warehouse.partitions import IngestReport, landed_before
from warehouse.queue_records import EnqueueResult


@dataclass(frozen=True)
class NightReport:
    """What a night did."""

    ingested: IngestReport
    scored: ScoredDay
    queued: EnqueueResult


def _name_run() -> str:
    given = flow_run.parameters
    if given.get("day"):
        return f"nightly {given['day']}"
    with suppress(UserError):  # the run itself says what is wrong with the settings
        settings = Settings.read(find_config(given.get("config")))
        return f"nightly up to {last_finished_day(settings.source.time_zone)}"
    return "nightly"


@flow(name="nightly", flow_run_name=_name_run)
def nightly(
    config: Path | None = None, day: date | None = None, version: str | None = None
) -> NightReport | CaughtUp:
    """Run the night of a day, or every night that is due; running it again changes nothing.

    Args:
        config: The settings file; else ``NIGHTWARDEN_CONFIG`` names it.
        day: The business day; without one, all days that are due and not done, oldest first, up to
            the last one that was over when the run was scheduled to begin.
        version: The model to score with, instead of the champion.

    Raises:
        NightsFailedError: if nights that were due could not be done.
    """
    log_steps()
    file = find_config(config)
    if day is not None:
        return _run_named_night(file, day, version)
    settings = Settings.read(file)
    outcome = _catch_up(file, settings)
    tell_of_nights(outcome)
    with settings.context().closing() as context:
        missing = [problem.day for problem in outcome.problems if problem.kind == "missing"]
        note_missing_days(context.lake(), missing)
    outcome.require_all()
    return outcome


def _run_named_night(file: Path, day: date, version: str | None) -> NightReport:
    """Run one night, and show why where it cannot be done; a run that catches up tells of it."""
    try:
        return run_night(file, day, version)
    except UserError as error:
        problem = problem_of(day, error)
        show_problem(problem)
        if not flow_run.parent_flow_run_id:
            tell_of_problem(problem)
        raise


def run_night(file: Path, day: date, version: str | None = None) -> NightReport:
    """Run one night inside a flow."""
    settings = Settings.read(file)
    with settings.context().closing() as context:
        collect_decisions(context)
        ingested = _land(context, day)
        scored = score_day(context, day, version)
        queued = enqueue_day(context, scored, NIGHTLY)
        shadow_day(context, day)
    report = NightReport(ingested, scored, queued)
    tell_of_night(report, settings)
    return report


def _land(context: Context, day: date) -> IngestReport:
    """Land the day; one whose file was archived since it was landed stays as it is."""
    landed = landed_before(context.lake(), day)
    if landed is not None and not has_day_come(context.source, day):
        return landed
    return ingest_day(context, day)


def _catch_up(file: Path, settings: Settings) -> CaughtUp:
    last = last_finished_day(settings.source.time_zone)
    until = datetime.now(UTC) + timedelta(minutes=settings.source.wait_minutes)

    def plan() -> list[DueNight]:
        with settings.context().closing() as context:
            return plan_nights(context, last, catch_up_days=settings.run.catch_up_days)

    def run(night: DueNight) -> NightReport:
        with settings.context().closing() as context:
            version = night.version or champion_of(context.registry(), context.lake(), night.day)
        with tags(NIGHT_TAG):
            report = nightly(file, night.day, version)  # a run of its own in the server's pages
        if not isinstance(report, NightReport):
            message = f"a run of one night gave {type(report).__name__}"
            raise TypeError(message)
        return report

    def wait(day: date) -> None:
        wait_for_day(settings.source, day, until)

    outcome = run_due_nights(plan, run, wait, last)
    # the newest day is news whatever was noted: who looked by hand before it was due told nobody
    missing = [p.day for p in outcome.problems if p.kind == "missing" and p.day < last]
    with settings.context().closing() as context:
        noted = days_noted_missing(context.lake(), missing)
        old = list_too_old(context, last, catch_up_days=settings.run.catch_up_days)
    return replace(outcome, problems=[*old, *outcome.problems], missing_before=noted)


@flow(name="score")
def score(config: Path, day: date) -> ScoredDay:
    """Score a published day with the champion; nothing is queued."""
    with Settings.read(config).context().closing() as context:
        return score_day(context, day)
