"""What those who run the desk see of it: alive, ready, metrics."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from desk.app import create_app
from tests.desk.conftest import seed
from tests.warehouse.conftest import postgres_url, queue_url  # noqa: F401 (fixtures)
from warehouse.analysts import add_analyst
from warehouse.api_tokens import add_token
from warehouse.queue import Queue
from warehouse.webhook_deliveries import lease_webhook, note_failed, start_webhooks

SECRET = "a secret of the test"  # noqa: S105 (it is one of the test alone)


@pytest.fixture
def read_metrics(queue, new_client):
    """Read /metrics with a token, as Prometheus does: figures by name and labels."""
    add_analyst(queue, "prometheus", "viewer", None, "test")
    token = add_token(queue, "metrics", "prometheus", ["metrics"], days=None, actor="test")
    browser = new_client()
    browser.headers["Authorization"] = f"Bearer {token}"

    def read():
        answer = browser.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/plain")
        return {
            (sample.name.removeprefix("nightwarden_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


def test_metrics_tell_how_full_the_queue_is(queue, clock, read_metrics):
    assert read_metrics()["cases_awaiting_second",] == 0
    seed(queue, 3)
    seed(queue, 1, lane="audit")
    queue.decide(1, "fraud", "ana")
    clock.advance(hours=2)
    found = read_metrics()
    assert (found["cases_open", "nightly"], found["cases_open", "audit"]) == (3, 1)
    assert (found["alerts", "nightly"], found["alerts", "audit"]) == (6, 2)
    assert (found["cases_snoozed", "nightly"], found["decisions", "fraud"]) == (0, 1)
    assert found["oldest_open_case_seconds",] == 7200


@pytest.fixture
def context(make_context):
    """The context of a desk with two webhooks, of which one has not begun yet."""
    hooks = [{"name": name, "url": "http://127.0.0.1:9/nobody"} for name in ("cases", "later")]
    return make_context(webhooks=hooks, webhook_secret=SECRET)


def test_metrics_tell_how_far_webhooks_of_the_settings_are(queue, read_metrics):
    start_webhooks(queue, ["cases", "given-up"])
    seed(queue, 1)
    note_failed(queue, lease_webhook(queue, "cases"), "got 503", timedelta(seconds=5))
    note_failed(queue, lease_webhook(queue, "given-up"), "got 503", timedelta(seconds=5))
    found = read_metrics()
    told = {key: value for key, value in found.items() if key[0].startswith("webhook")}
    assert told == {("webhook_lag_changes", "cases"): 3, ("webhook_failures", "cases"): 1}


def test_requests_are_counted_by_route_and_never_by_path(queue, signed_in, read_metrics):
    (case_id,) = seed(queue, 1)
    browser = signed_in("viewer")
    for path in (f"/api/v1/cases/{case_id}", "/api/v1/cases/77", "/api/v1/cases/x", "/healthz"):
        browser.get(path)
    for path in ("/nowhere/secret-7", "/static/none.css", "/api/v1/nowhere"):
        browser.get(path)
    browser.request("SECRET", "/healthz")
    found = read_metrics()
    route = "/api/v1/cases/{case_id}"
    for status in ("200", "404", "422"):
        assert found["http_requests_total", "GET", route, status] == 1
    assert found["http_request_seconds_count", "GET", route] == 3
    assert found["http_requests_total", "GET", "/healthz", "200"] == 1
    routes = {key[2] for key in found if key[0] == "http_requests_total"}
    assert routes == {route, "/healthz", "other", "/metrics"} - {"/metrics"} | (
        routes & {"/metrics", "/static"}
    )
    assert not [key for key in found if re.search("secret|77", "".join(key), re.IGNORECASE)]


def test_metrics_are_for_those_who_may_see_them(queue, client, signed_in, new_client):
    assert client.get("/metrics").status_code == 401
    assert signed_in("viewer").get("/metrics").status_code == 200
    add_analyst(queue, "reader", "admin", None, "test")
    token = add_token(queue, "reader", "reader", ["read"], days=None, actor="test")
    program = new_client()
    program.headers["Authorization"] = f"Bearer {token}"
    assert program.get("/metrics").status_code == 403


def test_alive_and_ready_need_no_sign_in(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok"})


def test_a_queue_that_cannot_be_read_is_not_ready_and_its_place_stays_unsaid(
    queue, client, tmp_path
):
    queue.close()
    for file in tmp_path.glob("queue.sqlite*"):
        file.write_bytes(b"this is no database " * 500)
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "the queue cannot be read"}
    assert client.get("/healthz").status_code == 200


def test_analysts_who_wait_for_the_writer_keep_nobody_from_reading(queue, tmp_path, signed_in):
    cases = seed(queue, 20)
    browser = signed_in("analyst")
    with (
        Queue.open(tmp_path / "queue.sqlite", create=False) as night,
        browser,
        ThreadPoolExecutor(len(cases)) as pool,
    ):
        with night.database.write():
            claims = [pool.submit(browser.post, f"/cases/{number}/claim") for number in cases]
            time.sleep(0.5)
            begin = time.monotonic()
            pages = [browser.get(path) for path in ("/healthz", "/static/desk.css", "/queue")]
            assert time.monotonic() - begin < 10  # the claims wait for 30
            assert not any(claim.done() for claim in claims)
        assert [page.status_code for page in pages] == [200] * 3
        assert {claim.result().status_code for claim in claims} == {303}


@pytest.mark.parametrize("queue_url", ["postgresql"], indirect=True)
def test_a_queue_that_hangs_is_not_ready_and_holds_one_thread_alone(
    queue_url,  # noqa: F811 (the fixture)
    make_context,
    new_client,
):
    with Queue.open(queue_url, create=True) as queue:
        client = new_client(app=create_app(replace(make_context(), queue=queue)))
        engine = create_engine(queue_url)
        with engine.begin() as connection, client:
            connection.exec_driver_sql("LOCK TABLE cases IN ACCESS EXCLUSIVE MODE")
            begin = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: client.get("/readyz"), range(8)))
            assert time.monotonic() - begin < 4
            assert {answer.status_code for answer in answers} == {503}
            assert queue.database.engine.pool.checkedout() == 1
            assert client.get("/healthz").status_code == 200
            connection.rollback()
            time.sleep(0.2)
            assert client.get("/readyz").status_code == 200
        engine.dispose()
