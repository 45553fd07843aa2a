"""Addresses of PostgreSQL without their password, which no driver's text can then tell.

libpq, through which DuckDB and psycopg speak to a server, reads the password from a file. Here that
file lies in memory and belongs to the process, so it is on no disk and ends with the process.
psycopg is imported where it is needed: it takes a sixth of a second.
"""

import atexit
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.errors import BusyError, SettingsError, WarehouseError

if TYPE_CHECKING:
    from psycopg import Connection

LOST_AFTER: dict[str, Any] = {  # seconds: a server or a way to it that is gone is noticed
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
# The same for the server: what a host that lost its power held is free after a minute, not hours.
WATCHED = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
# What a server says that will not pass by itself. In another language than English it is tried
# again, in vain.
LASTING = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "does not support SSL",
    "could not translate host name",
)


def safe_address(
    address: str, application_name: str = "nightwarden", *, is_watched: bool = False
) -> str:
    """Write an address in libpq's form, with the password in a file of this process's memory.

    Args:
        address: A URL or ``key=value`` text; parts that it lacks come from libpq's environment.
        application_name: What the server's list of sessions is to say.
        is_watched: Whether the server, too, is to notice soon that this host is gone. A pooler may
            refuse that.

    Raises:
        SettingsError: if the address cannot be read, or holds a secret that needs a file.
    """
    from psycopg.conninfo import make_conninfo

    parts = _parts(address)
    password = parts.pop("password", None)
    if password is not None:
        # An empty password keeps PGPASSWORD, which may be another server's, out of it.
        parts |= {"password": "", "passfile": _password_file(str(password))}
    if is_watched:
        parts["options"] = f"{WATCHED} {parts.get('options', '')}".strip()
    return make_conninfo(**(LOST_AFTER | parts | {"application_name": application_name}))


def describe_address(address: str) -> str:
    """Say which database on which host an address means, for messages.

    Raises:
        SettingsError: if the address cannot be read.
    """
    parts = _parts(address)
    host = parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST", "localhost")
    name = parts.get("dbname") or os.environ.get("PGDATABASE") or parts.get("user", "")
    port = f":{parts['port']}" if "port" in parts else ""
    return f"{name} on {host}{port}"


@contextmanager
def open_session(address: str) -> Iterator["Connection"]:
    """Give a session at an address that ``safe_address`` wrote; each statement commits itself.

    Raises:
        BusyError: if the server does not answer.
        WarehouseError: if it does not let this user in.
    """
    import psycopg

    try:
        session = psycopg.connect(address, autocommit=True)
    except psycopg.Error as error:
        reason = str(error).splitlines()[0].rpartition("failed: ")[2]
        message = (
            f"the database {describe_address(address)} must let this user in, and does not "
            f"({reason}); check the address, the password, the user's rights, and that the "
            "server runs"
        )
        raise (WarehouseError if will_last(reason) else BusyError)(message) from None
    try:
        yield session
    finally:
        session.close()


def has_table(address: str, name: str) -> bool:
    """Tell whether a database has a table among those that need no schema's name.

    Raises:
        BusyError: if the server does not answer, or goes away.
        WarehouseError: if it does not let this user in.
    """
    import psycopg

    with open_session(safe_address(address)) as session:
        try:
            row = session.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
        except psycopg.Error:
            message = f"the database {describe_address(address)} went away; run this again"
            raise BusyError(message) from None
    return bool(row and row[0])


def will_last(text: str) -> bool:
    """Tell whether a driver's text speaks of what a person must mend, rather than of a moment."""
    return any(phrase in text for phrase in LASTING)


def _parts(address: str) -> dict[str, Any]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    parts: dict[str, Any] | None = None
    with suppress(psycopg.Error):  # its words hold the password: none is chained
        parts = conninfo_to_dict(address)
    if parts is None:
        message = (
            "a PostgreSQL address must look like postgresql://user@host/database or "
            "host=... dbname=... user=..., and one that is set cannot be read; correct it "
            "(a special character of a password is written %XX in a URL)"
        )
        raise SettingsError(message)
    secret = [
        option.keyword.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.dispchar == b"*" and option.keyword != b"password"
    ]
    if found := [name for name in secret if name in parts]:
        message = (
            f"a PostgreSQL address may hold no {found[0]}, which a driver's message could tell; "
            "use a key file without a passphrase that only its owner may read, or a password"
        )
        raise SettingsError(message)
    return parts


@functools.cache
def _password_file(password: str) -> str:
    """Keep a password in a file in libpq's form; it stays open as connections are made anew."""
    quoted = password.replace("\\", "\\\\").replace(":", "\\:")
    line = f"*:*:*:*:{quoted}\n".encode()
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        number = os.memfd_create("nightwarden")
        os.fchmod(number, 0o600)  # libpq reads none that others may read
        os.write(number, line)
        return f"/proc/self/fd/{number}"
    number, name = tempfile.mkstemp()  # readable by its owner alone
    atexit.register(Path(name).unlink, missing_ok=True)
    with os.fdopen(number, "wb") as stream:
        stream.write(line)
    return name
