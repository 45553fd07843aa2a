"""Maintenance: small files become few, and every row, snapshot and reader stays as it was."""

from datetime import date, timedelta

from tests.conftest import DAY
from warehouse.connection import Lake
from warehouse.maintenance import MergedFiles, merge_small_files


def files(lake: Lake, table: str) -> int:
    row = lake.connection.execute(
        "SELECT file_count FROM ducklake_table_info('lake') WHERE table_name = ?", [table]
    ).fetchone()
    return row[0]


def write_labels(lake: Lake, day: date, batch: str) -> None:
    """Append labels of a day, more than DuckLake keeps in its catalog, as an import does."""
    with lake.commit() as connection:
        connection.execute(
            "INSERT INTO lake.labels (event_date, transaction_id, account_id, merchant_id, "
            "is_fraud, known_at, source, recorded_at) "
            "SELECT $day, $batch || i, 'a', 'm', false, now(), $batch, now() FROM range(100) t(i)",
            {"day": day, "batch": batch},
        )


def test_small_files_of_a_day_become_one_and_the_rows_stay(landing):
    lake, tomorrow = landing.lake, DAY + timedelta(days=1)
    for batch in ("monday", "tuesday", "friday"):
        write_labels(lake, DAY, batch)
    write_labels(lake, tomorrow, "monday")
    everything = "SELECT * FROM lake.labels ORDER BY ALL"
    before, past = landing.fetch(everything), lake.snapshot_id()
    assert files(lake, "labels") == 4
    with Lake.open(landing.warehouse) as reader:
        assert reader.connection.execute(everything).fetchall() == before
        merged = merge_small_files(lake)
        assert reader.connection.execute(everything).fetchall() == before
    assert merged == [MergedFiles("labels", 3, 1)]
    assert files(lake, "labels") == 2  # a day's rows stay apart from another's
    assert landing.fetch(everything) == before
    at = f"SELECT * FROM lake.labels AT (VERSION => {past}) ORDER BY ALL"
    assert landing.fetch(at) == before
    assert merge_small_files(lake) == []


def test_day_is_replaced_as_ever_after_merging(landing):
    for number in range(3):
        day = DAY + timedelta(days=number)
        landing.write(landing.rows(day, prefix=f"{number}-"), day)
        landing.land(day)
    merge_small_files(landing.lake)
    landing.write(landing.rows(DAY, n=150, prefix="0-"), DAY)
    assert landing.land(DAY).rows_published == 150
    assert landing.published() == 150
    assert landing.published(DAY + timedelta(days=1)) == 200
