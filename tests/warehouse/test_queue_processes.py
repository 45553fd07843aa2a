"""The queue under several processes at once, and under processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta

import pytest

from warehouse.queue import Queue

FIRST_DAY = date(2026, 1, 1)

WORKER = """
import sys
from datetime import UTC, date, datetime, timedelta
from warehouse.queue import NewAlert, Queue, Reason

url, days, per_day = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def alert(day, number):
    return NewAlert(
        transaction_id=f"{day}-{number}", occurred_at=datetime(2026, 1, 1 + day, tzinfo=UTC),
        account_id=f"a{(day * 7 + number) % 60}", merchant_id="m",
        amount=1.0 + number, score=float(number),
        rank_of_day=number + 1, members={"vae": 1.0}, reasons=[Reason("amount", 1.0, 2.0, "why")],
        model_version="1",
    )

print("ready", flush=True)
sys.stdin.readline()
with Queue.open(url, create=True) as queue:
    for day in range(days):
        alerts = [alert(day, number) for number in range(per_day)]
        queue.enqueue(date(2026, 1, 1) + timedelta(day), "nightly", alerts)
        print(day, flush=True)
"""


def start_worker(url, days, per_day):
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-c", WORKER, url, str(days), str(per_day)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def let_go(worker):
    """Let a worker that has imported everything begin."""
    assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    worker.stdin.write("\n")
    worker.stdin.flush()


def finish(worker):
    _out, error = worker.communicate(timeout=120)
    assert worker.returncode == 0, error


def contents(queue, days):
    """What the queue says, but for its own numbers and moments, which differ between runs."""
    return [
        (a.transaction_id, a.event_date, a.account_id, a.lane, a.score, a.reasons, a.case_id)
        for day in range(days)
        for a in queue.alerts_of_day(FIRST_DAY + timedelta(day))
    ]


def without_case(rows):
    return [row[:-1] for row in rows]


def grouping(rows):
    """Which transactions share a case."""
    groups = {}
    for row in rows:
        groups.setdefault(row[-1], set()).add(row[0])
    return sorted(map(sorted, groups.values()))


def test_four_processes_with_the_same_alerts_add_each_once(queue_url):
    days, per_day = 5, 80
    workers = [start_worker(queue_url, days, per_day) for _ in range(4)]
    for worker in workers:
        let_go(worker)
    for worker in workers:
        finish(worker)
    with Queue.open(queue_url, create=False) as queue:
        rows = contents(queue, days)
        assert len({row[0] for row in rows}) == len(rows) == days * per_day
        owners = Counter(case.account_id for case in queue.cases(limit=1000))
        assert owners == Counter({f"a{n}": 1 for n in range(60)})
        assert queue.verify_audit() is None


@pytest.mark.slow
def test_killed_enqueues_leave_whole_days_and_a_rerun_completes(queue_url, tmp_path):
    days, per_day, delays = 20, 100, random.Random(5)  # noqa: S311 - no secret
    for _ in range(6):
        worker = start_worker(queue_url, days, per_day)
        let_go(worker)
        time.sleep(delays.uniform(0.02, 0.5))
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
        with Queue.open(queue_url, create=True) as queue:
            sizes = [len(queue.alerts_of_day(FIRST_DAY + timedelta(n))) for n in range(days)]
            assert set(sizes) <= {0, per_day}
            assert queue.verify_audit() is None
    worker = start_worker(queue_url, days, per_day)
    let_go(worker)
    finish(worker)
    undisturbed = start_worker(f"sqlite:///{tmp_path / 'undisturbed.sqlite'}", days, per_day)
    let_go(undisturbed)
    finish(undisturbed)
    with (
        Queue.open(queue_url, create=False) as queue,
        Queue.open(tmp_path / "undisturbed.sqlite", create=False) as other,
    ):
        rows, expected = contents(queue, days), contents(other, days)
        assert without_case(rows) == without_case(expected)
        assert grouping(rows) == grouping(expected)
        assert queue.counts() == other.counts()
        assert queue.verify_audit() is None
