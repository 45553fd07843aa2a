"""Law 4 and 3: killed at any moment, a re-run finishes the job, and nothing is there twice."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import day
from tests.flows.contents import queued_as_flagged, read_contents
from tests.flows.processes import finish, kill_after, run_backfill, run_nightly, start, timed

KILLS = 10
pytestmark = pytest.mark.slow
NewProject = Callable[[str], Path]


def test_nightly_killed_at_random_moments_ends_as_if_undisturbed(new_project: NewProject):
    undisturbed = new_project("undisturbed")
    timed(run_nightly, undisturbed, day(0))  # the first process also starts the fork server
    seconds = timed(run_nightly, undisturbed, day(1))
    expected = read_contents(undisturbed)
    moments = random.Random(1)  # noqa: S311 (moments, not secrets)
    killed = 0
    for number in range(KILLS):
        config = new_project(f"killed-{number}")
        finish(start(run_nightly, config, day(0)))
        process = start(run_nightly, config, day(1))
        killed += kill_after(process, moments.uniform(0.05, seconds))
        finish(start(run_nightly, config, day(1)))
        contents = read_contents(config)
        assert contents == expected
        assert queued_as_flagged(contents)
    assert killed >= KILLS // 2


def test_backfill_killed_at_random_moments_ends_as_if_undisturbed(new_project: NewProject):
    undisturbed = new_project("undisturbed")
    seconds = timed(run_backfill, undisturbed, day(0), day(3), 2)
    expected = read_contents(undisturbed)
    assert len(expected["alerts"]) > 4 * 4
    moments = random.Random(2)  # noqa: S311 (moments, not secrets)
    killed = 0
    for number in range(KILLS):
        config = new_project(f"killed-{number}")
        process = start(run_backfill, config, day(0), day(3), 2)
        killed += kill_after(process, moments.uniform(0.05, seconds))
        finish(start(run_backfill, config, day(0), day(3), 2))
        contents = read_contents(config)
        assert contents == expected
        assert queued_as_flagged(contents)
    assert killed >= KILLS // 2
