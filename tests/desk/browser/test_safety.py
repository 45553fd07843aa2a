"""What is written by others stays text; pages keep their policy, and can be used by everybody."""

import re
from datetime import timedelta
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import expect

from tests.desk.conftest import DAY, NOON, PASSWORD, seed
from warehouse.analysts import add_analyst
from warehouse.suppressions import suppress

pytestmark = pytest.mark.browser

EVIL = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">',
    "\"><svg onload='window.hacked = 1'>",
    "{{ 7 * 7 }}${7*7}<b>bold</b>",
    "javascript:window.hacked=1",
)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SERIOUS = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  if (!found.passes.length) return ["nothing was looked at"];
  return found.violations
    .filter((each) => ["serious", "critical"].includes(each.impact))
    .map((each) => `${each.id}: ${each.help}: ${each.nodes.map((n) => n.html).slice(0, 3)}`);
}"""


@pytest.fixture
def pages(queue):
    """The addresses of all pages over a queue with something of everything."""
    cases = seed(queue, 4)
    seed(queue, 1, lane="audit")
    queue.decide(queue.case(cases[0]).alerts[0].id, "fraud", "ada", "known pattern")
    suppress(queue, "merchant", "merchant-6", NOON.date() + timedelta(days=9), "a test", "ada")
    return {
        "queue": "/queue",
        "closed": "/queue?state=closed",
        "nothing": "/queue?text=nobody-knows-it",
        "case": f"/cases/{cases[0]}",
        "statistics": "/statistics",
        "suppressions": "/suppressions",
        "missing": "/cases/999999",
    }


def test_texts_of_others_are_shown_as_text(queue, sign_in_as):
    for number, text in enumerate(EVIL):
        seed(queue, 1, merchant_id=text, account_id=f"{number}{text}", model_version=text)
    evil = queue.alerts_of_day(DAY)
    for alert in evil[:-2]:
        queue.decide(alert.id, "fraud", EVIL[0], EVIL[1])
    suppress(queue, "merchant", EVIL[1], NOON.date() + timedelta(days=9), EVIL[0], "ada")
    page = sign_in_as("lead")
    addresses = ["/queue?state=all", "/statistics", "/suppressions"]
    addresses += [f"/cases/{case_id}" for case_id in {alert.case_id for alert in evil}]
    addresses += [
        f"/queue?text={EVIL[0]}",
        f"/statistics?from={EVIL[0]}",
        f"/queue?rank={EVIL[0]}",
    ]
    for address in addresses:
        page.goto(address)
        expect(page.locator("#main")).to_be_visible()
        assert page.evaluate("window.hacked") is None, address
        assert page.locator("#main script, #main b, #main img").count() == 0, address
        assert "49" not in page.locator("h1").all_inner_texts(), address
    page.goto("/suppressions")
    expect(page.locator("#main")).to_contain_text(EVIL[0])


def test_a_note_typed_in_the_page_is_shown_as_text(queue, sign_in_as):
    (case_id,) = seed(queue, 1)
    page = sign_in_as("analyst")
    page.goto(f"/cases/{case_id}")
    page.get_by_label("Note on alert").first.fill(EVIL[0])
    page.get_by_role("button", name="Unsure (u)").first.click()
    expect(page.locator("#messages")).to_contain_text("unsure")
    page.reload()
    expect(page.locator("#main")).to_contain_text(EVIL[0])
    assert page.evaluate("window.hacked") is None


def find_serious(page):
    page.evaluate(AXE)
    return page.evaluate(SERIOUS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_obstacles(pages, new_page, sign_in_as, scheme):
    page = new_page(color_scheme=scheme)
    page.goto("/sign-in")
    found = {"sign-in": find_serious(page)}
    page = sign_in_as("lead", color_scheme=scheme)
    for name, address in pages.items():
        page.goto(address)
        found[name] = find_serious(page)
    page.goto("/queue")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    found["help"] = find_serious(page)
    page.keyboard.press("Escape")
    expect(page.locator("#help")).not_to_be_visible()
    assert {name: serious for name, serious in found.items() if serious} == {}


@pytest.mark.parametrize(
    ("size", "what"),
    [((640, 400), "a laptop at 200 %"), ((768, 1024), "a tablet")],
)
def test_pages_need_no_sideways_scrolling(pages, new_page, sign_in_as, size, what):
    viewport = dict(zip(("width", "height"), size, strict=True))
    page = new_page(viewport=viewport)
    page.goto("/sign-in")
    widths = {"sign-in": overhang(page)}
    page = sign_in_as("lead", viewport=viewport)
    for name, address in pages.items():
        page.goto(address)
        widths[name] = overhang(page)
    assert {name: width for name, width in widths.items() if width > 0} == {}, what


def overhang(page):
    """Give by how many pixels the page is wider than the window."""
    return page.evaluate(
        "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
    )


@pytest.mark.parametrize("width", [400, 640, 701, 768, 1060, 1061, 1280])
def test_menus_open_inside_the_window(queue, sign_in_as, width):
    (case_id,) = seed(queue, 1, alerts_each=1)
    queue.decide(queue.case(case_id).alerts[0].id, "fraud", "ada")
    (waiting,) = seed(queue, 1)
    page = sign_in_as("lead", viewport={"width": width, "height": 800})
    addresses = ["/queue", f"/cases/{case_id}", f"/cases/{waiting}"]
    for address in addresses:
        page.goto(address)
        page.locator("summary", has_text=re.compile("^(More|Put off)")).click()
        panel = page.locator("details[open] > .panel")
        expect(panel).to_be_visible()
        box = panel.bounding_box()
        assert box["x"] >= 0, address
        assert box["x"] + box["width"] <= width, address


def test_every_field_and_button_can_be_reached_by_tab(pages, sign_in_as):
    page = sign_in_as("analyst")
    page.goto(pages["case"])
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
    missed = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([type=hidden]), a[href]")]
        .filter((each) => each.checkVisibility()).map((each) => each.outerHTML.slice(0, 200))"""
    )
    assert [html for html in missed if html not in reached and "radio" not in html] == []


def test_a_guess_at_the_sign_in_page_is_escaped(queue, new_page):
    add_analyst(queue, "ada", "analyst", PASSWORD, "test")
    page = new_page()
    page.goto("/sign-in?next=javascript:window.hacked=1")
    page.get_by_label("Name").fill(EVIL[0][:64])
    page.get_by_label("Password").fill("whatever it may be")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("//[^/]+/queue$"))
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    ("deed", "noted"),
    [
        ("document.body.insertAdjacentHTML('beforeend', '<p style=\"top: 0\">')", "style-src"),
        (
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2/'}))",
            "img-src",
        ),
        ("setTimeout(() => { throw new Error('of a test') })", "of a test"),
        ("Promise.reject(new Error('of a promise'))", "of a promise"),
    ],
)
def test_what_a_page_must_not_do_is_noted(visits, new_page, deed, noted):
    page = new_page()
    page.goto("/sign-in")
    assert visits.problems == []
    page.evaluate(f"void ({deed})")
    page.wait_for_timeout(200)
    assert any(noted in problem for problem in visits.problems)
    visits.problems.clear()


def test_obstacles_are_found(new_page):
    page = new_page()
    page.goto("/sign-in")
    page.evaluate("document.querySelectorAll('label').forEach((label) => label.remove())")
    assert any(found.startswith("label") for found in find_serious(page))
