"""Analysts' work from several processes at once, and from processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
from sqlalchemy import func, select

from tests.alerts import DAY, new_alert
from warehouse.queue import Queue
from warehouse.queue_changes import read_changes
from warehouse.queue_tables import ALERTS, CASES, DECISIONS

PRELUDE = """
import sys
from warehouse.queue import Queue
from warehouse.queue_claims import next_case
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_search import CaseFilter

url, analyst, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
"""
TAKE = """
with Queue.open(url, create=False) as queue:
    while (number := next_case(queue, analyst, CaseFilter(), minutes=60)) is not None:
        print(number, flush=True)
"""
DECIDE = """
with Queue.open(url, create=False) as queue:
    for alert in range(first, last + 1):
        decide_alerts(queue, [Verdict(alert, "fraud")], analyst)
        print(alert, flush=True)
"""


def fill(url, alerts, *, per_account=1):
    with Queue.open(url, create=True) as queue:
        accounts = [f"a{n // per_account}" for n in range(alerts)]
        made = [new_alert(n, account=account) for n, account in enumerate(accounts)]
        queue.enqueue(DAY, "nightly", made)


def start_worker(program, url, analyst="ana", first=1, last=1):
    """Start a worker; it waits for a line before it begins."""
    arguments = [url, analyst, str(first), str(last)]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-c", PRELUDE + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def let_go(worker):
    assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    worker.stdin.write("\n")
    worker.stdin.flush()


def test_processes_that_take_the_next_case_get_each_once(queue_url):
    many = 300 if queue_url.startswith("sqlite") else 150
    fill(queue_url, many)
    workers = [start_worker(TAKE, queue_url, f"analyst {n}") for n in range(4)]
    for worker in workers:
        let_go(worker)
    taken = Counter()
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
        taken.update(map(int, out.split()))
    assert taken == Counter(range(1, many + 1))
    with Queue.open(queue_url, create=False) as queue:
        assert queue.verify_audit() is None


def check_figures(queue):
    """Each case's figures must be those of its alerts, and it is open while one waits."""
    is_decided = select(DECISIONS.c.id).where(DECISIONS.c.alert_id == ALERTS.c.id).exists()
    waiting = (
        select(ALERTS.c.case_id, func.count().label("waiting"))
        .where(~is_decided)
        .group_by(ALERTS.c.case_id)
    )
    with queue.database.read() as connection:
        counted = {row.case_id: row.waiting for row in connection.execute(waiting)}
        cases = connection.execute(select(CASES)).all()
    for case in cases:
        expected = counted.get(case.id, 0)
        assert case.waiting_count == expected
        assert case.state == ("open" if expected else "closed")


def check_trace(queue, acknowledged):
    """Each decision is there once, with its change and its event, the acknowledged among them."""
    with queue.database.read() as connection:
        decided = connection.scalars(select(DECISIONS.c.alert_id)).all()
        logged = read_changes(connection, after=0, limit=100_000)
    made = Counter(change.alert_id for change in logged if change.kind == "decision_made")
    assert Counter(decided) == made
    assert set(made.values()) <= {1}
    # The newest may have been written and not been told any more.
    assert set(acknowledged) <= set(decided)
    assert len(decided) <= len(acknowledged) + 1
    assert queue.verify_audit() is None
    return len(decided)


def decide_until_killed(url, first, last, stop_after):
    """Decide in a process and kill it at a moment after so many; give what it acknowledged."""
    worker = start_worker(DECIDE, url, "ana", first, last)
    let_go(worker)
    heard = [int(worker.stdout.readline()) for _ in range(stop_after)]
    pause = random.Random(first).uniform(0.0, 0.02)  # noqa: S311 - no secret
    killer = threading.Timer(pause, worker.send_signal, [signal.SIGKILL])
    killer.start()
    out, _error = worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    # A last line that was cut off was not acknowledged.
    whole = out[: out.rfind("\n") + 1]
    return heard + [int(line) for line in whole.split()]


@pytest.mark.slow
def test_kill_during_a_thousand_decisions_loses_none_acknowledged(queue_url):
    fill(queue_url, 1000, per_account=3)
    moments, done = random.Random(7), 0  # noqa: S311 - no secret
    for _ in range(6):
        stop_after = moments.randint(20, 130)
        heard = decide_until_killed(queue_url, done + 1, 1000, stop_after)
        assert heard == list(range(done + 1, done + 1 + len(heard)))
        with Queue.open(queue_url, create=False) as queue:
            decided = check_trace(queue, list(range(1, done + 1)) + heard)
            check_figures(queue)
        assert stop_after <= decided - done
        done = decided
    assert done < 1000
    worker = start_worker(DECIDE, queue_url, "ana", done + 1, 1000)
    let_go(worker)
    _out, error = worker.communicate(timeout=120)
    assert worker.returncode == 0, error
    with Queue.open(queue_url, create=False) as queue:
        assert check_trace(queue, range(1, 1001)) == 1000
        check_figures(queue)
