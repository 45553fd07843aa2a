"""``nightwarden desk users``: who may use the review desk."""

import getpass
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.options import DEFAULT_CONFIG, Config, Json, open_queue
from warehouse.errors import UserError

if TYPE_CHECKING:
    from warehouse.analysts import Analyst

app = typer.Typer(help="Who may use the review desk.", no_args_is_help=True)


class Role(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"
    ANALYST = "analyst"
    LEAD = "lead"
    ADMIN = "admin"


Name = Annotated[str, typer.Argument(help="The name to sign in with.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.ANALYST,
    config: Config = DEFAULT_CONFIG,
    *,
    from_stdin: FromStdin = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Only a trusted proxy lets them in.")
    ] = False,
) -> None:
    """Add somebody; their password is asked for twice.

    Example: `nightwarden desk users add ada --role lead`
    """
    from warehouse.analysts import add_analyst, check_name

    check_name(name)
    with open_queue(config) as queue:
        password = None if no_password else ask_password(from_stdin=from_stdin)
        add_analyst(queue, name, role.value, password, operator())
    show.line(f"{name} may use the desk as {role.value}.")


@app.command()
def password(
    name: Name, config: Config = DEFAULT_CONFIG, *, from_stdin: FromStdin = False
) -> None:
    """Give somebody a new password; they are signed out everywhere, and locked out no longer.

    Example: `nightwarden desk users password ada`
    """
    from warehouse.analysts import set_password

    with open_queue(config) as queue:
        set_password(queue, name, ask_password(from_stdin=from_stdin), operator())
    show.line(f"{name} has a new password.")


@app.command()
def disable(name: Name, config: Config = DEFAULT_CONFIG) -> None:
    """Let somebody in no longer, and end their sessions and tokens; what they decided stays.

    Example: `nightwarden desk users disable ada`
    """
    from warehouse.analysts import disable_analyst

    with open_queue(config) as queue:
        disable_analyst(queue, name, operator())
    show.line(f"{name} may not use the desk any more.")


@app.command()
def enable(name: Name, config: Config = DEFAULT_CONFIG) -> None:
    """Let somebody in again who was disabled, or is locked out; tokens must be made anew.

    Example: `nightwarden desk users enable ada`
    """
    from warehouse.analysts import enable_analyst

    with open_queue(config) as queue:
        enable_analyst(queue, name, operator())
    show.line(f"{name} may use the desk.")


@app.command("role")
def set_role(
    name: Name,
    role: Annotated[Role, typer.Argument(help="What they may do from now on.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Give somebody another role, at once.

    Example: `nightwarden desk users role ada lead`
    """
    from warehouse.analysts import change_role

    with open_queue(config) as queue:
        change_role(queue, name, role.value, operator())
    show.line(f"{name} may use the desk as {role.value}.")


@app.command("list")
def list_all(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """List who may use the desk, or could before.

    Example: `nightwarden desk users list`
    """
    from warehouse.analysts import list_analysts

    with open_queue(config) as queue:
        found = list_analysts(queue)
    if as_json:
        show.print_json(found)
    else:
        show_analysts(found)


def show_analysts(found: "list[Analyst]") -> None:
    """Print analysts, a line each."""
    rows = [
        (
            each.name,
            each.role,
            "yes" if each.is_active else "no",
            "yes" if each.has_password else "no",
            each.locked_until and f"{each.locked_until:%Y-%m-%d %H:%M}",
        )
        for each in found
    ]
    columns = ("name", "role", "active", "password", "locked until (UTC)")
    show.print_table("Who may use the desk", columns, rows)


def ask_password(*, from_stdin: bool) -> str:
    """Ask for a new password twice without showing it, or read it from standard input.

    Raises:
        UserError: if there is no terminal to ask at, or the standard input is no text.
    """
    if from_stdin:
        try:
            return sys.stdin.readline().rstrip("\r\n")
        except UnicodeDecodeError as error:
            message = f"expected a password in {error.encoding}, got other bytes; convert it"
            raise UserError(message) from None  # the error holds what was read
    if not sys.stdin.isatty():
        message = (
            "a password is asked for at a terminal, and there is none; give it with "
            "--password-stdin"
        )
        raise UserError(message)
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def operator() -> str:
    """Give who runs this command, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return f"user {os.getuid()}"
