"""Takes the pictures of a night in Prefect's pages that docs/operations.md shows.

    python -m tests.flows.take_screenshots

Makes a small project of simulated days up to yesterday, starts ``nightwarden up`` on it with a
schedule of every minute, waits for a night, and looks at its pages with Chromium. Some minutes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from playwright.sync_api import Page

from tasks.simulate import simulate_transactions, write_days
from tests.desk.browser.driving import open_browser
from tests.flows.conftest import CONFIG

FOLDER = Path(__file__).parents[2] / "docs" / "images"
SIZE = {"width": 1280, "height": 800}
HISTORY = 48
NIGHTWARDEN = [sys.executable, "-c", "from flows.cli import main; main()"]
SECONDS = 300.0


def make_project(folder: Path) -> Path:
    """Simulate days up to yesterday, land them, train, and run a night three days ago."""
    today = datetime.now(UTC).date()
    start = today - timedelta(days=HISTORY)
    frame = simulate_transactions(start=start, days=HISTORY, accounts=80, merchants=40, seed=7)
    write_days(frame, folder / "in", format="csv")
    config = folder / "nightwarden.toml"
    config.write_text(CONFIG.replace('["gaussian"]', '["gaussian", "tails", "autoencoder"]'))
    key = folder / "nightwarden.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    first = today - timedelta(days=3)
    for words in (
        f"ingest --from {start} --to {first - timedelta(days=1)}",
        f"train --as-of {first}",
        f"nightly --date {first}",
    ):
        command = [*NIGHTWARDEN, *words.split(), "--config", str(config)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 (our own)
    return config


def wait_for_runs(api: str) -> dict[str, str]:
    """Wait until a scheduled run has caught up; gives the runs' ids by name."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        answer = httpx.post(f"{api}/flow_runs/filter", json=wanted, timeout=30).json()
        found = {run["name"]: run["id"] for run in answer}
        if any(name.startswith("nightly up to") for name in found):
            return found
        time.sleep(2)
    message = "no night was done"
    raise TimeoutError(message)


def take(page: Page, address: str, name: str, *words: str) -> None:
    """Take a picture of a page once it shows some words."""
    page.goto(address)
    for word in words:
        page.get_by_text(re.compile(word)).first.wait_for(timeout=30_000)
    page.wait_for_timeout(2_000)  # charts are drawn after their data came
    page.screenshot(path=FOLDER / f"{name}.png")


def visit(pages: str, runs: dict[str, str]) -> None:
    """Look at a night's run, its rows, and the deployments."""
    api = f"{pages}/api"
    newest = max(name for name in runs if re.fullmatch(r"nightly 20[\d-]+", name))
    whole = next(name for name in runs if name.startswith("nightly up to"))
    wanted = {"artifacts": {"flow_run_id": {"any_": [runs[newest]]}, "key": {"any_": ["night"]}}}
    artifact = httpx.post(f"{api}/artifacts/filter", json=wanted, timeout=30).json()[0]["id"]
    with open_browser() as browser:
        page = browser.new_context(viewport=SIZE).new_page()
        take(page, f"{pages}/runs/flow-run/{runs[whole]}", "prefect-catch-up", "nightly up to")
        take(page, f"{pages}/runs/flow-run/{runs[newest]}", "prefect-night", "enqueue")
        take(page, f"{pages}/artifacts/artifact/{artifact}", "prefect-night-page", "scored with")
        take(page, f"{pages}/deployments", "prefect-deployments", "maintain", "train")


def main() -> None:
    """Make the project, serve it, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_project(Path(folder))
        ours = ("PREFECT", "NIGHTWARDEN")
        clean = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
        ports = ["--prefect-port", "4217", "--mlflow-port", "0", "--desk-port", "0"]
        up = subprocess.Popen(  # noqa: S603 (our own command)
            [*NIGHTWARDEN, "up", "--config", str(config), *ports, "--cron", "* * * * *"],
            env=clean,
            start_new_session=True,
        )
        try:
            pages = "http://127.0.0.1:4217"
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                try:
                    visit(pages, wait_for_runs(f"{pages}/api"))
                    break
                except (httpx.TransportError, json.JSONDecodeError):
                    time.sleep(2)
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)


if __name__ == "__main__":
    main()
