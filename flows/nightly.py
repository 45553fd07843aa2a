"""One night: ingest a day, score it with the champion, queue what the analysts should see."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.settings import Settings
from tasks.shadow import shadow_day
from tasks.steps import (
    AUDIT,
    NIGHTLY,
    ScoredDay,
    collect_decisions,
    enqueue_day,
    ingest_day,
    score_day,
)
from warehouse.partitions import IngestReport
from warehouse.queue_records import EnqueueResult


@dataclass(frozen=True)
class NightReport:
    """What a night did."""

    ingested: IngestReport
    scored: ScoredDay
    queued: EnqueueResult


@flow(name="nightly", validate_parameters=False)
def nightly(config: Path, day: date) -> NightReport:
    """Run the night of ``day``; running it again changes nothing."""
    with Settings.read(config).context().closing() as context:
        collect_decisions(context)
        ingested = ingest_day(context, day)
        scored = score_day(context, day)
        queued = enqueue_day(context, scored, NIGHTLY)
        shadow_day(context, day)
    report = NightReport(ingested, scored, queued)
    create_markdown_artifact(_summary(report), key="night", description=f"The night of {day}")
    return report


@flow(name="score", validate_parameters=False)
def score(config: Path, day: date) -> ScoredDay:
    """Score a published day with the champion; nothing is queued."""
    with Settings.read(config).context().closing() as context:
        return score_day(context, day)


def _summary(report: NightReport) -> str:
    page = report.ingested.page
    docs = f"[Data Docs]({page.as_uri()})" if page else "as before"
    return (
        f"**{report.scored.day}**: {report.ingested.rows_published:,} transactions published, "
        f"{report.ingested.rows_quarantined:,} quarantined ({docs}); {report.scored.rows:,} scored "
        f"with model {report.scored.model_version}; {report.queued.added} alerts queued in "
        f"{report.queued.cases_opened} new cases and {report.queued.cases_appended} open ones; "
        f"{len(report.scored.audit)} drawn at random wait in lane {AUDIT}."
    )
