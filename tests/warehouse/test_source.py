"""What the source's settings say is what is read: formats, days, zones and expressions."""

import pickle
import time
import traceback
from datetime import UTC, date, datetime, timedelta
from threading import Thread

import duckdb
import psycopg
import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, make_url

from tests.services import missing_for_postgresql, postgresql_server, skip_or_fail
from warehouse.errors import BusyError, SettingsError, SourceError

DAY = date(2026, 1, 15)
SELECT_DAY = """
    SELECT 't' || i AS id, TIMESTAMP '2026-01-15' + i * INTERVAL 5 MINUTE AS time,
           'a' || i % 9 AS account, 's' || i % 7 AS shop, i + 0.5 AS amount, i AS number
    FROM range(200) r(i)
"""


def test_truncated_parquet_is_refused(landing):
    file = landing.write_parquet(SELECT_DAY)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(SourceError, match=r"15\.parquet is no whole Parquet file.*deliver it"):
        landing.read()


def test_zero_byte_parquet_is_refused(landing):
    landing.write_parquet(SELECT_DAY).write_bytes(b"")
    with pytest.raises(SourceError, match=r"15\.parquet is no whole Parquet file.*deliver it"):
        landing.read()


def test_broken_one_of_two_parquet_files_is_named(landing):
    whole = landing.write_parquet(SELECT_DAY)
    broken = whole.with_name("2026-01-15-b.parquet")
    broken.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(SourceError, match=r"15-b\.parquet is no whole"):
        landing.read(path=str(whole.parent / "{date}*.parquet"))


def test_files_of_a_day_with_other_columns_are_refused(landing):
    landing.write(landing.rows(n=3), name="-a")
    landing.write([row | {"more": 1} for row in landing.rows(n=3)], name="-b")
    with pytest.raises(SourceError, match=r"must have the same columns: .*-a\.csv has .*-b\.csv"):
        landing.read()


@pytest.mark.parametrize("column", ["time", "day", "sql: substr(time, 1, 10)"])
def test_big_csv_of_many_days_is_read_by_day(landing, column):
    days = [DAY + timedelta(days=n) for n in range(3)]
    rows = [row | {"day": day} for day in days for row in landing.rows(day)]
    rows[7] |= {"time": "someday", "day": "someday"}
    file = landing.write(rows)
    source = {"path": str(file), "date_column": column}
    counts = [landing.read(day, **source)[1].n_rows for day in days]
    assert counts == [200, 201, 201]  # the row without a readable day comes with each
    assert landing.judge(**source)[1] == {None: 199, "occurred_at_unreadable": 1}


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ", "VARCHAR", "DATE"])
def test_big_parquet_of_many_days_is_read_by_local_day(landing, kind):
    select = (
        f"SET TimeZone = 'Europe/Berlin'; SELECT CAST(time AS {kind}) AS time, * EXCLUDE (time) "
        f"FROM ({SELECT_DAY.replace('range(200)', 'range(600)')})"
    )
    file = landing.folder / "in" / "all.parquet"
    with duckdb.connect() as connection:
        setting, query = select.split("; ")
        connection.execute(setting)
        connection.execute(f"COPY ({query} UNION ALL BY NAME SELECT 'x' AS id) TO '{file}'")
    source = {
        "format": "parquet",
        "path": str(file),
        "date_column": "time",
        "time_zone": "Europe/Berlin",
    }
    days = [DAY + timedelta(days=n) for n in range(-1, 4)]
    counts = [landing.read(day, **source)[1].n_rows - 1 for day in days]
    assert counts == [0, 288, 288, 24, 0]


def test_date_column_of_zoned_texts_is_the_local_day(landing):
    rows = landing.rows(n=1) + landing.rows(n=1, prefix="u")
    rows[0]["time"], rows[1]["time"] = "2026-01-14T23:30:00Z", "2026-01-15T23:30:00Z"
    file = landing.write(rows)
    source = {"path": str(file), "date_column": "time", "time_zone": "Europe/Berlin"}
    connection, batch = landing.read(**source)
    assert batch.n_rows == 1
    assert connection.execute("SELECT time FROM raw").fetchall() == [("2026-01-14T23:30:00Z",)]


def test_missing_date_column_is_named(landing):
    file = landing.write(landing.rows(n=3))
    with pytest.raises(SourceError, match="has no column 'days'"):
        landing.read(path=str(file), date_column="days")


def test_naive_and_zoned_times_mix_in_a_column(landing):
    rows = landing.rows(n=5)
    times = ["2026-07-15 10:00:00", "2026-07-15T10:00:00Z", "2026-07-15T10:00:00+0200",
             "2026-07-15 10:00:00.5+02:00", "2026-07-15T10:00:00 UTC"]  # fmt: skip
    for row, moment in zip(rows, times, strict=True):
        row["time"] = moment
    day = date(2026, 7, 15)
    landing.write(rows, day)
    connection, rules = landing.judge(day, time_zone="Europe/Berlin")
    assert rules == {None: 5}
    found = connection.execute("SELECT occurred_at FROM checked ORDER BY _row").fetchall()
    at = datetime(2026, 7, 15, tzinfo=UTC)
    hours = [8, 10, 8, 8, 10]
    expected = [at + timedelta(hours=h, seconds=0.5 * (n == 3)) for n, h in enumerate(hours)]
    assert [row[0] for row in found] == expected


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_business_day_is_local_where_the_clocks_change(landing, day, hours):
    """The day's first and last hour by the local clock belong to it, the neighbours do not."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=hours - 22)
    start = start if hours == 23 else datetime(2026, 10, 24, 22, tzinfo=UTC)
    moments = [start + timedelta(hours=n, seconds=-1) for n in range(hours + 2)]
    rows = landing.rows(n=len(moments))
    for row, moment in zip(rows, moments, strict=True):
        row["time"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    landing.write(rows, day)
    rules = landing.judge(day, time_zone="Europe/Berlin")[1]
    assert rules == {None: hours, "occurred_at_outside_day": 2}


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_MS", "TIMESTAMP_NS"])
def test_parquet_times_are_read(landing, kind):
    landing.write_parquet(f"SELECT * REPLACE (time::{kind} AS time) FROM ({SELECT_DAY})")
    connection, rules = landing.judge()
    assert rules == {None: 200}
    first = connection.execute("SELECT min(occurred_at) FROM checked").fetchone()
    assert first == (datetime(2026, 1, 15, tzinfo=UTC),)


def test_epoch_seconds_need_an_expression(landing):
    landing.write_parquet(f"SELECT * REPLACE (epoch(time)::BIGINT AS time) FROM ({SELECT_DAY})")
    with pytest.raises(SettingsError, match=r"occurred_at must be a time.*to_timestamp"):
        landing.judge()
    columns = landing.columns | {"occurred_at": "sql: to_timestamp(time)"}
    assert landing.judge(columns=columns)[1] == {None: 200}


def test_sql_expression_makes_a_column(landing):
    landing.write(landing.rows(), delimiter=";")
    columns = landing.columns | {"amount": "sql: amount::DOUBLE / 100", "category": "sql: 'pos'"}
    connection, _ = landing.judge(columns=columns, delimiter=";")
    found = connection.execute("SELECT amount, category FROM checked ORDER BY _row").fetchone()
    assert found == (0.1, "pos")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sql: amonut / 100", "amonut"),
        ("sql: amount / (", "syntax error"),
        ("sql: f(amount)", "f"),
    ],
)
def test_broken_expression_names_the_column(landing, text, reason):
    landing.write(landing.rows())
    with pytest.raises(SettingsError, match=rf"\[source\] amount: the expression .*{reason}"):
        landing.judge(columns=landing.columns | {"amount": text})


@pytest.mark.parametrize("text", ["sql: max(amount)", "sql: unnest([1, 2])"])
def test_expression_that_gives_not_one_value_a_row_is_refused(landing, text):
    landing.write(landing.rows())
    with pytest.raises(SettingsError, match=r"\[source\]"):
        landing.judge(columns=landing.columns | {"amount": text})


def test_expression_that_fails_on_a_row_quarantines_it(landing):
    rows = landing.rows()
    rows[3]["amount"] = "x"
    landing.write(rows)
    columns = landing.columns | {"amount": "sql: amount::DOUBLE * 2"}
    assert landing.judge(columns=columns)[1] == {None: 199, "amount_missing": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"path": "all.csv"}, "names no day"),
        ({"format": "postgres"}, "needs table"),
        ({"extra": {"amount": {"column": "x", "type": "numeric"}}}, "names of their own"),
        ({"extra": {"batch_id": {"column": "x", "type": "numeric"}}}, "names of their own"),
        ({"extra": {"amount_text": {"column": "x", "type": "numeric"}}}, "names of their own"),
    ],
)
def test_wrong_settings_are_refused(landing, change, message):
    with pytest.raises(ValidationError, match=message):
        landing.settings(**change)


def test_placeholder_that_cannot_be_filled_is_refused(landing):
    with pytest.raises(SettingsError, match=r"only \{date\} or"):
        landing.read(path="{date.week}.csv")
    with pytest.raises(SettingsError, match=r"only \{date\} or"):
        landing.read(path="{date}-{hour}.csv")


def test_reading_again_after_a_failure_works(landing):
    landing.write(landing.rows())
    with pytest.raises(SettingsError):
        landing.land(columns=landing.columns | {"amount": "sql: nothing"})
    with pytest.raises(SourceError):
        landing.land(columns=landing.columns | {"amount": "nothing"})
    assert landing.land().rows_published == 200


@pytest.fixture
def postgres_table(postgres_url):
    """A table of two days on a real server; gives the connection text for DuckDB."""
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS payments")
        connection.exec_driver_sql(
            "CREATE TABLE payments AS SELECT 't' || i AS id, 'a' || mod(i, 9) AS account, "
            "'s' || mod(i, 7) AS shop, (i + 0.5)::numeric(12,2) AS amount, "
            "timestamptz '2026-01-15 00:00+00' + i * interval '10 minutes' AS time "
            "FROM generate_series(0, 287) AS i"
        )
        connection.exec_driver_sql(
            "INSERT INTO payments (id, account, shop, amount) VALUES ('x', 'a', 's', 1)"
        )
    engine.dispose()
    url = make_url(postgres_url)
    place = f"host={url.query['host']} port={url.query['port']}"
    return f"{place} user={url.username} dbname={url.database}"


def test_postgres_table_is_read_by_day(landing, postgres_table):
    landing.source = {"format": "postgres", "table": "payments", "date_column": "time"}
    landing.source["dsn"] = postgres_table
    reports = [landing.land(DAY + timedelta(days=n)) for n in range(2)]
    assert [report.rows_published for report in reports] == [144, 144]
    assert [report.broken_rules for report in reports] == [{"occurred_at_missing": 1}] * 2
    assert landing.land().status == "unchanged"
    assert landing.fetch("SELECT DISTINCT source_file FROM lake.quarantine") == [("payments",)]


def test_postgres_table_that_is_missing_is_refused(landing, postgres_table):
    landing.source = {"format": "postgres", "table": "payment", "date_column": "time"}
    landing.source["dsn"] = postgres_table
    with pytest.raises(SourceError, match="payment cannot be read as postgres"):
        landing.read()


def test_postgres_that_is_away_may_come_back(landing):
    landing.source = {"format": "postgres", "table": "payments", "date_column": "time"}
    dsn = "host=/nowhere user=me password=hush-hush"
    with pytest.raises(BusyError, match=r"cannot be reached.*NIGHTWARDEN_SOURCE_DSN") as caught:
        landing.read(dsn=dsn)
    assert_keeps("hush-hush", caught.value)
    assert "hush-hush" not in repr(landing.settings(dsn=dsn))
    with pytest.raises(SettingsError, match="set NIGHTWARDEN_SOURCE_DSN"):
        landing.read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"password": "planted-hush"}, "password authentication"), ({"database": "no"}, "not exist")],
    ids=["password", "database"],
)
def test_postgres_that_refuses_is_the_users_mistake(landing, postgresql, change, reason):
    landing.source = {"format": "postgres", "table": "payments", "date_column": "time"}
    dsn = make_url(postgresql.url).set(**change).render_as_string(hide_password=False)
    with pytest.raises(SourceError, match=f"cannot be reached.*{reason}") as caught:
        landing.read(dsn=dsn)
    assert_keeps("planted", caught.value)


@pytest.mark.parametrize("dsn", ["postgresql://me:planted%zz@host/db", "password='planted"])
def test_address_that_cannot_be_read_keeps_its_password(landing, dsn):
    landing.source = {"format": "postgres", "table": "payments", "date_column": "time"}
    with pytest.raises(SettingsError, match="must look like postgresql://") as caught:
        landing.read(dsn=dsn)
    assert_keeps("planted", caught.value)


def test_postgres_that_dies_in_the_middle_of_a_read_is_tried_again(landing, caplog):
    """The server's crash is no mistake of the user, and no text of it tells the password."""
    skip_or_fail(missing_for_postgresql())
    landing.source = {"format": "postgres", "table": "slow", "date_column": "time"}
    with postgresql_server() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute(
                "CREATE VIEW slow AS SELECT 't' || i AS id, 'a' AS account, 's' AS shop, "
                "1 AS amount, timestamptz '2026-01-15' AS time, pg_sleep(0.01)::text AS pause "
                "FROM generate_series(1, 6000) AS i"
            )
        crash = Thread(target=crash_when_read, args=[server])
        crash.start()
        with pytest.raises(BusyError, match=r"must answer until slow is read") as caught:
            landing.read(dsn=server.url)
        crash.join()
        assert_keeps(server.password, caught.value, caplog.text)
        server.control("start")


def crash_when_read(server):
    """Stop a server at once when its view is being read."""
    reading = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%slow%'"
    with psycopg.connect(server.url, autocommit=True) as connection:
        while connection.execute(reading).fetchone() == (0,):
            time.sleep(0.02)
    time.sleep(0.2)
    server.control("stop")


def assert_keeps(secret, error, *more):
    """Look through whatever may be printed, logged or stored of an error and its causes."""
    texts = [*more, "".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
    while error is not None:
        texts += [str(error), repr(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    assert not [text for text in texts if secret in text]
