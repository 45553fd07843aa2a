"""The whole job on simulated transactions, as the commands that a user would type."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from flows import show
from warehouse.errors import UserError

FIRST_DAY = date(2026, 1, 1)
DAYS = 80
AS_OF = FIRST_DAY + timedelta(days=66)
LAST_DAY = FIRST_DAY + timedelta(days=DAYS - 1)
CAPACITY = 20


def commands(folder: Path) -> list[list[str]]:
    """List the demo's commands, in order."""
    config = ["--config", str(folder / "nightwarden.toml")]
    week = ["--from", str(AS_OF), "--to", str(AS_OF + timedelta(days=6))]
    days = ["--from", str(LAST_DAY - timedelta(days=2)), "--to", str(LAST_DAY)]
    transactions = str(folder / "transactions")
    return [
        ["simulate", transactions, "--from", str(FIRST_DAY), "--days", str(DAYS)],
        ["init", "--source", f"{transactions}/*.csv", *config],
        ["ingest", "--from", str(FIRST_DAY), "--to", str(LAST_DAY - timedelta(days=1)), *config],
        ["train", "--as-of", str(AS_OF), *config],
        ["backfill", *week, "--dry-run", *config],
        ["backfill", *week, *config],
        ["labels", "status", *week, *config],
        ["evaluate", *week, *config],
        ["threshold", "plan", *week, *config],
        ["nightly", "--date", str(LAST_DAY), *config],
        ["nightly", "--date", str(LAST_DAY), *config],
        ["queue", "list", "--lane", "nightly", "--limit", "10", *config],
        ["queue", "show", "1", *config],
        ["queue", "list", "--lane", "audit", *config],
        ["status", *days, *config],
    ]


def run_demo(folder: Path) -> None:
    """Run the demo in a folder.

    Raises:
        UserError: if the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        message = f"the demo needs a new or empty folder, but {folder} is not empty; remove it"
        raise UserError(message)
    config = folder / "nightwarden.toml"
    for command in commands(folder):
        run(command)
        if command[0] == "init":
            _set_capacity(config)
    show.line("\nThe queue is waiting for you. Say who you are, then open the desk:")
    show.line(f"  nightwarden desk users add NAME --role lead --config {config}")
    show.line(f"  nightwarden desk --config {config}")


def run(command: Sequence[str]) -> None:
    """Print and run one command in this process, so that one server serves them all."""
    from flows.cli import app

    show.line(f"\n$ nightwarden {' '.join(command)}")
    if app(list(command), standalone_mode=False):
        message = f"nightwarden {command[0]} did not succeed; see above"
        raise UserError(message)


def _set_capacity(config: Path) -> None:
    """Fit the review capacity to the few simulated transactions of a day."""
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("#capacity = 100", f"capacity = {CAPACITY}"), encoding="utf-8")
