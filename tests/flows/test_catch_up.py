"""Nights that are due: oldest first, each once, none beyond the last finished day; a bad one alone."""

import json
import pickle
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from flows.catch_up import (
    CaughtUp,
    NightProblem,
    NightsFailedError,
    plan_nights,
    run_due_nights,
    wait_for_day,
)
from flows.days import days_between
from flows.ingest import ingest
from flows.nightly import nightly
from flows.settings import Settings
from flows.train import train
from tasks.promotion import promote
from tests.flows.conftest import CONFIG, day
from tests.flows.contents import queued_as_flagged, read_contents
from tests.flows.processes import finish, kill_after, start
from warehouse.connection import Lake
from warehouse.errors import DayMissingError, DayRefusedError
from warehouse.ledger import PartitionRun, due_nights, is_queued_after_landing

LOOKBACK = timedelta(days=3)
OUTCOMES = {"missing": DayMissingError, "refused": DayRefusedError, "failed": RuntimeError}


class _World:
    """A ledger in memory, and what becomes of each day that is tried."""

    def __init__(self, fates: list[str]) -> None:
        self.days = [date(2026, 1, 1) + timedelta(days=n) for n in range(len(fates))]
        self.fates = dict(zip(self.days, fates, strict=True))
        self.states: dict[tuple[date, str], PartitionRun] = {}
        self.moment = datetime(2026, 2, 1, tzinfo=UTC)
        self.ran: list[date] = []

    def note(self, night: date, stage: str) -> None:
        self.moment += timedelta(minutes=1)
        self.states[night, stage] = PartitionRun(
            night, stage, "done", self.moment, "", model_version="1", finished_at=self.moment
        )

    def is_done(self, night: date) -> bool:
        return is_queued_after_landing(self.states, night, lookback=LOOKBACK)

    def catch_up(self, last: date) -> CaughtUp:
        waited: list[date] = []

        def plan() -> list:
            return due_nights(self.states, days_between(self.days[0], last), lookback=LOOKBACK)

        def run(night) -> object:
            assert not self.is_done(night.day), "a night that is done is not done again"
            assert night.day <= last
            assert night.day != last or waited == [last]
            self.ran.append(night.day)
            if self.fates[night.day] in OUTCOMES:
                raise OUTCOMES[self.fates[night.day]](f"no {night.day}")
            self.note(night.day, "ingest")
            self.note(night.day, "enqueue")
            return night.day

        return run_due_nights(plan, run, waited.append, last)


fates = st.lists(st.sampled_from(["good", *OUTCOMES]), min_size=1, max_size=10)


@given(
    fates=fates, done=st.sets(st.integers(0, 9)), late=st.lists(st.integers(0, 9)), cut=st.data()
)
def test_due_nights_are_done_in_order_and_once(fates, done, late, cut):
    world = _World(fates)
    for number, night in enumerate(world.days):
        if number in done:
            world.note(night, "ingest")
            world.note(night, "enqueue")
    for number in late:
        if number < len(world.days):
            world.note(world.days[number], "ingest")
    last = cut.draw(st.sampled_from(world.days))
    due = [night for night in world.days if night <= last and not world.is_done(night)]
    found = world.catch_up(last)
    assert world.ran == sorted(world.ran)
    assert set(due) <= set(world.ran)
    for night in world.days:
        if night <= last and world.fates[night] == "good":
            assert world.is_done(night)
    assert {(p.day, p.kind) for p in found.problems} == {
        (night, world.fates[night]) for night in world.ran if world.fates[night] != "good"
    }
    tried, world.ran = world.ran, []
    again = world.catch_up(last)
    assert again.done == []
    assert world.ran == [night for night in tried if world.fates[night] != "good"]


def test_error_of_nights_survives_the_way_through_prefect():
    """Prefect stores the error of a run as a pickle, and gives it back to who waits for the run."""
    problem = NightProblem(date(2026, 1, 2), "refused", "no")
    error = NightsFailedError(CaughtUp([], [problem]))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own, made above)
    assert str(again) == str(error)
    assert "1 of 1 nights that were due are not done: refused 2026-01-02" in str(again)


def test_day_is_waited_for_until_it_comes_or_the_time_is_over(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "nightwarden.toml").write_text(CONFIG)
    source = Settings.read(tmp_path / "nightwarden.toml", {}).source
    begin = now = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += timedelta(seconds=seconds)
        if now >= begin + timedelta(minutes=5):
            (tmp_path / "in" / "2026-02-28.csv").touch()

    def wait(night: date, minutes: int) -> timedelta:
        started = now
        until = now + timedelta(minutes=minutes)
        wait_for_day(source, night, until, clock=lambda: now, sleep=sleep)
        return now - started

    assert wait(date(2026, 2, 28), 0) == timedelta(0)
    assert wait(date(2026, 2, 28), 60) == timedelta(minutes=5)
    assert wait(date(2026, 2, 28), 60) == timedelta(0)
    assert wait(date(2026, 2, 27), 2) == timedelta(minutes=2)


def test_wait_goes_on_while_a_database_does_not_answer(tmp_path: Path):
    (tmp_path / "nightwarden.toml").write_text(
        CONFIG.replace('format = "csv"', 'format = "postgres"\ndate_column = "occurred_at"')
        .replace('path = "in/{date}.csv"', 'table = "payments"')
        .replace("[source.columns]", 'dsn = "host=127.0.0.1 port=9 dbname=x"\n[source.columns]')
    )
    source = Settings.read(tmp_path / "nightwarden.toml", {}).source
    now = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
    until = now + timedelta(minutes=1)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += timedelta(seconds=seconds)

    wait_for_day(source, date(2026, 2, 28), until, clock=lambda: now, sleep=sleep)
    assert now == until


def run_after(night: date, config: Path) -> CaughtUp:
    """Run what was scheduled for three o'clock after a day, however late it is by now."""
    moment = datetime.combine(night + timedelta(days=1), time(3), UTC)
    given = {"config": config}
    with get_client(sync_client=True) as client:
        planned = client.create_flow_run(
            nightly, parameters={"config": str(config)}, state=Scheduled(scheduled_time=moment)
        )
    found = run_flow(nightly, flow_run=planned, parameters=given)
    assert isinstance(found, CaughtUp)
    return found


def snapshot(config: Path) -> int:
    with Lake.open(Settings.read(config).warehouse) as lake:
        return lake.snapshot_id()


def done_by(found: CaughtUp) -> list[tuple[date, str]]:
    return [(report.scored.day, report.scored.model_version) for report in found.done]


def run_names(part: str) -> set[str]:
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(like_=part))
        return {run.name for run in client.read_flow_runs(flow_run_filter=named)}


@pytest.mark.slow
def test_missed_nights_are_caught_up_and_bad_ones_stop_no_other(project: Path):
    folder = project.parent / "in"
    assert done_by(run_after(day(0), project)) == [(day(0), "1")]  # a new project begins here
    missing = (folder / f"{day(1)}.csv").rename(folder / "late.csv")
    refused = folder / f"{day(3)}.csv"
    whole = refused.read_text()
    refused.write_text("".join(whole.splitlines(keepends=True)[:4]))
    with pytest.raises(NightsFailedError, match=f"missing {day(1)}; refused {day(3)};") as told:
        run_after(day(4), project)
    assert "2 of 4 nights" in str(told.value)
    assert run_names("nightly up to") >= {f"nightly up to {day(4)}"}
    assert run_names("nightly 2026") >= {f"nightly {day(n)}" for n in range(5)}

    missing.rename(folder / f"{day(1)}.csv")
    refused.write_text(whole)
    train(project, day(1))
    promoted = Settings.read(project)
    with promoted.context().closing() as context:
        context.registry().set_alias("2", "champion")
    found = done_by(run_after(day(4), project))  # what looks back on a late day is done anew
    assert found == [(day(1), "2"), (day(2), "1"), (day(3), "2"), (day(4), "1")]
    contents, before = read_contents(project), snapshot(project)
    assert queued_as_flagged(contents)
    assert done_by(run_after(day(4), project)) == []
    assert (snapshot(project), read_contents(project)) == (before, contents)


@pytest.mark.slow
def test_killed_run_is_finished_by_two_that_overlap(project: Path):
    run_after(day(0), project)
    killed = start(run_after, day(2), project)
    assert kill_after(killed, 6)
    for process in [start(run_after, day(2), project) for _ in range(2)]:
        finish(process)
    contents = read_contents(project)
    assert queued_as_flagged(contents)
    assert {row[0] for row in contents["scores"]} == {day(0), day(1), day(2)}
    assert done_by(run_after(day(2), project)) == []


def test_command_without_a_day_says_which_nights_are_not_done(project: Path, run):
    code, _, messages = run("nightly", "--config", project)
    assert code == 2
    told = messages.splitlines()[-1]
    assert told.startswith("Error: 1 of 1 nights that were due are not done: missing 20")
    code, output, _ = run("nightly", "--config", project, "--json")
    assert code == 2
    found = json.loads(output)
    assert found["done"] == []
    assert [one["kind"] for one in found["problems"]] == ["missing"]


def test_missing_day_fails_the_runs_of_its_night_and_is_listed_by_later_ones(project: Path):
    run_after(day(0), project)
    for number in (1, 1):  # who looks by hand before the schedule does tells nobody
        file = project.parent / "in" / f"{day(number)}.csv"
        file.unlink(missing_ok=True)
        with pytest.raises(NightsFailedError, match=f"missing {day(1)}"):
            run_after(day(1), project)
    found = run_after(day(2), project)
    assert [(p.day, p.kind) for p in found.problems] == [(day(1), "missing")]
    assert found.news == []
    assert done_by(found) == [(day(2), "1")]


def test_night_done_anew_needs_no_file_that_was_archived(project: Path):
    folder = project.parent / "in"
    run_after(day(0), project)
    late = (folder / f"{day(1)}.csv").rename(folder / "late.csv")
    with pytest.raises(NightsFailedError):
        run_after(day(2), project)
    late.rename(folder / f"{day(1)}.csv")
    (folder / f"{day(2)}.csv").unlink()
    found = run_after(day(2), project)
    assert done_by(found) == [(day(1), "1"), (day(2), "1")]
    assert found.problems == []


def test_night_missed_before_a_promotion_is_done_by_the_champion_of_then(project: Path):
    run_after(day(0), project)
    late = project.parent / "in" / f"{day(1)}.csv"
    content = late.read_text()
    late.unlink()
    with pytest.raises(NightsFailedError):
        run_after(day(1), project)
    assert train(project, day(2)).version == "2"
    with Settings.read(project).context().closing() as context:
        promote(
            context.registry(), context.lake(), "2", None, actor="ada", reason="test", force=True
        )
    late.write_text(content)
    assert done_by(run_after(day(2), project)) == [(day(1), "1"), (day(2), "2")]


def test_nights_too_old_to_catch_up_are_listed(project: Path):
    run_after(day(0), project)
    project.write_text(project.read_text() + "[run]\ncatch_up_days = 2\n")
    found = run_after(day(4), project)
    assert done_by(found) == [(day(3), "1"), (day(4), "1")]
    assert [(p.day, p.kind) for p in found.problems] == [
        (day(1), "too old"),
        (day(2), "too old"),
    ]
    assert found.news == []


def test_backfilled_nights_and_those_before_the_first_are_not_due(project: Path):
    settings = Settings.read(project)
    with settings.context().closing() as context:
        plan = plan_nights(context, day(3), catch_up_days=14)
    assert [night.day for night in plan] == [day(3)]
    nightly(project, day(1))
    ingest(project, day(2), day(2))
    with settings.context().closing() as context:
        plans = {n: plan_nights(context, day(n), catch_up_days=2) for n in (0, 1, 2, 5)}
    assert [night.day for night in plans[0] + plans[1]] == []
    assert [night.day for night in plans[2]] == [day(2)]
    assert [night.day for night in plans[5]] == [day(4), day(5)]
