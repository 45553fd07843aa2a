"""Law 4 and 3: killed at any moment, a re-run finishes the job, and nothing is there twice."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.flows.conftest import copy_project, day, on_both_back_ends, share
from tests.flows.contents import queued_as_flagged, read_contents
from tests.flows.processes import Killer, finish, run_backfill, run_nightly, start, timed

KILLS = 10
ATTEMPTS = 2 * KILLS  # a process may end before its moment
pytestmark = pytest.mark.slow
NewProject = Callable[..., Path]


@on_both_back_ends
def test_nightly_killed_at_random_moments_ends_as_if_undisturbed(new_project: NewProject):
    begun = new_project("begun")
    timed(run_nightly, begun, day(0))  # the first process also starts the fork server
    undisturbed = new_project("undisturbed", begun)
    seconds = timed(run_nightly, undisturbed, day(1))
    expected = read_contents(undisturbed)
    killer, killed = Killer(seconds, seed=1), 0
    for number in range(ATTEMPTS):
        config = new_project(f"killed-{number}", begun)
        process = start(run_nightly, config, day(1))
        killed += killer.kill(process)
        finish(start(run_nightly, config, day(1)))
        contents = read_contents(config)
        assert contents == expected
        assert queued_as_flagged(contents)
        if killed == KILLS:
            break
    assert killed == KILLS


@on_both_back_ends
def test_backfill_killed_at_random_moments_ends_as_if_undisturbed(new_project: NewProject):
    undisturbed = new_project("undisturbed")
    seconds = timed(run_backfill, undisturbed, day(0), day(3), 2)
    expected = read_contents(undisturbed)
    assert len(expected["alerts"]) > 4 * 4
    killer, killed = Killer(seconds, seed=2), 0
    for number in range(ATTEMPTS):
        config = new_project(f"killed-{number}")
        process = start(run_backfill, config, day(0), day(3), 2)
        killed += killer.kill(process)
        finish(start(run_backfill, config, day(0), day(3), 2))
        contents = read_contents(config)
        assert contents == expected
        assert queued_as_flagged(contents)
        if killed == KILLS:
            break
    assert killed == KILLS


def test_shared_back_ends_give_the_same_rows(template: Path, request: pytest.FixtureRequest):
    """A night and a backfill, one after the other, on either kind of warehouse."""
    found = []
    with TemporaryDirectory() as folder:
        for kind in ("embedded", "shared"):
            config = copy_project(template, Path(folder) / kind)
            if kind == "shared":
                shared = request.getfixturevalue("shared_template")
                share(config, shared, request.getfixturevalue("postgresql"))
            finish(start(run_nightly, config, day(0)))
            finish(start(run_backfill, config, day(0), day(2), 2))
            found.append(read_contents(config))
    embedded, shared = found
    assert len(embedded["alerts"]) > 3 * 4
    assert shared == embedded
