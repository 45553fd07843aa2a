"""``nightwarden desk tokens``: by which other programs use the desk's API."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.commands.desk_users import operator
from flows.options import DEFAULT_CONFIG, Config, Json, open_queue

if TYPE_CHECKING:
    from warehouse.api_tokens import ApiToken

app = typer.Typer(help="Tokens for other programs.", no_args_is_help=True)


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    DECIDE = "decide"
    FEED = "feed"
    METRICS = "metrics"


Name = Annotated[str, typer.Argument(help="What the token is for.")]


@app.command()
def add(
    name: Name,
    analyst: Annotated[
        str, typer.Option("--as", help="On whose behalf; it never may do more than they.")
    ],
    scopes: Annotated[
        list[Scope], typer.Option("--scope", help="What it may do; repeat as needed.")
    ],
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="After how many it ends; never, if left out."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Make a token, and print it this once; only its hash is kept.

    Example: `nightwarden desk tokens add case-system --as robot --scope read --scope feed`
    """
    from warehouse.api_tokens import add_token

    with open_queue(config) as queue:
        wanted = [scope.value for scope in scopes]
        token = add_token(queue, name, analyst, wanted, days=days, actor=operator())
    if as_json:
        show.print_json({"name": name, "token": token})
        return
    sys.stderr.write("Keep this token safe; it cannot be shown again:\n")
    show.line(token)


@app.command()
def revoke(name: Name, config: Config = DEFAULT_CONFIG) -> None:
    """End a token, at once.

    Example: `nightwarden desk tokens revoke case-system`
    """
    from warehouse.api_tokens import revoke_token

    with open_queue(config) as queue:
        revoke_token(queue, name, operator())
    show.line(f"The token {name} holds no longer.")


@app.command("list")
def list_all(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """List the tokens, ended ones too.

    Example: `nightwarden desk tokens list`
    """
    from warehouse.api_tokens import list_tokens

    with open_queue(config) as queue:
        found = list_tokens(queue)
    if as_json:
        show.print_json(found)
    else:
        show_tokens(found)


def show_tokens(found: "list[ApiToken]") -> None:
    """Print tokens, a line each."""
    rows = [
        (
            each.name,
            each.analyst,
            ", ".join(each.scopes),
            each.expires_at and f"{each.expires_at:%Y-%m-%d}",
            each.revoked_at and f"{each.revoked_at:%Y-%m-%d}",
        )
        for each in found
    ]
    columns = ("name", "as", "scopes", "ends on", "revoked on")
    show.print_table("Tokens", columns, rows)
