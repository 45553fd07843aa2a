"""A table of PostgreSQL as a source: attached without its password, and why it cannot be read."""

import duckdb
from pydantic import SecretStr

from warehouse.connection import load_extension, quote_name, quote_text
from warehouse.errors import BusyError, SettingsError, SourceError, UserError
from warehouse.postgresql import describe_address, safe_address, will_last

DSN = "NIGHTWARDEN_SOURCE_DSN"
SERVER_ERRORS = (duckdb.Error, duckdb.IOException)  # exactly these: the others find fault with us


def attach_table(connection: duckdb.DuckDBPyConnection, dsn: SecretStr | None, table: str) -> str:
    """Attach the source's database, and write what stands after FROM.

    Raises:
        SettingsError: if no address is set, or it cannot be read.
        duckdb.Error: if the server does not let this user in.
    """
    if dsn is None:
        message = f"format 'postgres' needs a connection: set {DSN}"
        raise SettingsError(message)
    load_extension(connection, "postgres_scanner")
    address = safe_address(dsn.get_secret_value(), "nightwarden source")
    connection.execute(f"ATTACH {quote_text(address)} AS source_db (TYPE postgres, READ_ONLY)")
    parts = [quote_name(part) for part in table.split(".")]
    if len(parts) == 1:
        parts.insert(0, "public")
    name = ".".join(["source_db", *parts])
    return f"(SELECT *, {quote_text(table)} AS _file FROM {name})"


def explain_failure(error: duckdb.Error, dsn: SecretStr | None, table: str) -> UserError:
    """Say in one sentence why a table could not be read, as an error to raise.

    A server that went away may come back: that is a BusyError, which a step tries again.
    """
    text = str(error)
    reason = text.splitlines()[0].rpartition("failed: ")[2]
    where = describe_address(dsn.get_secret_value()) if dsn else "unknown"
    if type(error) in SERVER_ERRORS and not will_last(text):
        return BusyError(
            f"the source database {where} must answer until {table} is read, and cannot be "
            f"reached or went away; check that it runs, the network and {DSN}, and run this again"
        )
    if "Unable to connect" in text:
        return SourceError(
            f"the source database {where} cannot be reached with the given connection ({reason}); "
            f"check {DSN} and the rights of its user"
        )
    return SourceError(
        f"{table} cannot be read as postgres: {reason}; correct [source] in nightwarden.toml, or "
        "the table and the rights of its user"
    )
