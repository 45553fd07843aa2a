"""Signing in and out: what the cookie carries, what ends a session, what stops guessing."""

import logging
import threading
import time

import httpx
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from desk.access import local_path
from desk.app import create_app
from desk.attempts import AT_ONCE, MOST_KEYS, REFILL_SECONDS, Attempts
from desk.settings import DeskSettings
from desk.sign_in import PROBLEM
from flows.desk_server import build_app
from flows.settings import Settings
from tests.desk.conftest import DOMAIN, PAGE, PASSWORD
from warehouse import analysts
from warehouse.analysts import (
    WRONG_IN_A_ROW,
    add_analyst,
    change_role,
    disable_analyst,
    set_password,
)
from warehouse.audit_trail import list_events
from warehouse.queue_tables import SESSIONS

REAL_HASHER = analysts.hasher
WRONG = "wrong horse battery"
ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "/\tevil",
    "/a\r\nSet-Cookie: x=1",
    " //evil.example",
    "/é",
    "evil",
    "",
    "/sign-in",
    "/sign-out?x=1",
    "/" + "a" * 3000,
]


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    """Hash as the desk does, with less work."""
    cheap = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(analysts, "hasher", lambda: cheap)
    analysts.hash_of_nothing.cache_clear()
    yield
    analysts.hash_of_nothing.cache_clear()


@pytest.fixture
def new_client(new_client):
    """Make a browser on the desk's own machine, where passwords need no TLS."""

    def make(address="127.0.0.10", **kinds):
        return new_client(address=address, **kinds)

    return make


@pytest.fixture(autouse=True)
def ada(cheap_hashes, queue):  # noqa: ARG001 (in this order)
    """Somebody with a password."""
    add_analyst(queue, "ada", "analyst", PASSWORD, "test")


def sign_in(client, name="ada", password=PASSWORD, target="/statistics", **headers):
    form = {"name": name, "password": password, "next": target}
    return client.post("/sign-in", data=form, headers=PAGE | headers)


def cookie_of(response):
    return response.headers.get("set-cookie", "")


def test_form_is_shown_with_labels_and_where_to_go_on(client):
    page = client.get("/sign-in?next=/cases/7", headers=PAGE)
    assert page.status_code == 200
    assert '<label for="password">' in page.text
    assert 'name="next" value="/cases/7"' in page.text
    assert 'autocomplete="current-password"' in page.text


def test_right_password_begins_a_session_and_goes_on(client):
    answer = sign_in(client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/statistics")
    assert client.get("/sign-in", headers=PAGE).headers["location"] == "/"  # is signed in already


def test_cookie_is_kept_from_scripts_and_other_sites(client):
    cookie = cookie_of(sign_in(client))
    name, *flags = cookie.split("; ")
    assert name.startswith("nightwarden=")
    assert {flag.lower() for flag in flags} == {"httponly", "path=/", "samesite=lax"}


def test_cookie_behind_tls_is_secure_and_of_this_host_alone(new_client):
    browser = new_client(base_url="https://localhost:8050")
    cookie = cookie_of(sign_in(browser))
    assert cookie.startswith("__Host-nightwarden=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert "domain" not in cookie.lower()
    assert browser.get("/sign-in", headers=PAGE).status_code == 303
    plain = new_client()
    plain.cookies.set("nightwarden", browser.cookies["__Host-nightwarden"])
    assert plain.get("/sign-in", headers=PAGE).status_code == 303
    other = new_client(base_url="https://localhost:8050")
    other.cookies.set("nightwarden", browser.cookies["__Host-nightwarden"])
    assert other.get("/sign-in", headers=PAGE).status_code == 200, "only the safe name counts"


def test_session_that_somebody_planted_is_never_used(client):
    client.cookies.set("nightwarden", "planted", domain=DOMAIN)
    sign_in(client)
    first = client.cookies["nightwarden"]
    assert first != "planted"
    sign_in(client)
    assert client.cookies["nightwarden"] != first
    client.cookies.set("nightwarden", first, domain=DOMAIN)
    assert client.get("/sign-in", headers=PAGE).status_code == 200, "the session before has ended"


def test_wrong_password_says_the_same_as_an_unknown_name(client, queue):
    disable_analyst(queue, add_disabled(queue), "test")
    answers = [
        sign_in(client, name, password)
        for name, password in (("ada", WRONG), ("bob", WRONG), ("eve", PASSWORD), ("", ""))
    ]
    assert {answer.status_code for answer in answers} == {401}
    pages = {
        answer.text.replace(f'value="{name}"', "")
        for answer, name in zip(answers, ("ada", "bob", "eve", ""), strict=True)
    }
    assert len(pages) == 1
    assert PROBLEM in pages.pop()
    assert not any(cookie_of(answer) for answer in answers)


def add_disabled(queue):
    add_analyst(queue, "eve", "admin", PASSWORD, "test")
    return "eve"


COLUMNS = {
    "transaction_id": "id",
    "occurred_at": "time",
    "account_id": "account",
    "merchant_id": "shop",
    "amount": "amount",
}
SECURE = "https://localhost:8050"
FORGED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "Forwarded": "proto=https"}


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.1.5", "2001:db8::1", "unknown"])
@pytest.mark.parametrize("headers", [{}, FORGED])
def test_password_is_not_taken_in_clear_from_over_the_network(
    make_context, new_client, queue, address, headers
):
    app = create_app(make_context(trusted_proxies=("10.0.0.0/24",)))
    browser = new_client(address, app=app)
    form = browser.get("/sign-in", headers=PAGE | headers)
    asked = sign_in(browser, **headers)
    for page in (form, asked):
        assert (page.status_code, "without TLS" in page.text) == (403, True)
        assert all(word in page.text for word in (address, "https://", "desk.trusted_proxies"))
        assert "<form" not in page.text
        assert not cookie_of(page)
    program = browser.post("/sign-in", data={"name": "ada", "password": PASSWORD})
    assert "without TLS" in program.json()["detail"]
    assert [event.action for event in list_events(queue, limit=9)] == ["add_analyst"]
    page = new_client(address, app=app, base_url=SECURE)
    assert sign_in(page).status_code == 303


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "10.0.0.5"]
)
def test_this_machine_and_trusted_proxies_may_sign_in_without_tls(
    make_context, new_client, address
):
    app = create_app(make_context(trusted_proxies=("10.0.0.0/24",)))
    browser = new_client(address, app=app)
    assert browser.get("/sign-in", headers=PAGE).status_code == 200
    assert sign_in(browser).status_code == 303


@pytest.mark.parametrize(("insecure", "status"), [(False, 403), (True, 303)])
def test_desk_served_as_insecure_takes_passwords_in_clear(
    tmp_path, new_client, queue, insecure, status
):
    source = {"format": "csv", "path": "in/{date}.csv", "columns": COLUMNS}
    settings = Settings.model_validate({"source": source, "folder": tmp_path})
    app = build_app(settings, DeskSettings(host="192.0.2.8"), queue, insecure=insecure)
    assert sign_in(new_client("192.0.2.1", app=app)).status_code == status


def test_typed_name_is_shown_as_text_and_the_password_never(client):
    page = sign_in(client, '"><script>alert(1)</script>', WRONG).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert WRONG not in page


@pytest.mark.parametrize("field", ["name", "password", "next"])
@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape"])  # both can say half a letter
def test_halves_of_letters_let_nobody_in_and_break_nothing(client, field, charset):
    values = {"name": "ada", "password": "wrong", "next": "/"} | {field: r"+2AA-\ud800"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in values.items()
    ]
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    content = "".join([*parts, "--b--\r\n"]).encode()
    answer = client.post("/sign-in", content=content, headers={"Content-Type": kind, **PAGE})
    assert answer.status_code == 401
    assert PROBLEM in answer.text


def test_account_is_locked_after_wrong_passwords_and_free_again_later(client, clock):
    for _ in range(WRONG_IN_A_ROW):
        assert sign_in(client, password=WRONG).status_code == 401
    locked = sign_in(client)
    assert (locked.status_code, PROBLEM in locked.text) == (401, True)
    clock.advance(minutes=15)
    assert sign_in(client).status_code == 303


def test_address_has_so_many_attempts_and_others_have_theirs(new_client, app):
    guesser = new_client(address="127.0.0.1")
    for _ in range(AT_ONCE - 2):  # as hashing takes its time, most are taken directly
        app.state.gate.attempts.take("127.0.0.1")
    for name in ("ada", "bob"):
        assert sign_in(guesser, name, WRONG).status_code == 401
    refused = sign_in(guesser)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= REFILL_SECONDS + 1
    assert sign_in(new_client(address="127.0.0.2")).status_code == 303


def test_right_password_costs_no_attempt(new_client, app):
    browser = new_client(address="127.0.0.1")
    for _ in range(3):
        assert sign_in(browser).status_code == 303
    app.state.gate.attempts.give_back("127.0.0.1")
    for _ in range(AT_ONCE):
        assert app.state.gate.attempts.take("127.0.0.1") == 0
    assert app.state.gate.attempts.take("127.0.0.1") > 0


def test_attempts_come_back_with_time_and_memory_is_bounded():
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(AT_ONCE):
        assert attempts.take("a") == 0
    assert attempts.take("a") == REFILL_SECONDS
    now[0] += REFILL_SECONDS
    assert attempts.take("a") == 0
    assert attempts.take("a") > 0
    for number in range(MOST_KEYS + 5):
        attempts.take(f"b{number}")
    assert len(attempts._left) == MOST_KEYS


@pytest.mark.parametrize("target", ELSEWHERE)
def test_signing_in_never_leads_elsewhere(client, app, target):
    app.state.gate.attempts.give_back("127.0.0.10")
    assert local_path(target) == "/"
    shown = client.get("/sign-in", params={"next": target}, headers=PAGE)
    assert 'name="next" value="/"' in shown.text


def test_signing_in_leads_elsewhere_neither_by_the_form(client):
    for target in ("//evil.example", "/\\evil.example", "https://evil.example"):
        assert sign_in(client, target=target).headers["location"] == "/"


@pytest.mark.parametrize("target", ["/", "/queue?lane=audit&text=a%2Fb", "/cases/7?x=https://e/"])
def test_own_addresses_are_kept(target):
    assert local_path(target) == target


def test_page_that_needs_signing_in_leads_there_and_back(client):
    led = client.get("/queue?lane=audit&state=all", headers=PAGE)
    assert led.status_code == 303
    assert led.headers["location"] == "/sign-in?next=/queue%3Flane%3Daudit%26state%3Dall"
    form = client.get(led.headers["location"], headers=PAGE).text
    assert 'value="/queue?lane=audit&amp;state=all"' in form


def test_fragment_and_form_lead_back_to_the_page_that_they_were_on(client):
    on = "http://localhost:8050/cases/7?tab=1"
    fragment = client.get("/queue", headers={"HX-Request": "true", "HX-Current-URL": on})
    assert fragment.status_code == 401
    assert fragment.headers["hx-redirect"] == "/sign-in?next=/cases/7%3Ftab%3D1"
    form = client.post("/sign-out", headers=PAGE | {"Referer": on})
    assert form.headers["location"] == "/sign-in?next=/cases/7%3Ftab%3D1"


def test_session_ends_when_idle_and_stays_while_it_is_used(client, clock):
    sign_in(client)
    for _ in range(4):
        clock.advance(minutes=29)
        assert client.get("/sign-in", headers=PAGE).status_code == 303
    clock.advance(minutes=31)
    assert client.get("/sign-in", headers=PAGE).status_code == 200


def test_session_ends_after_its_hours_however_much_it_is_used(client, clock):
    sign_in(client)
    for _ in range(12 * 3):
        assert client.get("/sign-in", headers=PAGE).status_code == 303
        clock.advance(minutes=20)
    assert client.get("/sign-in", headers=PAGE).status_code == 200


def test_use_is_not_written_by_every_request(client, clock, queue):
    sign_in(client)
    before = seen_at(queue)
    clock.advance(seconds=50)
    client.get("/sign-in", headers=PAGE)
    assert seen_at(queue) == before
    clock.advance(seconds=20)
    client.get("/sign-in", headers=PAGE)
    assert seen_at(queue) == clock.now


def seen_at(queue):
    with queue.database.read() as connection:
        return connection.scalar(select(SESSIONS.c.seen_at))


def test_signing_out_ends_the_session_everywhere(signed_in, new_client):
    browser = signed_in("viewer")
    token = browser.cookies["nightwarden"]
    answer = browser.post("/sign-out", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert 'nightwarden=""' in cookie_of(answer)
    copy = new_client()
    copy.cookies.set("nightwarden", token)
    assert copy.get("/sign-in", headers=PAGE).status_code == 200


def test_signing_out_takes_the_csrf_token_of_the_form(signed_in):
    browser = signed_in("viewer")
    token = browser.headers.pop("X-CSRF-Token")
    assert browser.post("/sign-out", data={"csrf_token": "x"}).status_code == 403
    assert browser.post("/sign-out", data={"csrf_token": token}).status_code == 303


def test_disabled_or_demoted_analyst_notices_at_once(signed_in, queue):
    browser = signed_in("lead", "grace")
    change_role(queue, "grace", "viewer", "test")
    assert browser.get("/sign-in", headers=PAGE).status_code == 303
    disable_analyst(queue, "grace", "test")
    assert browser.get("/sign-in", headers=PAGE).status_code == 200


def test_another_sites_page_cannot_sign_somebody_in(client):
    for foreign in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        answer = sign_in(client, **foreign)
        assert (answer.status_code, cookie_of(answer)) == (403, "")
    assert sign_in(client, Origin="http://localhost:8050").status_code == 303
    assert sign_in(client, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_audit_and_log_tell_who_signed_in_and_never_a_secret(client, queue, caplog):
    caplog.set_level(logging.DEBUG)
    sign_in(client, password=WRONG)
    sign_in(client, name="typed password", password=WRONG)
    sign_in(client)
    token = client.cookies["nightwarden"]
    client.headers["X-CSRF-Token"] = csrf_token_of(queue)
    assert client.post("/sign-out", headers=PAGE).status_code == 303
    told = [(event.actor, event.action, event.subject) for event in list_events(queue, limit=4)]
    assert told == [
        ("ada", "sign_out", "analyst ada"),
        ("ada", "sign_in", "analyst ada"),
        ("nobody", "sign_in_failed", "unknown name"),
        ("nobody", "sign_in_failed", "analyst ada"),
    ]
    events = list_events(queue, limit=50)
    assert events[1].details == {"address": "127.0.0.10"}
    everything = repr(events) + caplog.text
    secrets = (PASSWORD, WRONG, "typed password", token, client.headers["X-CSRF-Token"])
    assert not [secret for secret in secrets if secret in everything]
    assert queue.verify_audit() is None


def csrf_token_of(queue):
    with queue.database.read() as connection:
        return connection.scalar(select(SESSIONS.c.csrf_token))


def test_hashing_of_many_passwords_does_not_keep_others_waiting(context, serve, monkeypatch):
    monkeypatch.setattr(analysts, "hasher", REAL_HASHER)
    set_password(context.queue, "ada", PASSWORD, "test")
    with serve(create_app(context)) as address:
        guess = {"name": "ada", "password": WRONG, "next": "/"}

        def attempt():
            httpx.post(f"{address}/sign-in", data=guess, headers=PAGE, timeout=60)

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        slowest = max(seconds_to_answer(address) for _ in range(5))
        for thread in threads:
            thread.join()
        assert slowest < (time.perf_counter() - begun) / 3


def seconds_to_answer(address):
    begun = time.perf_counter()
    assert httpx.get(f"{address}/sign-in", headers=PAGE).status_code == 200
    return time.perf_counter() - begun
