"""``nightwarden warehouse``: from the warehouse of one machine to one that several share."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from flows import show
from flows.options import DEFAULT_CONFIG, Config, Json
from warehouse.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from flows.settings import Settings
    from warehouse.copied import Copied

CATALOG = "lake/catalog.sqlite"
QUEUE = "queue.sqlite"

app = typer.Typer(help="Move a warehouse.", no_args_is_help=True)


class Copy(Protocol):
    """What copies the lake, the queue or the models."""

    def look(self) -> "list[Copied]":
        """Count what is in the folder and what of it is at the target; refuse one that is used."""

    def run(self) -> "list[Copied]":
        """Copy what is not there, and count it at the target."""


@app.callback()
def group() -> None:
    """Keep ``copy`` a command of its own; Typer would make a lone command the group itself."""


@app.command("copy")
def copy_warehouse(
    folder: Annotated[
        Path, typer.Option("--from", help="The folder that is copied, such as warehouse-data.")
    ],
    config: Config = DEFAULT_CONFIG,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to copy, copy nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a folder's lake, queue and models to the shared ones that the settings name.

    The folder's lake and queue are brought up to date first, also by a dry run; nothing else in it is
    changed, and nobody may write to it meanwhile. If it is killed, run it again: it goes on. Exit
    code 0 only if everything arrived and was counted again there.

    Example: `nightwarden warehouse copy --from warehouse-data --dry-run`
    """
    from flows.settings import Settings

    settings = Settings.read(config)
    missing = missing_parts(settings, folder)
    with ExitStack() as stack:
        parts = [stack.enter_context(part) for part in open_parts(settings, folder, missing)]
        looked = [part.look() for part in parts]  # all of them, before anything is written
        found = looked if dry_run else list(map(finish, parts, looked))
    rows = [row for part in found for row in part]
    was_there = rows == [row for part in looked for row in part]
    if as_json:
        show.print_json({"tables": rows, "not_copied": missing, "is_dry_run": dry_run})
    else:
        show_copied(rows, missing)
        show.line(sum_up(rows, dry_run=dry_run, was_there=was_there))
    if not (dry_run or all(row.is_whole for row in rows)):
        raise typer.Exit(1)


def missing_parts(settings: "Settings", folder: Path) -> dict[str, str]:
    """Say of each part that is not copied why.

    Raises:
        UserError: if the folder holds no warehouse, or the settings name nothing that is shared.
    """
    if not (folder / CATALOG).is_file():
        message = (
            f"--from must name a warehouse folder, such as warehouse-data, and {folder / CATALOG} "
            "does not exist; name the folder that [warehouse] path named so far"
        )
        raise UserError(message)
    missing = {}
    if settings.warehouse.catalog is None:
        missing["lake"] = "[warehouse] catalog and data are not set"
    if settings.queue.database is None:
        missing["queue"] = "[queue] database is not set"
    elif not (folder / QUEUE).is_file():
        missing["queue"] = f"there is none, {folder / QUEUE} does not exist"
    if settings.mlflow.tracking_uri is None:
        missing["models"] = "[mlflow] tracking_uri is not set"
    if len(missing) == 3:
        message = (
            "the settings must name what to copy to, and leave nothing to copy "
            f"({'; '.join(missing.values())}); set the addresses in nightwarden.toml, those with "
            "passwords in the environment"
        )
        raise UserError(message)
    return missing


def open_parts(
    settings: "Settings", folder: Path, missing: dict[str, str]
) -> "Iterator[AbstractContextManager[Copy]]":
    """Give what copies each part; entered, it keeps others from writing to the folder's."""
    if "models" not in missing:
        # before the lake, as a promotion locks them
        from tasks.model_copy import ModelCopy

        yield ModelCopy.begin(folder.absolute(), settings.warehouse, settings.mlflow)
    if "lake" not in missing:
        from warehouse.lake_copy import LakeCopy

        source = settings.warehouse.model_copy(
            update={"path": folder.absolute(), "catalog": None, "data": None}
        )
        yield LakeCopy.begin(source, settings.warehouse)
    if "queue" not in missing:
        from warehouse.queue_copy import QueueCopy

        yield QueueCopy.begin(folder / QUEUE, str(settings.queue_address))


def finish(part: Copy, looked: "list[Copied]") -> "list[Copied]":
    """Copy a part, unless all of it is there."""
    return looked if all(row.is_whole for row in looked) else part.run()


def show_copied(rows: "list[Copied]", missing: dict[str, str]) -> None:
    """Print what was there and what arrived, and what is not copied."""
    columns = ("table", "part", "there", "arrived", "same")
    cells = [
        (row.name, row.part, f"{row.there:,}", f"{row.arrived:,}", "yes" if row.is_whole else "no")
        for row in rows
    ]
    show.print_table("Copied", columns, cells)
    for part, reason in missing.items():
        show.line(f"{part} not copied: {reason}")


def sum_up(rows: "list[Copied]", *, dry_run: bool, was_there: bool) -> str:
    """Say in a line how it ended."""
    if dry_run:
        return "Nothing was copied: a dry run"
    lacking = [row.name for row in rows if not row.is_whole]
    if lacking:
        return f"Not everything arrived as it was: {', '.join(lacking)}; run this again"
    if was_there:
        return "All of it was there already; nothing was changed"
    return (
        "All of it arrived and was counted again there. Let every machine use these settings, and "
        "nothing the folder: what it writes there from now on is not copied"
    )
