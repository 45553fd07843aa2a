"""Law 3: a night again changes nothing, a corrected night replaces its scores and keeps decisions."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.backfill import backfill
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.nightly import nightly, score
from flows.settings import Settings
from flows.train import train
from tests.flows.conftest import copy_project, day
from tests.flows.contents import queued_as_flagged, read_contents
from warehouse.connection import Lake
from warehouse.errors import DayRefusedError, ModelMissingError, SourceError, UserError
from warehouse.queue import Queue


def snapshot(config: Path) -> int:
    with Lake.open(Settings.read(config).warehouse) as lake:
        return lake.snapshot_id()


def open_queue(config: Path) -> Queue:
    return Queue.open(Settings.read(config).warehouse.queue_path, create=False)


def correct(config: Path, night: object, *, first: bool) -> str:
    """Correct the day's file: one transaction's amount becomes large; gives its id."""
    file = config.parent / "in" / f"{night}.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    row = rows[0 if first else -1]
    row["amount"] = "9999.99"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return row["transaction_id"]


def test_night_again_changes_nothing(project: Path):
    first = nightly(project, day(0))
    before, at = read_contents(project), snapshot(project)
    assert first.ingested.status == "published"
    assert first.scored.changed
    assert first.queued.added == len(first.scored.alerts) == len(before["flagged"])
    assert 4 < first.queued.added <= 8
    assert queued_as_flagged(before)
    again = nightly(project, day(0))
    assert snapshot(project) == at
    assert read_contents(project) == before
    assert (again.ingested.status, again.scored.changed) == ("unchanged", False)
    assert (again.queued.added, again.queued.already_there) == (0, first.queued.added)
    assert score(project, day(0)).changed is False
    assert snapshot(project) == at


def test_correction_replaces_scores_and_keeps_alerts_and_decisions(project: Path):
    nightly(project, day(0))
    before = read_contents(project)
    with open_queue(project) as queue:
        decided = queue.alerts_of_day(day(0))[0]
        for alert in queue.case(decided.case_id).alerts:
            queue.decide(alert.id, "genuine", "ana")
        assert queue.case(decided.case_id).summary.state == "closed"
    corrected = correct(project, day(0), first=True)
    report = nightly(project, day(0))
    after = read_contents(project)
    assert (report.ingested.status, report.scored.changed) == ("published", True)
    scored = [row[1] for row in after["scores"]]
    assert len(scored) == len(set(scored)) == len(before["scores"])
    assert after["scores"] != before["scores"]
    assert corrected in {row[0] for row in after["flagged"]}
    old, new = before["alerts"], after["alerts"]
    ids = [row[0] for row in new]
    assert len(ids) == len(set(ids))
    kept = {row[0]: row[:-1] for row in new}
    assert all(kept[row[0]] == row[:-1] for row in old)  # all but the case's state
    assert report.queued.added == len(new) - len(old) >= 1
    with open_queue(project) as queue:
        case = queue.case(decided.case_id)
        assert case.summary.state == "closed"
        assert {alert.verdict for alert in case.alerts} == {"genuine"}
        assert queue.verify_audit() is None
    at = snapshot(project)
    assert nightly(project, day(0)).queued.added == 0
    assert (snapshot(project), read_contents(project)) == (at, after)


def test_next_days_and_their_labels_do_not_change_a_night(project: Path):
    nightly(project, day(0))
    before = read_contents(project)
    ingest(project, day(1), day(2))
    assert score(project, day(0)).changed is False
    after = read_contents(project)
    assert len(after["labels"]) > len(before["labels"])
    assert [after[name] for name in ("scores", "alerts")] == [
        before[name] for name in ("scores", "alerts")
    ]
    challenger = train(project, day(0))
    assert challenger.alias == "challenger"
    assert score(project, day(0)).changed is False  # the champion scores


def test_night_without_a_file_leaves_everything(project: Path):
    (project.parent / "in" / f"{day(0)}.csv").unlink()
    before, at = read_contents(project), snapshot(project)
    with pytest.raises(SourceError, match=f"no file for {day(0)}"):
        nightly(project, day(0))
    assert (snapshot(project), read_contents(project)) == (at, before)


def test_refused_night_queues_nothing(project: Path):
    file = project.parent / "in" / f"{day(0)}.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    before = read_contents(project)
    with pytest.raises(DayRefusedError, match=f"{day(0)} is not published"):
        nightly(project, day(0))
    assert read_contents(project) == before


def test_night_before_the_training_is_refused(project: Path):
    with pytest.raises(ModelMissingError, match="would know that day's future"):
        nightly(project, day(-1))


def test_source_without_labels_trains_and_runs_a_night(project: Path):
    text = project.read_text()
    start, end = text.index("[source.label]"), text.index("[train]")
    project.write_text(text[:start] + text[end:].replace('["gaussian"]', '["gaussian"]\nseed = 1'))
    model = train(project, day(0))
    assert (model.alias, model.failed_members) == ("challenger", "")
    before = read_contents(project)
    assert nightly(project, day(0)).queued.added > 4
    after = read_contents(project)
    with pytest.raises(UserError, match=f"of {len(after['scores'])} scored rows 0 have a label"):
        evaluate(project, day(0), day(0))
    assert after["labels"] == before["labels"]
    assert queued_as_flagged(after)


EXPECTED: dict[str, list[list[tuple[object, ...]]]] = {}
STEPS = {
    "ingest": lambda config: ingest(config, day(0), day(1)),
    "night 0": lambda config: nightly(config, day(0)),
    "night 1": lambda config: nightly(config, day(1)),
    "backfill": lambda config: backfill(config, day(0), day(1), workers=2),
}


@settings(
    max_examples=4,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=4))
def test_steps_in_any_order_and_number_end_the_same(template: Path, steps: list[str]):
    """Law 3: whatever was run before, and how often, the two nights end with the same rows."""
    with TemporaryDirectory() as folder:
        config = copy_project(template, Path(folder) / "project")
        for step in [*steps, "night 0", "night 1"]:
            STEPS[step](config)
        contents = read_contents(config)
    assert queued_as_flagged(contents)
    expected = EXPECTED.setdefault("rows", [contents[name] for name in ("transactions", "scores")])
    assert [contents[name] for name in ("transactions", "scores")] == expected
