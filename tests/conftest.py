"""A small lake on disk and files to land into it, under one law: no row is lost."""

import csv
from collections.abc import Iterator
from datetime import date
from functools import cached_property

import duckdb
import pytest

from tests.services import (
    ObjectStore,
    PostgresqlServer,
    SharedWarehouse,
    missing_for_object_store,
    missing_for_postgresql,
    new_shared_warehouse,
    object_store,
    postgresql_server,
    skip_or_fail,
)
from warehouse.connection import Lake, WarehouseSettings
from warehouse.rules import ValidationSettings
from warehouse.schema import TRANSACTIONS, create_statements
from warehouse.source import SourceSettings, read_day
from warehouse.staging import stage_day

DAY = date(2026, 1, 15)  # a Thursday
COLUMNS = {
    "transaction_id": "id",
    "occurred_at": "time",
    "account_id": "account",
    "merchant_id": "shop",
    "amount": "amount",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that mostly waits, so that it ends beside the others."""
    items.sort(key=lambda item: "test_served" not in item.nodeid)


class _Landing:
    """A folder for a source's files and a warehouse to land them in."""

    def __init__(self, folder, shared=None):
        self.folder = folder
        self.shared = shared
        self.source = {"format": "csv", "path": str(folder / "in" / "{date}*.csv")}
        self.columns = dict(COLUMNS)
        self.limits = ValidationSettings()
        self.key = None
        (folder / "in").mkdir()

    @property
    def warehouse(self):
        path = self.folder / "warehouse"
        return (
            self.shared.settings(path) if self.shared else WarehouseSettings(path=path, threads=2)
        )

    @cached_property
    def lake(self):
        return Lake.open(self.warehouse)

    def close(self):
        if "lake" in self.__dict__:
            self.lake.close()

    def settings(self, **changes):
        return SourceSettings.model_validate({"columns": self.columns} | self.source | changes)

    @staticmethod
    def rows(day=DAY, n=200, prefix="t"):
        return [
            {
                "id": f"{prefix}{day:%m%d}-{i}",
                "time": f"{day} {i % 24:02d}:{i % 60:02d}:00",
                "account": f"account {i % 40}",
                "shop": f"shop {i % 15}",
                "amount": f"{10 + i / 4:.2f}",
            }
            for i in range(n)
        ]

    def write(self, rows, day=DAY, name="", header=None, encoding="utf-8", delimiter=","):
        """Write dicts as the day's CSV file; ``name`` tells several files of a day apart."""
        file = self.folder / "in" / f"{day}{name}.csv"
        header = header or list(rows[0])
        with file.open("w", newline="", encoding=encoding) as stream:
            writer = csv.DictWriter(stream, header, delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return file

    def write_parquet(self, select, day=DAY):
        file = self.folder / "in" / f"{day}.parquet"
        with duckdb.connect() as connection:
            connection.execute(f"COPY ({select}) TO '{file}' (FORMAT parquet)")
        self.source |= {"format": "parquet", "path": str(self.folder / "in" / "{date}.parquet")}
        return file

    def read(self, day=DAY, **changes):
        """Read a day into a database of its own, without a lake."""
        connection = duckdb.connect()
        batch = read_day(connection, self.settings(**changes), day, self.key)
        return connection, batch

    def judge(self, day=DAY, **changes):
        """Read and judge a day beside an empty lake in memory; gives each rule's rows."""
        connection, _ = self.read(day, **changes)
        connection.execute("SET TimeZone = 'UTC'; ATTACH ':memory:' AS lake")
        connection.execute(create_statements(TRANSACTIONS)[0])
        stage_day(connection, self.settings(**changes), self.limits, day)
        found = connection.execute("SELECT rule, count(*) FROM checked GROUP BY rule").fetchall()
        return connection, dict(found)

    def land(self, day=DAY, *, force=False, **changes):
        """Land a day; whatever happens to it, every row is published or in quarantine."""
        from warehouse.partitions import land_day  # takes Great Expectations' three seconds

        pages = self.folder / "pages"
        settings = self.settings(**changes)
        report = land_day(
            self.lake, settings, self.limits, day, key=self.key, pages=pages, force=force
        )
        assert report.rows_in == report.rows_published + report.rows_quarantined
        assert report.rows_quarantined == sum(report.broken_rules.values())
        stored = (self.published(day, late=False), self.quarantined(day))
        assert stored == (report.rows_published, report.rows_quarantined)
        return report

    def fetch(self, sql, *values):
        return self.lake.connection.execute(sql, list(values)).fetchall()

    def published(self, day=DAY, *, late=True):
        sql = "SELECT count(*) FROM lake.transactions WHERE event_date = ?"
        late_too = "" if late else " AND NOT starts_with(batch_id, 'late-')"
        return self.fetch(sql + late_too, day)[0][0]

    def quarantined(self, day=DAY):
        return self.fetch("SELECT count(*) FROM lake.quarantine WHERE event_date = ?", day)[0][0]

    def rules(self, day=DAY):
        """Give each quarantined transaction's rule and offending value."""
        found = self.fetch(
            "SELECT transaction_id, rule, value FROM lake.quarantine WHERE event_date = ?", day
        )
        return {row[0]: row[1:] for row in found}


@pytest.fixture(scope="session")
def new_landing(tmp_path_factory):
    """A factory of landings, for fixtures that several tests share."""
    made = []

    def make(shared=None):
        made.append(_Landing(tmp_path_factory.mktemp("landing"), shared))
        return made[-1]

    yield make
    for landing in made:
        landing.close()


@pytest.fixture
def landing(request, new_landing):
    """A landing of the test's own; ``on_both_back_ends`` runs the test on a shared lake, too."""
    is_shared = getattr(request, "param", "embedded") == "shared"
    made = new_landing(request.getfixturevalue("shared_warehouse") if is_shared else None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the session."""
    skip_or_fail(missing_for_postgresql())
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    """An object store for the session."""
    skip_or_fail(missing_for_object_store())
    with object_store() as store:
        yield store


@pytest.fixture
def shared_warehouse(
    postgresql: PostgresqlServer, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> SharedWarehouse:
    """An empty shared warehouse; the environment has the keys of its store."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return new_shared_warehouse(postgresql, s3)
