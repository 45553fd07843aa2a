"""``nightwarden queue``: look at the review queue, and estimate what it misses."""

from typing import Annotated

import typer

from flows import show
from flows.days import days_between
from flows.options import DEFAULT_CONFIG, Config, From, Json, Lane, State, To, open_queue

app = typer.Typer(help="Look at the review queue.", no_args_is_help=True)


@app.command("list")
def list_cases(
    config: Config = DEFAULT_CONFIG,
    lane: Annotated[Lane | None, typer.Option(help="Only this lane.")] = None,
    state: Annotated[State, typer.Option(help="open or closed.")] = State.OPEN,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    *,
    as_json: Json = False,
) -> None:
    """List the cases, most suspicious first.

    Example: `nightwarden queue list --lane nightly`
    """
    with open_queue(config) as queue:
        show.cases(queue.cases(lane=lane, state=state, limit=limit), as_json=as_json)


@app.command("show")
def show_case(
    case: Annotated[int, typer.Argument(help="The case's number.")],
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Show a case: its alerts, each member's score, and the reasons in words.

    Example: `nightwarden queue show 12`
    """
    with open_queue(config) as queue:
        show.case(queue.case(case), as_json=as_json)


@app.command()
def estimate(
    start: From, end: To, config: Config = DEFAULT_CONFIG, *, as_json: Json = False
) -> None:
    """Estimate precision, recall and missed frauds from what the analysts decided.

    Decisions on flagged transactions say nothing of what was missed; the night's random audit
    sample (`queue list --lane audit`) does. The intervals say how little a few rows tell.

    Example: `nightwarden queue estimate --from 2026-01-15 --to 2026-01-31`
    """
    from flows.settings import Settings
    from tasks.selective import describe, estimate_from_queue, read_reviewed
    from warehouse.queue import Queue

    days_between(start.date(), end.date())
    with (
        Settings.read(config).context().closing() as context,
        Queue.open(context.queue_address, create=True) as queue,
    ):
        reviewed = read_reviewed(queue, context.lake(), start.date(), end.date())
    found = estimate_from_queue(*reviewed)
    if as_json:
        show.print_json(found)
        return
    for text in describe(found):
        show.line(text)
