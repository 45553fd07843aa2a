"""Every route that there is, asked by everybody who must not: generated from the application.

A new route is tested as soon as it exists. Which role or scope it needs is read from its guard.
"""

import re
from dataclasses import dataclass

import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from desk.access import SAFE_METHODS, Guard, Viewer
from tests.desk.conftest import PAGE
from warehouse.analysts import ROLES, add_analyst, disable_analyst
from warehouse.api_tokens import SCOPES, add_token

PUBLIC = {"GET /sign-in", "POST /sign-in", "GET /healthz", "GET /readyz", "/static"}
REFUSED = (401, 403)
BODIES = {
    "JSON": ("application/json", b"{"),
    "nested JSON": ("application/json", b"[" * 100_000),
    "JSON in no UTF-8": ("application/json", b"\xff"),
    "multipart": ("multipart/form-data", b"--"),  # without the boundary that it must name
}
BROKEN = ("path", "query", *BODIES)


@dataclass(frozen=True)
class Asked:
    """One method of one route, and its guard."""

    method: str
    path: str
    guard: Guard | None

    @property
    def name(self):
        """How it is written in ``PUBLIC``."""
        return f"{self.method} {self.path}".strip()

    @property
    def is_unsafe(self):
        """Whether it may change something."""
        return self.method not in SAFE_METHODS

    def send(self, client, broken=None, **headers):
        """Ask, with every parameter of the path filled in; ``broken`` is one of ``BROKEN``."""
        path = re.sub(r"\{[^}]+\}", "x" if broken == "path" else "1", self.path)
        query, body = "", None
        if broken == "query":
            query = "?limit=1&limit=2&day=x&day=y"
        elif broken in BODIES:
            kind, body = BODIES[broken]
            headers = {"Content-Type": kind, **headers}
        return client.request(self.method, path + query, headers=headers, content=body)


def guards_in(dependant):
    """Find the guards in a route's tree of dependencies."""
    found = [dependant.call] if isinstance(dependant.call, Guard) else []
    return found + [guard for inner in dependant.dependencies for guard in guards_in(inner)]


def list_asked(app):
    """List every method of every route; the strongest guard is the one that counts."""
    asked = []
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route.original_route, "dependant", None) and route.dependant
        guards = guards_in(dependant) if dependant else []
        guard = max(guards, key=lambda each: ROLES.index(each.needed_role), default=None)
        asked += [Asked(method, route.path, guard) for method in sorted(route.methods or [""])]
    return asked


def unguarded(app):
    return sorted(each.name for each in list_asked(app) if each.guard is None)


@pytest.fixture
def guarded(app):
    return [each for each in list_asked(app) if each.guard is not None]


def role_below(role):
    """Give the strongest role that is too weak, or None."""
    place = ROLES.index(role)
    return ROLES[place - 1] if place else None


def test_nothing_but_the_public_routes_is_unguarded(app, guarded):
    assert set(unguarded(app)) <= PUBLIC
    assert len(guarded) >= 5, "no routes were found; does the application still list them so?"


def test_route_without_a_guard_is_noticed(app):
    router = APIRouter(prefix="/new")

    @router.get("/open/{number}")
    def show_open(number: int) -> int:
        return number

    @router.post("/guarded")
    def change_guarded(person: Viewer) -> str:
        return person.name

    app.include_router(router)
    app.add_api_route("/direct", show_open, methods=["PUT"])
    app.add_route("/plain", lambda _request: None)
    app.mount("/mounted", APIRouter())
    found = set(unguarded(app)) - PUBLIC
    assert found == {
        "GET /new/open/{number}",
        "PUT /direct",
        "GET /plain",
        "HEAD /plain",
        "/mounted",
    }


def test_nobody_gets_in_without_signing_in(client, guarded):
    wrong = []
    for each in guarded:
        page, program = each.send(client, **PAGE), each.send(client)
        fragment = each.send(client, **PAGE, **{"HX-Request": "true"})
        if each.guard.needed_scope is None:
            led = page.status_code == 303 and page.headers["location"].startswith("/sign-in")
        else:
            led = page.status_code == 401
        redirected = fragment.headers.get("hx-redirect", "").startswith("/sign-in")
        if not (led and program.status_code == 401 and fragment.status_code == 401 and redirected):
            wrong.append((each.name, page.status_code, program.status_code, fragment.status_code))
    assert wrong == []


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_told_to_nobody_who_may_not_ask(new_client, signed_in, guarded, broken):
    nobody, viewer = new_client(), signed_in("viewer")
    wrong = []
    for each in guarded:
        needs_more = each.guard.needed_role != "viewer"
        answers = [each.send(nobody, broken).status_code]
        answers += [each.send(viewer, broken).status_code] if needs_more else []
        if answers != [401, 403][: len(answers)]:
            wrong.append((each.name, answers))
    assert wrong == []


def test_made_up_sessions_and_tokens_open_nothing(new_client, guarded):
    browser = new_client()
    browser.cookies.set("nightwarden", "x" * 43)
    program = {"Authorization": f"Bearer nw_{'x' * 43}"}
    wrong = [
        (each.name, browser_status, program_status)
        for each in guarded
        if (browser_status := each.send(browser).status_code) != 401
        or (program_status := each.send(new_client(), **program).status_code) != 401
    ]
    assert wrong == []


def test_weaker_role_is_refused(signed_in, guarded):
    browsers = {role: signed_in(role) for role in ROLES}
    asked = [(each, role_below(each.guard.needed_role)) for each in guarded]
    answers = {
        each.name: each.send(browsers[role], **PAGE).status_code
        for each, role in asked
        if role is not None
    }
    assert {name: status for name, status in answers.items() if status != 403} == {}
    assert answers, "no route needs more than the weakest role"


def test_needed_role_is_let_in(signed_in, guarded):
    """Without this, guards that refuse everybody would pass the tests above."""
    browsers = {role: signed_in(role) for role in ROLES}
    asked = sorted(guarded, key=lambda each: each.path == "/sign-out")  # it ends the session
    refused = [
        (each.name, answer.status_code)
        for each in asked
        if (answer := each.send(browsers[each.guard.needed_role])).status_code in REFUSED
    ]
    assert refused == []


@pytest.mark.parametrize("given", ["none", "wrong", "another's"])
def test_change_without_the_sessions_own_csrf_token_is_refused(signed_in, guarded, given):
    browser, other = signed_in("admin"), signed_in("viewer")
    del browser.headers["X-CSRF-Token"]
    token = {"wrong": "x" * 43, "another's": other.headers["X-CSRF-Token"]}.get(given)
    headers = {} if token is None else {"X-CSRF-Token": token}
    unsafe = [each for each in guarded if each.is_unsafe]
    answers = {each.name: each.send(browser, **headers).status_code for each in unsafe}
    assert answers
    assert {name: status for name, status in answers.items() if status != 403} == {}


def test_change_from_another_sites_page_is_refused(app, signed_in):
    browser = signed_in("admin")
    unsafe = [each for each in list_asked(app) if each.is_unsafe and each.method]
    answers = {
        (each.name, *foreign.values()): each.send(browser, **foreign).status_code
        for each in unsafe
        for foreign in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"})
    }
    assert {name: status for name, status in answers.items() if status != 403} == {}


@pytest.fixture
def endpoints(guarded):
    found = [each for each in guarded if each.guard.needed_scope is not None]
    assert found, "no endpoint takes tokens"
    return found


@pytest.fixture
def bearer(queue):
    """Give the header of a new token: ``bearer("lead", "read")``."""

    def make(role, *scopes, name=None):
        holder = name or f"robot-{role}-{'-'.join(scopes)}"
        add_analyst(queue, holder, role, None, "test")
        token = add_token(queue, holder, holder, scopes, days=None, actor="test")
        return {"Authorization": f"Bearer {token}"}

    return make


def test_token_without_the_scope_is_refused(client, endpoints, bearer):
    all_but = {scope: bearer("admin", *(s for s in SCOPES if s != scope)) for scope in SCOPES}
    answers = {
        each.name: each.send(client, **all_but[each.guard.needed_scope]).status_code
        for each in endpoints
    }
    assert {name: status for name, status in answers.items() if status != 403} == {}


def test_token_with_the_scope_and_the_role_is_let_in(client, endpoints, bearer):
    needed = {(each.guard.needed_role, each.guard.needed_scope) for each in endpoints}
    headers = {pair: bearer(*pair) for pair in needed}
    answers = {
        each.name: each.send(
            client, **headers[each.guard.needed_role, each.guard.needed_scope]
        ).status_code
        for each in endpoints
    }
    assert {name: status for name, status in answers.items() if status in REFUSED} == {}


def test_token_of_a_weaker_role_is_refused_whatever_its_scopes(client, endpoints, bearer):
    headers = {role: bearer(role, *SCOPES) for role in ROLES}
    answers = {
        each.name: each.send(client, **headers[role]).status_code
        for each in endpoints
        if (role := role_below(each.guard.needed_role)) is not None
    }
    assert answers
    assert {name: status for name, status in answers.items() if status != 403} == {}


def test_token_of_a_disabled_analyst_opens_nothing(queue, client, endpoints, bearer):
    headers = bearer("admin", *SCOPES, name="former")
    disable_analyst(queue, "former", "test")
    answers = {each.name: each.send(client, **headers).status_code for each in endpoints}
    assert {name: status for name, status in answers.items() if status != 401} == {}


def test_wrong_token_counts_even_beside_a_session(signed_in, endpoints):
    browser = signed_in("admin")
    headers = {"Authorization": "Bearer nw_wrong"}
    answers = {each.name: each.send(browser, **headers).status_code for each in endpoints}
    assert {name: status for name, status in answers.items() if status != 401} == {}


def test_token_opens_no_page(client, guarded, bearer):
    headers = bearer("admin", *SCOPES)
    pages = [each for each in guarded if each.guard.needed_scope is None]
    answers = {each.name: each.send(client, **headers).status_code for each in pages}
    assert answers
    assert {name: status for name, status in answers.items() if status != 401} == {}
