"""An evaluation writes its page, keeps it with the model and links it; young days do not count."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.backfill import backfill
from flows.evaluate import evaluate
from tests.flows.conftest import day
from warehouse.errors import UserError

LABEL_DELAY = timedelta(days=7)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Let the evaluation believe that it is another day."""

    def set_to(moment: datetime) -> None:
        clock = type("Clock", (datetime,), {"now": classmethod(lambda *_: moment)})
        monkeypatch.setattr("flows.evaluate.datetime", clock)

    return set_to


def morning(number: int) -> datetime:
    """Give the morning on which the n-th day is the newest whose frauds are known."""
    newest = datetime.combine(day(number), datetime.min.time(), UTC)
    return newest + LABEL_DELAY + timedelta(days=1, hours=2)


def test_evaluation_is_written_kept_and_linked(
    project: Path, set_clock: Callable[[datetime], None]
) -> None:
    project.write_text(project.read_text() + '[evaluate]\nsegments = ["category"]\n')
    assert not backfill(project, day(0), day(2), workers=1).failed
    set_clock(morning(1))
    report = evaluate(project, day(0), day(2))
    found = report.evaluation
    assert [one.name for one in found.qualities] == ["ensemble", "gaussian"]
    assert [one.is_mature for one in found.days] == [True, True, False]
    assert found.frauds == sum(one.frauds or 0 for one in found.days) > 0
    assert found.rows_immature == found.days[-1].rows
    assert {group.column for group in found.groups} == {"category", "amount"}

    page = project.parent / f"warehouse-data/reports/evaluation_{day(0)}_{day(2)}.html"
    assert report.page == page
    assert "By category" in page.read_text(encoding="utf-8")
    (kept,) = (project.parent / "warehouse-data/mlflow/artifacts").glob(
        f"*/artifacts/reports/{page.name}"
    )
    assert kept.read_bytes() == page.read_bytes()
    with get_client(sync_client=True) as client:
        key = ArtifactFilterKey(any_=["evaluation"])
        links = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    (linked,) = [link for link in links if page.as_uri() in str(link.data)]
    assert "most suspicious transactions" in str(linked.description)

    again = evaluate(project, day(0), day(2))
    assert again.evaluation == found
    assert list(page.parent.iterdir()) == [page]


def test_days_whose_frauds_are_not_known_yet_are_not_judged(
    project: Path, set_clock: Callable[[datetime], None]
) -> None:
    assert not backfill(project, day(0), day(0), workers=1).failed
    set_clock(morning(-1))
    with pytest.raises(UserError, match=rf"are of days after {day(-1)}.*name older days"):
        evaluate(project, day(0), day(0))
    assert not (project.parent / "warehouse-data/reports").exists()


def test_days_are_mature_where_the_source_is(
    project: Path, set_clock: Callable[[datetime], None]
) -> None:
    """At 2 o'clock UTC it is the evening before in California, and the newest day is not due."""
    there = '[source]\ntime_zone = "America/Los_Angeles"'
    project.write_text(project.read_text().replace("[source]", there, 1))
    assert not backfill(project, day(0), day(1), workers=1).failed
    set_clock(morning(1))
    found = evaluate(project, day(0), day(1)).evaluation
    assert [one.is_mature for one in found.days] == [True, False]


def test_unknown_segment_is_said_with_those_there_are(project: Path) -> None:
    project.write_text(project.read_text() + '[evaluate]\nsegments = ["scenario"]\n')
    assert not backfill(project, day(0), day(0), workers=1).failed
    with pytest.raises(UserError, match=r"segments names scenario, but .* amount, category"):
        evaluate(project, day(0), day(0))
