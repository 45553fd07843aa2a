"""``nightwarden desk`` and ``nightwarden audit``: served for real, and who may use it."""

import getpass
import io
import json
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest
from sqlalchemy import text

from flows.desk_server import listen
from flows.settings import Settings
from tests.desk_process import CONFIG, served
from warehouse.analysts import check_password, find_analyst
from warehouse.api_tokens import find_holder
from warehouse.queue import Queue

PASSWORD = "correct horse battery"  # noqa: S105 - of people who live as long as a test


@pytest.fixture
def config(tmp_path) -> Path:
    """The settings of a project in which nothing has run yet."""
    file = tmp_path / "nightwarden.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def run(run, config, monkeypatch):
    """Run a command on the project, with a line of standard input.

    It comes as bytes, which ``errors`` says how to read where they are no UTF-8.
    """

    def run_on_project(
        *words: object, stdin: str | bytes = b"", errors: str = "strict"
    ) -> tuple[int, str, str]:
        given = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, "utf-8", errors))
        return run(*words, "--config", config)

    return run_on_project


@pytest.fixture
def users(run):
    """Run ``nightwarden desk users``."""
    return lambda *words, **more: run("desk", "users", *words, **more)


@pytest.fixture
def queue(config):
    with Queue.open(Settings.read(config).warehouse.queue_path, create=True) as opened:
        yield opened


def wait_for(address):
    """Wait until the desk answers; it listens before it does."""
    with urlopen(f"{address}/healthz", timeout=20) as answer:  # noqa: S310 - our own server
        return answer.status


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_desk_is_served_lets_somebody_in_and_ends_when_told(config, users, signal_number):
    assert users("add", "ada", "--password-stdin", stdin=PASSWORD)[0] == 0
    with served(config) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert wait_for(address) == 200
        form = urlencode({"name": "ada", "password": PASSWORD}).encode()
        headers = {"Accept": "text/html", "Origin": address}
        browser = build_opener(HTTPCookieProcessor())
        asked = Request(f"{address}/sign-in", form, headers)  # noqa: S310 - our own server
        with browser.open(asked, timeout=20) as answer:
            assert answer.url == f"{address}/queue"
            assert "server" not in answer.headers
        process.send_signal(signal_number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_first_start_says_how_to_add_somebody_and_makes_up_no_password(config, users, queue):
    with served(config) as (process, address):
        wait_for(address)
        assert "nightwarden desk users add NAME --role admin" in process.stdout.readline()
        with queue.database.read() as connection:
            assert connection.scalar(text("SELECT count(*) FROM analysts")) == 0
    users("add", "ada", "--no-password")
    users("disable", "ada")
    with served(config) as (process, address):
        assert "desk users add" in process.stdout.readline(), "nobody active can sign in"


def test_desk_serves_tls_itself(config, tmp_path):
    certificate, key = tmp_path / "desk.pem", tmp_path / "desk.key"
    make_certificate(certificate, key)
    config.write_text(CONFIG + '[desk]\ntls_certificate = "desk.pem"\ntls_key = "desk.key"\n')
    context = ssl.create_default_context(cafile=certificate)
    with served(config) as (_, address):
        assert address.startswith("https://127.0.0.1:")
        with urlopen(f"{address}/healthz", timeout=20, context=context) as answer:  # noqa: S310
            assert "max-age" in answer.headers["strict-transport-security"]


def make_certificate(certificate, key):
    """Make a certificate for 127.0.0.1, signed by itself."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=desk", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(  # noqa: S603 - our own command
        [*command, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True
    )


@pytest.mark.parametrize("broken", ["missing", "no PEM", "encrypted"])
def test_tls_files_that_cannot_be_used_are_the_users_mistake(run, config, tmp_path, broken):
    certificate, key = tmp_path / "desk.pem", tmp_path / "desk.key"
    config.write_text(CONFIG + '[desk]\ntls_certificate = "desk.pem"\ntls_key = "desk.key"\n')
    if broken != "missing":
        make_certificate(certificate, key)
    if broken == "no PEM":
        key.write_text("no key")
    if broken == "encrypted":
        command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", key]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    code, _, message = run("desk")
    assert code == 2
    assert "PEM files" in message


def test_taken_port_is_the_users_mistake(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, message = run("desk", "--port", taken.getsockname()[1])
    assert code == 2
    assert "already in use" in message.lower()


def test_answers_do_not_wait_for_the_acknowledgement_of_their_beginning():
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_host_of_another_machine_is_the_users_mistake(run):
    code, _, message = run("desk", "--port", "0", "--host", "192.0.2.1", "--insecure")
    assert code == 2
    assert "must be able to listen on 192.0.2.1" in message


def test_passwords_go_over_no_network_in_clear(run, config):
    code, _, message = run("desk", "--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert code == 2
    assert "--insecure" in message
    for allowed in (("--insecure",), ()):
        if not allowed:
            config.write_text(CONFIG + '[desk]\ntrusted_proxies = ["10.0.0.1"]\n')
        with served(config, "--host", "0.0.0.0", *allowed) as (process, address):  # noqa: S104
            assert "127.0.0.1" in address
            assert "answers to the names 127.0.0.1, localhost" in process.stdout.readline()


def test_desk_loads_nothing_of_models():
    """It runs all day beside the night's work, so it should stay small."""
    code = (
        "import sys; sys.argv = ['nightwarden', 'desk', '--help']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('fastapi', 'uvicorn', 'argon2', 'sqlalchemy', 'torch', 'mlflow')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import flows.desk_server\n"
        "heavy = ('torch', 'mlflow', 'prefect', 'tasks.train', 'models.ensemble')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


def test_only_a_desk_with_webhooks_needs_the_secret_that_signs_them(run, config, users):
    hook = '[[desk.webhooks]]\nname = "cases"\nurl = "http://127.0.0.1:9/"\n'
    config.write_text(CONFIG + hook)
    code, output, message = run("desk", "--port", 0)
    assert (code, output) == (2, "")
    assert "webhooks need a secret to sign with; set NIGHTWARDEN_WEBHOOK_SECRET" in message
    assert users("add", "ada", "--no-password")[0] == 0


def test_user_is_added_changed_and_listed(users, queue):
    assert users("add", "ada", "--role", "lead", "--password-stdin", stdin=f"{PASSWORD}\n")[0] == 0
    assert check_password(queue, "ada", PASSWORD).role == "lead"
    assert users("role", "ada", "viewer")[0] == 0
    assert users("password", "ada", "--password-stdin", stdin="staple correct horse\n")[0] == 0
    assert check_password(queue, "ada", PASSWORD) is None
    assert check_password(queue, "ada", "staple correct horse").role == "viewer"
    assert users("disable", "ada")[0] == 0
    assert check_password(queue, "ada", "staple correct horse") is None
    assert users("enable", "ada")[0] == 0
    code, output, _ = users("list", "--json")
    (listed,) = json.loads(output)
    assert (code, listed["name"], listed["role"]) == (0, "ada", "viewer")
    assert (listed["is_active"], listed["has_password"]) == (True, True)
    assert "hash" not in output
    assert "ada" in users("list")[1]


def test_password_is_never_an_argument_and_never_made_up(users, queue):
    code, _, message = users("add", "ada")
    assert code == 2
    assert "--password-stdin" in message
    code, _, message = users("add", "ada", "--password-stdin", stdin="short\n")
    assert code == 2
    assert "12 to" in message
    assert find_analyst(queue, "ada") is None
    assert users("add", "ada", "--password", PASSWORD)[0] == 2


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second in the C locale
def test_password_of_bytes_that_are_no_text_is_refused_without_telling_it(users, queue, errors):
    secret = b"correct horse \xff\xfe"
    code, output, message = users("add", "ada", "--password-stdin", stdin=secret, errors=errors)
    assert (code, output) == (2, "")
    assert "expected a password in" in message
    assert "horse" not in message
    assert find_analyst(queue, "ada") is None


def test_person_of_a_proxy_needs_no_password(users, queue):
    assert users("add", "ada@example.com", "--no-password")[0] == 0
    assert not find_analyst(queue, "ada@example.com").has_password


def test_name_that_is_taken_or_unknown_is_the_users_mistake(users):
    users("add", "ada", "--no-password")
    for words in (("add", "ada", "--no-password"), ("disable", "bob"), ("role", "bob", "lead")):
        code, _, message = users(*words)
        assert (code, message.startswith("Error: expected")) == (2, True)


def test_token_is_printed_once_and_holds_until_it_is_revoked(run, users, queue):
    users("add", "robot", "--role", "viewer", "--no-password")
    scopes = ("--scope", "read", "--scope", "feed")
    code, output, _ = run("desk", "tokens", "add", "cases", "--as", "robot", *scopes)
    token = output.strip()
    assert (code, token.startswith("nw_")) == (0, True)
    assert find_holder(queue, token).scopes == {"read", "feed"}
    listed = run("desk", "tokens", "list", "--json")[1]
    assert token not in listed + run("desk", "tokens", "list")[1]
    assert json.loads(listed)[0]["scopes"] == ["feed", "read"]
    assert run("desk", "tokens", "revoke", "cases")[0] == 0
    assert find_holder(queue, token) is None
    words = ("desk", "tokens", "add", "other", "--as", "robot", "--scope", "read", "--days", 1)
    assert json.loads(run(*words, "--json")[1])["token"].startswith("nw_")


def test_token_without_a_scope_or_of_nobody_is_the_users_mistake(run):
    assert run("desk", "tokens", "add", "a", "--as", "nobody", "--scope", "read")[0] == 2
    assert run("desk", "tokens", "add", "a", "--as", "nobody")[0] == 2
    assert run("desk", "tokens", "revoke", "a")[0] == 2


def test_audit_names_who_ran_the_commands(run, users):
    users("add", "ada", "--no-password")
    users("role", "ada", "lead")
    code, output, _ = run("audit", "list", "--json")
    events = json.loads(output)
    assert code == 0
    assert [event["action"] for event in events] == ["change_role", "add_analyst"]
    assert {event["actor"] for event in events} == {getpass.getuser()}
    assert "add_analyst" in run("audit", "list", "--actor", getpass.getuser())[1]
    assert json.loads(run("audit", "list", "--actor", "nobody", "--json")[1]) == []


def test_audit_without_a_change_verifies(run, users):
    assert run("audit", "verify")[0] == 0
    users("add", "ada", "--no-password")
    users("role", "ada", "lead")
    code, output, _ = run("audit", "verify", "--json")
    found = json.loads(output)
    assert (code, found["events"], found["first_broken"]) == (0, 2, None)
    assert found["last_hash"] in run("audit", "verify")[1]
    users("role", "ada", "viewer")
    assert run("audit", "verify", "--noted", found["last_hash"])[0] == 0


def tamper(queue, *statements):
    """Change the trail as somebody with the file would: without its triggers."""
    with queue.database.write() as connection:
        triggers = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for name in connection.scalars(triggers).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("UPDATE audit_events SET actor = 'mallory' WHERE sequence = 2", 2),
        ('UPDATE audit_events SET details = \'{"role": "admin"}\' WHERE sequence = 3', 3),
        ("DELETE FROM audit_events WHERE sequence = 1", 1),
        ("DELETE FROM audit_events WHERE sequence = 2", 2),
    ],
)
def test_audit_names_the_first_event_that_was_changed(run, users, queue, change, first):
    users("add", "ada", "--no-password")
    for role in ("lead", "viewer"):
        users("role", "ada", role)
    tamper(queue, change)
    code, output, message = run("audit", "verify")
    assert (code, output) == (1, "")
    assert message.startswith(f"Event {first} ")
    assert json.loads(run("audit", "verify", "--json")[1])["first_broken"] == first


def test_audit_notices_a_lost_end_by_a_hash_that_was_noted(run, users, queue):
    users("add", "ada", "--no-password")
    users("role", "ada", "lead")
    noted = json.loads(run("audit", "verify", "--json")[1])["last_hash"]
    tamper(queue, "DELETE FROM audit_events WHERE sequence = 2")
    assert run("audit", "verify")[0] == 0
    code, _, message = run("audit", "verify", "--noted", noted)
    assert code == 1
    assert "cut off" in message
