"""Finding cases by filters, tabs and search, and reading the statistics."""

from datetime import timedelta

import pytest
from playwright.sync_api import expect

from tests.desk.conftest import DAY, seed

pytestmark = pytest.mark.browser


@pytest.fixture
def page(queue, sign_in_as):
    """The queue's page over two lanes and two days."""
    seed(queue, 3)
    seed(queue, 2, lane="audit", day=DAY - timedelta(days=1), merchant_id="corner-shop")
    opened = sign_in_as("viewer")
    opened.goto("/queue")
    return opened


def rows(page):
    return page.locator("tr[data-case]")


def test_filters_are_kept_in_the_address_and_can_be_taken_away(page):
    expect(rows(page)).to_have_count(5)
    page.locator("select[name=lane]").select_option("audit")
    expect(rows(page)).to_have_count(2)
    assert "lane=audit" in page.url
    page.reload()
    expect(rows(page)).to_have_count(2)
    page.get_by_role("link", name="remove this filter").first.click()
    expect(rows(page)).to_have_count(5)
    page.go_back()
    expect(rows(page)).to_have_count(2)


def test_search_finds_merchants_and_accounts(page):
    field = page.locator("input[name=text]")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    field.press_sequentially("corner")
    field.press("Enter")
    expect(rows(page)).to_have_count(2)
    assert "text=corner" in page.url
    field.fill("account-1")
    field.press("Enter")
    expect(rows(page)).to_have_count(1)
    field.fill("nobody-knows-it")
    field.press("Enter")
    expect(rows(page)).to_have_count(0)
    expect(page.locator(".empty").first).to_be_visible()


def test_viewer_sees_no_button_that_decides(page):
    page.keyboard.press("f")
    page.locator("tr[data-case] a").first.click()
    expect(page.locator("article[id^=alert-]")).to_have_count(2)
    expect(page.get_by_role("button", name="Fraud (f)")).to_have_count(0)
    page.keyboard.press("f")
    expect(page.locator("article[id^=alert-]")).to_have_count(2)


def test_statistics_show_what_was_decided(queue, page):
    first, second, *_ = queue.alerts_of_day(DAY)
    queue.decide(first.id, "fraud", "ada")
    queue.decide(second.id, "genuine", "ada")
    page.get_by_role("link", name="Statistics").click()
    expect(page.locator("#total-alerts")).to_have_text("6")
    expect(page.locator("#total-decided")).to_have_text("2")
    expect(page.locator("#total-precision")).to_have_text("50 %")
    expect(page.locator("#analysts")).to_contain_text("ada")
    expect(page.locator("#audit")).to_contain_text("4 alerts")
    page.locator("#precision-by-day summary").click()
    expect(page.locator("#precision-by-day table")).to_contain_text("20 Mar")
    page.get_by_label("From").fill(str(DAY + timedelta(days=1)))
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#total-alerts")).to_have_text("0")
    expect(page.locator("#main")).to_contain_text("There are no alerts in these days")
