"""``nightwarden desk`` in a process of its own, on a project in which nothing has run yet."""

import subprocess
import sys
from contextlib import contextmanager

CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
[source.columns]
transaction_id = "id"
occurred_at = "time"
account_id = "account"
merchant_id = "shop"
amount = "amount"
"""


@contextmanager
def served(config, *words):
    """Run ``nightwarden desk`` in a process of its own; gives it and its address."""
    python = [sys.executable, "-c", "from flows.cli import main; main()"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*python, "desk", "--port", "0", "--config", config, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert " is at " in line, process.communicate(timeout=10)
        yield process, line.split(" is at ")[1].split(";")[0]
    finally:
        process.kill()
        process.communicate()
