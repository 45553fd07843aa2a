"""Drives a real Chromium, and notes whatever a page does that it must not do."""

import re
import shutil
from contextlib import contextmanager

from playwright.sync_api import Error, sync_playwright

from tests.services import skip_or_fail

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE = {"width": 1280, "height": 800}
PATIENCE = 5_000  # milliseconds that a page may take to show what a test waits for

# Refused requests are the test's matter, and a search that is typed on takes the last one's place.
EXPECTED = re.compile(
    r"responded with a status of 4\d\d|Response Status Error Code 4\d\d"
    r"|^htmx:(afterRequest|sendAbort|abort),"
)

TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`));
"""


@contextmanager
def open_browser():
    """Open the system's Chromium; without one, or where it cannot start, skip.

    While it is open this thread counts as running an event loop, so asyncio's and Prefect's own
    calls would fail in it.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        skip_or_fail(f"browser tests need Chromium; none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            skip_or_fail(f"Chromium does not start here: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


class Visits:
    """Contexts of a browser, which are like separate browsers, at one desk."""

    def __init__(self, browser, url, *, now=None):
        """Begin without a context; ``now`` is what browsers take for the present moment."""
        self.browser = browser
        self.url = url
        self.now = now
        self.problems = []
        self._contexts = []

    def new_context(self, **options):
        """Open a context, of which everything that goes wrong is noted."""
        options = {"base_url": self.url, "viewport": SIZE} | options
        context = self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        if self.now is not None:
            context.clock.set_fixed_time(self.now)
        context.add_init_script(TELL_VIOLATIONS)
        context.on("console", self._note_message)
        context.on("weberror", lambda error: self.problems.append(f"error: {error.error}"))
        context.on("request", self._note_request)
        context.on("response", self._note_response)
        self._contexts.append(context)
        return context

    def close(self):
        """Close all contexts."""
        for context in self._contexts:
            context.close()

    def _note_message(self, message):
        if message.type == "error" and not EXPECTED.search(message.text):
            self.problems.append(f"console: {message.text}")

    def _note_request(self, request):
        if not request.url.startswith(self.url + "/"):
            self.problems.append(f"asked elsewhere: {request.url}")

    def _note_response(self, response):
        if response.status >= 500:
            self.problems.append(f"status {response.status}: {response.url}")
