"""Backfill: a plan that does nothing, resuming, forcing, weekly models, and days that fail alone."""

import pickle
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows.backfill import BackfillFailedError, BackfillReport, backfill, plan_backfill
from flows.days import days_between
from flows.nightly import nightly
from flows.settings import Settings
from models.autoencoder import Autoencoder
from models.registry import REGISTRY, DetectorEntry
from tasks.tracking import Registry
from tests.flows.conftest import day
from tests.flows.contents import queued_as_flagged, read_contents
from tests.tasks.test_fit import Hot
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, UserError


def make_plan(config: Path, first: int, last: int, *, retrain="never", force=False):
    with Settings.read(config).context().closing() as context:
        days = days_between(day(first), day(last))
        return plan_backfill(context, days, retrain=retrain, force=force)


def to_do(config: Path, first: int, last: int, **how):
    return [(plan.ingest, plan.score) for plan in make_plan(config, first, last, **how)]


def snapshot(config: Path) -> int:
    with Lake.open(Settings.read(config).warehouse) as lake:
        return lake.snapshot_id()


def failing(config: Path, first: int, last: int, **how) -> BackfillReport:
    """Give the report of a backfill of which the run fails."""
    with pytest.raises(BackfillFailedError, match="days failed: ") as caught:
        backfill(config, day(first), day(last), **how)
    assert caught.value.report.failed
    return caught.value.report


def events(kind: str, since: datetime) -> list[dict[str, object]]:
    """Give the events of a kind that the server was told, oldest first."""
    until = time.monotonic() + 60
    wanted = {
        "occurred": {"since": since.isoformat()},
        "event": {"name": [f"nightwarden.{kind}"]},
        "order": "ASC",
    }
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            answer = client.request("POST", "/events/filter", json={"filter": wanted})
            if found := answer.json()["events"]:
                return found
            time.sleep(0.2)
    return []


def test_plan_does_nothing(project: Path):
    before, at = read_contents(project), snapshot(project)
    plans = make_plan(project, 0, 2)
    assert [plan.day for plan in plans] == [day(0), day(1), day(2)]
    assert {(plan.ingest, plan.score, plan.model) for plan in plans} == {(True, True, "1")}
    assert (snapshot(project), read_contents(project)) == (at, before)
    assert not Settings.read(project).warehouse.queue_path.exists()


def test_backfill_resumes_forces_and_is_the_same_with_any_workers(
    new_project: Callable[[str], Path],
):
    one, two = new_project("one"), new_project("two")
    report = backfill(one, day(0), day(1), workers=1)
    assert (report.done, report.skipped, report.failed) == ([day(0), day(1)], [], {})
    contents = read_contents(one)
    assert report.alerts_added == len(contents["alerts"]) > 2 * 4
    assert queued_as_flagged(contents)
    assert {row[5] for row in contents["alerts"]} == {"backfill"}

    backfill(two, day(0), day(1), workers=2)
    assert read_contents(two) == contents

    at = snapshot(one)
    again = backfill(one, day(0), day(1))
    assert (again.done, again.skipped, again.alerts_added) == ([], [day(0), day(1)], 0)
    assert to_do(one, 0, 2) == [(False, False)] * 2 + [(True, True)]
    assert (snapshot(one), read_contents(one)) == (at, contents)

    forced = backfill(one, day(0), day(0), force=True)
    assert (forced.done, forced.skipped, forced.alerts_added) == ([day(0)], [], 0)
    assert read_contents(one) == contents

    night = nightly(one, day(1))
    assert (night.queued.added, night.queued.already_there) == (0, len(night.scored.alerts))
    drawn = {alert.transaction_id for alert in night.scored.audit}
    alerts = read_contents(one)["alerts"]
    assert [row for row in alerts if row[0] not in drawn] == contents["alerts"]
    assert len(alerts) == len(contents["alerts"]) + 1

    text = one.read_text()
    one.write_text(text.replace("capacity = 8", "capacity = 6"))
    assert to_do(one, 0, 1) == [(False, True)] * 2  # scored anew by other settings
    fewer = backfill(one, day(0), day(0))
    assert (fewer.done, fewer.alerts_added) == ([day(0)], 0)
    assert to_do(one, 0, 0) == [(False, False)]
    assert len([r for r in read_contents(one)["scores"] if r[0] == day(0) and r[4]]) <= 6


def test_night_before_a_backfill_keeps_its_lane(project: Path):
    night = nightly(project, day(0))
    assert to_do(project, 0, 0) == [(False, False)]
    report = backfill(project, day(0), day(1))
    assert (report.done, report.skipped) == ([day(1)], [day(0)])
    lanes = Counter((row[1], row[5]) for row in read_contents(project)["alerts"])
    assert lanes == {
        (day(0), "nightly"): night.queued.added,
        (day(0), "audit"): 1,
        (day(1), "backfill"): report.alerts_added,
    }


def test_day_without_a_file_fails_alone_and_is_done_later(project: Path):
    file = project.parent / "in" / f"{day(0)}.csv"
    aside = file.rename(file.with_suffix(".late"))
    report = failing(project, 0, 1)
    assert report.done == [day(1)]
    assert list(report.failed) == [day(0)]
    assert f"no file for {day(0)}" in report.failed[day(0)]
    assert to_do(project, 0, 1) == [(True, True), (False, True)]
    again = failing(project, 0, 1)
    assert (again.done, again.skipped, list(again.failed)) == ([], [day(1)], [day(0)])
    aside.rename(file)
    later = backfill(project, day(0), day(1))  # the next day's features look back on this one
    assert (later.done, later.skipped, later.failed) == ([day(0), day(1)], [], {})
    assert queued_as_flagged(read_contents(project))


def test_weekly_models_are_trained_once_as_of_their_first_day(project: Path):
    first, last = day(-6), day(1)  # the champion would know the first days' future
    with pytest.raises(ModelMissingError, match="--retrain weekly"):
        backfill(project, first, last)
    plans = make_plan(project, -6, 1, retrain="weekly")
    mondays = [day(-12), day(-5)]
    assert [m.weekday() for m in mondays] == [0, 0]
    assert [plan.model for plan in plans] == [f"as of {mondays[0]}"] + [f"as of {mondays[1]}"] * 7
    report = backfill(project, first, last, retrain="weekly")
    assert (len(report.done), report.failed) == (8, {})
    registry = Registry(Settings.read(project).warehouse)
    models = {m.version: (m.as_of, m.aliases) for m in registry.versions()}
    assert models == {
        "1": (day(0), ("champion",)),
        "2": (mondays[0], ()),
        "3": (mondays[1], ()),
    }
    contents = read_contents(project)
    used = {row[0]: row[5] for row in contents["scores"]}
    assert used == {d: "2" if d == first else "3" for d in days_between(first, last)}
    again = backfill(project, first, last, retrain="weekly")
    assert (len(again.skipped), again.done) == (8, [])
    forced = backfill(project, day(1), day(1), retrain="weekly", force=True)
    assert forced.done == [day(1)]
    newest = registry.versions()[0]
    assert (newest.version, newest.as_of) == ("4", mondays[1])
    assert read_contents(project)["alerts"] == contents["alerts"]
    part = backfill(project, day(0), day(0), retrain="weekly")  # weeks do not move with --from
    assert part.done == [day(0)]
    assert len(registry.versions()) == 4


def test_week_that_cannot_be_trained_fails_alone(project: Path):
    """The lake begins on day -44: models of the first Mondays would have no day with known labels."""
    report = failing(project, -42, -32, retrain="weekly")
    assert set(report.failed) == {day(n) for n in range(-42, -33)}
    assert "ingest more days" in report.failed[day(-42)]
    assert report.done == [day(-33), day(-32)]


def test_backfill_of_which_days_failed_is_no_success_on_the_server(project: Path):
    since, folder = datetime.now(UTC), project.parent / "in"
    (folder / f"{day(0)}.csv").unlink()
    short = folder / f"{day(2)}.csv"
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:4]))
    state = backfill(project, day(0), day(2), return_state=True)
    assert state.is_failed()
    assert f"2 of 3 days failed: {day(0)}, {day(2)}; the others are done" in state.message
    error = state.result(raise_on_failure=False)
    assert error.report.done == [day(1)]
    assert pickle.loads(pickle.dumps(error)).report == error.report  # noqa: S301 (our own bytes)
    for kind, failed in (("day-missing", day(0)), ("day-refused", day(2))):
        (told,) = events(kind, since)
        assert told["payload"] == {"day": str(failed), "reason": error.report.failed[failed]}


def test_long_list_of_failed_days_is_cut():
    failed = {day(number): "no file" for number in range(12)}
    error = BackfillFailedError(BackfillReport([day(20)], [day(5)], failed, 0))
    assert str(error).startswith(f"12 of 13 days failed: {day(0)}, ")
    assert f"{day(9)} and 2 more; the others" in str(error)


def test_member_that_failed_in_a_weekly_training_is_told(project: Path, monkeypatch):
    since, text = datetime.now(UTC), project.read_text()
    monkeypatch.setitem(REGISTRY, "hot", DetectorEntry(Autoencoder, Hot))
    project.write_text(text.replace('members = ["gaussian"]', 'members = ["gaussian", "hot"]'))
    report = backfill(project, day(1), day(1), retrain="weekly")
    assert report.done == [day(1)]
    (told,) = events("member-failed", since)
    assert told["payload"]["failed"].startswith("hot: TrainingDivergedError")


def test_last_day_before_the_first_is_refused(project: Path):
    with pytest.raises(UserError, match="must not be before the first"):
        backfill(project, day(3), day(2))
