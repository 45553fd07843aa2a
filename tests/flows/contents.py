"""What a warehouse holds, without the moments at which it was written: equal iff the work is equal."""

import sqlite3
from pathlib import Path
from typing import Any

from flows.settings import Settings
from warehouse.connection import Lake

LAKE = {
    "transactions": "SELECT * EXCLUDE (ingested_at) FROM lake.transactions ORDER BY ALL",
    "labels": "SELECT * EXCLUDE (recorded_at) FROM lake.labels ORDER BY ALL",
    "quarantine": "SELECT * EXCLUDE (quarantined_at) FROM lake.quarantine ORDER BY ALL",
    "flagged": "SELECT transaction_id FROM lake.scores WHERE is_flagged ORDER BY ALL",
    "scores": "SELECT * EXCLUDE (scored_at, members), members::VARCHAR FROM lake.scores ORDER BY ALL",
}
QUEUE = {
    "alerts": (
        "SELECT a.transaction_id, a.event_date, a.account_id, a.merchant_id, a.amount, a.lane, "
        "a.score, a.rank_of_day, a.members, a.reasons, a.model_version, a.inclusion_probability, "
        "c.account_id, c.lane, c.state FROM alerts a JOIN cases c ON c.id = a.case_id "
        "ORDER BY a.transaction_id"
    ),
    "cases": (
        "SELECT account_id, lane, state, opened_for, last_event_date FROM cases "
        "ORDER BY lane, account_id, id"
    ),
}


def read_contents(config: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read all that matters of a project's lake and queue."""
    settings = Settings.read(config)
    with Lake.open(settings.warehouse) as lake:
        found = {name: lake.connection.execute(sql).fetchall() for name, sql in LAKE.items()}
    if settings.warehouse.queue_path.exists():
        connection = sqlite3.connect(settings.warehouse.queue_path)
        try:
            found |= {name: connection.execute(sql).fetchall() for name, sql in QUEUE.items()}
        finally:
            connection.close()
    return found


def queued_as_flagged(contents: dict[str, list[tuple[Any, ...]]]) -> bool:
    """Tell whether exactly the flagged transactions are in the queue, each once, and audits apart."""
    flagged = [row[0] for row in contents["alerts"] if row[-2] != "audit"]
    return [row[0] for row in contents["flagged"]] == flagged
