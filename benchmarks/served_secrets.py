"""Looks for planted texts in everything that a served installation keeps."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import duckdb
from served_stack import Host, Servers

from tests.services import find_program


def find_texts(servers: Servers, texts: Sequence[str], *hosts: Host) -> dict[str, list[str]]:
    """Give for each text the places that hold it.

    Looks into every file of the hosts but the source's own, a dump of every database, and every
    object of the store, Parquet files as decoded rows.
    """
    found: dict[str, list[str]] = {text: [] for text in texts}
    for place, content in all_places(servers, hosts):
        for text, places in found.items():
            if text.encode() in content:
                places.append(place)
    return found


def all_places(servers: Servers, hosts: Iterable[Host]) -> Iterator[tuple[str, bytes]]:
    """Give the name and content of every place."""
    for host in (*hosts, servers.host):
        for path in sorted(host.folder.rglob("*")):
            if path.is_file() and "in" not in path.relative_to(host.folder).parts[:1]:
                yield str(path), path.read_bytes()
    for name, address in servers.addresses.items():
        yield f"database {name}", dump(servers, address)
    client = boto3.client("s3", endpoint_url=servers.s3.endpoint, region_name="us-east-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=servers.s3.bucket)
    for page in pages:
        for one in page.get("Contents", []):
            body = client.get_object(Bucket=servers.s3.bucket, Key=one["Key"])["Body"].read()
            is_table = one["Key"].endswith(".parquet")
            yield one["Key"], read_parquet(body, servers.host.folder) if is_table else body


def dump(servers: Servers, address: str) -> bytes:
    """Write a database out as text; values that PostgreSQL compressed come whole."""
    database = urlsplit(address).path.strip("/")
    place = ["-h", str(servers.postgresql.folder), "-p", str(servers.postgresql.port)]
    command = [find_program("pg_dump") or "pg_dump", *place, "-U", "postgres", database]
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 (ours)


def read_parquet(body: bytes, folder: Path) -> bytes:
    """Give a Parquet file's rows as text."""
    file = folder / "looked-into.parquet"
    file.write_bytes(body)
    with duckdb.connect() as connection:
        rows = connection.execute("FROM read_parquet(?)", [str(file)]).fetchall()
    return repr(rows).encode()
