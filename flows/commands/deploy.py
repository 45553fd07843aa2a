"""``nightwarden deploy``: schedules, pools and automations on a Prefect server."""

from typing import Annotated

import typer

from flows import show
from flows.deployments import DEPLOYMENTS
from flows.options import DEFAULT_CONFIG, Config, Json


def deploy(  # noqa: PLR0913 (a command has as many parameters as it has options)
    config: Config = DEFAULT_CONFIG,
    cron: Annotated[
        str | None, typer.Option(help="When nights begin; an empty text: never by themselves.")
    ] = None,
    train_cron: Annotated[
        str | None, typer.Option(help="When models are trained; an empty text: never.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Of the schedules; the source's, if not given.")
    ] = None,
    worker_config: Annotated[
        str | None,
        typer.Option(
            help="The settings file on the workers; an empty text: that of NIGHTWARDEN_CONFIG there."
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(help="Block of the server that sends notifications, as TYPE/NAME."),
    ] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made, ask no server.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the scheduled deployments on the Prefect server that PREFECT_API_URL names.

    Makes or updates work pools, queues, deployments with their schedules, and automations; a
    deployment or schedule that somebody paused stays so. A deployment that exists keeps its
    schedule and its settings file unless an option names others; a time zone alone leaves its
    hours. Secrets that the server has as Secret blocks, such as nightwarden-source-dsn, are handed
    to the runs that need them.

    Example: `nightwarden deploy --cron "30 3 * * *" --time-zone Europe/Berlin`
    """
    from flows import engine
    from flows.settings import Settings

    zone = time_zone or Settings.read(config).source.time_zone
    given = {"nightly": cron, "train": train_cron}
    asked = {name: text for name, text in given.items() if text is not None}
    crons = {one.name: asked.get(one.name, one.cron) or None for one in DEPLOYMENTS}
    if dry_run:
        rows = [(one.name, one.pool, one.priority, crons[one.name] or "") for one in DEPLOYMENTS]
        show.plan_of_deployments(rows, zone, as_json=as_json)
        if not as_json:
            show.line(
                "A deployment that exists keeps its own schedule unless an option names one."
            )
        return
    engine.set_defaults()
    from flows.deploy import Wishes
    from flows.deploy import deploy as make

    wishes = Wishes(crons, zone, frozenset(asked), time_zone is not None, worker_config, notify)
    show.deployed(make(wishes), as_json=as_json)
