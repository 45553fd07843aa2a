"""One dictionary: the lake's tables and docs/schema.md are what warehouse/schema.py says."""

from pathlib import Path

import pytest

from warehouse.schema import TABLES, describe_markdown


@pytest.fixture(scope="module")
def lake(new_landing):
    return new_landing().lake


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_table_in_the_lake_is_as_declared(lake, table):
    rows = lake.connection.execute(f"DESCRIBE lake.{table.name}").fetchall()
    kinds = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
    assert [(name, kind, nullable == "YES") for name, kind, nullable, *_ in rows] == [
        (column.name, kinds.get(column.type, column.type), column.nullable)
        for column in table.columns
    ]


def test_day_tables_have_a_folder_a_day(landing):
    landing.write(landing.rows())
    landing.land()
    files = (landing.warehouse.lake_folder / "data").rglob("*.parquet")
    folders = {file.parent.name for file in files}
    assert "event_date=2026-01-15" in folders


def test_every_column_has_a_meaning_and_is_named_once():
    for table in TABLES:
        assert len(set(table.column_names())) == len(table.columns)
        assert all(column.meaning for column in table.columns)


def test_page_is_generated():
    page = Path(__file__).parents[2] / "docs" / "schema.md"
    assert page.read_text(encoding="utf-8") == describe_markdown(), "run make docs"
