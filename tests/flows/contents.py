"""What a warehouse holds, without the moments at which it was written: equal iff the work is equal."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from flows.settings import Settings
from warehouse.connection import Lake
from warehouse.queue import Queue
from warehouse.queue_tables import ALERTS, CASES

LAKE = {
    "transactions": "SELECT * EXCLUDE (ingested_at) FROM lake.transactions ORDER BY ALL",
    "labels": "SELECT * EXCLUDE (recorded_at) FROM lake.labels ORDER BY ALL",
    "quarantine": "SELECT * EXCLUDE (quarantined_at) FROM lake.quarantine ORDER BY ALL",
    "flagged": "SELECT transaction_id FROM lake.scores WHERE is_flagged ORDER BY ALL",
    "scores": "SELECT * EXCLUDE (scored_at, members), members::VARCHAR FROM lake.scores ORDER BY ALL",
}
ALERT = (
    "transaction_id event_date account_id merchant_id amount lane score rank_of_day members reasons "
    "model_version inclusion_probability"
)
CASE = "account_id lane state opened_for last_event_date"
QUEUE = {
    "alerts": select(
        *(ALERTS.c[name] for name in ALERT.split()),
        CASES.c.account_id,
        CASES.c.lane,
        CASES.c.state,
    )
    .join(CASES, CASES.c.id == ALERTS.c.case_id)
    .order_by(ALERTS.c.transaction_id),
    "cases": select(*(CASES.c[name] for name in CASE.split())).order_by(
        CASES.c.lane, CASES.c.account_id, CASES.c.id
    ),
}


def read_contents(config: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read all that matters of a project's lake and queue, the same on every back end."""
    settings = Settings.read(config)
    with Lake.open(settings.warehouse) as lake:
        found = {name: lake.connection.execute(sql).fetchall() for name, sql in LAKE.items()}
    if settings.queue.database or settings.warehouse.queue_path.exists():
        with (
            Queue.open(settings.queue_address, create=True) as queue,
            queue.database.read() as connection,
        ):
            for name, statement in QUEUE.items():
                found[name] = [tuple(row) for row in connection.execute(statement)]
    return found


def queued_as_flagged(contents: dict[str, list[tuple[Any, ...]]]) -> bool:
    """Tell whether exactly the flagged transactions are in the queue, each once, and audits apart."""
    flagged = [row[0] for row in contents["alerts"] if row[-2] != "audit"]
    return [row[0] for row in contents["flagged"]] == flagged
