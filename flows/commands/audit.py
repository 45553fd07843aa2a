"""``nightwarden audit``: whether the audit trail is whole, and what it tells."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.options import DEFAULT_CONFIG, Config, Json, open_queue

if TYPE_CHECKING:
    from warehouse.audit_trail import AuditCheck, LoggedEvent

app = typer.Typer(help="Who did what, in a chain that shows changes.", no_args_is_help=True)


@app.command()
def verify(
    noted: Annotated[
        str | None,
        typer.Option(help="A last hash noted earlier; it must still be in the trail."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Check that no event of the audit trail was changed or taken out; exit 1 if one was.

    Note the last hash elsewhere: with `--noted`, a later check shows whether the end was cut off.

    Example: `nightwarden audit verify`
    """
    from warehouse.audit_trail import check_trail

    with open_queue(config) as queue:
        found = check_trail(queue, noted)
    if as_json:
        show.print_json(found)
    else:
        show_check(found)
    if not found.is_whole:
        raise typer.Exit(1)


@app.command("list")
def list_newest(
    limit: Annotated[int, typer.Option(min=1, help="How many events.")] = 20,
    actor: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """List the newest events of the audit trail.

    Example: `nightwarden audit list --actor ada --limit 50`
    """
    from warehouse.audit_trail import list_events

    with open_queue(config) as queue:
        found = list_events(queue, limit=limit, actor=actor)
    if as_json:
        show.print_json(found)
    else:
        show_events(found)


def show_check(found: "AuditCheck") -> None:
    """Print whether the trail is whole."""
    if found.first_broken is not None:
        sys.stderr.write(
            f"Event {found.first_broken} of {found.events:,} was changed, or one before it was "
            "taken out; compare it with a backup of the queue.\n"
        )
    elif found.has_noted is False:
        sys.stderr.write(
            "No event has the hash that was noted: the end of the trail was cut off, or the "
            "hash is another queue's; compare it with a backup of the queue.\n"
        )
    else:
        show.line(f"{found.events:,} events, none changed; last hash {found.last_hash}")


def show_events(found: "list[LoggedEvent]") -> None:
    """Print events, a line each."""
    rows = [
        (
            each.sequence,
            f"{each.happened_at:%Y-%m-%d %H:%M:%S}",
            each.actor,
            each.action,
            each.subject,
            json.dumps(dict(each.details), ensure_ascii=False),
        )
        for each in found
    ]
    columns = ("event", "when (UTC)", "who", "what", "on", "details")
    show.print_table("Audit trail", columns, rows)
