"""The desk over HTTP as many use it at once: killed again and again, and asked for the next case."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import select

from flows.settings import Settings
from tests.desk.conftest import DAY, new_alert
from tests.desk_process import CONFIG, served
from warehouse.analysts import add_analyst
from warehouse.api_tokens import add_token
from warehouse.queue import Queue
from warehouse.queue_changes import read_changes
from warehouse.queue_tables import CASES, DECISIONS

CLIENTS, CALLERS = 6, 20
MANY, KILLS = 1000, 4
PATIENCE = 60.0


@pytest.fixture
def config(tmp_path):
    """The settings of a project in which nothing has run yet."""
    file = tmp_path / "nightwarden.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def open_queue(config):
    """Open the queue that the desk serves, as another process."""
    return lambda: Queue.open(Settings.read(config).warehouse.queue_path, create=True)


def fill(queue, alerts, *, each, analysts):
    """Put so many alerts into cases of so many each; give a token for each analyst."""
    queue.enqueue(
        DAY, "nightly", [new_alert(n, account=f"account-{n // each}") for n in range(alerts)]
    )
    tokens = []
    for number in range(analysts):
        name = f"analyst-{number}"
        add_analyst(queue, name, "analyst", None, "test")
        tokens.append(add_token(queue, name, name, ["decide"], days=None, actor="test"))
    return tokens


@dataclass
class Work:
    """What clients share: where the desk is now, what is still to be sent, what was answered.

    ``acknowledged`` has the decision's number by alert, as the desk said it; ``found`` the alerts
    that had been decided by a request without an answer.
    """

    waiting: list[int]
    address: str = ""
    acknowledged: dict[int, int] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self):
        """Give the next alert, or None."""
        with self.lock:
            return self.waiting.pop() if self.waiting else None

    def done(self):
        """Tell how many alerts a client knows to be decided."""
        return len(self.acknowledged) + len(self.found)


def decide_all(work, token):
    """Decide alert after alert; what got no answer is sent again until it has one."""
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as client:
        while (alert := work.take()) is not None:
            send_until_answered(client, work, alert)


def send_until_answered(client, work, alert):
    body = {"verdicts": [{"alert_id": alert, "verdict": "fraud"}]}
    was_unanswered, give_up = False, time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            answer = client.post(f"{work.address}/api/v1/decisions", json=body)
        except httpx.TransportError:
            was_unanswered = True
            with work.lock:
                work.unanswered += 1
            time.sleep(0.05)
            continue
        if answer.status_code == 201:
            (work.acknowledged[alert],) = answer.json()["decided"]
        else:
            assert (answer.status_code, was_unanswered) == (409, True), answer.text
            work.found.add(alert)
        return
    raise TimeoutError(f"alert {alert}: the desk gave no answer")


def serve_until(config, work, count):
    """Serve until so many decisions are known, then kill the desk with requests under way."""
    with served(config) as (process, address):
        work.address = address
        give_up = time.monotonic() + PATIENCE
        while work.done() < count:
            assert process.poll() is None, "the desk ended by itself"
            assert time.monotonic() < give_up, f"{work.done()} of {count} decisions"
            time.sleep(0.002)


@pytest.mark.slow
def test_kill_during_a_thousand_decisions_over_http_loses_none_acknowledged(config, open_queue):
    with open_queue() as queue:
        tokens = fill(queue, MANY, each=3, analysts=CLIENTS)
    moments = random.Random(11)  # noqa: S311 - no secret
    work = Work(list(range(1, MANY + 1)))
    kills = sorted(moments.sample(range(50, MANY - 50), KILLS))
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(decide_all, work, token) for token in tokens]
        for count in (*kills, MANY):
            serve_until(config, work, count)
        for client in clients:
            client.result(timeout=PATIENCE)
    assert work.unanswered >= KILLS, "no request was under way when the desk was killed"
    with open_queue() as queue:
        check_record(queue, work)


def check_record(queue, work):
    """Each decision is there once, as it was acknowledged, with its change; the trail is whole."""
    with queue.database.read() as connection:
        rows = connection.execute(select(DECISIONS.c.alert_id, DECISIONS.c.id)).all()
        logged = read_changes(connection, after=0, limit=100_000)
    recorded = {row.alert_id: row.id for row in rows}
    assert len(rows) == len(recorded) == MANY
    assert work.acknowledged.items() <= recorded.items()
    assert work.acknowledged.keys() | work.found == recorded.keys()
    made = Counter(change.alert_id for change in logged if change.kind == "decision_made")
    assert made == Counter(recorded.keys())
    assert queue.verify_audit() is None
    assert queue.cases(state="open") == []


def take_all(address, token, together):
    """Ask for the next case until there is none, or too many came; give the cases' numbers."""
    taken = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as client:
        together.wait(PATIENCE)
        while (answer := client.post(f"{address}/api/v1/cases/next")).status_code == 200:
            taken.append(answer.json()["summary"]["id"])
            assert len(taken) <= MANY, "cases were given again and again"
    assert answer.status_code == 204, answer.text
    return taken


@pytest.mark.slow
def test_twenty_callers_over_http_are_given_each_of_a_thousand_cases_once(config, open_queue):
    with open_queue() as queue:
        tokens = fill(queue, MANY, each=1, analysts=CALLERS)
    together = threading.Barrier(CALLERS)
    with served(config) as (_, address), ThreadPoolExecutor(CALLERS) as pool:
        asked = [pool.submit(take_all, address, token, together) for token in tokens]
        taken = [caller.result() for caller in asked]
    assert Counter(number for each in taken for number in each) == Counter(range(1, MANY + 1))
    assert all(taken), "a caller was given none"
    with open_queue() as queue:
        with queue.database.read() as connection:
            rows = connection.execute(select(CASES.c.id, CASES.c.claimed_by)).all()
        said = {(n, f"analyst-{k}") for k, numbers in enumerate(taken) for n in numbers}
        assert set(map(tuple, rows)) == said
        assert queue.verify_audit() is None
