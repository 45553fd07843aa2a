"""Which day is over, and whether a day's data has come: a file, or rows of a source of many days."""

from datetime import UTC, date, datetime, timedelta

import pytest

from tests.conftest import DAY
from warehouse.arrival import day_at, has_day_come
from warehouse.errors import DayMissingError


@pytest.mark.parametrize(
    ("zone", "moment", "day"),
    [
        ("UTC", datetime(2026, 3, 1, 0, 0, tzinfo=UTC), date(2026, 3, 1)),
        ("Europe/Berlin", datetime(2026, 3, 28, 23, 30, tzinfo=UTC), date(2026, 3, 29)),
        ("Europe/Berlin", datetime(2026, 3, 29, 22, 30, tzinfo=UTC), date(2026, 3, 30)),
        ("America/New_York", datetime(2026, 3, 1, 4, 59, tzinfo=UTC), date(2026, 2, 28)),
    ],
)
def test_day_is_the_one_in_the_zone(zone, moment, day):
    assert day_at(zone, moment) == day


def test_file_of_a_day_has_come_once_it_is_there(landing):
    assert not has_day_come(landing.settings(), DAY)
    landing.write(landing.rows())
    assert has_day_come(landing.settings(), DAY)
    assert not has_day_come(landing.settings(), DAY + timedelta(days=1))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_day_in_a_file_of_many_has_come_with_its_first_row(landing, kind):
    tomorrow = DAY + timedelta(days=1)
    rows = [*landing.rows(), {**landing.rows()[0], "id": "x", "time": ""}]
    landing.write(rows)
    many = {"date_column": "time", "path": str(landing.folder / "in" / f"*.{kind}")}
    if kind == "parquet":
        file = landing.folder / "in" / f"{DAY}.csv"
        landing.write_parquet(f"SELECT * FROM read_csv('{file}', header = true)")
    assert has_day_come(landing.settings(**many), DAY)
    assert not has_day_come(landing.settings(**many), tomorrow)


def test_day_without_rows_in_a_file_of_many_is_missing_and_may_be_forced(landing):
    tomorrow = DAY + timedelta(days=1)
    landing.write(landing.rows())
    landing.source |= {"date_column": "time", "path": str(landing.folder / "in" / "*.csv")}
    with pytest.raises(DayMissingError, match=f"no row for {tomorrow}"):
        landing.land(tomorrow)
    assert landing.fetch("SELECT count(*) FROM lake.partition_runs") == [(0,)]
    assert landing.land(tomorrow, force=True).rows_published == 0
