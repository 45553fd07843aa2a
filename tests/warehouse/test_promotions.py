"""The promotion log: lines come back in order, and none is changed by another."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from warehouse.connection import Lake, WarehouseSettings
from warehouse.promotions import Promotion, append_promotion, list_promotions
from warehouse.schema import PROMOTIONS

LINE = Promotion("promote", "2", "1", "ada", "a gain", '{"gain": 0.1}')


@pytest.fixture(params=["embedded", "shared"])
def lake(request, tmp_path):
    settings = WarehouseSettings(path=tmp_path, threads=1)
    if request.param == "shared":
        settings = request.getfixturevalue("shared_warehouse").settings(tmp_path)
    with Lake.open(settings) as made:
        yield made


def test_lines_come_back_as_they_were_oldest_first(lake):
    assert list_promotions(lake) == []
    before = datetime.now(UTC)
    first = append_promotion(lake, LINE)
    second = append_promotion(lake, replace(LINE, action="rollback", figures=None))
    assert first == replace(LINE, decided_at=first.decided_at)
    assert before <= first.decided_at < second.decided_at <= datetime.now(UTC)
    assert list_promotions(lake) == [first, second]


def test_first_champion_replaces_none(lake):
    line = append_promotion(lake, replace(LINE, replaced_version=None))
    assert list_promotions(lake) == [line]


def test_order_holds_although_the_clock_was_set_back(lake):
    later = datetime.now(UTC) + timedelta(days=1)
    with lake.commit() as connection:
        connection.execute(
            "INSERT INTO lake.promotions SELECT ?, 'promote', '2', '1', 'a', 'b', NULL", [later]
        )
    line = append_promotion(lake, LINE)
    assert line.decided_at == later + timedelta(microseconds=1)
    assert list_promotions(lake)[-1] == line


def test_line_has_a_field_for_each_column():
    assert set(Promotion.__dataclass_fields__) == set(PROMOTIONS.column_names())
