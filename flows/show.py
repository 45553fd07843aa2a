"""How results are printed: tables for people, JSON for machines."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.options import Lane

if TYPE_CHECKING:
    from flows.backfill import BackfillReport, DayPlan
    from flows.catch_up import CaughtUp
    from flows.deploy import Deployed
    from flows.evaluate import EvaluationReport
    from flows.nightly import NightReport
    from models.bootstrap import Interval
    from tasks.steps import ScoredDay, TrainedModel
    from tasks.tracking import RegisteredModel
    from warehouse.inspection import Proposal
    from warehouse.ledger import PartitionRun
    from warehouse.maintenance import MergedFiles
    from warehouse.partitions import IngestReport
    from warehouse.quarantine import QuarantineCount, ReplayReport
    from warehouse.queue_records import CaseDetail, CaseSummary

SHOWN_DAYS = 10  # of a longer range only the days with something to see get a line

console = Console(highlight=False, soft_wrap=True)


def line(text: str) -> None:
    """Print one line."""
    console.print(escape(text))


def print_json(value: object) -> None:
    """Print records and mappings as JSON."""
    sys.stdout.write(json.dumps(_plain(value), default=str, indent=1) + "\n")


def _plain(value: object) -> Any:  # noqa: ANN401 (any JSON value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(inner) for name, inner in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; the first column is aligned left."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for position, name in enumerate(columns):
        table.add_column(name, overflow="fold", justify="left" if position == 0 else "default")
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    wide = None if sys.stdout.isatty() else 160  # a pipe has no width; the terminal's own is known
    Console(highlight=False, width=wide).print(table)


def proposal(found: "Proposal", config: Path, *, as_json: bool) -> None:
    """Print what ``init`` proposes."""
    if as_json:
        print_json(found)
        return
    rows = [(name, text) for name, text in found.columns.items()]
    if found.label:
        rows.append(("label", str(found.label[0])))
    print_table("Mapping", ("column", "from"), rows)
    for note in found.notes:
        line(f"Note: {note}")
    line(f"Wrote {config}; check it, then: nightwarden ingest --from DAY --to DAY")


def ingested(reports: "list[IngestReport]", refused: Mapping[date, str], *, as_json: bool) -> None:
    """Print what became of each day."""
    if as_json:
        print_json({"days": reports, "refused": refused})
        return
    worth_a_line = [r for r in reports if r.rows_quarantined or len(reports) <= SHOWN_DAYS]
    rows = [
        (
            r.day,
            r.status,
            f"{r.rows_published:,}",
            f"{r.rows_quarantined:,}",
            ", ".join(f"{rule}: {count:,}" for rule, count in r.broken_rules.items()),
        )
        for r in worth_a_line
    ]
    if rows:
        print_table("Days", ("day", "status", "published", "quarantined", "broken rules"), rows)
    published, quarantined = (
        sum(getattr(report, name) for report in reports)
        for name in ("rows_published", "rows_quarantined")
    )
    line(
        f"Days published: {len(reports)}, refused: {len(refused)}; "
        f"transactions published: {published:,}, quarantined: {quarantined:,}"
    )
    for note in (note for report in reports for note in report.notes):
        line(f"Note: {note}")
    for day, why in refused.items():
        sys.stderr.write(f"{day} refused: {why}\n")


def trained(model: "TrainedModel", *, as_json: bool) -> None:
    """Print what was trained."""
    if as_json:
        print_json(model)
        return
    alias = f", now {model.alias}" if model.alias else ""
    line(
        f"Model version {model.version} as of {model.as_of}{alias}: {model.metrics['rows']:,.0f} rows, "
        f"{model.metrics['known_frauds']:,.0f} known frauds, "
        f"threshold {model.metrics['threshold']:.3f}"
    )
    line(f"Mode {model.mode}: {model.mode_reason}")
    if model.failed_members:
        line(f"Warning: left out, because they failed: {model.failed_members}")


def scored(day: "ScoredDay", *, as_json: bool) -> None:
    """Print what scoring a day gave."""
    summary = {
        "day": day.day,
        "rows": day.rows,
        "flagged": len(day.alerts),
        "model_version": day.model_version,
        "changed": day.changed,
    }
    if as_json:
        print_json(summary)
        return
    line(
        f"{day.day}: {day.rows:,} transactions scored with model {day.model_version}, "
        f"{len(day.alerts)} flagged" + ("" if day.changed else "; the same as before")
    )


def night(report: "NightReport", *, as_json: bool) -> None:
    """Print what a night did."""
    if as_json:
        print_json(_night(report))
    else:
        _print_night(report)


def nights(found: "CaughtUp", *, as_json: bool) -> None:
    """Print what each of the nights did that were due, and which days are still missing."""
    if as_json:
        print_json({"done": [_night(report) for report in found.done], "problems": found.problems})
        return
    for report in found.done:
        _print_night(report)
    for problem in found.problems:
        line(f"{problem.day} {problem.kind}: {problem.reason}")
    if not (found.done or found.problems):
        line("Every night that was due is done already")


def _night(report: "NightReport") -> dict[str, Any]:
    return {
        "ingested": report.ingested,
        "queued": report.queued,
        "drawn_for_audit": len(report.scored.audit),
        "scored": {
            "rows": report.scored.rows,
            "flagged": len(report.scored.alerts),
            "model_version": report.scored.model_version,
            "changed": report.scored.changed,
        },
    }


def _print_night(report: "NightReport") -> None:
    landed = report.ingested
    line(
        f"{landed.day} {landed.status}: {landed.rows_published:,} transactions, "
        f"{landed.rows_quarantined:,} quarantined"
    )
    for note in landed.notes:
        line(f"Note: {note}")
    scored(report.scored, as_json=False)
    queued = report.queued
    line(
        f"{queued.added} new alerts ({queued.already_there} were queued already), "
        f"{queued.cases_opened} cases opened, {queued.cases_appended} appended to"
    )
    if report.scored.audit:
        line(f"{len(report.scored.audit)} drawn at random in lane {Lane.AUDIT}")


def plan(plans: "list[DayPlan]", *, as_json: bool) -> None:
    """Print what a backfill would do."""
    if as_json:
        print_json(plans)
        return
    rows = [
        (p.day, "to do" if p.ingest else "done", "to do" if p.score else "done", p.model)
        for p in plans
    ]
    print_table("Plan", ("day", "ingest", "score and queue", "model"), rows)


def backfilled(report: "BackfillReport", *, as_json: bool) -> None:
    """Print what a backfill did."""
    if as_json:
        print_json(report)
        return
    line(
        f"{len(report.done)} days done, {len(report.skipped)} were done before, "
        f"{len(report.failed)} failed; {report.alerts_added} new alerts in the backfill lane"
    )
    for day, why in report.failed.items():
        sys.stderr.write(f"{day} failed: {why}\n")


def plan_of_deployments(
    rows: Sequence[tuple[str, str, int, str]], time_zone: str, *, as_json: bool
) -> None:
    """Print which deployments would be made."""
    names = ("deployment", "pool", "priority", "schedule")
    if as_json:
        print_json(
            {
                "time_zone": time_zone,
                "deployments": [dict(zip(names, r, strict=True)) for r in rows],
            }
        )
        return
    print_table(f"Deployments; times are of {time_zone}", names, rows)


def deployed(report: "Deployed", *, as_json: bool) -> None:
    """Print what was made on the server."""
    if as_json:
        print_json(report)
        return
    print_table(f"On {report.server}", ("what", "done"), report.done.items())
    line(f"From Secret blocks: {', '.join(report.secrets) or 'none'}")


def maintained(merged: "list[MergedFiles]", *, as_json: bool) -> None:
    """Print which files were merged."""
    if as_json:
        print_json(merged)
        return
    for one in merged:
        line(f"{one.table}: {one.before} files became {one.after}")
    if not merged:
        line("No small files to merge")


def evaluation(report: "EvaluationReport", *, as_json: bool) -> None:
    """Print the evaluation: the models, the probability, and where the page is."""
    found = report.evaluation
    if as_json:
        figures = {k: v for k, v in vars(found).items() if k != "curves"}
        print_json({"page": str(report.page), **figures})
        return
    rows = [
        (
            q.name,
            _figure(q.auc, q.auc_interval),
            _figure(q.ap, q.ap_interval),
            _figure(q.card_precision, q.card_precision_interval),
        )
        for q in found.qualities
    ]
    title = (
        f"{found.rows_judged:,} transactions judged, {found.frauds:,} of them fraud; "
        f"{found.rows_immature:,} of days not mature left out"
    )
    print_table(title, ("", "AUC", "AP", "card precision"), rows)
    if found.probability is not None:
        said = found.probability
        line(
            f"Probability: Brier {said.brier.value:.5f} (always the mean share: "
            f"{said.brier_of_share:.5f}), calibration error {said.calibration_error:.5f}"
        )
    line(f"Page: {report.page}")


def _figure(value: float, interval: "Interval | None") -> str:
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def states(found: "Mapping[tuple[date, str], PartitionRun]", *, as_json: bool) -> None:
    """Print the ledger's newest entries; that a day was missing, while it is."""
    from warehouse.ledger import ARRIVAL

    came = {day for day, stage in found if stage == "ingest"}
    runs = [found[key] for key in sorted(found) if key[1] != ARRIVAL or key[0] not in came]
    if as_json:
        print_json(runs)
        return
    rows = [
        (
            r.event_date,
            r.stage,
            r.status,
            f"{r.rows_in:,}",
            f"{r.rows_out:,}",
            f"{r.rows_quarantined:,}",
            r.model_version,
            r.error,
        )
        for r in runs
    ]
    names = ("day", "stage", "status", "rows in", "rows out", "quarantined", "model", "error")
    print_table("Ledger", names, rows)


def cases(found: "list[CaseSummary]", *, as_json: bool) -> None:
    """Print the ranked cases."""
    if as_json:
        print_json(found)
        return
    rows = [
        (
            c.id,
            c.account_id,
            c.lane,
            c.alert_count,
            f"{c.score:.2f}",
            f"{c.amount_at_risk:,.2f}",
            c.last_event_date,
            next(iter(c.reasons), ""),
        )
        for c in found
    ]
    print_table(
        "Cases", ("case", "account", "lane", "alerts", "score", "amount", "day", "why"), rows
    )


def case(detail: "CaseDetail", *, as_json: bool) -> None:
    """Print one case with its alerts and reasons."""
    if as_json:
        print_json(detail)
        return
    summary = detail.summary
    line(f"Case {summary.id}, account {summary.account_id}, {summary.state}, lane {summary.lane}")
    for alert in detail.alerts:
        members = ", ".join(f"{name} {value:.2f}" for name, value in alert.members.items())
        line("")
        line(
            f"Transaction {alert.transaction_id}, {alert.occurred_at:%Y-%m-%d %H:%M}, "
            f"amount {alert.amount:,.2f} at {alert.merchant_id}; verdict: {alert.verdict or 'none'}"
        )
        line(
            f"  score {alert.score:.2f}, rank {alert.rank_of_day} of {alert.event_date} "
            f"({members}; model version {alert.model_version})"
        )
        for reason in alert.reasons:
            line(f"  - {reason.text}")


def quarantined(found: "list[QuarantineCount]", *, as_json: bool) -> None:
    """Print what is in quarantine."""
    if as_json:
        print_json(found)
        return
    rows = [(q.event_date, q.rule, f"{q.rows:,}", q.example_value, q.example_raw) for q in found]
    print_table("Quarantine", ("day", "rule", "rows", "example", "its row"), rows)


def replayed(report: "ReplayReport", *, as_json: bool) -> None:
    """Print what a replay did."""
    if as_json:
        print_json(report)
        return
    line(f"{report.published:,} rows published, {report.still_broken:,} still in quarantine")


def models(found: "list[RegisteredModel]", *, as_json: bool) -> None:
    """Print the registered models."""
    if as_json:
        print_json(found)
        return
    rows = [
        (m.version, m.as_of, ", ".join(m.aliases), m.tags.get("failed_members")) for m in found
    ]
    print_table("Models", ("version", "as of", "alias", "left out"), rows)
