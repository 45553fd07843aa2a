"""The API as another program meets it: tokens, pages, work, refusals."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import httpx
import pytest

from desk.api_requests import CaseState, Rank
from desk.app import create_app
from tests.desk.conftest import DAY, seed
from warehouse.analysts import add_analyst, disable_analyst
from warehouse.api_tokens import SCOPES, add_token
from warehouse.audit_trail import list_events
from warehouse.queue_search import RANKS, STATES

API = "/api/v1"
HUGE = 2**63


@pytest.fixture
def make_program(queue, new_client):
    """Give a program with a token: ``make_program("analyst", "read", "decide")``."""

    def make(role, *scopes, name=None, **kinds):
        name = name or role
        add_analyst(queue, name, role, None, "test")
        token = add_token(
            queue, f"for-{name}", name, scopes or list(SCOPES), days=None, actor="test"
        )
        program = new_client(**kinds)
        program.headers["Authorization"] = f"Bearer {token}"
        return program

    return make


@pytest.fixture
def program(make_program):
    """A program of an analyst with all scopes."""
    return make_program("analyst")


def ask(program, method, path, status, **arguments):
    """Ask and give the answer's JSON, if it has any."""
    answer = program.request(method, API + path, **arguments)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def verdict(alert, said="fraud", **values):
    return {"alert_id": alert["id"], "verdict": said, **values}


def test_alerts_are_read_page_by_page_each_once(queue, program):
    seed(queue, 5)
    seed(queue, 1, lane="backfill")
    found, cursor, has_more = [], 0, True
    while has_more:
        page = ask(program, "GET", f"/alerts?limit=5&cursor={cursor}", 200)
        found += page["alerts"]
        cursor, has_more = page["next_cursor"], page["has_more"]
    assert [alert["id"] for alert in found] == list(range(1, 13))
    assert found[0]["reasons"][0]["text"].startswith("the amount")
    assert ask(program, "GET", f"/alerts/{found[3]['id']}", 200) == found[3]
    of_lane = ask(program, "GET", f"/alerts?lane=backfill&day={DAY}", 200)["alerts"]
    assert [alert["lane"] for alert in of_lane] == ["backfill"] * 2
    assert ask(program, "GET", "/alerts?day=2001-01-01", 200)["alerts"] == []
    end = ask(program, "GET", f"/alerts?cursor={cursor}", 200)
    assert end == {"alerts": [], "next_cursor": cursor, "has_more": False}


def test_cases_are_read_page_by_page_and_filtered(queue, program):
    seed(queue, 5)
    found, cursor = [], None
    while True:
        query = {"limit": 2, "rank": "score"} | ({"cursor": cursor} if cursor else {})
        page = ask(program, "GET", "/cases", 200, params=query)
        found += page["cases"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(case["id"] for case in found) == [1, 2, 3, 4, 5]
    assert [case["score"] for case in found] == sorted((c["score"] for c in found), reverse=True)
    mine = ask(program, "GET", "/cases?account=account-3", 200)["cases"]
    assert [case["account_id"] for case in mine] == ["account-3"]
    assert ask(program, "GET", "/cases?lane=audit", 200)["cases"] == []


def test_a_case_tells_its_story(queue, program):
    (case_id,) = seed(queue, 1)
    case = ask(program, "GET", f"/cases/{case_id}", 200)
    assert case["summary"]["alert_count"] == len(case["alerts"]) == 2
    assert len(case["transactions"]) > 10
    assert len(case["usual_hours"]) == 24


def test_a_program_claims_decides_and_takes_back(queue, program):
    seed(queue, 2)
    case = ask(program, "POST", "/cases/next", 200)
    number = case["summary"]["id"]
    assert case["summary"]["claimed_by"] == "analyst"
    body = {"verdicts": [verdict(alert, note="seen") for alert in case["alerts"]]}
    outcome = ask(program, "POST", "/decisions", 201, json=body)
    assert (len(outcome["decided"]), outcome["closed_cases"]) == (2, [number])
    decisions = ask(program, "GET", "/decisions", 200)["decisions"]
    assert [(d["analyst"], d["verdict"], d["note"]) for d in decisions] == [
        ("analyst", "fraud", "seen")
    ] * 2
    assert ask(program, "GET", f"/cases/{number}", 200)["summary"]["state"] == "closed"
    ask(program, "DELETE", f"/decisions/{outcome['decided'][0]}", 204)
    decisions = ask(program, "GET", "/decisions", 200)["decisions"]
    assert [d["is_retracted"] for d in decisions] == [True, False]
    assert ask(program, "GET", f"/cases/{number}", 200)["summary"]["state"] == "open"


def test_audit_names_the_token_by_which_a_program_acted(
    queue, app, serve, make_program, signed_in
):
    (case_id, _) = seed(queue, 2)
    tokens = [make_program("analyst", name=name).headers for name in ("one", "other")]
    lead = signed_in("lead")
    of_lead = {
        "Cookie": f"nightwarden={lead.cookies['nightwarden']}",
        "X-CSRF-Token": lead.headers["X-CSRF-Token"],
    }
    with serve(app) as url, httpx.Client(base_url=f"{url}{API}") as sender:
        for headers in tokens:
            asked = {"Authorization": headers["Authorization"]}
            assert sender.post("/cases/next", headers=asked).status_code == 200
        forced = sender.delete(f"/cases/{case_id}/claim?force=true", headers=of_lead)
        assert forced.status_code == 204
    events = reversed(list_events(queue, limit=3))
    assert [(e.action, e.actor, e.details.get("token")) for e in events] == [
        ("claim", "one", "for-one"),
        ("claim", "other", "for-other"),
        ("release", "lead", None),
    ]
    assert queue.verify_audit() is None


def test_nothing_is_decided_if_one_verdict_is_refused(queue, program):
    seed(queue, 2)
    alerts = ask(program, "GET", "/alerts", 200)["alerts"]
    ask(program, "POST", "/decisions", 201, json={"verdicts": [verdict(alerts[0])]})
    both = {"verdicts": [verdict(alerts[2]), verdict(alerts[0])]}
    answer = ask(program, "POST", "/decisions", 409, json=both)
    assert f"alert {alerts[0]['id']}" in answer["detail"]
    unknown = {"verdicts": [verdict(alerts[2]), {"alert_id": 999, "verdict": "fraud"}]}
    assert "999" in ask(program, "POST", "/decisions", 404, json=unknown)["detail"]
    assert len(ask(program, "GET", "/decisions", 200)["decisions"]) == 1


def test_what_was_seen_allows_to_decide_again(queue, program):
    seed(queue, 1)
    (alert, _) = ask(program, "GET", "/alerts", 200)["alerts"]
    first = ask(program, "POST", "/decisions", 201, json={"verdicts": [verdict(alert)]})
    again = verdict(alert, "genuine", seen=first["decided"][0])
    ask(program, "POST", "/decisions", 201, json={"verdicts": [again]})
    assert ask(program, "GET", f"/alerts/{alert['id']}", 200)["verdict"] == "genuine"


def test_a_case_that_another_has_claimed_is_refused_and_named(queue, make_program):
    (case_id,) = seed(queue, 1)
    one, other = make_program("analyst", name="one"), make_program("analyst", name="other")
    lead = make_program("lead")
    assert ask(one, "POST", f"/cases/{case_id}/claim", 200)["claimed_by"] == "one"
    assert "one" in ask(other, "POST", f"/cases/{case_id}/claim", 409)["detail"]
    ask(other, "DELETE", f"/cases/{case_id}/claim", 409)
    ask(other, "DELETE", f"/cases/{case_id}/claim?force=true", 403)
    ask(lead, "DELETE", f"/cases/{case_id}/claim?force=true", 204)
    ask(other, "POST", f"/cases/{case_id}/claim", 200)


def test_callers_at_once_get_different_cases_until_none_is_left(queue, program):
    seed(queue, 8, alerts_each=1)
    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(lambda _: program.post(f"{API}/cases/next"), range(11))
        answers = list(asked)
    given = [a.json()["summary"]["id"] for a in answers if a.status_code == 200]
    assert sorted(given) == list(range(1, 9))
    assert [a.content for a in answers if a.status_code == 204] == [b""] * 3


def test_above_the_amount_a_verdict_waits_for_a_second_analyst(queue, make_context, make_program):
    (case_id,) = seed(queue, 1, amount=500.0)
    desk = create_app(make_context(second_above=100.0))
    first, second = (make_program("analyst", name=name, app=desk) for name in ("one", "other"))
    alerts = ask(first, "GET", "/alerts", 200)["alerts"]
    body = {"verdicts": [verdict(alert, note="odd") for alert in alerts]}
    outcome = ask(first, "POST", "/decisions", 201, json=body)
    assert (outcome["decided"], len(outcome["proposed"])) == ([], 2)
    proposals = ask(second, "GET", f"/cases/{case_id}", 200)["proposals"].values()
    assert {proposal["analyst"] for proposal in proposals} == {"one"}
    confirm, refuse = [f"/proposals/{proposal['id']}" for proposal in proposals]
    assert "second" in ask(first, "POST", f"{confirm}/confirm", 409, json={})["detail"]
    number = ask(second, "POST", f"{confirm}/confirm", 201, json={})["decision_id"]
    ask(second, "POST", f"{refuse}/refuse", 204, json={"note": "<b>no</b>"})
    for path in (confirm, refuse):
        for answer in ("confirm", "refuse"):
            ask(second, "POST", f"{path}/{answer}", 409, json={"note": "again"})
    (decision,) = ask(first, "GET", "/decisions", 200)["decisions"]
    told = [decision[name] for name in ("id", "analyst", "proposed_by", "verdict", "note")]
    assert told == [number, "other", "one", "fraud", "odd"]
    case = ask(first, "GET", f"/cases/{case_id}", 200)
    assert (case["proposals"], case["summary"]["waiting_count"]) == ({}, 1)


@pytest.mark.parametrize("answer", ["confirm", "refuse"])
def test_answer_to_no_proposal_is_not_found_and_one_that_breaks_a_rule_refused(program, answer):
    ask(program, "POST", f"/proposals/{HUGE - 1}/{answer}", 404, json={})
    ask(program, "POST", f"/proposals/{HUGE}/{answer}", 422, json={})
    for body in ({"note": "n" * 4001}, {"note": "a\0b"}, {"analyst": "other"}, []):
        ask(program, "POST", f"/proposals/1/{answer}", 422, json=body)
    ask(program, "POST", f"/proposals/1/{answer}", 422)


def test_the_feed_gives_each_change_once_with_its_alert(queue, program):
    seed(queue, 3)
    whole = ask(program, "GET", "/feed", 200)
    assert not whole["has_more"]
    found, cursor = [], 0
    for _ in range(len(whole["changes"])):
        page = ask(program, "GET", f"/feed?limit=1&cursor={cursor}", 200)
        found += page["changes"]
        cursor = page["next_cursor"]
    assert found == whole["changes"]
    queued = [change for change in found if change["kind"] == "alert_queued"]
    facts = ask(program, "GET", f"/alerts/{queued[0]['alert_id']}", 200)
    for name in ("transaction_id", "account_id", "merchant_id", "amount", "score", "lane"):
        assert queued[0]["alert"][name] == facts[name]
    beyond = ask(program, "GET", f"/feed?cursor={cursor + 1}", 400)
    assert "newest change" in beyond["detail"]


def test_statistics_of_some_days(queue, program):
    seed(queue, 2)
    stats = ask(program, "GET", f"/stats?from={DAY}&to={DAY}", 200)
    assert (stats["totals"]["alerts"], stats["totals"]["decided"]) == (4, 0)
    ask(program, "GET", "/stats?from=2026-03-02&to=2026-03-01", 400)
    ask(program, "GET", "/stats?from=2026-03-02", 422)


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("read", "GET", "/alerts"),
        ("feed", "GET", "/feed"),
        ("decide", "POST", "/cases/next"),
    ],
)
def test_a_token_does_only_what_its_scopes_allow(make_program, scope, method, path):
    others = [other for other in SCOPES if other != scope]
    program = make_program("admin", *others)
    assert scope in ask(program, method, path, 403)["detail"]


def test_a_token_does_no_more_than_its_analyst(queue, make_program):
    program = make_program("viewer")
    assert "analyst" in ask(program, "POST", "/cases/next", 403)["detail"]
    ask(program, "GET", "/cases", 200)
    disable_analyst(queue, "viewer", "test")
    ask(program, "GET", "/cases", 401)


@pytest.mark.parametrize("number", [0, -1, HUGE, 10**30, "1.5", "x", "1%00"])
@pytest.mark.parametrize("path", ["/alerts/{}", "/cases/{}"])
def test_numbers_that_no_row_can_have_are_refused(program, path, number):
    ask(program, "GET", path.format(number), 422)


def test_numbers_that_no_row_has_are_not_found(program):
    last = HUGE - 1
    ask(program, "GET", f"/alerts/{last}", 404)
    ask(program, "GET", f"/cases/{last}", 404)
    ask(program, "POST", f"/cases/{last}/claim", 404)
    ask(program, "DELETE", f"/cases/{last}/claim", 404)
    ask(program, "DELETE", f"/decisions/{last}", 404)
    ask(program, "GET", f"/alerts?cursor={last}", 200)
    ask(program, "GET", f"/decisions?cursor={last}", 200)


@pytest.mark.parametrize(
    "query",
    [
        "/alerts?limit=0",
        "/alerts?limit=501",
        "/alerts?cursor=-1",
        f"/decisions?cursor={HUGE}",
        f"/feed?cursor={10**400}",
        "/alerts?lane=other",
        "/alerts?day=0",
        "/alerts?day=20260101",
        "/alerts?unknown=1",
        "/cases?claimed_by=ana&claimed_by=ben",
        "/cases?least_amount=nan",
        "/cases?least_amount=inf",
        "/cases?rank=id;drop",
        "/cases?text=a%00b",
        "/cases?merchant=" + "m" * 201,
        "/stats?from=2026-13-01&to=2026-01-01",
    ],
)
def test_a_query_that_breaks_a_rule_is_refused_and_says_where(program, query):
    (problem,) = ask(program, "GET", query, 422)["detail"]
    assert problem["loc"][0] == "query"


def test_a_cursor_that_was_never_given_is_refused(program):
    for cursor in ("x", "e30=", "bnVsbA==", "W10=", "%F0%9F%98%80"):
        ask(program, "GET", f"/cases?cursor={cursor}", 400)
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        content = json.dumps(["newest", moment, 5]).encode()  # UTC has no such moment
        query = {"rank": "newest", "cursor": base64.urlsafe_b64encode(content).decode()}
        ask(program, "GET", "/cases", 400, params=query)


GOOD = '{"verdicts": [{"alert_id": 1, "verdict": "fraud"%s}]}'


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"{", {422}),
        (b"\xff\xfe{}", {400, 422}),
        (b"[" * 100_000, {400, 422}),
        (b'{"verdicts":' * 20_000 + b"1" + b"}" * 20_000, {400, 422}),
        (b'{"verdicts": []}', {422}),
        (b'{"verdicts": null}', {422}),
        (b"null", {422}),
        (b"1" * 10_000, {400, 422}),
        (b'{"verdicts": [{"alert_id": 1}]}', {422}),
        (b'{"verdicts": [{"alert_id": NaN, "verdict": "fraud"}]}', {422}),
        (b'{"verdicts": [{"alert_id": Infinity, "verdict": "fraud"}]}', {422}),
        (b'{"verdicts": [{"alert_id": true, "verdict": "fraud"}]}', {422}),
        (b'{"verdicts": [{"alert_id": "1", "verdict": "fraud"}]}', {422}),
        (b'{"verdicts": [{"alert_id": 9223372036854775808, "verdict": "fraud"}]}', {422}),
        ((GOOD % ', "seen": -1').encode(), {422}),
        ((GOOD % ', "analyst": "somebody else"').encode(), {422}),
        ((GOOD % r', "note": "a\u0000b"').encode(), {422}),
        ((GOOD % r', "note": "\ud800"').encode(), {422}),
        ((GOOD % r', "\ud800": 1').encode(), {422}),
        ((GOOD % f', "note": "{"n" * 4001}"').encode(), {422}),
        (
            b'{"verdicts": [' + b",".join([b'{"alert_id":1,"verdict":"fraud"}'] * 501) + b"]}",
            {422},
        ),
        (b'{"verdicts": ["' + b"x" * 300_000 + b'"]}', {413}),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused(queue, program, body, statuses):
    seed(queue, 1)
    answer = program.post(
        f"{API}/decisions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in statuses, answer.text[:500]
    assert answer.json()["detail"]
    assert queue.last_decision() == 0


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"]
)
def test_a_body_of_another_kind_is_refused(queue, program, kind):
    seed(queue, 1)
    headers = {"Content-Type": kind} if kind else {}
    answer = program.post(f"{API}/decisions", content=(GOOD % "").encode(), headers=headers)
    assert answer.status_code in (415, 422), answer.text
    assert queue.last_decision() == 0


ATTACKS = [
    "' OR 1=1 --",
    "'; DROP TABLE alerts; --",
    "%' OR '%'='",
    "{{7*7}}",
    "${7*7}",
    "{% for x in ().__class__.__mro__ %}{% endfor %}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "%s%n\\",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_texts_that_mean_something_elsewhere_mean_nothing_here(queue, program, attack):
    seed(queue, 2)
    for name in ("merchant", "account", "model_version", "claimed_by", "text"):
        assert ask(program, "GET", "/cases", 200, params={name: attack})["cases"] == []
        if name != "claimed_by":
            ask(program, "POST", "/cases/next", 204, params={name: attack})
    ask(program, "GET", "/cases", 400, params={"cursor": attack})
    for path in ("/alerts", "/cases", "/decisions", "/feed"):
        for name in ("day", "lane", "rank", "limit"):
            ask(program, "GET", path, 422, params={name: attack})
    (alert, *_) = ask(program, "GET", "/alerts", 200)["alerts"]
    body = {"verdicts": [verdict(alert, note=attack)]}
    ask(program, "POST", "/decisions", 201, json=body)
    (decision,) = ask(program, "GET", "/decisions", 200)["decisions"]
    assert decision["note"] == attack
    assert len(ask(program, "GET", "/alerts", 200)["alerts"]) == 4


def test_the_choices_of_the_api_are_those_of_the_queue():
    assert get_args(CaseState) == STATES
    assert get_args(Rank) == RANKS


def test_a_browser_without_its_csrf_token_changes_nothing(queue, signed_in):
    seed(queue, 1)
    browser = signed_in("analyst")
    del browser.headers["X-CSRF-Token"]
    ask(browser, "POST", "/cases/next", 403)
    ask(browser, "GET", "/cases", 200)


def test_a_browser_that_asks_the_api_stays_signed_in(queue, signed_in, clock):
    seed(queue, 1)
    browser = signed_in("viewer")
    for _ in range(3):
        clock.advance(minutes=20)  # of the thirty after which an idle session ends
        ask(browser, "GET", "/cases", 200)
