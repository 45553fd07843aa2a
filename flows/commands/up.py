"""``nightwarden up``: a scheduled project on one machine."""

from typing import Annotated

import typer

from flows.options import DEFAULT_CONFIG, Config


def up(
    config: Config = DEFAULT_CONFIG,
    prefect_port: Annotated[
        int, typer.Option(min=0, max=65535, help="For Prefect; 0: any free one.")
    ] = 4200,
    mlflow_port: Annotated[
        int, typer.Option(min=0, max=65535, help="For MLflow; 0: any free one.")
    ] = 5000,
    desk_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Instead of desk.port; 0: any free one."),
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="When nights begin; an empty text: never by themselves.")
    ] = None,
    *,
    join: Annotated[
        bool,
        typer.Option("--join", help="Use PREFECT_API_URL's server though it is elsewhere."),
    ] = False,
) -> None:
    """Run Prefect, its workers, MLflow and the desk on this machine, and schedule the nights.

    Makes the deployments as `nightwarden deploy` does, prints four addresses, and stays until Ctrl-C,
    which ends everything it started; a night that was running is finished by the next one. Logs
    lie in the warehouse folder, under logs. Where PREFECT_API_URL names a server of this machine,
    that one is used instead, one elsewhere only with --join: its deployments are then updated from
    here, and its runs done here. So is the MLflow server of mlflow.tracking_uri. Prefect's and
    MLflow's pages answer to this machine only, as they ask for no password.

    Example: `nightwarden up --cron "30 3 * * *"`
    """
    from flows.up import Ports, run_up

    options = [] if cron is None else ["--cron", cron]
    ports = Ports(prefect_port, mlflow_port, desk_port)
    raise typer.Exit(run_up(config, ports, options, is_joining=join))
