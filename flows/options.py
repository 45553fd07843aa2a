"""Options and enums that several commands share."""

import os
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import engine
from warehouse.errors import UserError

if TYPE_CHECKING:
    from flows.settings import Settings
    from warehouse.queue import Queue


class Lane(StrEnum):
    """Where alerts wait."""

    NIGHTLY = "nightly"
    BACKFILL = "backfill"
    AUDIT = "audit"


class State(StrEnum):
    """Whether a case waits for a decision."""

    OPEN = "open"
    CLOSED = "closed"


class Retrain(StrEnum):
    """Whether a backfill trains models of its own."""

    NEVER = "never"
    WEEKLY = "weekly"


PARSE_DAY = ["%Y-%m-%d"]
Config = Annotated[
    Path, typer.Option("--config", envvar="NIGHTWARDEN_CONFIG", help="The settings file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Do it although it is done or refused.")]
Day = Annotated[datetime, typer.Option("--date", formats=PARSE_DAY, help="The business day.")]
MaybeDay = Annotated[
    datetime | None, typer.Option("--date", formats=PARSE_DAY, help="One business day.")
]
From = Annotated[datetime, typer.Option("--from", formats=PARSE_DAY, help="The first day.")]
To = Annotated[datetime, typer.Option("--to", formats=PARSE_DAY, help="The last day.")]
MaybeFrom = Annotated[
    datetime | None, typer.Option("--from", formats=PARSE_DAY, help="The first day.")
]
MaybeTo = Annotated[datetime | None, typer.Option("--to", formats=PARSE_DAY, help="The last day.")]
DEFAULT_CONFIG = Path("nightwarden.toml")


def find_config(given: Path | None) -> Path:
    """Give the settings file: the one named, else ``NIGHTWARDEN_CONFIG``'s, else the folder's."""
    return given or Path(os.environ.get("NIGHTWARDEN_CONFIG") or DEFAULT_CONFIG)


def start_engine(config: Path) -> "Settings":
    """Read the settings and start the engine, before anything heavy is imported."""
    from flows.settings import Settings

    settings = Settings.read(config)
    engine.prepare(settings.warehouse.path / "prefect")
    return settings


def open_queue(config: Path) -> "Queue":
    """Open the review queue of a project, which is made where there is none."""
    from flows.settings import Settings
    from warehouse.queue import Queue

    return Queue.open(Settings.read(config).queue_address, create=True)


def span(day: datetime | None, start: datetime | None, end: datetime | None) -> tuple[date, date]:
    """Give the first and last of the days that are named.

    Raises:
        UserError: unless either one day or both ends are given.
    """
    if day and not (start or end):
        return day.date(), day.date()
    if start and end and not day:
        return start.date(), end.date()
    message = "name the days: --date DAY, or --from DAY --to DAY"
    raise UserError(message)
