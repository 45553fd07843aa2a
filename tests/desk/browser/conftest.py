"""A desk that is really served, and browsers at it; each must stay without a complaint."""

from urllib.parse import urlsplit

import pytest

from desk.app import create_app
from tests.desk.browser.driving import Visits, open_browser
from tests.desk.conftest import NOON, begin_session


@pytest.fixture(scope="module")
def browser():
    """One browser for the tests of a file; not longer, as others of the process use asyncio."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def desk_settings():
    """Settings of the desk; a test may give its own by parametrising this."""
    return {}


@pytest.fixture
def url(serve, make_context, desk_settings):
    """The address of a desk over the test's queue."""
    with serve(create_app(make_context(**desk_settings))) as address:
        yield address


@pytest.fixture(autouse=True)
def visits(browser, url):
    """Contexts at the desk; afterwards none may have had an error, or asked another host."""
    opened = Visits(browser, url, now=NOON)
    yield opened
    opened.close()
    assert not opened.problems


@pytest.fixture
def new_page(visits):
    """Open a page in a browser of its own in which nobody is signed in."""

    def make(**options):
        return visits.new_context(**options).new_page()

    return make


@pytest.fixture
def sign_in_as(visits, queue):
    """Open a page of somebody who is signed in: ``sign_in_as("analyst", "Ada")``."""

    def make(role="analyst", name=None, **options):
        begun = begin_session(queue, name or role, role)
        context = visits.new_context(**options)
        host = urlsplit(visits.url).hostname
        context.add_cookies(
            [{"name": "nightwarden", "value": begun.token, "domain": host, "path": "/"}]
        )
        return context.new_page()

    return make
