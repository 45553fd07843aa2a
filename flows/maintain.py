"""Maintenance: small files of the lake are merged, while nights, backfills and readers go on."""

from pathlib import Path

from prefect import flow

from flows.options import find_config
from flows.reports import log_steps, tell_of_maintenance
from flows.settings import Settings
from tasks.maintenance import merge_files
from warehouse.maintenance import MergedFiles


@flow(name="maintain", flow_run_name="maintain")
def maintain(config: Path | None = None) -> list[MergedFiles]:
    """Merge the lake's small files; nothing expires and nothing is deleted.

    Args:
        config: The settings file; else ``NIGHTWARDEN_CONFIG`` names it.
    """
    log_steps()
    with Settings.read(find_config(config)).context().closing() as context:
        merged = merge_files(context)
    tell_of_maintenance(merged)
    return merged
