"""A served installation on real servers, through a schedule, a GPU worker, a kill and an outage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import missing_for_object_store, missing_for_postgresql, skip_or_fail

ROOT = Path(__file__).parents[2]
STEPS = {
    "prepare",
    "schedule",
    "gpu",
    "overlap",
    "killed",
    "outage",
    "count",
    "pages",
    "secrets",
}


@pytest.mark.slow
def test_served_installation_does_every_night_once_and_tells_no_secret(tmp_path: Path):
    """Most of the minutes are waits: for cron, and for the slot of the run that was killed."""
    skip_or_fail(missing_for_postgresql() or missing_for_object_store())
    environment = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PREFECT", "NIGHTWARDEN", "AWS", "MLFLOW"))
    }
    done = subprocess.run(  # noqa: S603 (our own benchmark)
        [sys.executable, "benchmarks/served.py", "--json", "--folder", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["step"] for one in found} == STEPS
    assert [one for one in found if not one["is_right"]] == []
