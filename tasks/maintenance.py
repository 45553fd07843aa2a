"""The step that keeps the lake quick to read, as a Prefect task with retries."""

import logging

from prefect import task

from tasks.context import Context
from tasks.steps import RETRIED
from warehouse.maintenance import MergedFiles, merge_small_files

logger = logging.getLogger(__name__)


@task(name="merge-files", **RETRIED)
def merge_files(context: Context) -> list[MergedFiles]:
    """Merge the small files of every table of the lake."""
    merged = merge_small_files(context.lake())
    for one in merged:
        logger.info("%s: %d files became %d", one.table, one.before, one.after)
    return merged
