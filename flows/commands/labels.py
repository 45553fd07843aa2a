"""``nightwarden labels``: labels from files, where they contradict each other, how far they are."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import show
from flows.days import days_between
from flows.options import DEFAULT_CONFIG, PARSE_DAY, Config, From, Json, To

if TYPE_CHECKING:
    import polars as pl

    from warehouse.labels import LabelImport, RejectedLabels
    from warehouse.maturity import DayMaturity

SHOWN_CONFLICTS = 50

app = typer.Typer(help="What is known to be fraud, and since when.", no_args_is_help=True)


class LabelSource(StrEnum):
    """Who states an imported label."""

    CHARGEBACK = "chargeback"
    ANALYST = "analyst"
    IMPORT = "import"


MaybeAsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        formats=PARSE_DAY,
        help="Know what was known at the start of this day, where the source is; by default now.",
    ),
]


@app.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(help="CSV or Parquet: transaction_id, label, known_at, perhaps source."),
    ],
    source: Annotated[
        LabelSource, typer.Option(help="Who says so, where the file does not.")
    ] = LabelSource.IMPORT,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Append a file's labels; importing it again changes nothing, rows that break a rule are listed.

    A label is 0, 1, true, false, fraud or genuine. `known_at` is a time or a date, in the source's
    time zone unless it names one; with a date the label counts from the end of that day.

    Example: `nightwarden labels import chargebacks.csv --source chargeback`
    """
    from flows.settings import Settings
    from warehouse.labels import import_labels

    with Settings.read(config).context().closing() as context:
        report = import_labels(
            context.lake(), file, context.source, key=context.key, default_source=source.value
        )
    show_import(report, as_json=as_json)


@app.command()
def rejected(config: Config = DEFAULT_CONFIG, *, as_json: Json = False) -> None:
    """Count the imported rows that broke a rule, with an example of each.

    Example: `nightwarden labels rejected`
    """
    from flows.settings import Settings
    from warehouse.labels import list_rejected_labels

    with Settings.read(config).context().closing() as context:
        found = list_rejected_labels(context.lake())
    if as_json:
        show.print_json(found)
    else:
        show_rejected(found)


@app.command()
def conflicts(
    start: From,
    end: To,
    as_of: MaybeAsOf = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """List the transactions of which one label says fraud and another genuine, and which holds.

    Example: `nightwarden labels conflicts --from 2026-01-01 --to 2026-01-31`
    """
    from flows.settings import Settings
    from warehouse.labels import label_conflicts

    days_between(start.date(), end.date())
    with Settings.read(config).context().closing() as context:
        moment = _moment(as_of, context.source.time_zone)
        found = label_conflicts(context.lake(), start.date(), end.date(), moment)
    show_conflicts(found, as_json=as_json)


@app.command()
def status(
    start: From,
    end: To,
    as_of: MaybeAsOf = None,
    config: Config = DEFAULT_CONFIG,
    *,
    as_json: Json = False,
) -> None:
    """Show, day by day, how many of the labels expected by now are in.

    Example: `nightwarden labels status --from 2026-01-01 --to 2026-01-31`
    """
    from flows.settings import Settings
    from warehouse.maturity import day_maturities

    days_between(start.date(), end.date())
    with Settings.read(config).context().closing() as context:
        label = context.source.label
        found = day_maturities(
            context.lake(),
            start.date(),
            end.date(),
            _moment(as_of, context.source.time_zone),
            time_zone=context.source.time_zone,
            maturity_days=context.maturity_days,
            label_delay_days=label.delay_days if label else None,
        )
    show_maturities(found, as_json=as_json)


def _moment(as_of: datetime | None, time_zone: str) -> datetime:
    from warehouse.reads import midnight

    return midnight(as_of.date(), time_zone) if as_of else datetime.now(UTC)


def show_import(report: "LabelImport", *, as_json: bool) -> None:
    """Print what an import did."""
    if as_json:
        show.print_json(report)
        return
    show.line(
        f"{report.rows_read:,} rows read: {report.added:,} labels added, "
        f"{report.already_there:,} were there already, {report.set_aside:,} set aside"
    )
    if report.conflicts:
        show.line(
            f"{report.conflicts:,} transactions were labelled otherwise by another source: "
            "nightwarden labels conflicts --from DAY --to DAY"
        )
    if report.rejected:
        show_rejected(report.rejected)
        show.line("All rows that were set aside: nightwarden labels rejected")


def show_rejected(found: "Sequence[RejectedLabels]") -> None:
    """Print how many rows broke each rule."""
    rows = [
        (r.rule, f"{r.rows:,}", r.example_value, f"row {r.example_row_number}", r.example_file)
        for r in found
    ]
    show.print_table("Rows set aside", ("rule", "rows", "example", "its row", "its file"), rows)


def show_conflicts(found: "pl.DataFrame", *, as_json: bool) -> None:
    """Print the transactions whose labels disagree."""
    records = found.to_dicts()
    if as_json:
        show.print_json(records)
        return
    rows = [
        (
            r["transaction_id"],
            r["event_date"],
            "fraud" if r["is_fraud"] else "genuine",
            r["source"],
            f"{r['known_at']:%Y-%m-%d %H:%M}",
            "newest" if r["decided_by"] == "known_at" else "written last",
            f"{r['says_fraud']} fraud, {r['says_genuine']} genuine",
        )
        for r in records[:SHOWN_CONFLICTS]
    ]
    names = ("transaction", "day", "holds", "says", "known at (UTC)", "because", "all labels")
    show.print_table("Conflicts", names, rows)
    if len(records) > SHOWN_CONFLICTS:
        show.line(f"{len(records) - SHOWN_CONFLICTS:,} more: use --json")


def show_maturities(found: "list[DayMaturity]", *, as_json: bool) -> None:
    """Print the maturity ledger."""
    if as_json:
        show.print_json(found)
        return
    rows = [
        (
            m.day,
            f"{m.transactions:,}",
            f"{m.labelled:,}",
            f"{m.frauds:,}",
            _percent(m.expected_share),
            _percent(m.known_share),
            "yes" if m.is_mature else "no",
        )
        for m in found
    ]
    names = (
        "day",
        "transactions",
        "labelled",
        "frauds",
        "expected by now",
        "of these in",
        "mature",
    )
    show.print_table("Labels", names, rows)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"
