"""Deciding with keys, taking back, and deciding many at once; checked in the database."""

from collections import Counter
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from tests.desk.conftest import DAY, new_alert, seed

pytestmark = pytest.mark.browser


def verdicts(queue, case_id):
    """Count the verdicts that stand on a case's alerts."""
    return Counter(alert.verdict for alert in queue.case(case_id).alerts)


def current_case(page):
    """Give the number of the case that keys act on."""
    row = page.locator("tr.is-current")
    expect(row).to_have_count(1)
    return int(row.get_attribute("data-case"))


def test_keys_decide_the_current_case_of_the_queue(queue, sign_in_as):
    seed(queue, 3)
    page = sign_in_as("analyst", "ada")
    page.goto("/queue")
    expect(page.locator("tr[data-case]")).to_have_count(3)
    order = [case.get_attribute("data-case") for case in page.locator("tr[data-case]").all()]
    while current_case(page) != int(order[1]):
        page.keyboard.press("j")
    page.keyboard.press("f")
    expect(page.locator(f"#case-{order[1]}")).to_have_count(0)
    assert verdicts(queue, int(order[1])) == {"fraud": 2}
    assert {said.analyst for said in queue.case(int(order[1])).decisions} == {"ada"}
    assert verdicts(queue, int(order[0])) == verdicts(queue, int(order[2])) == {None: 2}


def test_keys_decide_each_alert_of_a_case(queue, clock, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=3)
    page = sign_in_as("analyst", "ada")
    page.goto("/queue")
    current_case(page)
    page.keyboard.press("Enter")
    expect(page.locator("article[id^=alert-]")).to_have_count(3)
    page.keyboard.press("g")
    expect(page.locator("#messages")).to_contain_text("genuine")
    assert verdicts(queue, case_id) == {"genuine": 1, None: 2}
    clock.advance(seconds=20)
    page.keyboard.press("Shift+F")
    expect(page.locator("#messages")).to_contain_text("closed: fraud")
    assert verdicts(queue, case_id) == {"genuine": 1, "fraud": 2}
    assert queue.case(case_id).summary.state == "closed"


def test_no_key_acts_while_typing(queue, sign_in_as):
    (case_id,) = seed(queue, 1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    note = page.get_by_label("Note on alert").first
    note.fill("")
    note.press_sequentially("fugue with z")
    expect(note).to_have_value("fugue with z")
    assert verdicts(queue, case_id) == {None: 2}


def test_note_is_kept_with_the_verdict(queue, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    page.get_by_label("Note on alert").first.fill("the holder confirmed it")
    page.get_by_role("button", name="Genuine (g)").first.click()
    expect(page.locator("#messages")).to_contain_text("genuine")
    (decision,) = queue.case(case_id).decisions
    assert decision.note == "the holder confirmed it"


def test_undo_takes_the_last_verdict_back(queue, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1)
    page = sign_in_as("analyst")
    page.goto("/queue")
    current_case(page)
    page.keyboard.press("f")
    expect(page.locator("tr[data-case]")).to_have_count(0)
    page.keyboard.press("z")
    expect(page.locator(f"#case-{case_id}")).to_be_visible()
    assert verdicts(queue, case_id) == {None: 1}
    assert [said.is_retracted for said in queue.case(case_id).decisions] == [True]


def test_undo_is_refused_after_five_minutes(queue, clock, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    page.keyboard.press("f")
    expect(page.locator("#messages").get_by_role("button", name="Undo")).to_be_visible()
    clock.advance(minutes=6)
    page.keyboard.press("z")
    expect(page.locator("body")).to_contain_text("5 minutes")
    assert verdicts(queue, case_id) == {"fraud": 1}


def test_bulk_decision_asks_first(queue, sign_in_as):
    cases = seed(queue, 3)
    page = sign_in_as("analyst")
    page.goto("/queue")
    for case_id in cases[:2]:
        page.locator(f"#case-{case_id} input[type=checkbox]").check()
    page.locator("#bar").get_by_role("button", name="Genuine").click()
    dialog = page.locator("#confirm")
    expect(dialog).to_contain_text("4 alerts")
    assert queue.last_decision() == 0
    dialog.get_by_role("button", name="Genuine").click()
    expect(page.locator("tr[data-case]")).to_have_count(1)
    assert [dict(verdicts(queue, case_id)) for case_id in cases] == [
        {"genuine": 2},
        {"genuine": 2},
        {None: 2},
    ]


def join_case(queue, case_id, amount):
    """Let a later night add an alert to a case."""
    day = DAY + timedelta(days=1)
    account = queue.case(case_id).summary.account_id
    queue.enqueue(day, "nightly", [new_alert(1000, account=account, day=day, amount=amount)])


def test_key_decides_no_alert_that_joined_and_shows_what_waits_now(queue, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=20.0)
    page = sign_in_as("analyst")
    page.goto("/queue?rank=amount")
    current_case(page)
    join_case(queue, case_id, 900.0)
    page.keyboard.press("g")
    expect(page.locator("#messages")).to_contain_text("nothing was decided: now 2 alerts")
    expect(page.locator(f"#case-{case_id} .strong")).to_have_text("920.00")
    expect(page.locator("#messages")).to_contain_text("nothing was decided")
    assert verdicts(queue, case_id) == {None: 2}
    assert current_case(page) == case_id
    page.keyboard.press("g")
    expect(page.locator("tr[data-case]")).to_have_count(0)
    assert verdicts(queue, case_id) == {"genuine": 2}


def test_dialog_decides_no_alert_that_joined_while_it_was_open(queue, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=20.0)
    page = sign_in_as("analyst")
    page.goto("/queue")
    page.keyboard.press("x")
    page.keyboard.press("f")
    expect(page.locator("#confirm")).to_contain_text("1 alert in 1 case")
    join_case(queue, case_id, 900.0)
    page.locator("#confirm").get_by_role("button", name="Fraud").click()
    expect(page.locator("#main")).to_contain_text("Nothing was decided")
    expect(page.locator("#main")).to_contain_text("920.00")
    assert verdicts(queue, case_id) == {None: 2}
    page.get_by_role("button", name="decide 2 alerts").click()
    expect(page.locator("#messages")).to_contain_text("closed: fraud")
    assert verdicts(queue, case_id) == {"fraud": 2}


def test_verdict_changes_by_keys_only_once_that_is_opened(queue, clock, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1)
    queue.decide(queue.case(case_id).alerts[0].id, "fraud", "grace")
    clock.advance(minutes=6)
    page = sign_in_as("analyst", "ada")
    page.goto(f"/cases/{case_id}")
    page.keyboard.press("g")
    expect(page.get_by_role("button", name="Genuine (g)")).to_have_count(0)
    page.keyboard.press("v")
    expect(page.get_by_role("button", name="Genuine (g)")).to_be_visible()
    assert verdicts(queue, case_id) == {"fraud": 1}
    page.keyboard.press("g")
    expect(page.locator("#messages")).to_contain_text("closed: genuine")
    assert verdicts(queue, case_id) == {"genuine": 1}


@pytest.mark.parametrize("desk_settings", [{"second_above": 100.0}])
def test_keys_refuse_and_confirm_what_another_said(queue, sign_in_as):
    (case_id,) = seed(queue, 1, amount=900.0)
    first, second = sign_in_as("analyst", "ada"), sign_in_as("analyst", "grace")
    first.goto(f"/cases/{case_id}")
    first.keyboard.press("Shift+F")
    expect(first.locator("article.is-proposed")).to_have_count(2)
    first.keyboard.press("y")
    second.goto(f"/cases/{case_id}")
    second.keyboard.press("r")
    expect(second.locator("article.is-proposed")).to_have_count(1)
    expect(second.locator("article.is-current")).to_be_focused()  # the page has settled
    second.locator("article.is-proposed").click()
    second.keyboard.press("y")
    expect(second.locator("#messages")).to_contain_text("1 alert of case")
    assert verdicts(queue, case_id) == {"fraud": 1, None: 1}
    assert [said.analyst for said in queue.case(case_id).decisions] == ["grace"]


@pytest.mark.parametrize("desk_settings", [{"second_above": 100.0}])
def test_second_analyst_confirms_a_large_amount(queue, sign_in_as):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=900.0)
    first = sign_in_as("analyst", "ada")
    first.goto(f"/cases/{case_id}")
    first.keyboard.press("f")
    expect(first.locator("#messages")).to_contain_text("second analyst")
    assert verdicts(queue, case_id) == {None: 1}
    expect(first.get_by_role("button", name="Confirm")).to_have_count(0)
    second = sign_in_as("analyst", "grace")
    second.goto(f"/cases/{case_id}")
    expect(second.locator("#main")).to_contain_text("ada")
    second.get_by_role("button", name="Confirm").first.click()
    expect(second.locator("#messages")).to_contain_text("fraud")
    (decision,) = queue.case(case_id).decisions
    assert (decision.analyst, decision.proposed_by) == ("grace", "ada")
    assert queue.alerts_of_day(DAY)[0].verdict == "fraud"
