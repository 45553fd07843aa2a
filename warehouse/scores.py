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
            connection.execute("DELETE FROM lake.scores WHERE event_date = ?", [run.event_date])
            connection.execute(f"INSERT INTO lake.scores SELECT {select} FROM new_scores")
            write_run(connection, replace(run, rows_out=scores.height))
    finally:
        connection.unregister("new_scores")
