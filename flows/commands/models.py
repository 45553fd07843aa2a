"""``nightwarden models``: list the registered ones, hold a challenger to the gate, move the champion."""

import getpass
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.options import DEFAULT_CONFIG, Config, Force, Json
from warehouse.errors import UserError

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.gate import Comparison
    from tasks.swap_set import Movement
    from tasks.tracking import Registry
    from warehouse.promotions import Promotion

logger = logging.getLogger(__name__)

app = typer.Typer(help="Registered models, and which one scores the nights.", no_args_is_help=True)

As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Who decides; by default who is logged in."),
]


@app.command("list")
def list_models(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """List the registered models, newest first.

    Example: `nightwarden models list`
    """
    from flows.settings import Settings

    show.models(Settings.read(config).context().registry().versions(), as_json=as_json)


@app.command()
def compare(
    config: Config = DEFAULT_CONFIG,
    challenger: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Instead of the challenger.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Hold the challenger to the gate, and show who would enter and leave the queue.

    Both models score the challenger's validation days. Nothing is changed.

    Example: `nightwarden models compare --challenger 7`
    """
    with _opened(config) as (context, registry):
        found = _run_gate(context, registry, challenger)
    if as_json:
        show.print_json(found)
    else:
        _print_comparison(found)


@app.command()
def promote(
    version: Annotated[
        str | None, typer.Argument(help="The model's version; by default the challenger.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    *,
    force: Force = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the log.")] = None,
    actor: As = None,
    as_json: Json = False,
) -> None:
    """Make the challenger champion, if it passes the gate; the log says who, when and why.

    Example: `nightwarden models promote 7 --as ada`
    """
    with _opened(config) as (context, registry):
        done = _finish(context, registry, version)
        if done is None:
            done = _promote(
                context, registry, version, actor=_name(actor), reason=reason, force=force
            )
    _print_done(done, as_json=as_json)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the log.")],
    config: Config = DEFAULT_CONFIG,
    *,
    actor: As = None,
    as_json: Json = False,
) -> None:
    """Make the model champion again that the champion replaced; nothing is deleted.

    Example: `nightwarden models rollback --reason "too many alerts at one shop"`
    """
    from tasks.promotion import rollback as move

    with _opened(config) as (context, registry):
        done = move(registry, context.lake(), actor=_name(actor), reason=reason)
    _print_done(done, as_json=as_json)


@app.command()
def log(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """List the promotions and rollbacks, newest first: who, when, why, on what figures.

    Example: `nightwarden models log`
    """
    from flows.settings import Settings
    from warehouse.promotions import list_promotions

    with Settings.read(config).context().closing() as context:
        found = list_promotions(context.lake())[::-1]
    if as_json:
        show.print_json([_as_record(line) for line in found])
        return
    rows = [
        (
            f"{line.decided_at:%Y-%m-%d %H:%M}",
            line.action,
            line.model_version,
            line.replaced_version,
            line.actor,
            line.reason,
        )
        for line in found
    ]
    show.print_table("Promotions", ("when", "what", "version", "replaced", "who", "why"), rows)


@contextmanager
def _opened(config: Path) -> Iterator[tuple["Context", "Registry"]]:
    from flows.settings import Settings

    with Settings.read(config).context().closing() as context:
        yield context, context.registry()


def _run_gate(context: "Context", registry: "Registry", version: str | None) -> "Comparison":
    from tasks.gate import GateSettings, run_gate
    from tasks.promotion import find_challenger
    from tasks.steps import choose_device, feature_request

    return run_gate(
        registry,
        context.lake(),
        find_challenger(registry, version),
        feature_request(context),
        GateSettings.of(context),
        choose_device(context),
    )


def _finish(context: "Context", registry: "Registry", version: str | None) -> "Promotion | None":
    """Finish a promotion that was cut short, and give it if it is the one wanted."""
    from tasks.promotion import finish_move

    begun = finish_move(registry, context.lake())
    if begun is None or begun.action != "promote":
        return None
    return begun if version in (None, begun.model_version) else None


def _promote(
    context: "Context",
    registry: "Registry",
    version: str | None,
    *,
    actor: str,
    reason: str | None,
    force: bool,
) -> "Promotion":
    """Run the gate and promote; with force also where the models cannot be compared."""
    from tasks.promotion import find_challenger
    from tasks.promotion import promote as move

    chosen, comparison = find_challenger(registry, version).version, None
    try:
        comparison = _run_gate(context, registry, chosen)
    except UserError as error:
        if not force:
            raise
        logger.warning("version %s is not compared, the log gets no figures: %s", chosen, error)
    return move(
        registry, context.lake(), chosen, comparison, actor=actor, reason=reason, force=force
    )


def _name(actor: str | None) -> str:
    """Give who decides.

    Raises:
        UserError: if the computer does not tell, or the name is empty.
    """
    try:
        name = getpass.getuser() if actor is None else actor.strip()
    except (KeyError, OSError):
        name = ""
    if not name:
        message = "the log needs a name, but this computer does not tell yours: add --as NAME"
        raise UserError(message)
    return name


def _as_record(line: "Promotion") -> dict[str, object]:
    return {**asdict(line), "figures": json.loads(line.figures) if line.figures else None}


def _print_done(line: "Promotion", *, as_json: bool) -> None:
    if as_json:
        show.print_json(_as_record(line))
        return
    replaced = f" instead of {line.replaced_version}" if line.replaced_version else ""
    show.line(
        f"Version {line.model_version} is champion now{replaced} "
        f"({line.action} by {line.actor}: {line.reason})"
    )


def _print_comparison(found: "Comparison") -> None:
    from tasks.gate import NOTE, figure_rows
    from tasks.swap_set import movement_rows

    measured = found.measured
    if measured is not None:
        show.line(
            f"Version {found.challenger_version} against champion {found.champion_version}, "
            f"{found.first} to {found.last} as known on {found.as_of}: {measured.days} days, "
            f"{measured.transactions:,} transactions, {measured.frauds:,} frauds"
        )
        rows = [(name, f"{old:.3f}", f"{new:.3f}") for name, old, new in figure_rows(measured)]
        show.print_table("Figures", ("", "champion", "challenger"), rows)
        parts = movement_rows(measured.swap)
        show.print_table(
            "Queue",
            ("", "transactions", "frauds", "amount", "amount of frauds"),
            [
                (
                    name,
                    f"{part.transactions:,}",
                    f"{part.frauds:,}",
                    f"{part.amount:,.2f}",
                    f"{part.fraud_amount:,.2f}",
                )
                for name, part in parts
            ],
        )
        for name, part in parts[1:]:
            _print_examples(name, part)
        show.line(f"Note: {NOTE}")
    show.line(f"Verdict: {found.verdict}: {found.reason}")


def _print_examples(name: str, part: "Movement") -> None:
    if not part.examples:
        return
    truth = {True: "fraud", False: "genuine", None: "not known"}
    show.print_table(
        f"What {name} (first {len(part.examples)} of {part.transactions:,})",
        ("transaction", "day", "account", "amount", "champion's rank", "challenger's", "truth"),
        [
            (
                one.transaction_id,
                one.event_date,
                one.account_id,
                f"{one.amount:,.2f}",
                one.champion_rank,
                one.challenger_rank,
                truth[one.is_fraud],
            )
            for one in part.examples
        ],
    )
