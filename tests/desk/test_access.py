"""Who is believed to be whom: sessions, trusted proxies; and one read of the queue for it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import event
from starlette.requests import Request

from desk import arrivals
from desk.access import Person, require, require_scope
from desk.app import create_app
from desk.arrivals import Arrivals
from desk.peers import Proxies, to_household
from tests.desk.conftest import PAGE
from warehouse.analysts import ROLES, add_analyst, disable_analyst
from warehouse.audit_trail import list_events
from warehouse.errors import SettingsError, WarehouseError
from warehouse.sessions import SessionLimits, read_csrf_key

PROXY = "10.0.0.5"
NAMED = PAGE | {"X-Remote-User": "ada"}


@pytest.fixture
def behind_proxy(make_context, new_client):
    """Make a browser of a desk behind a proxy at 10.0.0.5: ``behind_proxy(address)``."""
    context = make_context(trusted_header="X-Remote-User", trusted_proxies=("10.0.0.0/24",))
    add_analyst(context.queue, "ada", "analyst", None, "test")
    app = create_app(context)

    def make(address=PROXY):
        return new_client(app=app, address=address)

    return make


def is_let_in(client, headers=NAMED):
    """Tell by the page to sign in, which sends those on who are let in."""
    answer = client.get("/sign-in", headers=headers)
    return answer.status_code == 303


def test_person_may_what_weaker_roles_may():
    for place, role in enumerate(ROLES):
        person = Person(1, "ada", role, "")
        assert [person.may(other) for other in ROLES] == [n <= place for n in range(len(ROLES))]


def test_guards_say_what_they_need():
    assert (require("lead").needed_role, require("lead").needed_scope) == ("lead", None)
    assert require_scope("feed", "viewer").needed_scope == "feed"


def test_name_in_the_header_counts_from_the_proxy_alone(behind_proxy):
    assert is_let_in(behind_proxy())
    for address in ("10.0.1.5", "192.0.2.1", "127.0.0.1", "testclient", "::1"):
        assert not is_let_in(behind_proxy(address)), address
    forged = NAMED | {"X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}"}
    assert not is_let_in(behind_proxy("192.0.2.1"), forged)


def test_header_counts_for_nothing_unless_it_is_set(client, queue):
    add_analyst(queue, "ada", "analyst", None, "test")
    assert not is_let_in(client)


def test_person_named_by_the_proxy_must_be_known_and_active(behind_proxy, queue):
    unknown = behind_proxy().get("/queue", headers=PAGE | {"X-Remote-User": "<b>bob</b>"})
    assert unknown.status_code == 403
    assert "desk users add" in unknown.text
    assert "<b>bob" not in unknown.text
    disable_analyst(queue, "ada", "test")
    assert behind_proxy().get("/queue", headers=NAMED).status_code == 403


def test_two_names_are_believed_neither(behind_proxy):
    names = [("Accept", "text/html"), ("X-Remote-User", "ada"), ("X-Remote-User", "root")]
    assert behind_proxy().get("/queue", headers=names).status_code == 403


def test_person_named_by_the_proxy_needs_the_csrf_token_too(behind_proxy):
    browser = behind_proxy()
    page = browser.get("/nothing-here", headers=NAMED)
    assert page.status_code == 404
    assert browser.post("/sign-out", headers=NAMED).status_code == 403
    token = token_of(browser)
    assert browser.post("/sign-out", headers=NAMED | {"X-CSRF-Token": token}).status_code == 303
    elsewhere = {"X-CSRF-Token": token, "Origin": "https://evil.example"}
    assert browser.post("/sign-out", headers=NAMED | elsewhere).status_code == 403


def test_every_desk_over_the_queue_takes_the_csrf_token_of_another(make_context, new_client):
    context = make_context(trusted_header="X-Remote-User", trusted_proxies=(PROXY,))
    for name in ("ada", "bob"):
        add_analyst(context.queue, name, "analyst", None, "test")
    one, other = (new_client(app=create_app(context), address=PROXY) for _ in range(2))
    token = token_of(one)
    taken = NAMED | {"X-CSRF-Token": token}
    assert other.post("/sign-out", headers=taken).status_code == 303
    assert other.post("/sign-out", headers=taken | {"X-Remote-User": "bob"}).status_code == 403


def test_desks_that_begin_at_once_share_one_key(queue):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_csrf_key(queue), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32


def sign_ins(queue):
    """Give whom the audit trail says to have come, and whence."""
    events = reversed(list_events(queue, limit=100))
    return [(e.actor, e.subject, e.details) for e in events if e.action == "sign_in"]


def test_person_named_by_the_proxy_is_noted_once_for_as_long_as_they_stay(
    behind_proxy, queue, clock
):
    came = ("ada", "analyst ada", {"address": PROXY, "by": "proxy"})
    browser = behind_proxy()
    for _ in range(3):
        for path in ("/queue", "/suppressions"):
            assert browser.get(path, headers=NAMED).status_code == 200
        clock.advance(minutes=29)
    assert sign_ins(queue) == [came]
    clock.advance(minutes=1)
    browser.get("/queue", headers=NAMED)
    assert sign_ins(queue) == [came] * 2, "away for longer than sessions last unused"
    for _ in range(12 * 3):
        browser.get("/queue", headers=NAMED)
        clock.advance(minutes=20)
    assert sign_ins(queue) == [came] * 2
    browser.get("/queue", headers=NAMED)
    assert sign_ins(queue) == [came] * 3, "there for as long as sessions last at most"
    browser.get("/queue", headers=NAMED | {"X-Forwarded-For": "203.0.113.9"})
    assert sign_ins(queue)[3:] == [(*came[:2], came[2] | {"address": "203.0.113.9"})]
    assert queue.verify_audit() is None


def test_whom_the_desk_does_not_let_in_is_noted_as_nobody_who_came(behind_proxy, queue):
    disable_analyst(queue, "ada", "test")
    assert behind_proxy().get("/queue", headers=NAMED).status_code == 403
    assert sign_ins(queue) == []


def test_refusal_of_whom_the_proxy_names_is_noted_once_for_as_long_as_they_stay(
    behind_proxy, queue, clock
):
    browser = behind_proxy()
    disable_analyst(queue, "ada", "test")

    def refuse(name):
        for _ in range(2):
            answer = browser.get("/queue", headers=PAGE | {"X-Remote-User": name})
            assert answer.status_code == 403

    def refused():
        events = reversed(list_events(queue, limit=100))
        failed = [e for e in events if e.action == "sign_in_failed"]
        assert {(e.actor, e.details["address"], e.details["by"]) for e in failed} == {
            ("nobody", PROXY, "proxy")
        }
        return [(e.subject, e.details["reason"]) for e in failed]

    refuse("ada")
    refuse("bob")
    refuse("x" * 3000)
    refuse("\x1b[2J")
    told = [
        ("analyst ada", "disabled"),
        ("analyst bob", "no such name"),
        ("analyst " + "x" * 64, "no such name"),
        (r"analyst \x1b[2J", "no such name"),
    ]
    assert refused() == told
    clock.advance(minutes=30)
    refuse("bob")
    assert refused() == [*told, told[1]]
    assert queue.verify_audit() is None


def test_arrival_that_could_not_be_written_lets_nobody_in(behind_proxy, queue, monkeypatch):
    def fail(*_arguments):
        raise WarehouseError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(arrivals, "note_proxy_sign_in", fail)
        assert behind_proxy().get("/queue", headers=NAMED).status_code == 503
    assert behind_proxy().get("/queue", headers=NAMED).status_code == 200
    assert len(sign_ins(queue)) == 1


def test_who_is_there_is_kept_in_bounded_memory(queue, monkeypatch):
    monkeypatch.setattr(arrivals, "MOST_KEYS", 3)
    there, limits = Arrivals(), SessionLimits(timedelta(minutes=30), timedelta(hours=12))
    for number in (1, 2, 3, 4, 4, 3):
        there.note(queue, "ada", f"192.0.2.{number}", limits)
    assert len(sign_ins(queue)) == 4
    there.note(queue, "ada", "192.0.2.1", limits)
    assert len(sign_ins(queue)) == 5


def token_of(browser):
    """Read the token from a page, as its scripts do."""
    page = browser.get("/suppressions", headers=NAMED).text
    return page.partition('"X-CSRF-Token": "')[2].partition('"')[0]


def test_session_counts_where_the_proxy_names_nobody(behind_proxy, signed_in):
    browser = behind_proxy()
    browser.cookies.update(signed_in("viewer").cookies)
    assert is_let_in(browser, PAGE)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, 10.0.0.6", "203.0.113.9"),
        (PROXY, "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, nonsense", PROXY),
        (PROXY, None, PROXY),
        ("::ffff:10.0.0.5", "203.0.113.9", "203.0.113.9"),
    ],
)
def test_client_is_the_last_address_that_is_no_proxys(peer, forwarded, client):
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope = {"type": "http", "scheme": "http", "headers": headers, "client": (peer, 1)}
    assert Proxies.read(["10.0.0.0/24"]).client_address(Request(scope)) == client


@pytest.mark.parametrize(
    ("peer", "scheme", "told", "is_secure"),
    [
        ("192.0.2.1", "https", "", True),
        ("192.0.2.1", "http", "https", False),
        (PROXY, "http", "https", True),
        (PROXY, "http", "http", False),
        (PROXY, "http", "", False),
    ],
)
def test_tls_is_seen_or_told_by_the_proxy(peer, scheme, told, is_secure):
    headers = [(b"x-forwarded-proto", told.encode())]
    scope = {"type": "http", "scheme": scheme, "headers": headers, "client": (peer, 1)}
    assert Proxies.read([PROXY]).is_secure(Request(scope)) is is_secure


def test_address_of_a_proxy_that_cannot_be_read_is_refused(make_context):
    with pytest.raises(SettingsError, match="trusted_proxies"):
        create_app(make_context(trusted_proxies=("proxy.example",)))


def test_neighbours_of_an_address_share_its_attempts():
    assert to_household("2001:db8::1") == to_household("2001:db8::2") != "2001:db8::1"
    assert to_household("192.0.2.1") != to_household("192.0.2.2")
    assert to_household("fe80::1%eth0") == "fe80::/64"
    assert to_household("unknown") == "unknown"
    assert to_household("::ffff:192.0.2.1") == "192.0.2.1"


def test_who_asks_costs_one_read_of_the_queue(signed_in, queue):
    browser = signed_in("viewer")
    seen = []
    event.listen(queue.database.engine, "before_cursor_execute", lambda *w: seen.append(w[2]))
    assert is_let_in(browser, PAGE)
    statements = [text for text in seen if text.startswith("SELECT")]
    assert len(statements) == 1
    assert [text for text in seen if not text.startswith(("SELECT", "BEGIN"))] == []
    with queue.database.read() as connection:
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statements[0]}", ("x", "2026", "2026")
        ).all()
    assert all("USING" in row[-1] for row in plan), plan
