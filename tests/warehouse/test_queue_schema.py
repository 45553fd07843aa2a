"""The queue's schema: what migrations build, and what opening refuses."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from warehouse.errors import WarehouseError
from warehouse.migrations import configuration
from warehouse.queue import Queue
from warehouse.queue_tables import HEAD, METADATA, VERSION_TABLE


def describe(engine):
    """Everything that the database itself knows of the queue's tables."""
    inspector = inspect(engine)
    known = {}
    for table in METADATA.tables:
        columns = {
            c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)
        }
        checks = sorted((c["name"], c["sqltext"]) for c in inspector.get_check_constraints(table))
        indexes = sorted(
            (
                i["name"],
                i["column_names"],
                i["unique"],
                [str(option) for option in i.get("dialect_options", {}).values()],
            )
            for i in inspector.get_indexes(table)
        )
        unique = sorted(
            (u["name"], u["column_names"]) for u in inspector.get_unique_constraints(table)
        )
        foreign = sorted(
            (f["name"], f["referred_table"]) for f in inspector.get_foreign_keys(table)
        )
        known[table] = (
            columns,
            checks,
            indexes,
            unique,
            foreign,
            inspector.get_pk_constraint(table),
        )
    return known


@pytest.fixture
def engine(queue_url):
    made = create_engine(queue_url)
    yield made
    made.dispose()


def test_migrations_build_what_the_tables_say(queue_url, engine):
    Queue.open(queue_url, create=True).close()
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, METADATA) == []
    migrated = describe(engine)
    with engine.begin() as connection:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
    assert migrated == describe(engine)


def test_newest_migration_is_the_one_the_code_expects():
    script = ScriptDirectory.from_config(configuration())
    assert script.get_heads() == [HEAD]


def test_opening_again_changes_nothing(queue_url):
    for create in (True, True, False):
        with Queue.open(queue_url, create=create) as queue:
            assert queue.cases() == []


def test_sqlite_queue_is_in_write_ahead_mode_with_foreign_keys(tmp_path):
    queue = Queue.open(tmp_path / "deep" / "er" / "queue.sqlite", create=True)
    with queue, queue._database.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_open_refuses_a_newer_schema(queue_url, engine):
    Queue.open(queue_url, create=True).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE queue_schema_version SET version_num = '9999'"))
    with pytest.raises(WarehouseError, match=r"schema 0001 or older.*9999.*newer"):
        Queue.open(queue_url, create=True)


def test_half_made_schema_is_rolled_back_whole(queue_url, engine, monkeypatch):
    def broken():
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", lambda *_a, **_k: broken())
        with pytest.raises(RuntimeError, match="killed here"):
            Queue.open(queue_url, create=True)
    assert inspect(engine).get_table_names() == []
    Queue.open(queue_url, create=True).close()


def test_open_without_create_refuses_what_is_not_there(queue_url, engine, tmp_path):
    with pytest.raises(WarehouseError, match=r"must exist|must be a review queue"):
        Queue.open(queue_url, create=False)
    assert not (tmp_path / "queue.sqlite").exists()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
    with pytest.raises(WarehouseError, match="must be a review queue"):
        Queue.open(queue_url, create=False)
    Queue.open(queue_url, create=True).close()
    assert "alembic_version" in inspect(engine).get_table_names()


def test_open_names_a_path_that_cannot_be_used(tmp_path):
    (tmp_path / "plain").write_text("this is no database, and long enough to be looked at " * 9)
    for path in (tmp_path / "plain" / "queue.sqlite", tmp_path, tmp_path / "plain"):
        with pytest.raises(WarehouseError, match=f"{path}.*; (name|check)"):
            Queue.open(path, create=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/d", "got mysql"),
        ("sqlite://", "in memory"),
        (":memory:", "in memory"),
        ("postgresql://u:secret@h:port/d", "cannot be read"),
        ("postgresql+nosuch://u:secret@h/d", "driver"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "its server runs"),
    ],
)
def test_open_explains_a_wrong_url_without_its_password(url, message):
    with pytest.raises(WarehouseError, match=message) as caught:
        Queue.open(url, create=True)
    assert "secret" not in str(caught.value)
