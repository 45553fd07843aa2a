"""What a run tells the server: artifacts that its pages show, and events that automations hear.

Artifacts hold counts, rules and figures; no account, no transaction.
"""

import logging
import socket
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS

from flows.catch_up import NightProblem
from flows.settings import Settings
from tasks.steps import AUDIT, TrainedModel
from tasks.tracking import MODEL_NAME

if TYPE_CHECKING:
    from flows.backfill import BackfillReport
    from flows.catch_up import CaughtUp
    from flows.nightly import NightReport
    from warehouse.maintenance import MergedFiles
    from warehouse.partitions import IngestReport

REFUSED, MISSING = "nightwarden.day-refused", "nightwarden.day-missing"
MEMBER_FAILED = "nightwarden.member-failed"
EVENTS = {"refused": REFUSED, "missing": MISSING}


def log_steps() -> None:
    """Let the steps' messages through to the server, in a run that is to show them.

    Prefect gives the loggers that ``PREFECT_LOGGING_EXTRA_LOGGERS`` names its handler, but no level.
    """
    for name in PREFECT_LOGGING_EXTRA_LOGGERS.value() or ():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def tell_of_night(report: "NightReport", settings: Settings) -> None:
    """Show a night: its rows by stage as a table, and what was found as a page."""
    landed, scored, queued = report.ingested, report.scored, report.queued
    stages = {
        "read": landed.rows_in,
        "in quarantine": landed.rows_quarantined,
        "published": landed.rows_published,
        "scored": scored.rows,
        "flagged": len(scored.alerts),
        "alerts queued now": queued.added,
        "alerts queued before": queued.already_there,
        f"drawn at random for lane {AUDIT}": len(scored.audit),
    }
    create_table_artifact(
        [{"stage": stage, "rows": rows} for stage, rows in stages.items()],
        key="night-rows",
        description=f"Rows of {scored.day} by stage",
    )
    create_markdown_artifact(
        _night_page(report, settings), key="night", description=f"The night of {scored.day}"
    )


def _night_page(report: "NightReport", settings: Settings) -> str:
    landed, scored, queued = report.ingested, report.scored, report.queued
    again = "" if scored.changed else ", the same as before"
    lines = [
        f"# {scored.day}",
        f"{landed.status}: {landed.rows_published:,} of {landed.rows_in:,} rows published, "
        f"{landed.rows_quarantined:,} in quarantine.",
        *_rules_table(landed.broken_rules),
        *(f"Note: {note}" for note in landed.notes),
        f"{scored.rows:,} scored with {_model(settings, scored.model_version)}{again}; "
        f"{len(scored.alerts)} flagged.",
        f"{queued.added} new alerts in {queued.cases_opened} new cases and "
        f"{queued.cases_appended} open ones; {queued.already_there} were queued before.",
        f"Page of the day: {_place(landed.page, settings)}",
        f"Review desk: {_desk(settings)}",
    ]
    return "\n\n".join(lines)


def _place(page: Path | None, settings: Settings) -> str:
    """Say where a page lies; beside a shared warehouse, any of several machines may have it."""
    if page is None:
        return "as before"
    is_shared = settings.warehouse.catalog is not None
    return f"on {socket.gethostname()}: `{page}`" if is_shared else f"`{page}`"


def _rules_table(broken: Mapping[str, int]) -> list[str]:
    if not broken:
        return ["No row broke a rule."]
    rows = [f"| {rule} | {count:,} |" for rule, count in broken.items()]
    return ["\n".join(["| broken rule | rows |", "| --- | --- |", *rows])]


def _model(settings: Settings, version: str) -> str:
    """Name a model, with a link where models are kept on a server."""
    uri = settings.mlflow.tracking_uri
    address = uri.get_secret_value() if uri else ""  # a database's address may hold a password
    if not address.startswith(("http://", "https://")):
        return f"model {version}"
    return f"[model {version}]({address.rstrip('/')}/#/models/{MODEL_NAME}/versions/{version})"


def _desk(settings: Settings) -> str:
    """Give the desk's address; served to other machines, it is behind TLS."""
    desk = settings.desk
    outside = [name for name in desk.names if name not in ("127.0.0.1", "localhost")]
    if not outside:
        return f"http://127.0.0.1:{desk.port} on its own machine"
    port = f":{desk.port}" if desk.tls_certificate else ""  # a proxy in front has the usual one
    return f"https://{outside[0]}{port}"


def tell_of_nights(outcome: "CaughtUp") -> None:
    """Show every night of a run that caught up, and tell automations of days that have a problem."""
    rows = [
        {"day": str(report.scored.day), "outcome": "done", "new alerts": report.queued.added}
        for report in outcome.done
    ]
    rows += [
        {"day": str(problem.day), "outcome": f"{problem.kind}: {problem.reason}", "new alerts": 0}
        for problem in outcome.problems
    ]
    create_table_artifact(
        sorted(rows, key=lambda row: str(row["day"])),
        key="nights",
        description="The nights that were due" if rows else "Every night was done already",
    )
    for problem in outcome.news:
        tell_of_problem(problem)


def show_problem(problem: NightProblem) -> None:
    """Show why a night is not done, where its page would be."""
    create_markdown_artifact(
        f"# {problem.day}\n\n{problem.kind}: {problem.reason}",
        key="night",
        description=f"The night of {problem.day}",
    )


def tell_of_problem(problem: NightProblem) -> None:
    """Tell automations of a day that was refused or is missing; of others the run's state tells."""
    if problem.kind in EVENTS:
        emit_event(
            EVENTS[problem.kind],
            resource={
                "prefect.resource.id": f"nightwarden.day.{problem.day}",
                "prefect.resource.name": str(problem.day),
            },
            payload={"day": str(problem.day), "reason": problem.reason},
        )


def tell_of_ingest(landed: "list[IngestReport]", refused: Mapping[date, str]) -> None:
    """Show what became of each day that was to be landed."""
    rows = [
        {
            "day": str(report.day),
            "outcome": report.status,
            "published": report.rows_published,
            "in quarantine": report.rows_quarantined,
            "page": str(report.page or ""),
        }
        for report in landed
    ]
    rows += [
        {"day": str(day), "outcome": f"refused: {why}", "published": 0, "in quarantine": 0}
        for day, why in refused.items()
    ]
    create_table_artifact(rows, key="ingest", description="Days landed")


def tell_of_training(trained: TrainedModel) -> None:
    """Show what was trained, and tell automations of members that failed."""
    title = _title(trained)
    figures = [f"| {name} | {value:,.4g} |" for name, value in sorted(trained.metrics.items())]
    lines = [
        f"# {title}",
        f"{trained.alias or 'no alias'}; mode {trained.mode}: {trained.mode_reason}.",
        f"Members that failed: {trained.failed_members or 'none'}.",
        "\n".join(["| figure | value |", "| --- | --- |", *figures]),
    ]
    create_markdown_artifact("\n\n".join(lines), key="trained-model", description=title)
    tell_of_failed_members(trained)


def tell_of_failed_members(trained: TrainedModel) -> None:
    """Tell automations of members that a trained model lacks."""
    if trained.failed_members:
        emit_event(
            MEMBER_FAILED,
            resource={
                "prefect.resource.id": f"nightwarden.model.{trained.version}",
                "prefect.resource.name": _title(trained),
            },
            payload={"as_of": str(trained.as_of), "failed": trained.failed_members},
        )


def _title(trained: TrainedModel) -> str:
    return f"Model version {trained.version} as of {trained.as_of}"


class BackfillProgress:
    """How many days of a backfill are scored and queued, as a bar in the server's pages."""

    def __init__(self, days: int) -> None:
        """Show a bar for so many days."""
        self._days, self._done = days, 0
        found = create_progress_artifact(
            progress=0.0 if days else 100.0,
            key="backfill-progress",
            description=f"{days} days to score and queue",
        )
        self._id = UUID(str(found))

    def advance(self) -> None:
        """Count a day that is finished, done or failed."""
        self._done += 1
        update_progress_artifact(self._id, progress=100.0 * self._done / self._days)


def tell_of_backfill(report: "BackfillReport", problems: Iterable[NightProblem]) -> None:
    """Show what became of each day of a backfill, and tell automations of those with a problem."""
    days = {
        **dict.fromkeys(report.skipped, "done before"),
        **dict.fromkeys(report.done, "done"),
        **{day: f"failed: {why}" for day, why in report.failed.items()},
    }
    create_table_artifact(
        [{"day": str(day), "outcome": days[day]} for day in sorted(days)],
        key="backfill-days",
        description=f"{report.alerts_added} new alerts in the backfill lane",
    )
    for problem in problems:
        tell_of_problem(problem)


def tell_of_maintenance(merged: "list[MergedFiles]") -> None:
    """Show the tables of which files were merged."""
    rows = [{"table": one.table, "before": one.before, "after": one.after} for one in merged]
    create_table_artifact(rows, key="merged-files", description="Files before and after merging")
