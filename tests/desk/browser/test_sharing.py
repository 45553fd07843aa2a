"""Two analysts at one queue: claims, next cases, and cases that sleep."""

import re
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from tests.desk.conftest import NOON, seed
from warehouse.queue_claims import claim_case, snooze_case

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("height", [400, 800])
def test_refusal_is_seen_without_scrolling(queue, sign_in_as, height):
    (case_id,) = seed(queue, 1)
    claim_case(queue, case_id, "ada", minutes=15)
    page = sign_in_as("analyst", "grace", viewport={"width": 640, "height": height})
    for address in (f"/cases/{case_id}", "/queue"):
        page.goto(address)
        page.keyboard.press("f")
        message = page.locator("#messages .error")
        expect(message).to_contain_text("claimed by ada")
        expect(message).to_be_in_viewport(ratio=1)


def test_claimed_case_cannot_be_decided_by_another(queue, sign_in_as):
    (case_id,) = seed(queue, 1)
    ada, grace = sign_in_as("analyst", "ada"), sign_in_as("analyst", "grace")
    for page in (ada, grace):
        page.goto(f"/cases/{case_id}")
    ada.keyboard.press("c")
    expect(ada.get_by_role("button", name="Release")).to_be_visible()
    grace.keyboard.press("f")  # her page is older than the claim
    expect(grace.locator("#messages")).to_contain_text("ada")
    assert queue.last_decision() == 0
    grace.reload()
    expect(grace.locator("#main")).to_contain_text("ada")
    grace.goto("/queue")
    expect(grace.locator(f"#case-{case_id}")).to_contain_text("ada")
    grace.keyboard.press("f")
    expect(grace.locator("#messages")).to_contain_text("ada")
    assert queue.last_decision() == 0
    ada.keyboard.press("f")
    expect(ada.locator("#messages")).to_contain_text("fraud")
    assert queue.last_decision() == 1


def test_claim_that_ran_out_holds_nobody_up(queue, clock, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1)
    ada, grace = sign_in_as("analyst", "ada"), sign_in_as("analyst", "grace")
    ada.goto(f"/cases/{case_id}")
    ada.keyboard.press("c")
    expect(ada.get_by_role("button", name="Release")).to_be_visible()
    clock.advance(minutes=16)
    grace.goto(f"/cases/{case_id}")
    grace.keyboard.press("g")
    expect(grace.locator("#messages")).to_contain_text("genuine")
    assert queue.case(case_id).decisions[0].analyst == "grace"


def test_next_gives_each_analyst_another_case(queue, sign_in_as):
    cases = seed(queue, 2)
    taken = []
    for name in ("ada", "grace"):
        page = sign_in_as("analyst", name)
        page.goto("/queue")
        page.keyboard.press("n")
        expect(page).to_have_url(re.compile(r"/cases/\d+"))
        taken.append(int(re.search(r"/cases/(\d+)", page.url)[1]))
    assert sorted(taken) == cases
    page = sign_in_as("analyst", "joan")
    page.goto("/queue")
    page.keyboard.press("n")
    expect(page.locator("#messages")).to_contain_text("Nothing is waiting")


def test_snoozed_case_sleeps_until_its_day(queue, clock, sign_in_as):
    (case_id,) = seed(queue, 1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    page.get_by_text("Put off").click()
    page.get_by_label("Snooze until").fill(str(NOON.date() + timedelta(days=2)))
    page.get_by_role("button", name="Snooze").click()
    expect(page.locator("#messages")).to_contain_text("Snoozed")
    page.goto("/queue")
    expect(page.locator("tr[data-case]")).to_have_count(0)
    page.goto("/queue?state=snoozed")
    expect(page.locator(f"#case-{case_id}")).to_be_visible()
    clock.advance(hours=35)
    page = sign_in_as("analyst")
    page.goto("/queue")
    expect(page.locator("tr[data-case]")).to_have_count(0)
    clock.advance(hours=1)
    page = sign_in_as("analyst")
    page.goto("/queue")
    expect(page.locator(f"#case-{case_id}")).to_be_visible()


def test_keys_claim_release_and_put_off(queue, sign_in_as):
    (case_id,) = seed(queue, 1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    page.keyboard.press("c")
    expect(page.get_by_role("button", name="Release")).to_be_visible()
    expect(page.locator("article.is-current")).to_be_focused()
    page.keyboard.press("c")
    expect(page.get_by_role("button", name="Claim")).to_be_visible()
    expect(page.locator("article.is-current")).to_be_focused()  # the page has settled
    page.keyboard.press("s")
    expect(page.get_by_label("Snooze until")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Snooze until")).not_to_be_visible()
    page.keyboard.press("s")
    page.keyboard.press("Enter")
    expect(page.locator("#messages")).to_contain_text("Snoozed")
    assert queue.case(case_id).summary.snoozed_until == NOON.date() + timedelta(days=1)


def test_snoozed_case_can_be_woken_up(queue, sign_in_as):
    (case_id,) = seed(queue, 1)
    snooze_case(queue, case_id, "ada", NOON.date() + timedelta(days=2))
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    expect(page.locator("#main")).to_contain_text("snoozed until 2026-03-23")
    page.get_by_text("Put off").click()
    page.get_by_role("button", name="Wake it up").click()
    expect(page.locator("#main")).not_to_contain_text("snoozed until")
    page.goto("/queue")
    expect(page.locator(f"#case-{case_id}")).to_be_visible()
