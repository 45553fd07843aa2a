"""``nightwarden desk``: serve the review desk, and say who may use it."""

from typing import Annotated

import typer

from flows.commands import desk_tokens, desk_users
from flows.options import DEFAULT_CONFIG, Config

app = typer.Typer(invoke_without_command=True)
app.add_typer(desk_users.app, name="users")
app.add_typer(desk_tokens.app, name="tokens")


@app.callback()
def serve(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, instead of desk.host.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Instead of desk.port; 0: any free one."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without TLS all the same.")
    ] = False,
) -> None:
    """Serve the review desk until Ctrl-C; nightly, backfill and maintenance may run meanwhile.

    Example: `nightwarden desk --port 8080`
    """
    if context.invoked_subcommand is not None:
        return
    from flows.desk_server import serve_desk
    from flows.settings import Settings

    given = {"host": host, "port": port}
    changes = {name: value for name, value in given.items() if value is not None}
    if not serve_desk(Settings.read(config), changes, insecure=insecure):
        raise typer.Exit(1)
