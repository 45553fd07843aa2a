"""Keys of an object store come from the environment, and a mistake is told without them."""

import duckdb
import pytest

from warehouse.connection import load_extension
from warehouse.errors import BusyError, SettingsError, WarehouseError
from warehouse.object_store import use_object_store


@pytest.fixture
def connection():
    with duckdb.connect() as opened:
        load_extension(opened, "httpfs")
        yield opened


def test_files_are_written_and_read_with_the_keys_of_the_environment(connection, s3):
    place = s3.new_prefix()
    use_object_store(connection, place, s3.environment)
    connection.execute(f"COPY (SELECT 7 AS x) TO '{place}/x.parquet'")
    assert connection.execute(f"FROM '{place}/x.parquet'").fetchall() == [(7,)]
    kept = connection.execute("FROM duckdb_secrets()").fetchall()
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in str(kept)
    names = [f"s3_{name}" for name in ("KEY_ID", "SECRET", "REGION")]
    left = [connection.execute(f"SELECT getvariable('{name}')").fetchone() for name in names]
    assert left == [(None,)] * 3


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_key_is_named(connection, missing):
    keys = {"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted"} | {missing: ""}
    with pytest.raises(SettingsError, match=f"the environment lacks {missing}; set") as caught:
        use_object_store(connection, "s3://bucket/lake", keys)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["minio:9000", "https://", "ftp://h", "http://me:planted@h"])
def test_endpoint_that_is_none_is_refused(connection, endpoint):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": endpoint}
    with pytest.raises(SettingsError, match="must look like https://host") as caught:
        use_object_store(connection, "s3://bucket/lake", keys)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "place", "kind", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "other"}, None, WarehouseError, "answers 403 InvalidAccessKeyId"),
        ({"AWS_SECRET_ACCESS_KEY": "planted"}, None, WarehouseError, "answers 403 Signature"),
        ({}, "s3://no-such-bucket/lake", WarehouseError, "answers 404 NoSuchBucket"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, None, BusyError, "must answer, and does"),
    ],
    ids=["key", "secret", "bucket", "server"],
)
def test_store_that_refuses_is_told_in_a_sentence(connection, s3, change, place, kind, message):
    environment = {**s3.environment, **change}
    with pytest.raises(kind, match=message) as caught:
        use_object_store(connection, place or s3.new_prefix(), environment)
    assert type(caught.value) is kind
    text = str(caught.value) + repr(caught.value.__context__)
    assert "\n" not in str(caught.value)
    assert environment["AWS_SECRET_ACCESS_KEY"] not in text
