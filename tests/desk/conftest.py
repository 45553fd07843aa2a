"""A desk over a real queue in tmp_path, its clock settable, and browsers that are signed in."""

import threading
import time
import warnings
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import pytest
import uvicorn

from desk.app import create_app
from desk.context import DeskContext, LabelRules
from desk.settings import DeskSettings
from tests.alerts import Clock
from tests.alerts import new_alert as new_plain_alert
from warehouse.analysts import add_analyst, find_analyst
from warehouse.connection import WarehouseSettings
from warehouse.queue import Queue, Reason
from warehouse.sessions import SessionLimits, start_session

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette asks for httpx2, which is not needed otherwise
    from starlette.testclient import TestClient

DAY = date(2026, 3, 20)
NOON = datetime(2026, 3, 21, 12, tzinfo=UTC)
BASE = "http://localhost:8050"
DOMAIN = "localhost.local"  # what Python's cookie jars make of localhost
PAGE = {"Accept": "text/html"}
PASSWORD = "correct horse battery"  # noqa: S105 - of people who live as long as a test


@pytest.fixture
def clock():
    return Clock(NOON)


@pytest.fixture
def queue(tmp_path, clock):
    """An open, empty queue in an SQLite file."""
    with Queue.open(tmp_path / "queue.sqlite", create=True, clock=clock) as opened:
        yield opened


@pytest.fixture
def make_context(queue, tmp_path, clock):
    """Build a context with other settings of the desk: ``make_context(second_above=100)``."""

    def make(**settings):
        return DeskContext(
            settings=DeskSettings(**settings),
            queue=queue,
            warehouse=WarehouseSettings(path=tmp_path),
            labels=LabelRules(time_zone="UTC", maturity_days=30, delay_days=None),
            clock=clock,
        )

    return make


@pytest.fixture
def context(make_context):
    """The context with the settings that are there without any."""
    return make_context()


@pytest.fixture
def app(context):
    return create_app(context)


@pytest.fixture
def new_client(app):
    """Make a browser: ``new_client()``, of another application or address if given."""

    def make(app=app, address="192.0.2.10", base_url=BASE):
        return TestClient(app, base_url, client=(address, 50_000), follow_redirects=False)

    return make


@pytest.fixture
def client(new_client):
    """A browser that is not signed in; it follows no redirects by itself."""
    return new_client()


def begin_session(queue, name, role):
    """Add somebody, if there is nobody of that name, and begin a session of theirs."""
    if find_analyst(queue, name) is None:
        add_analyst(queue, name, role, None, "test")
    limits = SessionLimits(timedelta(minutes=30), timedelta(hours=12))
    return start_session(queue, find_analyst(queue, name), limits)


@pytest.fixture
def signed_in(queue, new_client):
    """Give a browser that is signed in: ``signed_in("analyst")``, ``signed_in("lead", "Ada")``.

    It sends the CSRF token with every request. Without a name, the role is the name.
    """

    def sign_in(role, name=None, **kinds):
        begun = begin_session(queue, name or role, role)
        browser = new_client(**kinds)
        browser.cookies.set("nightwarden", begun.token, domain=DOMAIN)
        browser.headers["X-CSRF-Token"] = begun.csrf_token
        return browser

    return sign_in


@pytest.fixture
def serve():
    """Answer over a socket of 127.0.0.1 for as long as a ``with`` block lasts; gives the address."""

    @contextmanager
    def run(app):
        config = uvicorn.Config(
            app, port=0, log_level="warning", proxy_headers=False, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server ended before it began"
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)

    return run


def new_alert(number, *, account="account-0", day=DAY, **changes):
    """Make a realistic alert; ``changes`` are fields of ``NewAlert``."""
    amount = changes.pop("amount", 40.0 + 17 * (number % 23))
    score = changes.pop("score", round(1.5 + (number * 7 % 40) / 10, 2))
    reasons = (
        Reason("amount", amount, 21.5, f"the amount {amount:.2f} is far above the usual 21.50"),
        Reason("is_new_merchant", 1.0, 0.0, "the account never bought at this merchant before"),
    )
    values = {
        "transaction_id": f"tx-{number}",
        "occurred_at": datetime(day.year, day.month, day.day, number % 24, 5, tzinfo=UTC),
        "merchant_id": f"merchant-{number % 7}",
        "members": {"gaussian": score, "vae": score / 2, "flow": score / 3},
        "reasons": reasons,
        "model_version": "3",
        "probability": min(score / 6, 0.95),
        "snapshot_id": 11,
    }
    return new_plain_alert(
        number, account=account, amount=amount, score=score, **(values | changes)
    )


def seed(queue, n_cases=3, *, alerts_each=2, lane="nightly", day=DAY, **changes):
    """Fill the queue as a night does, with the accounts' stories; give the cases' numbers.

    Case k is of ``account-k``; its alerts are ``tx-…``, numbered through all cases. ``changes``
    are fields that all its alerts have. Another lane or day counts on, so that ids never clash.
    """
    from warehouse.account_transactions import keep_transactions

    known = {case.account_id for state in ("open", "closed") for case in queue.cases(state=state)}
    first = len(queue.alerts_between(date(2000, 1, 1), date(2100, 1, 1)))
    alerts = [
        new_alert(
            first + case * alerts_each + place,
            account=f"account-{len(known) + case}",
            day=day,
            **changes,
        )
        for case in range(n_cases)
        for place in range(alerts_each)
    ]
    keep_transactions(queue, story(alerts, day))
    queue.enqueue(day, lane, alerts)
    added = {alert.transaction_id for alert in alerts}
    found = [alert for alert in queue.alerts_of_day(day) if alert.transaction_id in added]
    return sorted({alert.case_id for alert in found})


def story(alerts, day, *, days=20):
    """Give what the alerts' accounts did: small amounts by day at two merchants, and the alerts."""
    import polars as pl

    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    usual = [
        {
            "transaction_id": f"usual-{account}-{back}",
            "account_id": account,
            "event_date": (noon - timedelta(days=back)).date(),
            "occurred_at": noon - timedelta(days=back, hours=back % 5),
            "merchant_id": f"shop-{back % 2}",
            "amount": 15.0 + back,
        }
        for account in sorted({alert.account_id for alert in alerts})
        for back in range(1, days + 1)
    ]
    flagged = [
        {
            "transaction_id": alert.transaction_id,
            "account_id": alert.account_id,
            "event_date": day,
            "occurred_at": alert.occurred_at,
            "merchant_id": alert.merchant_id,
            "amount": alert.amount,
        }
        for alert in alerts
    ]
    return pl.DataFrame(usual + flagged)
