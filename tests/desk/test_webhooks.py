"""Webhooks against a real receiver that fails, hangs, drips and goes away."""

import asyncio
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from desk import webhooks
from desk.context import DeskContext, LabelRules
from desk.settings import DeskSettings, WebhookSettings
from desk.webhooks import WebhookSender
from warehouse.connection import WarehouseSettings
from warehouse.feed import newest_change
from warehouse.queue import NewAlert, Queue, Reason
from warehouse.queue_changes import Change, append_changes
from warehouse.webhook_deliveries import LEASE, lease_webhook, list_webhooks

SECRET = "a secret of the test"  # noqa: S105 (it is one of the test alone)
START = datetime(2026, 3, 3, 12, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent, and answers as it is told: a status, or a function to call."""

    daemon_threads = True

    def __init__(self):
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.got = []
        self.answers = deque()
        self.has_come = threading.Condition()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    def wait_for(self, count, seconds=10):
        """Wait until so many requests have come."""
        with self.has_come:
            assert self.has_come.wait_for(lambda: len(self.got) >= count, seconds), len(self.got)
        return self.got

    def handle_error(self, request, client_address):
        """Say nothing of senders that went away."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self):
        """Keep the request, then answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.has_come:
            self.server.got.append((dict(self.headers), body))
            answer = self.server.answers.popleft() if self.server.answers else 200
            self.server.has_come.notify_all()
        if callable(answer):
            answer(self)
            return
        self.send_response(answer)
        if answer == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        """Say nothing."""


def hang(handler):
    """Answer nothing for a while."""
    time.sleep(1.5)
    handler.close_connection = True


def drip(handler):
    """Send a header now and then, so that no single read takes long."""
    for _ in range(30):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if not _ else b"X-More: x\r\n")
        handler.wfile.flush()
        time.sleep(0.1)
    handler.close_connection = True


def drop(handler):
    """Close the connection without a word."""
    handler.close_connection = True


@pytest.fixture
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class MovableClock:
    """The time, with what was added to it."""

    def __init__(self):
        """Begin at a known moment."""
        self.ahead = START - datetime.now(UTC)

    def __call__(self):
        """Give the moment."""
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
def queue(tmp_path, clock):
    with Queue.open(tmp_path / "queue.sqlite", create=True, clock=clock) as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 0.5)


def make_context(queue, url, names=("cases",)):
    settings = DeskSettings(
        webhooks=[WebhookSettings(name=name, url=url) for name in names], webhook_secret=SECRET
    )
    labels = LabelRules(time_zone="UTC", maturity_days=30, delay_days=None)
    return DeskContext(settings, queue, WarehouseSettings(), labels, queue.clock)


def add_changes(queue, count, mark="x"):
    with queue.database.write() as connection:
        changes = [Change("case_claimed", None, None, {"mark": mark})] * count
        append_changes(connection, queue.clock(), "ana", changes)


def is_genuine(headers, body, now):
    """Check a signature as a receiver would, from the documentation alone."""
    parts = dict(part.split("=", 1) for part in headers["X-Nightwarden-Signature"].split(","))
    signed = parts["t"].encode() + b"." + body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    is_fresh = abs(now.timestamp() - int(parts["t"])) < 300
    return is_fresh and hmac.compare_digest(expected, parts["v1"])


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_changes_are_posted_signed_and_with_the_facts_of_their_alerts(queue, receiver, clock):
    alert = NewAlert(
        "t1", START, "a1", "Café ☕", 9.5, 3.0, 1, {"m": 3.0}, [Reason("f", 1.0, 2.0, "odd")], "7"
    )
    with WebhookSender(make_context(queue, receiver.url)).running():
        queue.enqueue(date(2026, 3, 2), "nightly", [alert])
        headers, body = receiver.wait_for(1)[0]
    assert is_genuine(headers, body, clock())
    assert not is_genuine(headers, body + b" ", clock())
    assert headers["X-Nightwarden-Delivery"] == "cases-1-2"
    content = json.loads(body)
    assert (content["webhook"], content["first"], content["last"]) == ("cases", 1, 2)
    opened, queued = content["changes"]
    assert (opened["kind"], opened["alert"]) == ("case_opened", None)
    assert (queued["kind"], queued["alert"]["merchant_id"]) == ("alert_queued", "Café ☕")
    assert queued["alert"]["reasons"] == ["odd"]


def test_a_receiver_that_fails_gets_the_same_block_later_and_the_rest_in_order(
    queue, receiver, clock
):
    receiver.answers.extend([503, hang, drip, drop, 302, 204])
    context = make_context(queue, receiver.url)
    with WebhookSender(context, chance=lambda: 0).running():
        add_changes(queue, 2)
        waits = []
        for attempt in range(1, 6):
            receiver.wait_for(attempt)
            wait_until(lambda n=attempt: list_webhooks(queue)[0].attempts == n)
            progress = list_webhooks(queue)[0]
            waits.append(round((progress.next_attempt_at - clock()).total_seconds()))
            assert progress.last_change == 0
            assert progress.last_error
            add_changes(queue, 1)  # more comes in meanwhile
            clock.ahead += timedelta(seconds=waits[-1] + 1)
        receiver.wait_for(7)
        wait_until(lambda: list_webhooks(queue)[0].lag == 0)
    assert waits == [5, 10, 20, 40, 80]
    deliveries = [headers["X-Nightwarden-Delivery"] for headers, _ in receiver.got]
    assert deliveries[:6] == ["cases-1-2"] * 6
    assert deliveries[6] == "cases-3-7"
    assert all(is_genuine(headers, body, clock()) for headers, body in receiver.got[5:])
    assert list_webhooks(queue)[0].last_error is None


def test_a_hung_answer_ends_after_the_limit_although_it_goes_on_dripping(queue, receiver):
    receiver.answers.append(drip)
    sender = WebhookSender(make_context(queue, receiver.url))
    with sender.running():
        pass
    add_changes(queue, 1)

    async def send_once():
        async with httpx.AsyncClient() as client:
            begin = time.monotonic()
            webhook = WebhookSettings(name="cases", url=receiver.url)
            assert not await sender.send_block(client, webhook)
            return time.monotonic() - begin

    assert 0.4 < asyncio.run(send_once()) < 1.5
    assert list_webhooks(queue)[0].last_error == "no answer within 0.5 s"


def test_many_changes_go_in_blocks_and_each_once_with_two_desks(queue, receiver, tmp_path, clock):
    with Queue.open(tmp_path / "queue.sqlite", create=False, clock=clock) as other:
        first = WebhookSender(make_context(queue, receiver.url))
        second = WebhookSender(make_context(other, receiver.url))
        with first.running(), second.running():
            for _ in range(5):
                add_changes(queue, 70)
            wait_until(lambda: list_webhooks(queue)[0].lag == 0)
    blocks = [json.loads(body) for _, body in receiver.got]
    numbers = [change["id"] for block in blocks for change in block["changes"]]
    assert numbers == list(range(1, 351))
    assert max(len(block["changes"]) for block in blocks) <= 100


def test_a_webhook_that_fails_does_not_hold_up_another(queue, receiver):
    dead = "http://127.0.0.1:9/nobody"
    context = make_context(queue, receiver.url)
    both = (*context.settings.webhooks, WebhookSettings(name="dead", url=dead))
    settings = context.settings.model_copy(update={"webhooks": both})
    context = DeskContext(settings, queue, context.warehouse, context.labels, queue.clock)
    with WebhookSender(context).running():
        add_changes(queue, 1)
        receiver.wait_for(1)
        wait_until(lambda: all(w.attempts or w.delivered_at for w in list_webhooks(queue)))
    cases, dead_one = list_webhooks(queue)
    assert (cases.lag, dead_one.lag, dead_one.attempts) == (0, 1, 1)
    assert "ConnectError" in dead_one.last_error


KILLED = """
import sys
from desk.context import DeskContext, LabelRules
from desk.settings import DeskSettings
from desk.webhooks import WebhookSender
from warehouse.connection import WarehouseSettings
from warehouse.queue import Queue

path, url, secret = sys.argv[1:]
hooks = [{"name": "cases", "url": url}]
settings = DeskSettings(webhooks=hooks, webhook_secret=secret)
with Queue.open(path, create=False) as queue:
    rules = LabelRules("UTC", 30, None)
    context = DeskContext(settings, queue, WarehouseSettings(), rules)
    with WebhookSender(context).running():
        print("running", flush=True)
        sys.stdin.read()
"""


def test_a_desk_killed_before_it_noted_a_delivery_sends_it_again_by_the_same_name(
    queue, receiver, tmp_path, clock
):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "queue.sqlite"), receiver.url, SECRET]
    child = subprocess.Popen(  # noqa: S603 - our own script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "running\n"

        def kill(handler):
            os.kill(child.pid, signal.SIGKILL)
            drop(handler)

        receiver.answers.append(kill)
        clock.ahead = timedelta()
        add_changes(queue, 3)
        receiver.wait_for(1)
        assert child.wait(10) == -signal.SIGKILL
        assert (list_webhooks(queue)[0].last_change, newest_change(queue)) == (0, 3)
    with WebhookSender(make_context(queue, receiver.url)).running():
        time.sleep(0.2)
        assert len(receiver.got) == 1, "the dead desk's lease holds"
        clock.ahead += LEASE
        receiver.wait_for(2)
        wait_until(lambda: list_webhooks(queue)[0].lag == 0)
    names = [headers["X-Nightwarden-Delivery"] for headers, _ in receiver.got]
    assert names == ["cases-1-3", "cases-1-3"]
    assert receiver.got[0][1] == receiver.got[1][1]


def test_stopping_does_not_wait_for_an_answer_and_gives_the_lease_back(queue, receiver):
    receiver.answers.append(hang)
    with WebhookSender(make_context(queue, receiver.url)).running():
        add_changes(queue, 1)
        receiver.wait_for(1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 0.4
    assert not [thread for thread in threading.enumerate() if thread.name == "webhooks"]
    assert lease_webhook(queue, "cases").attempts == 0


def test_without_webhooks_nothing_runs(queue):
    with WebhookSender(make_context(queue, "http://127.0.0.1:9", names=())).running():
        assert not [thread for thread in threading.enumerate() if thread.name == "webhooks"]
    assert list_webhooks(queue) == []
