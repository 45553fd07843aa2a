"""Many at once on one warehouse: two backfills, an ingest and a reader."""

import time
from pathlib import Path

import pytest

from flows.settings import Settings
from tests.flows.conftest import FIRST_DAY, LAST_INGESTED, day, on_both_back_ends
from tests.flows.contents import queued_as_flagged, read_contents
from tests.flows.processes import finish, run_backfill, run_ingest, start
from warehouse.connection import Lake

pytestmark = pytest.mark.slow


@on_both_back_ends
def test_two_backfills_and_an_ingest_beside_a_reader_lose_nothing(project: Path):
    others = [
        start(run_backfill, project, day(0), day(2), 2),
        start(run_backfill, project, day(3), day(5), 2),
        start(run_ingest, project, day(6), day(9)),
    ]
    reads = 0
    with Lake.open(Settings.read(project).warehouse) as lake:
        landed = _rows(lake, FIRST_DAY, LAST_INGESTED)
        while any(process.is_alive() for process in others):
            assert _rows(lake, FIRST_DAY, LAST_INGESTED) == landed
            reads += 1
            time.sleep(0.02)
        for process in others:
            finish(process)
        published = dict(
            lake.connection.execute(
                "SELECT event_date, count(*) FROM lake.transactions GROUP BY event_date"
            ).fetchall()
        )
    for number in range(10):
        file = project.parent / "in" / f"{day(number)}.csv"
        assert published[day(number)] == len(file.read_text().splitlines()) - 1
    contents = read_contents(project)
    assert {row[0] for row in contents["scores"]} == {day(number) for number in range(6)}
    assert queued_as_flagged(contents)
    assert len(contents["alerts"]) > 6 * 4
    assert reads > 10


@on_both_back_ends
def test_the_same_backfill_twice_at_once_queues_nothing_twice(project: Path):
    both = [start(run_backfill, project, day(0), day(2), 2) for _ in range(2)]
    for process in both:
        finish(process)
    contents = read_contents(project)
    assert queued_as_flagged(contents)
    assert len(contents["alerts"]) > 3 * 4


def _rows(lake: Lake, first: object, last: object) -> int:
    row = lake.connection.execute(
        "SELECT count(*) FROM lake.transactions WHERE event_date BETWEEN ? AND ?", [first, last]
    ).fetchone()
    return int(row[0]) if row else 0
