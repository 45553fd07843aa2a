import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from desk.rendering import ENVIRONMENT
from desk.views import View
from tests.desk.conftest import DAY, PAGE, seed
from warehouse.errors import UserError
from warehouse.queue_claims import claim_case, snooze_case
from warehouse.queue_decisions import Verdict, decide_alerts

HTMX = {"HX-Request": "true", "HX-Current-URL": "http://localhost:8050/queue"}
NASTY = "<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}txet\"'" + "x" * 400


class Page(HTMLParser):
    """Collects what a page holds, to look for what must not be there."""

    def __init__(self, text):
        """Read the page."""
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keep the element."""
        self.tags.append((tag, dict(attrs)))

    def all(self, tag, **wanted):
        """Give the attributes of all elements that have those wanted."""
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


def rows(text):
    return [int(number) for number in re.findall(r'<tr id="case-(\d+)"', text)]


def get(client, address, **headers):
    response = client.get(address, headers=PAGE | headers)
    assert response.status_code == 200, response.text
    return response.text


def test_start_leads_to_the_queue(signed_in):
    assert signed_in("viewer").get("/", headers=PAGE).headers["location"] == "/queue"


def test_queue_lists_cases_by_the_rank_that_is_asked_for(queue, signed_in):
    seed(queue, 5)
    client = signed_in("analyst")
    by_score = rows(get(client, "/queue?rank=score"))
    scores = {case.id: case.score for case in queue.cases()}
    assert sorted(by_score) == sorted(scores)
    assert [scores[n] for n in by_score] == sorted(scores.values(), reverse=True)


def test_queue_page_works_without_script(queue, signed_in):
    seed(queue, 2)
    page = Page(get(signed_in("analyst"), "/queue"))
    (filters,) = page.all("form", method="get")
    assert filters["action"] == "/queue"
    assert page.all("form", action="/cases/decide", method="post")
    assert page.all("form", action="/queue/next", method="post")
    tokens = {field["value"] for field in page.all("input", name="csrf_token")}
    assert len(tokens) == 1


def test_filters_in_force_are_shown_and_can_be_taken_away(queue, signed_in):
    seed(queue, 3)
    seed(queue, 1, lane="backfill", day=DAY - timedelta(days=3))
    client = signed_in("analyst")
    text = get(client, "/queue?lane=backfill&rank=amount&merchant=merchant-6")
    assert len(rows(text)) == 1
    chips = re.search(r'<ul class="chips".*?</ul>', text, re.S).group()
    assert re.findall(r'href="([^"]+)"', chips) == [
        "/queue?merchant=merchant-6&amp;rank=amount",
        "/queue?lane=backfill&amp;rank=amount",
    ]


def test_htmx_gets_the_list_alone_and_a_clean_address(queue, signed_in):
    seed(queue, 2)
    response = signed_in("analyst").get(
        "/queue?text=&lane=nightly&day=&rank=priority", headers=HTMX
    )
    assert response.headers["hx-push-url"] == "/queue?lane=nightly"
    assert response.text.strip().startswith('<section id="list"')
    assert "<html" not in response.text


def test_further_rows_count_on_and_repeat_none(queue, signed_in):
    seed(queue, 30, alerts_each=1)
    client = signed_in("analyst")
    first = get(client, "/queue")
    further = re.search(r'hx-get="([^"]+)"[^>]*hx-target="closest tr"', first).group(1)
    second = client.get(further.replace("&amp;", "&"), headers=HTMX).text
    assert len(rows(first)) == 25
    assert len(rows(second)) == 5
    assert not set(rows(first)) & set(rows(second))
    assert '<td class="number muted">26</td>' in second


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/queue", "The next night's alerts come here."),
        ("/queue?state=snoozed", "Nothing is snoozed."),
        ("/queue?state=second", "Nothing waits for a second look."),
        ("/queue?mine=yes", "You work on no case."),
        ("/queue?text=nobody", "No case matches these filters."),
    ],
)
def test_empty_lists_say_what_comes_there(signed_in, address, words):
    text = get(signed_in("analyst"), address)
    assert words.replace("'", "&#39;") in text or words in text


@pytest.mark.parametrize("query", ["day=tomorrow", "least_amount=much", "rank=luck", "lane=x"])
def test_filter_that_cannot_be_read_is_refused_in_words(signed_in, query):
    response = signed_in("viewer").get(f"/queue?{query}", headers=PAGE)
    assert response.status_code == 400
    assert "expected" in response.text


def test_view_survives_its_address():
    view = View(lane="audit", rank="oldest", text="a&b=c")
    assert View.read({"lane": "audit", "rank": "oldest", "text": "a&b=c", "day": ""}) == view
    assert view.address == "/queue?lane=audit&text=a%26b%3Dc&rank=oldest"
    with pytest.raises(UserError, match="expected an amount"):
        View(least_amount="lots").wanted("ada")


def test_claims_snoozes_and_counts_are_shown(queue, signed_in, clock):
    claimed, snoozed, _ = seed(queue, 3)
    claim_case(queue, claimed, "ben", minutes=15)
    snooze_case(queue, snoozed, "ben", clock.now.date() + timedelta(days=2))
    client = signed_in("analyst")
    text = get(client, "/queue")
    assert snoozed not in rows(text)
    assert "<bdi>ben</bdi>" in text
    assert re.search(r'Snoozed <span class="count">1<', text)
    assert rows(get(client, "/queue?state=snoozed")) == [snoozed]


def test_case_page_tells_the_story(queue, signed_in):
    (case_id,) = seed(queue, 1)
    text = get(signed_in("analyst"), f"/cases/{case_id}")
    alerts = queue.case(case_id).alerts
    for alert in alerts:
        assert f'<article class="card alert is-waiting" id="alert-{alert.id}"' in text
        assert alert.reasons[0].text in text
    assert 'class="timeline"' in text
    assert "version 3" in text
    assert text.count('name="verdict"') == 9  # two alerts, and both at once


def test_viewer_sees_everything_and_can_press_nothing(queue, signed_in):
    (case_id,) = seed(queue, 1)
    client = signed_in("viewer")
    for address in (f"/cases/{case_id}", "/queue", "/suppressions"):
        page = Page(get(client, address))
        posts = [form["action"] for form in page.all("form", method="post")]
        assert posts in (["/sign-out"], ["/sign-out", "/cases/decide"])
        assert not page.all("button", name="verdict")


def test_row_drawn_at_random_says_that_it_was_not_flagged(queue, signed_in):
    (case_id,) = seed(queue, 1, lane="audit", alerts_each=1, inclusion_probability=0.01)
    text = get(signed_in("analyst"), f"/cases/{case_id}")
    assert "Drawn at random: it was not flagged. One in 100" in text


def test_undo_is_offered_for_five_minutes_and_only_to_who_decided(queue, signed_in, clock):
    (case_id,) = seed(queue, 1, alerts_each=1)
    (alert,) = queue.case(case_id).alerts
    ada, ben = signed_in("analyst", "ada"), signed_in("analyst", "ben")
    decide_alerts(queue, [Verdict(alert.id, "fraud", "card stolen")], "ada")
    address = f"/cases/{case_id}"
    assert f"Case {case_id} closed: fraud." in get(ada, address)
    assert "/retract" in get(ada, address)
    assert "/retract" not in get(ben, address)
    assert "card stolen" in get(ben, address)
    clock.advance(minutes=6)
    assert "/retract" not in get(ada, address)


def test_nasty_texts_are_shown_as_text(queue, signed_in):
    (case_id,) = seed(queue, 1, alerts_each=1, merchant_id=NASTY)
    (alert,) = queue.case(case_id).alerts
    client = signed_in("lead")
    decide_alerts(queue, [Verdict(alert.id, "unsure", NASTY)], "lead")
    for address in (f"/cases/{case_id}", "/queue?state=closed", "/queue?text=%3Cscript%3E"):
        text = get(client, address)
        assert "<script>alert" not in text
        for tag, attributes in Page(text).tags:
            if tag == "script":
                assert attributes["src"].startswith("/static/")
            assert not [name for name in attributes if name.startswith(("on", "hx-on"))]
            assert "style" not in attributes
    assert "&lt;script&gt;alert(1)" in get(client, f"/cases/{case_id}")


def test_unknown_case_is_not_found(signed_in):
    client = signed_in("viewer")
    for number in ("99", "9223372036854775807"):
        assert client.get(f"/cases/{number}", headers=PAGE).status_code == 404
    assert client.get("/cases/9223372036854775808", headers=PAGE).status_code == 422


def test_every_template_compiles_and_escapes():
    for name in ENVIRONMENT.list_templates():
        source, _, _ = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)
        ENVIRONMENT.get_template(name)
        assert "| safe" not in source
        assert " style=" not in source
        assert "<style" not in source
