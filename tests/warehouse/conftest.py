"""Queues for tests, with a clock to move: in a file in tmp_path, and in a throw-away PostgreSQL."""

import pytest

from tests.alerts import Clock
from warehouse.queue import Queue


@pytest.fixture(scope="session")
def postgres_url(postgresql):
    """The URL of a PostgreSQL server's own database."""
    return postgresql.socket_url.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgresql"])
def queue_url(request, tmp_path):
    """The URL of an empty database of each kind; a queue has yet to be made in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.sqlite'}"
    return request.getfixturevalue("postgresql").new_database("queue")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(queue_url, clock):
    """An open, empty queue in a database of each kind."""
    with Queue.open(queue_url, create=True, clock=clock) as opened:
        yield opened
