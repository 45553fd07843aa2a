"""The loop through the desk: a night queues, an analyst decides in a browser, a training learns."""

from datetime import UTC, datetime, time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from desk.app import create_app
from flows.desk_server import build_context
from flows.nightly import nightly
from flows.settings import Settings
from flows.train import train
from tests.desk.browser.driving import Visits, open_browser
from tests.desk.conftest import PASSWORD, serve  # noqa: F401 (a fixture)
from tests.flows.conftest import day
from warehouse.analysts import add_analyst
from warehouse.connection import Lake
from warehouse.queue import Queue

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MORNING = datetime.combine(day(1), time(9), UTC)
LABELLED = '[source.label]\ncolumn = "is_fraud"\ndelay_days = 7\n'


@pytest.fixture
def unlabelled(project: Path) -> Path:
    """The project, with nobody but its analysts to say what was fraud from now on."""
    text = project.read_text()
    assert LABELLED in text
    text = text.replace(LABELLED, "").replace('"fraud_scenario"', '"fraud_scenario", "is_fraud"')
    project.write_text(text + "[labels]\nmature_after_days = 1\n")
    return project


def decide_in_browser(settings: Settings, serve) -> str:  # noqa: F811 (the fixture)
    """Sign in, open the foremost case, and call its first alert a fraud; give its transaction."""
    with Queue.open(settings.warehouse.queue_path, create=False, clock=lambda: MORNING) as queue:
        add_analyst(queue, "ada", "analyst", PASSWORD, "test")
        app = create_app(build_context(settings, settings.desk, queue))
        with serve(app) as url, open_browser() as browser:
            visits = Visits(browser, url)
            page = visits.new_context().new_page()
            page.goto("/queue")
            page.get_by_label("Name").fill("ada")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            expect(page.locator("tr.is-current")).to_have_count(1)
            page.keyboard.press("Enter")
            expect(page.locator("article[id^=alert-]").first).to_be_visible()
            page.keyboard.press("f")
            expect(page.locator("#messages")).to_contain_text("fraud")
            visits.close()
            assert not visits.problems
        (decision,) = queue.decisions()
    assert (decision.verdict, decision.analyst) == ("fraud", "ada")
    return decision.transaction_id


def labels_of(settings: Settings, transaction_id: str) -> list[tuple[object, ...]]:
    """Read a transaction's labels."""
    with Lake.open(settings.warehouse) as lake:
        return lake.connection.execute(
            "SELECT is_fraud, source, known_at FROM lake.labels WHERE transaction_id = ?",
            [transaction_id],
        ).fetchall()


def test_verdict_in_the_browser_is_what_the_next_training_learns(unlabelled: Path, serve):  # noqa: F811 (the fixture)
    settings = Settings.read(unlabelled)
    assert nightly(unlabelled, day(0)).queued.added
    before = train(unlabelled, day(2))
    transaction_id = decide_in_browser(settings, serve)
    assert labels_of(settings, transaction_id) == []
    after = train(unlabelled, day(2))
    assert labels_of(settings, transaction_id) == [(True, "analyst", MORNING)]
    assert after.metrics["known_frauds"] == before.metrics["known_frauds"] + 1
