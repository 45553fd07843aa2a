"""What a run tells: why a night is not done, and where its page lies."""

import json
import socket
from datetime import UTC, date, datetime
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows import show
from flows.catch_up import CaughtUp, NightProblem, problem_of
from flows.reports import _place, show_problem, tell_of_problem
from flows.settings import Settings
from tests.flows.conftest import CONFIG
from tests.flows.test_backfill import events
from warehouse.errors import DayMissingError, DayRefusedError, SourceError

DAY = date(2026, 3, 4)


def test_mistakes_are_told_apart():
    kinds = [problem_of(DAY, kind("x")).kind for kind in (DayMissingError, DayRefusedError)]
    assert kinds == ["missing", "refused"]
    assert problem_of(DAY, SourceError("no column b")) == NightProblem(
        DAY, "failed", "no column b"
    )


def test_refused_night_shows_its_reason_and_is_told():
    since, problem = datetime.now(UTC), problem_of(DAY, DayRefusedError("half its rows are gone"))

    @flow
    def night() -> None:
        show_problem(problem)
        tell_of_problem(problem)

    night()
    with get_client(sync_client=True) as client:
        named = ArtifactFilter(key=ArtifactFilterKey(any_=["night"]))
        shown = client.read_artifacts(artifact_filter=named, sort=ArtifactSort.CREATED_DESC)
    assert shown[0].data == f"# {DAY}\n\nrefused: half its rows are gone"
    (told,) = events("day-refused", since)
    assert told["payload"] == {"day": str(DAY), "reason": "half its rows are gone"}


def test_page_beside_a_shared_warehouse_is_on_a_machine(tmp_path: Path):
    (tmp_path / "nightwarden.toml").write_text(CONFIG)
    page = tmp_path / "page.html"
    alone = Settings.read(tmp_path / "nightwarden.toml", {})
    assert _place(page, alone) == f"`{page}`"
    assert _place(None, alone) == "as before"
    shared = {
        "NIGHTWARDEN_WAREHOUSE__CATALOG": "postgresql://host/lake",
        "NIGHTWARDEN_WAREHOUSE__DATA": "s3://bucket/lake",
    }
    served = Settings.read(tmp_path / "nightwarden.toml", shared)
    assert _place(page, served) == f"on {socket.gethostname()}: `{page}`"


def test_json_of_nights_holds_what_is_not_done(capsys):
    problem = NightProblem(DAY, "missing", "no file")
    show.nights(CaughtUp(problems=[problem]), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "done": [],
        "problems": [{"day": str(DAY), "kind": "missing", "reason": "no file"}],
    }
