"""Write a day's scores: the partition is replaced in one commit, together with its ledger row."""

from dataclasses import replace

import polars as pl

from warehouse.connection import Lake
from warehouse.ledger import PartitionRun, write_run
from warehouse.schema import SCORES


def replace_scores(lake: Lake, scores: pl.DataFrame, run: PartitionRun) -> None:
    """Replace the day's partition of ``lake.scores`` and append the run to the ledger.

    Args:
        lake: The lake.
        scores: The columns of ``lake.scores``, the members as columns ``member.NAME``.
        run: The ledger row; its ``rows_out`` is set here.
    """
    delete = "DELETE FROM lake.scores WHERE event_date = ?"
    _replace(lake, scores, run, "scores", (delete, [run.event_date]))


def replace_shadow_scores(lake: Lake, scores: pl.DataFrame, run: PartitionRun) -> None:
    """Replace the day's rows of one challenger in ``lake.shadow_scores``; others' rows stay.

    Args:
        lake: The lake.
        scores: As for ``replace_scores``, all of the run's model version.
        run: The ledger row; its ``rows_out`` is set here.
    """
    delete = "DELETE FROM lake.shadow_scores WHERE event_date = ? AND model_version = ?"
    _replace(lake, scores, run, "shadow_scores", (delete, [run.event_date, run.model_version]))


def is_shadowed(lake: Lake, run: PartitionRun) -> bool:
    """Tell whether the version's newest shadow run of the day did the same work on the same data.

    ``warehouse.ledger.find_repeated`` looks at the newest run of any version: several challengers
    may have scored the day, each beside the others.
    """
    before = lake.connection.execute(
        "SELECT status, data_digest, rows_in, settings_digest FROM lake.partition_runs "
        "WHERE event_date = ? AND stage = ? AND model_version = ? "
        "ORDER BY finished_at DESC LIMIT 1",
        [run.event_date, run.stage, run.model_version],
    ).fetchone()
    return before == ("done", run.data_digest, run.rows_in, run.settings_digest)


def _replace(
    lake: Lake,
    scores: pl.DataFrame,
    run: PartitionRun,
    table: str,
    delete: tuple[str, list[object]],
) -> None:
    """Run the statement that deletes the old rows, and insert the new ones."""
    members = [name for name in scores.columns if name.startswith("member.")]
    names = ", ".join(f"'{name.removeprefix('member.')}'" for name in members)
    values = ", ".join(f'"{name}"' for name in members)
    select = ", ".join(
        f"MAP([{names}], [{values}])" if name == "members" else name
        for name in SCORES.column_names()
    )
    connection = lake.connection
    connection.register("new_scores", scores.to_arrow())
    try:
        with lake.commit():
            connection.execute(*delete)
            connection.execute(f"INSERT INTO lake.{table} SELECT {select} FROM new_scores")
            write_run(connection, replace(run, rows_out=scores.height))
    finally:
        connection.unregister("new_scores")
