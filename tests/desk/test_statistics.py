"""The statistics page: the figures of a range of days, and what it says when there is none."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import httpx
import pytest
from filelock import FileLock

from desk import kept_statistics, label_progress
from tests.desk.conftest import DAY, NOON, PAGE, seed
from warehouse.connection import Lake
from warehouse.errors import WarehouseError

NONE = "\N{EN DASH}"
EVIL = '<script>alert("x")</script>'


def figure(page, name):
    """Give the text of the element with an id."""
    found = re.search(rf'id="{name}">([^<]*)<', page)
    return found and found[1]


def section(page, name):
    """Give a section of the page without its tags."""
    found = re.search(rf'<section[^>]* id="{name}"[^>]*>(.*?)</section>', page, re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", found[1]))


def read_page(browser, query=""):
    answer = browser.get(f"/statistics{query}", headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.fixture
def decided(queue):
    """Two days: the older with six decided alerts, half of them frauds, the newer undecided."""
    before = DAY - timedelta(days=1)
    seed(queue, 4, day=before)
    for number, alert in enumerate(queue.alerts_of_day(before)[:6]):
        queue.decide(alert.id, "fraud" if number % 2 else "genuine", "Ada")
    seed(queue, 1)
    return queue


def make_lake(warehouse):
    """A lake with two transactions a day, one of them labelled a fraud."""
    with Lake.open(warehouse) as lake:
        insert_days(lake)


def insert_days(lake):
    for number in range(3):
        day = DAY - timedelta(days=number + 60)
        for name in ("a", "b"):
            values = {
                "event_date": day,
                "transaction_id": f"{name}{number}",
                "occurred_at": f"{day} 10:00:00+00",
                "account_id": "account",
                "merchant_id": "shop",
                "amount": 10.0,
            }
            insert(lake, "transactions", values)
        label = {
            "event_date": day,
            "transaction_id": f"a{number}",
            "is_fraud": True,
            "known_at": f"{day + timedelta(days=2)} 10:00:00+00",
            "recorded_at": f"{day + timedelta(days=2)} 10:00:00+00",
            "source": "analyst",
        }
        insert(lake, "labels", label)


def insert(lake, table, values):
    """Insert a row; the columns that may not be null and are not told get a text or a zero."""
    rows = lake.connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake' "
        "AND table_name = ? AND NOT is_nullable",
        [table],
    ).fetchall()
    kinds = {"VARCHAR": "none", "DATE": DAY, "TIMESTAMP WITH TIME ZONE": f"{DAY} 00:00:00+00"}
    whole = {name: kinds.get(kind, 0) for name, kind in rows} | values
    names, marks = ", ".join(whole), ", ".join("?" for _ in whole)
    statement = f"INSERT INTO lake.{table} ({names}) VALUES ({marks})"
    lake.connection.execute(statement, list(whole.values()))


@pytest.mark.usefixtures("decided")
def test_figures_are_those_of_the_queue(signed_in):
    page = read_page(signed_in("viewer"))
    assert figure(page, "total-alerts") == "10"
    assert figure(page, "total-decided") == "6"
    assert figure(page, "total-frauds") == "3"
    assert figure(page, "total-precision") == "50 %"
    assert "Ada 6 3 3 0" in section(page, "analysts")
    assert "gaussian 6 3 50 %" in section(page, "precision-by-member")


@pytest.mark.usefixtures("decided")
def test_range_leaves_out_other_days(signed_in):
    page = read_page(signed_in("viewer"), f"?from={DAY}&to={DAY}")
    assert figure(page, "total-alerts") == "2"
    assert figure(page, "total-decided") == "0"
    assert figure(page, "total-precision") == NONE


def test_without_a_range_the_newest_thirty_days_are_shown(queue, signed_in):
    seed(queue, 1)
    seed(queue, 1, day=NOON.date() - timedelta(days=29))
    seed(queue, 1, day=NOON.date() - timedelta(days=30))
    page = read_page(signed_in("viewer"))
    assert figure(page, "total-alerts") == "4"
    assert f'name="to" type="date" required value="{NOON.date()}"' in page


def test_where_alerts_are_long_ago_the_days_up_to_the_newest_are_shown(queue, clock, signed_in):
    seed(queue, 1)
    clock.advance(days=100)
    page = read_page(signed_in("viewer"))
    assert figure(page, "total-alerts") == "2"
    assert f'name="to" type="date" required value="{DAY}"' in page


def test_day_with_few_decisions_is_grey(queue, clock, signed_in):
    seed(queue, 3)
    alerts = queue.alerts_of_day(DAY)
    for alert in alerts[:4]:
        queue.decide(alert.id, "fraud", "Ada")
    browser = signed_in("viewer")
    assert 'class="dot is-few"' in read_page(browser)
    queue.decide(alerts[4].id, "fraud", "Ada")
    clock.advance(minutes=1)
    page = read_page(browser)
    assert 'class="dot"' in page
    assert "is-few" not in page


def test_audit_sample_is_told_apart(queue, signed_in):
    seed(queue, 1)
    seed(queue, 2, lane="audit")
    alerts = [alert for alert in queue.alerts_of_day(DAY) if alert.lane == "audit"]
    queue.decide(alerts[0].id, "fraud", "Ada")
    page = read_page(signed_in("viewer"))
    assert figure(page, "total-alerts") == "2"
    assert figure(page, "total-frauds") == "0"
    assert "4 alerts, 1 decided, 1 fraud" in section(page, "audit")


@pytest.mark.usefixtures("decided")
def test_figures_are_kept_for_a_minute_and_tell_of_when_they_are(queue, clock, signed_in):
    viewer, lead = signed_in("viewer"), signed_in("lead")
    first = read_page(viewer)
    assert "as of 12:00 UTC" in re.sub("<[^>]*>", "", first)
    queue.decide(queue.alerts_of_day(DAY)[0].id, "fraud", "Ada")
    clock.advance(seconds=59)
    for browser in (viewer, lead):
        page = read_page(browser)
        assert figure(page, "total-frauds") == "3"
        assert "as of 12:00 UTC" in re.sub("<[^>]*>", "", page)
    api = viewer.get(f"/api/v1/stats?from={DAY}&to={DAY}").json()
    assert (api["totals"]["frauds"], api["counted_at"]) == (1, "2026-03-21T12:00:59Z")
    clock.advance(seconds=1)
    page = read_page(viewer)
    assert figure(page, "total-frauds") == "4"
    assert "as of 12:01 UTC" in re.sub("<[^>]*>", "", page)


@pytest.fixture
def counts(monkeypatch):
    """Let each count take a while, and fail if ``counts.error`` is set; keeps their ranges."""
    real = kept_statistics.read_statistics
    noted = SimpleNamespace(ranges=[], error=None)

    def count(queue, *days):
        noted.ranges.append(days)
        time.sleep(0.5)
        if noted.error is not None:
            raise noted.error
        return real(queue, *days)

    monkeypatch.setattr(kept_statistics, "read_statistics", count)
    return noted


@pytest.mark.usefixtures("decided")
def test_who_asks_for_a_range_that_is_being_counted_waits_for_that_count(
    app, serve, signed_in, counts
):
    cookie = {"Cookie": f"nightwarden={signed_in('viewer').cookies['nightwarden']}"}
    older = DAY - timedelta(days=1)

    def ask(day):
        answer = httpx.get(f"{url}/statistics?from={day}&to={day}", headers=PAGE | cookie)
        return figure(answer.text, "total-alerts")

    with serve(app) as url, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, day) for day in [DAY] * 8 + [older] * 2]
        while not counts.ranges:
            assert not asked[0].done(), "answered without a count"
            time.sleep(0.01)
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert not asked[0].done(), "the others' pages need not wait for the count"
        assert [page.result() for page in asked] == ["2"] * 8 + ["8"] * 2
        assert ask(DAY) == "2"
    assert sorted(counts.ranges) == [(older, older), (DAY, DAY)]


@pytest.mark.usefixtures("decided")
def test_count_that_failed_is_not_kept(signed_in, counts):
    browser = signed_in("viewer")
    counts.error = WarehouseError("the queue is locked")
    assert browser.get("/statistics", headers=PAGE).status_code == 503
    counts.error = None
    assert figure(read_page(browser), "total-alerts") == "10"


@pytest.mark.usefixtures("decided")
def test_every_picture_has_its_numbers_as_text(signed_in):
    page = read_page(signed_in("viewer"))
    pictures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(pictures) >= 3
    assert all("<details" in picture and "<td" in picture for picture in pictures)


def test_empty_queue_says_so(signed_in):
    page = read_page(signed_in("viewer"))
    assert "There are no alerts in these days" in page
    assert "Nobody decided" in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?from=yesterday", "expected a day such as 2026-01-31 for &#39;from&#39;"),
        ("?to=2026-02-30", "expected a day such as 2026-01-31 for &#39;to&#39;"),
        ("?from=2026-03-02&to=2026-03-01", "must not be before the first"),
        ("?from=2020-01-01&to=2026-01-01", "at most 366 days"),
        ("?to=0001-01-02", "expected a day such as"),
        ("?from=9999-12-31", "expected a day such as"),
        (f"?from={EVIL}", "&lt;script&gt;"),
    ],
)
def test_wrong_days_are_refused_in_words(signed_in, query, words):
    answer = signed_in("viewer").get(f"/statistics{query}", headers=PAGE)
    assert answer.status_code == 400
    assert words in answer.text
    assert "<script>alert" not in answer.text


def test_names_are_escaped(queue, signed_in):
    seed(queue, 1, members={EVIL: 2.0})
    queue.decide(queue.alerts_of_day(DAY)[0].id, "fraud", EVIL)
    page = read_page(signed_in("viewer"))
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert") >= 2


def test_without_a_lake_the_page_says_so_and_makes_none(signed_in, context):
    page = read_page(signed_in("viewer"))
    assert "There is no lake yet" in section(page, "label-maturity")
    assert not context.warehouse.lake_folder.exists()


def test_maturity_comes_from_the_lake(signed_in, context):
    make_lake(context.warehouse)
    first, last = DAY - timedelta(days=62), DAY - timedelta(days=60)
    page = read_page(signed_in("viewer"), f"?from={first}&to={last}")
    text = section(page, "label-maturity")
    assert f"{last - timedelta(days=1)} 2 1 1" in text
    assert f"Up to {last}" in text


@pytest.mark.usefixtures("decided")
def test_busy_lake_does_not_hold_up_the_page(signed_in, context, monkeypatch):
    make_lake(context.warehouse)
    monkeypatch.setattr(label_progress, "WAIT_SECONDS", 0.05)
    with FileLock(context.warehouse.lake_folder / "commit.lock"):
        page = read_page(signed_in("viewer"))
    assert "The lake is busy" in section(page, "label-maturity")
    assert figure(page, "total-alerts") == "10"


@pytest.mark.usefixtures("decided")
def test_lake_that_a_night_takes_just_before_it_is_opened_does_not_hold_up_the_page(
    signed_in, context, monkeypatch
):
    make_lake(context.warehouse)
    night = FileLock(context.warehouse.lake_folder / "commit.lock", thread_local=False)
    real = Lake.open

    def open_late(*arguments, **options):
        night.acquire()
        threading.Timer(3, night.release).start()
        return real(*arguments, **options)

    monkeypatch.setattr(label_progress, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(label_progress.Lake, "open", open_late)
    began = time.monotonic()
    page = read_page(signed_in("viewer"))
    assert time.monotonic() - began < 2.5
    assert "The lake is busy" in section(page, "label-maturity")


def test_shared_lake_tells_labels_once_it_is_there(context, shared_warehouse, tmp_path):
    shared = replace(
        context, warehouse=shared_warehouse.settings(tmp_path / "machine of the desk")
    )
    progress, day = label_progress.LabelProgress(shared), DAY - timedelta(days=60)
    for _ in range(2):  # asking makes none
        with pytest.raises(label_progress.NoLakeError, match="found none; ingest first"):
            progress.read(day, day)
    make_lake(shared_warehouse.settings(tmp_path / "machine of the night"))
    assert progress.read(day, day)[0].transactions == 2


def test_lake_that_broke_is_opened_anew(context):
    make_lake(context.warehouse)
    seconds = [0.0]
    progress = label_progress.LabelProgress(context, lambda: seconds[0])
    first, last = DAY - timedelta(days=62), DAY - timedelta(days=60)
    assert len(progress.read(first, last)) == 3
    progress._lake.close()
    assert len(progress.read(first, last)) == 3, "kept for a minute"
    seconds[0] = 61
    with pytest.raises(label_progress.WarehouseError, match="cannot be read"):
        progress.read(first, last)
    assert len(progress.read(first, last)) == 3


def test_ranges_are_kept_for_a_minute(context):
    make_lake(context.warehouse)
    seconds = [0.0]
    progress = label_progress.LabelProgress(context, lambda: seconds[0])
    day = DAY - timedelta(days=60)
    assert progress.read(day, day)[0].transactions == 2
    with Lake.open(context.warehouse) as lake:
        more = {"event_date": day, "transaction_id": "c", "occurred_at": f"{day} 10:00:00+00"}
        insert(lake, "transactions", more)
    assert progress.read(day, day)[0].transactions == 2
    seconds[0] = 60
    assert progress.read(day, day)[0].transactions == 3
