"""The object store of a shared lake: keys from the standard variables, and whether it answers."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import duckdb

from warehouse.errors import BusyError, SettingsError, WarehouseError

S3 = "s3://"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL = {
    "SESSION_TOKEN": ("AWS_SESSION_TOKEN",),
    "REGION": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def use_object_store(
    connection: duckdb.DuckDBPyConnection,
    address: str,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Let a connection read and write below an ``s3://`` address; httpfs must be loaded.

    Raises:
        SettingsError: if the environment lacks a key, or names an endpoint that is none.
        BusyError: if the store does not answer.
        WarehouseError: if the bucket is missing, or the key may not list it.
    """
    if missing := [name for name in KEYS if not environment.get(name)]:
        message = (
            f"data = {address!r} needs a key of the object store, and the environment lacks "
            f"{' and '.join(missing)}; set {' and '.join(KEYS)} (and AWS_REGION or "
            "AWS_ENDPOINT_URL where the store needs them)"
        )
        raise SettingsError(message)
    options = {"KEY_ID": environment[KEYS[0]], "SECRET": environment[KEYS[1]], "SCOPE": address}
    for option, names in OPTIONAL.items():
        if value := _first(environment, names):
            options[option] = value
    if endpoint := _first(environment, ENDPOINTS):
        options |= _endpoint(endpoint)
    # The values travel as variables: no statement, and so no error message, holds them.
    for option, value in options.items():
        connection.execute(f"SET VARIABLE s3_{option} = ?", [value])
    given = ", ".join(f"{option} getvariable('s3_{option}')" for option in options)
    connection.execute(f"CREATE SECRET object_store (TYPE s3, {given})")
    for option in options:
        connection.execute(f"RESET VARIABLE s3_{option}")
    _require_answer(connection, address)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _endpoint(url: str) -> dict[str, str]:
    """Split a store's URL into DuckDB's options; a store that is not Amazon's has paths."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        message = (
            f"{' or '.join(ENDPOINTS)} must look like https://host or http://host:port; the one "
            "that is set does not; correct it"
        )
        raise SettingsError(message)
    is_safe = "true" if parts.scheme == "https" else "false"
    return {"ENDPOINT": parts.netloc, "URL_STYLE": "path", "USE_SSL": is_safe}


def _require_answer(connection: duckdb.DuckDBPyConnection, address: str) -> None:
    """Ask for a name that nothing has, which costs one request."""
    try:
        connection.execute("FROM glob(?)", [f"{address}/nightwarden-asks/*"])
    except duckdb.HTTPException as error:
        status = str(getattr(error, "status_code", ""))
        reason = str(error).partition("\n\n")[2].splitlines()[:1]
        message = (
            f"the object store must have {address} and let this key list, read and write it; it "
            f"answers {' '.join([status, *reason])}; check the bucket, the keys "
            f"({', '.join(KEYS)}), their rights, and AWS_REGION"
        )
        raise (BusyError if status.startswith("5") else WarehouseError)(message) from None
    except duckdb.Error:
        message = (
            f"the object store of {address} must answer, and does not; check that it runs, the "
            f"network, and {' or '.join(ENDPOINTS)}"
        )
        raise BusyError(message) from None
