"""Great Expectations counts what quarantine holds, and its page needs no network."""

import re
from datetime import date, timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.rules import History, ValidationSettings, day_rules, judged_copy_rules, row_rules

DAY = date(2026, 1, 15)
YESTERDAY = DAY - timedelta(days=1)
EXTRA = {
    "latitude": "lat",
    "longitude": "lon",
}
# What to change in a row, the rule that it breaks: one entry for each row rule.
DEFECTS = {
    "transaction_id_missing": {"id": ""},
    "account_id_missing": {"account": ""},
    "merchant_id_missing": {"shop": ""},
    "occurred_at_missing": {"time": ""},
    "occurred_at_unreadable": {"time": "soon"},
    "occurred_at_in_future": {"time": "2199-01-01"},
    "occurred_at_outside_day": {"time": f"{YESTERDAY} 10:00:00"},
    "amount_missing": {"amount": ""},
    "amount_unreadable": {"amount": "ten"},
    "amount_not_finite": {"amount": "-inf"},
    "amount_not_positive": {"amount": "-1"},
    "amount_too_large": {"amount": "1e12"},
    "latitude_unreadable": {"lat": "north"},
    "latitude_out_of_range": {"lat": "91"},
    "longitude_unreadable": {"lon": "west"},
    "longitude_out_of_range": {"lon": "-181"},
    "order_unreadable": {"n": "many"},
    "order_not_finite": {"n": "1e39"},
    "is_fraud_unreadable": {"fraud": "perhaps"},
    "transaction_id_repeated_in_file": {"id": "t0115-0"},
}
SETTINGS = {
    "extra": {"order": {"column": "n", "type": "numeric"}},
    "label": {"column": "fraud"},
}


@pytest.fixture(scope="module")
def counted(new_landing):
    """A landing whose settings have every rule; gives what GX and ``checked`` count."""
    from warehouse.expectations import validate_day

    landing = new_landing()
    landing.columns |= EXTRA

    def count(defects):
        base = {"lat": "50", "lon": "7", "n": "1", "fraud": "0"}
        rows = [row | base for row in landing.rows(n=len(defects) + 1)]
        for row, names in zip(rows[1:], defects, strict=True):
            for name in names:
                row |= DEFECTS[name]
        landing.write(rows)
        connection, found = landing.judge(**SETTINGS)
        rules = [*row_rules(landing.settings(**SETTINGS), DAY), *judged_copy_rules()]
        report = validate_day(connection, "counted", rules, [])
        found.pop(None)
        return connection, found, report, rules

    return count


def test_every_row_rule_has_a_defect_here(counted):
    _, _, _, rules = counted([])
    across = {
        "transaction_id_published_on_another_day",
        "transaction_id_repeated_across_files",
    }
    assert {rule.id for rule in rules} == set(DEFECTS) | across


def test_expectations_count_what_quarantine_holds_for_every_rule(counted):
    defects = [[name] for number, name in enumerate(DEFECTS) for _ in range(number + 1)]
    _, found, report, rules = counted(defects)
    assert report.broken_rows == found
    assert found == {name: number + 1 for number, name in enumerate(DEFECTS)}
    for rule in rules:
        text = rule.column if rule.kind == "not_null" else rule.meaning
        assert text in report.html


@settings(max_examples=4, deadline=None)
@given(st.lists(st.lists(st.sampled_from(sorted(DEFECTS)), max_size=3), max_size=40))
def test_expectations_count_rows_with_several_defects_under_each(counted, defects):
    connection, found, report, rules = counted(defects)
    counts = {
        rule.id: connection.execute(f"SELECT count(*) FROM checked WHERE {rule.broken}").fetchone()
        for rule in rules
    }
    assert report.broken_rows == {name: n for name, (n,) in counts.items() if n}
    assert all(report.broken_rows[name] >= n for name, n in found.items())


def test_more_than_two_hundred_broken_rows_are_all_counted(counted):
    _, found, report, _ = counted([["amount_not_positive"]] * 450 + [["account_id_missing"]] * 300)
    assert report.broken_rows == found == {"amount_not_positive": 450, "account_id_missing": 300}


@pytest.fixture(scope="module")
def page(counted):
    return counted([["amount_not_positive"], ["account_id_missing"]])[2].html


def test_page_says_what_was_expected(page):
    for text in ["amount is more than 0", "the transaction happened on 2026-01-15 in UTC"]:
        assert text in page
    assert "account_id" in page


def test_page_fetches_nothing(page):
    """No script, style, picture or frame from anywhere else: the page opens without a network."""
    tags = re.findall(r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*>", page)
    assert not [tag for tag in tags if re.search(r"(?:https?:)?//", tag)]
    assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", page)
    assert not re.findall(r"@import[^;]*//", page)


def broken(rules, rows):
    """Give the day rules that a table ``checked`` of (rule, category) breaks."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE checked (rule VARCHAR, category VARCHAR)")
        if rows:
            connection.executemany("INSERT INTO checked VALUES (?, ?)", rows)
        return {
            rule.id
            for rule in rules
            if connection.execute(rule.broken.format(batch="checked")).fetchone()
        }


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], {"no_rows", "row_count"}),
        ([(None, "a")] * 100, set()),
        ([(None, "a")] * 90 + [("x", "a")] * 10, set()),
        ([(None, "a")] * 89 + [("x", "a")] * 11, {"quarantined_share"}),
        ([(None, "a")] * 32, {"row_count"}),
        ([(None, "a")] * 33, set()),
        ([(None, "a")] * 301, {"row_count"}),
        ([(None, "a")] * 70 + [(None, None)] * 30, set()),
        ([(None, "a")] * 69 + [(None, None)] * 31, {"category_null_share"}),
    ],
    ids=range(9),
)
def test_day_rules(landing, rows, expected):
    landing.columns["category"] = "category"
    history = History(100.0, 4, {"category": 0.1})
    rules = day_rules(landing.settings(), ValidationSettings(), history)
    assert broken(rules, rows) == expected


def test_day_without_history_has_no_rule_on_its_size(landing):
    rules = day_rules(landing.settings(), ValidationSettings(), History(None, 0, {}))
    assert [rule.id for rule in rules] == ["no_rows", "quarantined_share"]


def test_rising_null_share_refuses_a_day(landing):
    from warehouse.errors import DayRefusedError

    landing.columns["category"] = "kind"
    landing.write([row | {"kind": "pos"} for row in landing.rows()])
    landing.land()
    tomorrow = DAY + timedelta(days=1)
    landing.write([row | {"kind": ""} for row in landing.rows(tomorrow)], tomorrow)
    text = r"at most 20% of the rows have no category \(lately 0%\); found: 1"
    with pytest.raises(DayRefusedError, match=text):
        landing.land(tomorrow)


def test_broken_expectation_is_an_error_not_a_pass(landing):
    from warehouse.expectations import validate_day
    from warehouse.rules import RowRule

    landing.write(landing.rows(n=5))
    connection, _ = landing.judge()
    with pytest.raises(RuntimeError, match="could not be evaluated"):
        validate_day(connection, "broken", [RowRule("x", "amount", "nothing > 1", "x")], [])
