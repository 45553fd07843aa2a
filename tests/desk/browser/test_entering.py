"""Signing in, being signed out by time, and working without JavaScript."""

import re

import pytest
from playwright.sync_api import expect

from tests.desk.conftest import PASSWORD, seed
from warehouse.analysts import add_analyst

pytestmark = pytest.mark.browser


@pytest.fixture
def ada(queue):
    add_analyst(queue, "ada", "analyst", PASSWORD, "test")


def fill_in(page, password=PASSWORD):
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.usefixtures("ada")
def test_sign_in_leads_to_the_page_that_was_asked_for(queue, new_page):
    (case_id,) = seed(queue, 1)
    page = new_page()
    page.goto(f"/cases/{case_id}")
    assert "/sign-in?next=" in page.url
    fill_in(page)
    expect(page).to_have_url(re.compile(rf"//[^/]+/cases/{case_id}$"))
    expect(page.locator("article[id^=alert-]")).to_have_count(2)
    page.get_by_role("button", name="Sign out").click()
    page.goto("/queue")
    expect(page.get_by_label("Password")).to_be_visible()


def test_sign_in_form_is_no_taller_than_it_needs_to_be(new_page):
    page = new_page()
    page.goto("/sign-in")
    assert page.get_by_role("button", name="Sign in").bounding_box()["height"] < 50


@pytest.mark.usefixtures("ada")
def test_wrong_password_is_told_and_lets_nobody_in(new_page):
    page = new_page()
    page.goto("/sign-in")
    fill_in(page, "correct horse cattery")
    expect(page.get_by_role("alert")).to_contain_text("do not fit")
    expect(page.get_by_label("Name")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_have_value("")
    page.goto("/queue")
    assert "/sign-in" in page.url


@pytest.mark.usefixtures("ada")
def test_session_that_ended_leads_to_sign_in_and_back(queue, clock, new_page):
    first, _ = seed(queue, 2)
    page = new_page()
    page.goto(f"/cases/{first}")
    fill_in(page)
    expect(page.locator("article[id^=alert-]")).to_have_count(2)
    clock.advance(minutes=31)
    page.keyboard.press("f")
    expect(page.get_by_label("Password")).to_be_visible()
    assert queue.last_decision() == 0
    fill_in(page)
    expect(page.locator("article[id^=alert-]")).to_have_count(2)
    assert page.url.endswith(f"/cases/{first}")
    page.keyboard.press("f")
    expect(page.locator("#messages")).to_contain_text("fraud")
    assert queue.last_decision() == 1


@pytest.mark.usefixtures("ada")
def test_without_javascript_everything_needed_works(queue, new_page):
    seed(queue, 1)
    (audit,) = seed(queue, 1, lane="audit")
    page = new_page(java_script_enabled=False)
    page.goto("/queue?lane=audit")
    fill_in(page)
    expect(page.locator("tr[data-case]")).to_have_count(1)
    page.locator(f"#case-{audit} a").first.click()
    expect(page.locator("article[id^=alert-]")).to_have_count(2)
    page.get_by_label("Note on alert").first.fill("seen without a script")
    page.get_by_role("button", name="Genuine (g)").first.click()
    expect(page.locator("#main")).to_be_visible()
    (decision,) = queue.case(audit).decisions
    assert (decision.verdict, decision.analyst) == ("genuine", "ada")
    page.goto("/statistics")
    assert page.locator("#total-alerts").inner_text() == "2"
