"""An address holds no password, and yet lets its user in, whatever the password looks like."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import duckdb
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.services import end_sessions
from warehouse.connection import load_extension, quote_text
from warehouse.errors import SettingsError, WarehouseError
from warehouse.postgresql import describe_address, has_table, open_session, safe_address, will_last

ODD = "planted:a\\b'c d%e@f/ü"


@pytest.fixture
def odd(postgresql):
    """The server's address for a user with an odd password."""
    with psycopg.connect(postgresql.url, autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS odd")
        quoted = session.execute("SELECT quote_literal(%s)", [ODD]).fetchone()[0]
        session.execute(f"CREATE ROLE odd LOGIN PASSWORD {quoted}")
    return f"postgresql://odd:{quote(ODD, safe='')}@127.0.0.1:{postgresql.port}/postgres"


def user_of(address):
    with open_session(address) as session:
        return session.execute("SELECT current_user").fetchone()[0]


@pytest.mark.parametrize("form", ["url", "pairs"])
def test_odd_password_lets_in_and_is_not_in_the_address(odd, form, monkeypatch):
    text = odd if form == "url" else make_conninfo(**conninfo_to_dict(odd))
    monkeypatch.setenv("PGPASSWORD", "of another server")
    address = safe_address(text, "test")
    assert "planted" not in address
    assert user_of(address) == "odd"
    file = Path(conninfo_to_dict(address)["passfile"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_password_of_the_environment_is_used_where_the_address_has_none(odd, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", ODD)
    parts = conninfo_to_dict(odd)
    del parts["password"]
    assert user_of(safe_address(make_conninfo(**parts), "test")) == "odd"


def test_duckdb_connects_anew_in_any_thread(postgresql):
    """Sessions that the server ended are made again, long after the address was given."""
    url = postgresql.new_database()
    address = safe_address(url, "to be ended")
    ask = "FROM postgres_query('db', 'SELECT pg_backend_pid()')"
    with duckdb.connect() as connection, ThreadPoolExecutor(1) as pool:
        load_extension(connection, "postgres_scanner")
        connection.execute(f"ATTACH {quote_text(address)} AS db (TYPE postgres)")
        before = connection.execute(ask).fetchone()
        end_sessions(url, "to be ended")
        after = pool.submit(lambda: connection.cursor().execute(ask).fetchone()).result()
    assert before != after


def test_wrong_password_is_told_without_it(postgresql):
    address = safe_address(postgresql.url.replace(postgresql.password, "planted-wrong"), "test")
    message = r"postgres on 127\.0\.0\.1:\d+ must let this user in.*password authentication failed"
    with pytest.raises(WarehouseError, match=message) as caught, open_session(address):
        pass
    assert "planted" not in str(caught.value) + str(caught.value.__context__)


def test_server_notices_a_host_that_is_gone_and_keeps_the_addresss_own_options(postgresql):
    url = f"{postgresql.url}?options=-c%20work_mem%3D8MB"
    shown = {}
    with open_session(safe_address(url, "nightwarden test", is_watched=True)) as session:
        for name in ("tcp_keepalives_idle", "work_mem", "application_name"):
            shown[name] = session.execute(f"SHOW {name}").fetchone()[0]
    expected = {"tcp_keepalives_idle": "30", "work_mem": "8MB"}
    assert shown == expected | {"application_name": "nightwarden test"}


WITHOUT_MEMORY_FILES = """
import os, stat, sys
from pathlib import Path
from psycopg.conninfo import conninfo_to_dict
del os.memfd_create
from warehouse.postgresql import open_session, safe_address
address = safe_address(sys.stdin.read(), "test")
with open_session(address):
    file = Path(conninfo_to_dict(address)["passfile"])
    print(oct(stat.S_IMODE(file.stat().st_mode)), file)
"""


def test_without_files_in_memory_one_on_disk_ends_with_the_process(odd):
    found = subprocess.run(  # noqa: S603 (our own script)
        [sys.executable, "-c", WITHOUT_MEMORY_FILES],
        cwd=Path(__file__).parents[2],
        input=odd,
        capture_output=True,
        text=True,
        check=True,
    )
    mode, file = found.stdout.split()
    assert mode == "0o600"
    assert not Path(file).exists()


@pytest.mark.parametrize("name", ["sslpassword", "oauth_client_secret"])
def test_other_secrets_in_an_address_are_refused(name):
    if name.encode() not in {one.keyword for one in psycopg.pq.Conninfo.get_defaults()}:
        pytest.skip(f"this libpq knows no {name}")
    with pytest.raises(SettingsError, match=f"may hold no {name}") as caught:
        safe_address(f"host=h {name}=planted", "test")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql://ada:planted@db.example:5433/lake", "lake on db.example:5433"),
        ("postgresql://ada:planted@/lake?host=/run/db", "lake on /run/db"),
        ("host=db user=ada password=planted", "ada on db"),
    ],
)
def test_address_in_words_has_no_password(address, words):
    assert describe_address(address) == words
    assert describe_address(safe_address(address, "test")) == words


def test_table_is_found_or_not(postgresql):
    url = postgresql.new_database()
    assert not has_table(url, "payments")
    with psycopg.connect(url) as session:
        session.execute("CREATE TABLE payments (id int)")
    assert has_table(url, "payments")


def test_what_a_server_refuses_lasts_and_its_silence_may_pass():
    assert will_last('FATAL:  database "lake" does not exist')
    assert will_last('FATAL:  password authentication failed for user "ada"')
    assert not will_last("Connection refused")
    assert not will_last("FATAL:  the database system is starting up")
