"""The command line. Exit code 0: done; 1: failed; 2: the user's mistake, said in one sentence."""

import logging
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import engine, show
from flows.commands import (
    audit,
    deploy,
    desk,
    feed,
    labels,
    models,
    quarantine,
    queue,
    threshold,
    up,
    warehouse,
)
from flows.days import days_between
from flows.options import (
    DEFAULT_CONFIG,
    PARSE_DAY,
    Config,
    Day,
    Force,
    From,
    Json,
    MaybeDay,
    MaybeFrom,
    MaybeTo,
    Retrain,
    To,
    span,
    start_engine,
)
from warehouse.errors import UserError

app = typer.Typer(
    name="nightwarden",
    help="Nightly fraud detection: transactions in, a short review queue with reasons out.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(queue.app, name="queue")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(labels.app, name="labels")
app.add_typer(models.app, name="models")
app.add_typer(threshold.app, name="threshold")
app.add_typer(desk.app, name="desk")
app.add_typer(audit.app, name="audit")
app.add_typer(warehouse.app, name="warehouse")
app.command()(feed.feed)
app.command()(deploy.deploy)
app.command()(up.up)


@app.command()
def init(
    source: Annotated[str, typer.Option(help="File or quoted glob of your transactions.")],
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="canonical=SOURCE; repeat as needed.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Inspect your files, propose the mapping, and write a commented settings file.

    Example: `nightwarden init --source 'in/*.csv' --map amount=betrag`
    """
    from flows.init import write_settings

    proposal = write_settings(source, mapping or [], config, force=force)
    show.proposal(proposal, config, as_json=as_json)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder to write one file a day into.")],
    start: From,
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 60,
    accounts: Annotated[int, typer.Option(min=1)] = 500,
    merchants: Annotated[int, typer.Option(min=1)] = 200,
    seed: int = 0,
) -> None:
    """Write simulated card transactions with labelled frauds, to try things out.

    Example: `nightwarden simulate transactions --from 2026-01-01 --days 60`
    """
    from tasks.simulate import simulate_transactions, write_days

    frame = simulate_transactions(
        start=start.date(), days=days, accounts=accounts, merchants=merchants, seed=seed
    )
    files = write_days(frame, folder, format="csv")
    show.line(f"{frame.height:,} transactions in {len(files)} files in {folder}")


@app.command()
def ingest(
    day: MaybeDay = None,
    start: MaybeFrom = None,
    end: MaybeTo = None,
    config: Config = DEFAULT_CONFIG,
    *,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Read, check and publish days; bad rows go to quarantine, a bad day is refused.

    Example: `nightwarden ingest --from 2026-01-01 --to 2026-01-31`
    """
    first, last = span(day, start, end)
    start_engine(config)
    from flows.ingest import ingest as flow

    engine.wait_for_server()
    reports, refused = flow(config, first, last, force=force)
    show.ingested(reports, refused, as_json=as_json)
    if refused:
        raise typer.Exit(2)


@app.command()
def train(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=PARSE_DAY,
            help="Know what was known at the start of this day; today, if not given.",
        ),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Train the ensemble as of a day; the first model is champion, later ones challengers.

    Example: `nightwarden train --as-of 2026-02-01`
    """
    start_engine(config)
    from flows.train import train as flow

    engine.wait_for_server()
    show.trained(flow(config, as_of.date() if as_of else None), as_json=as_json)


@app.command()
def score(day: Day, config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """Score a published day with the champion; nothing is queued.

    Example: `nightwarden score --date 2026-02-01`
    """
    start_engine(config)
    from flows.nightly import score as flow

    engine.wait_for_server()
    show.scored(flow(config, day.date()), as_json=as_json)


@app.command()
def nightly(
    day: MaybeDay = None, config: Config = DEFAULT_CONFIG, *, as_json: Json = False
) -> None:
    """Run one night: ingest, score with the champion, queue the alerts.

    Without --date, every night that is due and not done, up to yesterday. Running it again changes
    nothing and queues nothing twice.

    Example: `nightwarden nightly --date 2026-02-01`
    """
    start_engine(config)
    from flows.catch_up import NightsFailedError
    from flows.nightly import NightReport
    from flows.nightly import nightly as flow

    engine.wait_for_server()
    try:
        found = flow(config, day.date() if day else None)
    except NightsFailedError as error:
        show.nights(error.outcome, as_json=as_json)
        raise
    if isinstance(found, NightReport):
        show.night(found, as_json=as_json)
    else:
        show.nights(found, as_json=as_json)


@app.command()
def backfill(
    start: From,
    end: To,
    config: Config = DEFAULT_CONFIG,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, do nothing.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Days at a time.")] = None,
    retrain: Annotated[
        Retrain, typer.Option(help="never, or weekly: honest models of the past.")
    ] = Retrain.NEVER,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run past days like nights, in parallel; alerts go to the backfill lane.

    Days that are done are skipped: after a crash, run it again.

    Example: `nightwarden backfill --from 2026-01-15 --to 2026-01-31 --dry-run`
    """
    from flows.settings import Settings

    settings = Settings.read(config) if dry_run else start_engine(config)
    from flows.backfill import BackfillFailedError, plan_backfill
    from flows.backfill import backfill as flow

    days = days_between(start.date(), end.date())
    if dry_run:
        with settings.context().closing() as context:
            plans = plan_backfill(context, days, retrain=retrain.value, force=force)
        show.plan(plans, as_json=as_json)
        return
    engine.wait_for_server()
    run = partial(flow, workers=workers, retrain=retrain.value, force=force)
    try:
        show.backfilled(run(config, days[0], days[-1]), as_json=as_json)
    except BackfillFailedError as error:
        show.backfilled(error.report, as_json=as_json)
        raise


@app.command()
def maintain(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """Merge the lake's small files, so that it stays quick to read; nothing expires.

    Nights, backfills and readers may go on meanwhile.

    Example: `nightwarden maintain`
    """
    start_engine(config)
    from flows.maintain import maintain as flow

    engine.wait_for_server()
    show.maintained(flow(config), as_json=as_json)


@app.command()
def evaluate(
    start: From, end: To, config: Config = DEFAULT_CONFIG, *, as_json: Json = False
) -> None:
    """Judge the stored scores of a range by the labels known today, and write a page.

    Only days whose frauds are known by now count. Intervals come from drawing the days anew.

    Example: `nightwarden evaluate --from 2026-01-15 --to 2026-01-31`
    """
    start_engine(config)
    from flows.evaluate import evaluate as judge

    engine.wait_for_server()
    show.evaluation(judge(config, start.date(), end.date()), as_json=as_json)


@app.command()
def status(
    start: From, end: To, config: Config = DEFAULT_CONFIG, *, as_json: Json = False
) -> None:
    """Show what was done to each day, from the partition ledger.

    Example: `nightwarden status --from 2026-01-01 --to 2026-01-31`
    """
    from flows.settings import Settings
    from warehouse.ledger import day_states

    days_between(start.date(), end.date())
    with Settings.read(config).context().closing() as context:
        states = day_states(context.lake(), start.date(), end.date())
    show.states(states, as_json=as_json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="An empty or new folder.")] = Path("demo"),
) -> None:
    """Run the whole job on simulated transactions: init, ingest, train, backfill, a night, figures.

    Example: `nightwarden demo`
    """
    from flows.demo import run_demo

    run_demo(folder)


def _report_progress() -> None:
    """Send the steps' messages to standard error."""
    from rich.logging import RichHandler

    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"
    )
    for name in ("desk", "flows", "tasks", "models", "warehouse"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False  # Prefect's root handler would print it again


def main() -> None:
    """Run the command line."""
    _report_progress()
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
