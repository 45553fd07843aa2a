"""What every answer carries, what is never let through, and how errors are told."""

import socket

import pytest

from desk.app import create_app
from desk.middleware import HEADERS, MOST_BYTES
from tests.desk.conftest import PAGE
from warehouse.errors import UserError, WarehouseError
from warehouse.queue_records import ConflictError, NotInQueueError

FRAGMENT = PAGE | {"HX-Request": "true"}
SECRET = "a secret of the traceback"  # noqa: S105 - a text that must not be shown

ERRORS = {
    "user": (UserError("<b>too much</b>"), 400),
    "missing": (NotInQueueError("no case 7"), 404),
    "conflict": (ConflictError("ada was faster"), 409),
    "broken-queue": (WarehouseError(f"{SECRET} /srv/queue.sqlite"), 503),
    "bug": (KeyError(SECRET), 500),
}


@pytest.fixture
def failing(app):
    """The desk with routes that fail, under ``/fails/`` and ``/api/v1/fails/``."""

    @app.get("/fails/{kind}")
    @app.get("/api/v1/fails/{kind}")
    def fail(kind: str) -> str:
        raise ERRORS[kind][0]

    @app.post("/takes-numbers")
    @app.post("/api/v1/takes-numbers")
    def take(numbers: list[int]) -> int:
        return sum(numbers)

    return app


@pytest.mark.usefixtures("failing")
def test_every_answer_carries_the_headers(client):
    answers = {
        "page": client.get("/sign-in", headers=PAGE),
        "redirect": client.get("/queue", headers=PAGE),
        "static": client.get("/static/htmx.min.js"),
        "missing": client.get("/nothing-here", headers=PAGE),
        "method": client.put("/sign-in"),
        "bug": client.get("/fails/bug", headers=PAGE),
        "too much": client.post("/sign-in", content=b"x" * (MOST_BYTES + 1)),
        "host": client.get("/sign-in", headers={"Host": "evil.example"}),
        "origin": client.post("/sign-in", headers={"Origin": "http://evil.example"}),
        "alive": client.get("/healthz"),
    }
    assert [answers[name].status_code for name in list(answers)[3:9]] == [
        404,
        405,
        500,
        413,
        400,
        403,
    ]
    for name, answer in answers.items():
        assert {key: answer.headers.get(key) for key in HEADERS} == HEADERS, name
        if name != "static":
            assert answer.headers["cache-control"] == "no-store", name
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers


def test_policy_lets_no_inline_script_style_or_other_host_in():
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}


def test_static_files_may_be_kept_for_good_if_named_by_their_content(client):
    assert client.get("/static/htmx.min.js").headers["cache-control"] == "no-cache"
    named = client.get("/static/htmx.min.js?v=abc")
    assert "immutable" in named.headers["cache-control"]


def test_static_files_lead_nowhere_else(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/"):
        assert client.get(path).status_code == 404, path


def test_browsers_are_told_to_stay_with_tls_where_there_is_tls(new_client):
    answer = new_client(base_url="https://localhost:8050").get("/sign-in")
    assert answer.headers["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8050", 200),
        ("127.0.0.1:1", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("evil.example:8050", 400),
        ("[::1]:8050", 400),
        ("", 400),
    ],
)
def test_only_own_host_names_are_answered(client, host, status):
    answer = client.get("/healthz", headers=PAGE | {"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "evil" not in answer.text


def test_further_names_are_set(make_context, new_client):
    app = create_app(make_context(names=("Desk.example", "::1")))
    browser = new_client(app=app)
    for host, status in (("desk.example", 200), ("[::1]:80", 200), ("localhost", 400)):
        assert browser.get("/healthz", headers={"Host": host}).status_code == status


def in_chunks(size):
    yield from (b"x" * 1024 for _ in range(size // 1024))
    yield b"x"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sign-in", "application/x-www-form-urlencoded"),
        ("/sign-in", "multipart/form-data; boundary=x"),
        ("/takes-numbers", "application/json"),
        ("/api/v1/takes-numbers", "application/json"),
    ],
)
@pytest.mark.usefixtures("failing")
def test_body_that_is_too_large_is_refused_even_without_its_size(client, path, kind):
    headers = {"Content-Type": kind}
    told = client.post(path, content=b"x" * (MOST_BYTES + 1), headers=headers)
    untold = client.post(path, content=in_chunks(MOST_BYTES), headers=headers)
    assert "content-length" not in untold.request.headers
    assert (told.status_code, untold.status_code) == (413, 413)
    assert client.post(path, content=b" " * 100 + b"[1]", headers=headers).status_code != 413


@pytest.mark.usefixtures("failing")
def test_body_may_be_as_large_as_the_limit(client):
    body = b"[1" + b" " * (MOST_BYTES - 3) + b"]"
    assert (
        client.post(
            "/takes-numbers", content=body, headers={"Content-Type": "application/json"}
        ).json()
        == 1
    )


def test_size_that_is_a_lie_is_refused_by_the_server(context, serve):
    with serve(create_app(context)) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            head = (
                "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
            )
            connection.sendall(head.encode())
            assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize("kind", list(ERRORS))
@pytest.mark.usefixtures("failing")
def test_error_is_told_as_page_fragment_or_json_without_its_traceback(client, kind):
    status = ERRORS[kind][1]
    page = client.get(f"/fails/{kind}", headers=PAGE)
    fragment = client.get(f"/fails/{kind}", headers=FRAGMENT)
    program = client.get(f"/api/v1/fails/{kind}", headers=PAGE)
    assert {page.status_code, fragment.status_code, program.status_code} == {status}
    assert "<h1" in page.text
    assert "<html" not in fragment.text
    assert (fragment.headers["hx-retarget"], fragment.headers["hx-reswap"]) == (
        "#messages",
        "innerHTML",
    )
    assert list(program.json()) == ["detail"]
    for answer in (page, fragment, program):
        assert SECRET not in answer.text
        assert "Traceback" not in answer.text


@pytest.mark.usefixtures("failing")
def test_what_is_told_is_escaped(client):
    for headers in (PAGE, FRAGMENT):
        text = client.get("/fails/user", headers=headers).text
        assert "&lt;b&gt;too much&lt;/b&gt;" in text
        assert "<b>too" not in text


@pytest.mark.usefixtures("failing")
def test_bug_is_in_the_log_with_its_traceback(client, caplog):
    client.get("/fails/bug")
    assert SECRET in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("failing")
def test_values_of_the_wrong_form_are_told_without_echoing_them(client):
    page = client.post("/takes-numbers", json=["<i>seven</i>"], headers=PAGE)
    program = client.post("/api/v1/takes-numbers", json=["<i>seven</i>"])
    assert {page.status_code, program.status_code} == {422}
    assert "valid integer" in page.text
    assert program.json()["detail"][0]["loc"] == ["body", 0]
    assert "seven" not in page.text + program.text


def test_page_that_there_is_not_says_what_to_do(client):
    page = client.get("/nothing-here", headers=PAGE)
    assert "There is no such page" in page.text
    assert 'href="/"' in page.text
    assert client.get("/api/v1/nothing-here").json() == {"detail": "Not Found"}
