"""Land days: every day is read, checked, and published, quarantined in part, or refused."""

from datetime import date
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.days import days_between
from flows.settings import Settings
from tasks.steps import ingest_day
from warehouse.errors import UserError
from warehouse.partitions import IngestReport


@flow(name="ingest", validate_parameters=False)
def ingest(
    config: Path, start: date, end: date, *, force: bool = False
) -> tuple[list[IngestReport], dict[date, str]]:
    """Ingest the days from ``start`` to ``end``; a refused day does not stop the others.

    Returns:
        The reports of the days that were published, and for each other day why it was not.
    """
    reports, refused = [], {}
    with Settings.read(config).context().closing() as context:
        for day in days_between(start, end):
            try:
                reports.append(ingest_day(context, day, force=force))
            except UserError as error:
                refused[day] = str(error)
    create_markdown_artifact(
        _table(reports, refused), key="ingest", description="Days landed, with their Data Docs"
    )
    return reports, refused


def _table(reports: list[IngestReport], refused: dict[date, str]) -> str:
    lines = [
        "| day | status | rows | quarantined | Data Docs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for report in reports:
        link = f"[page]({report.page.as_uri()})" if report.page else ""
        lines.append(
            f"| {report.day} | {report.status} | {report.rows_published} "
            f"| {report.rows_quarantined} | {link} |"
        )
    lines += [f"| {day} | refused: {why} | | | |" for day, why in refused.items()]
    return "\n".join(lines)
