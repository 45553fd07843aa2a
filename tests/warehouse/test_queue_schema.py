"""The queue's schema: what migrations build, and what opening refuses."""

from datetime import date, timedelta

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from warehouse.errors import WarehouseError
from warehouse.migrations import configuration
from warehouse.queue import Queue
from warehouse.queue_figures import refresh_cases
from warehouse.queue_tables import HEAD, METADATA, VERSION_TABLE

FIRST = date(2026, 3, 1)


def describe(engine):
    """Everything that the database itself knows of the queue's tables."""
    inspector = inspect(engine)
    known = {}
    for table in METADATA.tables:
        columns = {
            c["name"]: (str(c["type"]), c["nullable"], c["default"])
            for c in inspector.get_columns(table)
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


@pytest.fixture
def first_revision(engine):
    """A queue as the first release left it: one case of two alerts, one of them decided."""
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "0001")
    at = "'2026-03-03 12:00:00'"
    alert = f"1, '2026-03-02', {at}, 'a', 'm', 9.5, 'nightly', 3.5, 1, '{{}}', '[]', '7', {at}"
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO cases (account_id, lane, state, opened_for, last_event_date, created_at, "
            f"updated_at) VALUES ('a', 'nightly', 'open', '2026-03-02', '2026-03-02', {at}, {at})",
            *(
                "INSERT INTO alerts (transaction_id, case_id, event_date, occurred_at, account_id, "
                "merchant_id, amount, lane, score, rank_of_day, members, reasons, model_version, "
                f"created_at) VALUES ('{name}', {alert})"
                for name in ("t0", "t1")
            ),
            "INSERT INTO decisions (alert_id, verdict, analyst, note, decided_at) "
            f"VALUES (1, 'fraud', 'ana', '', {at})",
        ):
            connection.exec_driver_sql(statement)


@pytest.mark.usefixtures("first_revision")
def test_queue_of_the_first_revision_is_upgraded_with_what_is_in_it(queue_url, engine):
    with Queue.open(queue_url, create=False) as queue:
        detail = queue.case(1)
        assert [(a.transaction_id, a.verdict) for a in detail.alerts] == [
            ("t0", "fraud"),
            ("t1", None),
        ]
        assert {a.inclusion_probability for a in detail.alerts} == {1.0}
        queue.decide(2, "genuine", "ana")
        assert [c.state for c in queue.cases(state="closed")] == ["closed"]
    with engine.begin() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text("DELETE FROM decisions"))
    with engine.connect() as connection:
        version = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    assert version == HEAD


@pytest.fixture
def second_revision(engine):
    """A queue as the second release left it: cases untouched, half decided, and closed."""
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "0002")
    at = "'2026-03-03 12:00:00'"
    cases = {"untouched": "open", "half": "open", "closed": "closed"}
    values = [(2.0, 30.0), (5.0, 10.0)]
    with engine.begin() as connection:
        for number, (account, state) in enumerate(cases.items(), start=1):
            connection.exec_driver_sql(
                "INSERT INTO cases (account_id, lane, state, opened_for, last_event_date, "
                f"created_at, updated_at) VALUES ('{account}', 'nightly', '{state}', "
                f"'2026-03-01', '2026-03-02', {at}, {at})"
            )
            for day, (score, amount) in enumerate(values, start=1):
                connection.exec_driver_sql(
                    "INSERT INTO alerts (transaction_id, case_id, event_date, occurred_at, "
                    "account_id, merchant_id, amount, lane, score, rank_of_day, members, reasons, "
                    f"model_version, created_at) VALUES ('{account}{day}', {number}, "
                    f"'2026-03-0{day}', {at}, '{account}', 'm', {amount}, 'nightly', {score}, 1, "
                    f"'{{}}', '[]', '7', {at})"
                )
        for alert in (4, 5, 6):  # the higher-scored of the second case, all of the third
            connection.exec_driver_sql(
                "INSERT INTO decisions (alert_id, verdict, analyst, note, decided_at) "
                f"VALUES ({alert}, 'fraud', 'ana', '', {at})"
            )


@pytest.mark.usefixtures("second_revision")
def test_cases_of_the_second_revision_get_their_figures(queue_url):
    names = ("alert_count", "waiting_count", "score", "amount", "amount_at_risk", "priority")
    with Queue.open(queue_url, create=False) as queue:
        upgraded = {number: queue.case(number).summary for number in (1, 2, 3)}
        assert {n: tuple(getattr(c, name) for name in names) for n, c in upgraded.items()} == {
            1: (2, 2, 5.0, 40.0, 40.0, 110.0),
            2: (2, 1, 2.0, 40.0, 30.0, 60.0),
            3: (2, 0, 5.0, 40.0, 40.0, 110.0),
        }
        for case in upgraded.values():
            assert (case.first_event_date, case.last_event_date) == (FIRST, FIRST + timedelta(1))
            assert (case.expected_loss, case.awaits_second, case.claimed_by) == (None, False, None)
        with queue.database.write() as connection:
            assert refresh_cases(connection, [1, 2, 3], queue.clock()) == ()
        assert {number: queue.case(number).summary for number in (1, 2, 3)} == upgraded


@pytest.mark.usefixtures("first_revision")
@pytest.mark.parametrize("wrong", ["0", "1.01", "-0.5", "NULL"])
def test_database_itself_refuses_an_inclusion_probability_that_is_none(queue_url, engine, wrong):
    Queue.open(queue_url, create=False).close()
    with engine.begin() as connection, pytest.raises(DBAPIError, match="inclusion_probability"):
        connection.execute(text(f"UPDATE alerts SET inclusion_probability = {wrong}"))


def test_opening_again_changes_nothing(queue_url):
    for create in (True, True, False):
        with Queue.open(queue_url, create=create) as queue:
            assert queue.cases() == []


def test_sqlite_queue_is_in_write_ahead_mode_with_foreign_keys(tmp_path):
    queue = Queue.open(tmp_path / "deep" / "er" / "queue.sqlite", create=True)
    with queue, queue.database.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA synchronous")) == 2, "FULL"
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_open_refuses_a_newer_schema(queue_url, engine):
    Queue.open(queue_url, create=True).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE queue_schema_version SET version_num = '9999'"))
    with pytest.raises(WarehouseError, match=rf"schema {HEAD} or older.*9999.*newer"):
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
