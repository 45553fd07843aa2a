"""Land days: every day is read, checked, and published, quarantined in part, or refused."""

from datetime import date
from pathlib import Path

from prefect import flow

from flows.days import days_between
from flows.options import find_config
from flows.reports import tell_of_ingest
from flows.settings import Settings
from tasks.steps import ingest_day
from warehouse.errors import UserError
from warehouse.partitions import IngestReport


@flow(name="ingest", flow_run_name="ingest {start} to {end}")
def ingest(
    config: Path | None, start: date, end: date, *, force: bool = False
) -> tuple[list[IngestReport], dict[date, str]]:
    """Ingest the days from ``start`` to ``end``; a refused day does not stop the others.

    Returns:
        The reports of the days that were published, and for each other day why it was not.
    """
    landed, refused = [], {}
    with Settings.read(find_config(config)).context().closing() as context:
        for day in days_between(start, end):
            try:
                landed.append(ingest_day(context, day, force=force))
            except UserError as error:
                refused[day] = str(error)
    tell_of_ingest(landed, refused)
    return landed, refused
