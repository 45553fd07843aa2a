"""``nightwarden quarantine``: rows that broke a rule, counted and judged again."""

from typing import Annotated

import typer

from flows import show
from flows.days import days_between
from flows.options import DEFAULT_CONFIG, Config, Day, Json, MaybeFrom, MaybeTo

app = typer.Typer(help="Rows that broke a rule.", no_args_is_help=True)


@app.command("list")
def list_rows(
    start: MaybeFrom = None,
    end: MaybeTo = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Count the rows in quarantine by day and rule, with an example.

    Example: `nightwarden quarantine list --from 2026-01-01 --to 2026-01-31`
    """
    from flows.settings import Settings
    from warehouse.quarantine import list_quarantine

    if start and end:
        days_between(start.date(), end.date())
    with Settings.read(config).context().closing() as context:
        found = list_quarantine(
            context.lake(), start.date() if start else None, end.date() if end else None
        )
    show.quarantined(found, as_json=as_json)


@app.command()
def replay(
    day: Day,
    config: Config = DEFAULT_CONFIG,
    *,
    to_own_day: Annotated[
        bool, typer.Option("--to-own-day", help="Publish late rows on the day they happened.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge a day's quarantined rows again, after the mapping was mended, and publish what passes.

    Example: `nightwarden quarantine replay --date 2026-01-15`
    """
    from flows.settings import Settings
    from warehouse.quarantine import replay_quarantine

    with Settings.read(config).context().closing() as context:
        report = replay_quarantine(
            context.lake(), context.source, context.validation, day.date(), to_own_day=to_own_day
        )
    show.replayed(report, as_json=as_json)
