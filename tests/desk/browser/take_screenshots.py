"""Takes the pictures of docs/desk.md anew: ``python -m tests.desk.browser.take_screenshots``.

The desk is a real one, over a month of invented alerts that are the same each time.
"""

import hashlib
import random
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import uvicorn

from desk.app import create_app
from desk.context import DeskContext, LabelRules
from desk.settings import DeskSettings
from flows.desk_server import build_config, listen
from tests.alerts import Clock
from tests.desk.browser.driving import Visits, open_browser
from tests.desk.conftest import NOON, begin_session
from warehouse.account_transactions import keep_transactions
from warehouse.connection import WarehouseSettings
from warehouse.queue import NewAlert, Queue, Reason
from warehouse.queue_claims import claim_case
from warehouse.queue_decisions import Verdict, decide_alerts

FOLDER = Path("docs/images")
MORNING = datetime(2026, 3, 21, 9, 20, tzinfo=UTC)
NIGHTS = 30
SHOPS = ("grocery", "fuel", "restaurant", "clothing", "pharmacy")
RARE_SHOPS = ("electronics", "jewellery", "gift-cards", "travel")
SIZE = {"width": 1280, "height": 860}


def invent_account(random_, number):
    """Give an account's pseudonym and its usual amount."""
    return hashlib.sha256(f"account {number}".encode()).hexdigest(), random_.uniform(12, 60)


def invent_story(random_, account, usual, until):
    """Give what an account did in two months: small amounts by day."""
    rows = []
    for number in range(random_.randint(25, 60)):
        moment = until - timedelta(days=random_.uniform(0.5, 58))
        moment = moment.replace(hour=min(max(int(random_.gauss(14, 3)), 6), 22))
        rows.append(
            {
                "transaction_id": f"{account[:12]}-{number}",
                "account_id": account,
                "event_date": moment.date(),
                "occurred_at": moment,
                "merchant_id": f"{random_.choice(SHOPS)}-{random_.randint(1, 9)}",
                "amount": round(usual * random_.lognormvariate(0, 0.45), 2),
            }
        )
    return rows


def invent_alert(random_, account, usual, day, rank):
    """Give a flagged transaction: a large amount at an unusual merchant, perhaps at night."""
    times = random_.uniform(4, 22)
    amount, score = round(usual * times, 2), round(0.4 + times / 5 + random_.uniform(0, 0.8), 2)
    hour = random_.choice((1, 2, 3, 4, 15, 23))
    merchant = f"{random_.choice(RARE_SHOPS)}-{random_.randint(1, 40)}"
    texts = [
        ("amount", f"the amount {amount:.2f} is far above the usual {usual:.2f}"),
        ("is_new_merchant", "the account never bought at this merchant before"),
        ("account_count_1h", f"{random_.randint(3, 9)} transactions within the hour, usually 1"),
    ]
    if hour < 5:
        texts.insert(1, ("hour", f"{hour:02d} h is far from the account's usual hours"))
    reasons = [Reason(name, 1.0, 0.0, text) for name, text in texts[: random_.randint(2, 4)]]
    return NewAlert(
        transaction_id=hashlib.sha256(f"{account}{day}{rank}".encode()).hexdigest()[:24],
        occurred_at=datetime(
            day.year, day.month, day.day, hour, random_.randint(0, 59), tzinfo=UTC
        ),
        account_id=account,
        merchant_id=merchant,
        amount=amount,
        score=score,
        rank_of_day=rank,
        members={
            name: round(score * random_.uniform(0.4, 1), 2)
            for name in ("autoencoder", "flow", "gaussian", "tails", "transformer", "vae")
        },
        reasons=reasons,
        model_version="12",
        probability=round(min(0.95, score / 7), 3),
        snapshot_id=417,
    )


def fill(queue, clock):
    """Let a month of nights queue alerts, and two analysts decide most of them."""
    random_ = random.Random(5)  # noqa: S311 (pictures are no secret)
    for back in range(NIGHTS, 0, -1):
        day = MORNING.date() - timedelta(days=back)
        clock.now = datetime(day.year, day.month, day.day, 2, tzinfo=UTC) + timedelta(days=1)
        enqueue_night(queue, random_, day, first=1000 * back)
        clock.advance(hours=6)
        if back > 1:
            decide_day(queue, clock, random_, day)
    clock.now = MORNING


def enqueue_night(queue, random_, day, first):
    """Queue a day's alerts, some of them of one account, and the audit sample."""
    alerts, audit, story = [], [], []
    for number in range(random_.randint(9, 14)):
        account, usual = invent_account(random_, first + number)
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        story += invent_story(random_, account, usual, noon)
        for _ in range(random_.choice((1, 1, 2, 3))):
            alerts.append(invent_alert(random_, account, usual, day, len(alerts) + 1))
    account, usual = invent_account(random_, first + 999)
    audit.append(invent_alert(random_, account, usual / 6, day, 400))
    flagged = [
        {name: getattr(alert, name) for name in story[0] if name != "event_date"}
        | {"event_date": day}
        for alert in alerts
    ]
    keep_transactions(queue, pl.DataFrame(story + flagged).select(list(story[0])))
    queue.enqueue(day, "nightly", alerts)
    queue.enqueue(day, "audit", audit)


def decide_day(queue, clock, random_, day):
    """Decide nearly all of a day: the higher the score, the likelier it is fraud."""
    for alert in queue.alerts_of_day(day):
        if random_.random() < 0.04:
            continue
        clock.advance(seconds=random_.randint(20, 120))
        is_fraud = random_.random() < alert.score / 9 and alert.lane == "nightly"
        verdict = "unsure" if random_.random() < 0.06 else "fraud" if is_fraud else "genuine"
        name = random_.choice(("ada", "ada", "grace"))
        decide_alerts(queue, [Verdict(alert.id, verdict)], name)


def take(page, address, name, clip=None):
    """Write the picture of a page."""
    page.goto(address)
    page.locator("#main").wait_for()
    page.screenshot(path=FOLDER / f"{name}.png", clip=clip)


def visit(url, queue):
    """Take all pictures at a desk."""
    cases = queue.cases(limit=500)
    claim_case(queue, cases[3].id, "grace", minutes=15)
    shown = max(cases, key=lambda case: (case.alert_count, case.score))
    begun = begin_session(queue, "ada", "analyst")
    cookie = {"name": "nightwarden", "value": begun.token, "url": url}
    with open_browser() as browser:
        visits = Visits(browser, url, now=MORNING)
        for scheme, end in (("light", ""), ("dark", "-dark")):
            context = visits.new_context(color_scheme=scheme, viewport=SIZE)
            context.add_cookies([cookie])
            page = context.new_page()
            take(page, "/queue", f"desk-queue{end}")
            if scheme == "light":
                take(page, f"/cases/{shown.id}", "desk-case")
                take(page, "/statistics", "desk-statistics")
        visits.close()
        if visits.problems:
            raise SystemExit("\n".join(visits.problems))


def main():
    """Serve a desk over an invented queue, and take the pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    clock = Clock(NOON)
    with (
        tempfile.TemporaryDirectory() as folder,
        Queue.open(Path(folder) / "queue.sqlite", create=True, clock=clock) as queue,
        listen("127.0.0.1", 0) as listener,
    ):
        fill(queue, clock)
        warehouse = WarehouseSettings(path=Path(folder))
        labels = LabelRules(time_zone="UTC", maturity_days=30, delay_days=None)
        context = DeskContext(DeskSettings(), queue, warehouse, labels, clock)
        server = uvicorn.Server(build_config(create_app(context), context.settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        visit(f"http://127.0.0.1:{listener.getsockname()[1]}", queue)
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
