"""The review desk under load: analysts at work on a full queue while nights are written.

    python benchmarks/review_desk.py [--cases 50000] [--analysts 20] [--seconds 60] [--think 3]
        [--folder FOLDER] [--json]

Makes a small project (simulated days, a champion), fills its queue with months of nights by the
queue's own functions, four alerts a case, and serves it by ``nightwarden desk``. Analysts sign in
and work at the same time: queue page, next case, case page, all of it decided, with pauses of half
to one and a half times ``--think`` seconds; with 3, each decides ten cases a minute. Meanwhile
``nightwarden nightly`` runs one night after the other on the same warehouse. Server, nights and
analysts share this machine's cores. With ``--folder`` the project is kept, and used again with
what is in it, as long as nights are left.

Afterwards the database is counted: every acknowledged decision is there, none twice, and the audit
chain verifies. The exit code is 1 where a goal is missed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from desk_load import PASSWORD, Record, work_together
from desk_project import Nights, make_project, nights_left, serving
from desk_seed import Plan, fill_queue
from sqlalchemy import func, select

from flows.settings import Settings
from warehouse.analysts import add_analyst, find_analyst
from warehouse.queue import Queue
from warehouse.queue_tables import ALERTS, DECISIONS

GOALS = {"queue page": 0.150, "case page": 0.200}  # seconds at the 95th percentile
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Audit:
    """What the database says afterwards.

    Attributes:
        decisions: How many came during the load.
        lost: Acknowledged ones that are not there.
        double: Alerts that were decided more than once.
        unasked: Decisions that nobody waited for the answer of, nor got one.
        first_broken: The audit event that does not fit the one before, or None.
        queued: Alerts that the nights added.
    """

    decisions: int
    lost: int
    double: int
    unasked: int
    first_broken: int | None
    queued: int


def newest(queue: Queue) -> tuple[int, int]:
    """Give the numbers of the newest decision and the newest alert."""
    with queue.database.read() as connection:
        decision = connection.scalar(select(func.max(DECISIONS.c.id)))
        return decision or 0, connection.scalar(select(func.max(ALERTS.c.id))) or 0


def count_afterwards(queue: Queue, before: tuple[int, int], record: Record) -> Audit:
    """Compare what was acknowledged with what is in the database."""
    columns = (DECISIONS.c.alert_id, DECISIONS.c.analyst)
    with queue.database.read() as connection:
        rows = connection.execute(select(*columns).where(DECISIONS.c.id > before[0])).all()
        queued = connection.scalar(select(func.count()).where(ALERTS.c.id > before[1])) or 0
    found = Counter((row.alert_id, row.analyst) for row in rows)
    acknowledged = Counter(record.acknowledged)
    extra = {alert for alert, _ in (found - acknowledged).elements()}
    times = Counter(row.alert_id for row in rows)
    return Audit(
        decisions=len(rows),
        lost=(acknowledged - found).total(),
        double=sum(count > 1 for count in times.values()),
        unasked=len(extra - set(record.unanswered)),
        first_broken=queue.verify_audit(),
        queued=queued,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Give the least value that a share of all does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def find_misses(record: Record, audit: Audit, nights: Nights) -> list[str]:
    """Name the goals that were missed."""
    misses = []
    for what, goal in GOALS.items():
        seconds = record.seconds.get(what)
        if not seconds:
            misses.append(f"no {what} was answered")
        elif quantile(seconds, 0.95) > goal:
            misses.append(
                f"{what}: p95 {quantile(seconds, 0.95) * 1000:.0f} ms > {goal * 1000:.0f}"
            )
    wrong = {
        "errors": record.errors.total(),
        "decisions lost": audit.lost,
        "alerts decided twice": audit.double,
        "decisions that nobody asked for": audit.unasked,
    }
    misses += [f"{count} {what}" for what, count in wrong.items() if count]
    if audit.first_broken is not None:
        misses.append(f"the audit chain breaks at event {audit.first_broken}")
    if nights.failed:
        misses.append(f"a night failed: {nights.failed}")
    if not nights.done:
        misses.append("no night was written meanwhile")
    return misses


def run_load(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepare the project if need be, put it under load, and give the figures."""
    today = datetime.now(UTC).date()
    started = time.perf_counter()
    if not (folder / "nightwarden.toml").exists():
        make_project(folder, today)
    path = Settings.read(folder / "nightwarden.toml").warehouse.queue_path
    filled = {} if path.exists() else fill_queue(path, Plan(options.cases, today, options.seed))
    names = [f"analyst-{number:02d}" for number in range(options.analysts)]
    with Queue.open(path, create=False) as queue:
        for name in names:
            if find_analyst(queue, name) is None:
                add_analyst(queue, name, "analyst", PASSWORD, "benchmark")
        before = newest(queue)
        prepared = time.perf_counter() - started
        sys.stderr.write(f"prepared in {prepared:.0f} s\n")
        nights = Nights(folder, nights_left(folder, today))
        with serving(folder) as address, nights.running():
            record = asyncio.run(
                work_together(
                    address,
                    names,
                    seconds=options.seconds,
                    think=options.think,
                    seed=options.seed,
                )
            )
        audit = count_afterwards(queue, before, record)
        contents = [asdict(count) for count in queue.counts()]
    return {
        "filled": filled,
        "contents": contents,
        "prepared_seconds": prepared,
        "nights": len(nights.done),
        "seconds": {
            what: {f"p{share * 100:.0f}": quantile(values, share) for share in QUANTILES}
            | {"count": len(values)}
            for what, values in record.seconds.items()
        },
        "errors": dict(record.errors),
        "conflicts": record.conflicts,
        "acknowledged": len(record.acknowledged),
        "audit": asdict(audit),
        "load": os.getloadavg()[0],
        "misses": find_misses(record, audit, nights),
    }


def describe(report: dict[str, Any]) -> str:
    """Write the figures as a table."""
    cases, alerts = (sum(row[key] for row in report["contents"]) for key in ("cases", "alerts"))
    audit = report["audit"]
    text = f"{alerts:,} alerts in {cases:,} cases, {report['nights']} nights written meanwhile, "
    text += f"which queued {audit['queued']:,} alerts; load of the machine at the end "
    text += f"{report['load']:.1f}\n\n{'milliseconds':14}"
    text += "".join(f"{head:>9}" for head in ("p50", "p95", "p99", "answers")) + "\n"
    for what, row in report["seconds"].items():
        cells = "".join(f"{row[key] * 1000:9.0f}" for key in ("p50", "p95", "p99"))
        text += f"{what:14}{cells}{row['count']:9}\n"
    text += f"\nerrors {sum(report['errors'].values())} {report['errors'] or ''}\n"
    text += f"conflicts {report['conflicts']}\n"
    text += f"decisions acknowledged {report['acknowledged']}, there {audit['decisions']}, "
    text += f"lost {audit['lost']}, double {audit['double']}\n"
    broken = audit["first_broken"]
    text += f"audit chain {'verifies' if broken is None else f'breaks at event {broken}'}\n"
    return text + "".join(f"MISSED: {miss}\n" for miss in report["misses"])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--analysts", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the project is kept, or is already")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark, print the figures, and exit with 1 if a goal was missed."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        report = run_load(options, options.folder or Path(temporary))
    text = json.dumps(report, indent=1) + "\n" if options.json else describe(report)
    sys.stdout.write(text)
    sys.exit(1 if report["misses"] else 0)


if __name__ == "__main__":
    main()
