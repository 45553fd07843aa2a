"""Every bad input of a night: refused in a clear sentence, or quarantined; never lost."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import DayRefusedError, SourceError, UserError, WarehouseError
from warehouse.rules import ValidationSettings

DAY = date(2026, 1, 15)
MANY = 20  # of 200 rows: a tenth, the most that may be quarantined
ALL_MAY_BREAK = ValidationSettings(max_quarantined_share=1, max_row_count_ratio=1e9)

BAD_ROWS = {
    "id empty": ({"id": ""}, "transaction_id_missing", None),
    "id blank": ({"id": "  "}, "transaction_id_missing", None),
    "account empty": ({"account": ""}, "account_id_missing", None),
    "shop empty": ({"shop": ""}, "merchant_id_missing", None),
    "amount empty": ({"amount": ""}, "amount_missing", None),
    "amount text": ({"amount": "twelve"}, "amount_unreadable", "twelve"),
    "amount with separator": ({"amount": "1,200.50"}, "amount_unreadable", "1,200.50"),
    "amount negative": ({"amount": "-5"}, "amount_not_positive", "-5"),
    "amount zero": ({"amount": "0"}, "amount_not_positive", "0"),
    "amount infinite": ({"amount": "Infinity"}, "amount_not_finite", "Infinity"),
    "amount minus infinite": ({"amount": "-inf"}, "amount_not_finite", "-inf"),
    "amount NaN": ({"amount": "NaN"}, "amount_not_finite", "NaN"),
    "amount huge": ({"amount": "1e12"}, "amount_too_large", "1e12"),
    "time empty": ({"time": ""}, "occurred_at_missing", None),
    "time text": ({"time": "yesterday"}, "occurred_at_unreadable", "yesterday"),
    "time of 30 February": (
        {"time": "2026-02-30 10:00:00"}, "occurred_at_unreadable", "2026-02-30 10:00:00",
    ),
    "day before": (
        {"time": "2026-01-14 23:59:59"}, "occurred_at_outside_day", "2026-01-14 23:59:59",
    ),
    "day after by zone": (
        {"time": "2026-01-15T23:30:00-02:00"},
        "occurred_at_outside_day",
        "2026-01-15T23:30:00-02:00",
    ),
    "future": ({"time": "2199-01-15 10:00:00"}, "occurred_at_in_future", "2199-01-15 10:00:00"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_day(new_landing):
    """A day with one bad row of each kind among 200 good ones."""
    landing = new_landing()
    landing.limits = ValidationSettings(max_quarantined_share=0.5)
    rows = landing.rows()
    for number, (change, _, _) in enumerate(BAD_ROWS.values()):
        rows.append(landing.rows(prefix="bad", n=len(BAD_ROWS))[number] | change)
    landing.write(rows)
    landing.report = landing.land()
    return landing


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_row_is_quarantined_with_rule_value_and_source(bad_day, kind):
    change, rule, value = BAD_ROWS[kind]
    number = list(BAD_ROWS).index(kind)
    amount = change.get("amount", f"{10 + number / 4:.2f}")
    found = bad_day.fetch(
        "SELECT rule, value, source_file, raw->>'amount' FROM lake.quarantine "
        "WHERE raw->>'account' IS NOT DISTINCT FROM ? AND coalesce(raw->>'amount', '') = ? "
        "AND coalesce(raw->>'id', '') = ? AND coalesce(raw->>'time', '') = ?",
        change.get("account", f"account {number}") or None,
        amount,
        change.get("id", f"bad0115-{number}"),
        change.get("time", f"{DAY} {number % 24:02d}:{number:02d}:00"),
    )
    assert [row[:2] for row in found] == [(rule, value)]
    assert found[0][2].endswith("2026-01-15.csv")


def test_day_with_bad_rows_publishes_the_good_ones(bad_day):
    assert bad_day.report.rows_published == 200
    assert bad_day.report.rows_quarantined == len(BAD_ROWS)
    assert bad_day.report.broken_rules == Counter(rule for _, rule, _ in BAD_ROWS.values())


def test_same_file_again_changes_nothing(bad_day):
    before = bad_day.lake.snapshot_id()
    report = bad_day.land()
    assert report.status == "unchanged"
    assert bad_day.lake.snapshot_id() == before
    assert (report.rows_published, report.rows_quarantined) == (200, len(BAD_ROWS))


def refusal(landing, error=SourceError, **changes):
    with pytest.raises(error) as caught:
        landing.land(**changes)
    assert isinstance(caught.value, UserError)
    return str(caught.value)


def test_empty_file_is_refused(landing):
    (landing.folder / "in" / "2026-01-15.csv").touch()
    with pytest.raises(SourceError, match=r"15\.csv is empty: expected a header.*deliver"):
        landing.read()


def test_header_only_is_refused_and_the_earlier_state_stays(landing):
    landing.write(landing.rows())
    landing.land()
    landing.write([], header=list(landing.rows()[0]))
    message = refusal(landing, DayRefusedError)
    assert "expected: the day has rows; found: 0" in message
    assert "What was there before stays" in message
    assert "--force" in message
    assert (landing.published(), landing.quarantined()) == (200, 0)
    status = "SELECT status, rows_in FROM lake.partition_runs ORDER BY finished_at"
    assert landing.fetch(status) == [("done", 200), ("refused", 0)]


def test_no_file_for_the_day_names_the_pattern(landing):
    with pytest.raises(SourceError, match=r"no file for 2026-01-15: expected .*in/2026-01-15\*"):
        landing.read()


def test_missing_column_names_it_and_what_is_there(landing):
    landing.write([{k: v for k, v in row.items() if k != "shop"} for row in landing.rows()])
    with pytest.raises(SourceError, match=r"has no column 'shop'; it has \['id', 'time', 'acc"):
        landing.read()


def test_renamed_column_suggests_the_nearest_name(landing):
    rows = [{("amounts" if k == "amount" else k): v for k, v in r.items()} for r in landing.rows()]
    landing.write(rows)
    with pytest.raises(SourceError, match=r"did it become 'amounts'\?; correct \[source\]"):
        landing.read()


@pytest.mark.parametrize(("mark", "shown"), [(";", '";"'), ("\t", r'"\\t"'), ("|", r'"\|"')])
def test_wrong_delimiter_suggests_the_right_one(landing, mark, shown):
    landing.write(landing.rows(), delimiter=mark)
    with pytest.raises(SourceError, match=rf"set \[source\] delimiter = {shown}"):
        landing.read()
    assert landing.read(delimiter=mark)[1].n_rows == 200


def test_delimiter_of_two_characters_is_read(landing):
    landing.write(landing.rows(n=3), delimiter="|")
    file = landing.folder / "in" / "2026-01-15.csv"
    file.write_text(file.read_text().replace("|", "||"))
    assert landing.read(delimiter="||")[1].n_rows == 3


def test_latin1_file_is_refused_as_utf8_and_read_as_latin1(landing):
    rows = landing.rows(n=400)
    rows[390]["shop"] = "Café Müller"
    landing.write(rows, encoding="latin-1")
    with pytest.raises(SourceError, match=r'line 392, is not utf-8; export it.*"latin-1"'):
        landing.read()
    assert landing.land(encoding="latin-1").rows_published == 400
    name = landing.fetch(
        "SELECT merchant_id FROM lake.transactions WHERE transaction_id = 't0115-390'"
    )
    assert name == [("Café Müller",)]


def test_latin1_header_is_refused_as_utf8(landing):
    landing.write([row | {"Beträge": "1"} for row in landing.rows(n=2)], encoding="latin-1")
    with pytest.raises(SourceError, match="is not utf-8; export it as utf-8, or set"):
        landing.read()


def test_byte_order_mark_and_nameless_column_are_read(landing):
    rows = [{"": i} | row for i, row in enumerate(landing.rows(n=5))]
    landing.write(rows, encoding="utf-8-sig")
    assert list(landing.read()[1].types) == ["column0", "id", "time", "account", "shop", "amount"]


def test_duplicate_in_a_file_keeps_the_first(landing):
    rows = landing.rows()
    landing.write([*rows, rows[3] | {"amount": "999"}, rows[3]])
    report = landing.land()
    assert report.broken_rules == {"transaction_id_repeated_in_file": 2}
    kept = landing.fetch("SELECT amount FROM lake.transactions WHERE transaction_id = 't0115-3'")
    assert kept == [(10.75,)]


def test_duplicate_across_files_of_a_day_keeps_the_first_file(landing):
    rows = landing.rows()
    landing.write(rows, name="-a")
    landing.write([*landing.rows(prefix="u", n=10), rows[0], rows[1]], name="-b")
    report = landing.land()
    assert report.rows_in == 212
    assert report.broken_rules == {"transaction_id_repeated_across_files": 2}
    sources = landing.fetch("SELECT DISTINCT source_file FROM lake.quarantine")
    assert sources[0][0].endswith("-b.csv")


def test_bad_copy_does_not_hide_the_good_one(landing):
    rows = landing.rows()
    landing.write([rows[0] | {"amount": "-1"}, *rows])
    report = landing.land()
    assert report.rows_published == 200
    assert report.broken_rules == {"amount_not_positive": 1}


def test_id_published_on_another_day_is_quarantined(landing):
    tomorrow = DAY + timedelta(days=1)
    landing.write(landing.rows())
    landing.land()
    again = landing.rows(tomorrow)
    again[5]["id"] = "t0115-5"
    landing.write(again, tomorrow)
    report = landing.land(tomorrow)
    assert report.broken_rules == {"transaction_id_published_on_another_day": 1}
    assert landing.rules(tomorrow) == {
        "t0115-5": ("transaction_id_published_on_another_day", "t0115-5")
    }


@pytest.mark.parametrize("factor", [10, 0.1])
def test_unusual_row_count_is_refused_and_force_publishes_it(landing, factor):
    tomorrow = DAY + timedelta(days=1)
    landing.write(landing.rows())
    landing.land()
    n = int(200 * factor)
    landing.write(landing.rows(tomorrow, n=n), tomorrow)
    message = refusal(landing, DayRefusedError, day=tomorrow)
    assert "row_count: expected: row count is between 67 and 600" in message
    assert f"found: {n:,}" in message
    assert landing.published(tomorrow) == 0
    assert landing.land(tomorrow, force=True).rows_published == n


def test_too_many_bad_rows_refuse_the_day(landing):
    rows = landing.rows()
    for row in rows[: MANY + 1]:
        row["amount"] = "-1"
    landing.write(rows)
    message = refusal(landing, DayRefusedError)
    assert "quarantined_share: expected: at most 10% of the rows are quarantined" in message
    assert (landing.published(), landing.quarantined()) == (0, 0)


def test_unreadable_lines_count_towards_the_quarantined_share(landing):
    file = landing.write(landing.rows())
    file.write_text(file.read_text() + "too,few\n" * (MANY + 5))
    assert "quarantined_share" in refusal(landing, DayRefusedError)


def test_future_day_is_refused(landing):
    day = datetime.now(UTC).date() + timedelta(days=3)
    landing.write(landing.rows(day), day)
    assert "is in the future (today is" in refusal(landing, DayRefusedError, day=day)


def test_malformed_lines_are_quarantined_once_each_with_their_text(landing):
    file = landing.write(landing.rows())
    file.write_text(file.read_text() + "too,few\none,two,three,four,5,six,seven\n")
    report = landing.land()
    assert (report.rows_in, report.rows_published) == (202, 200)
    assert report.broken_rules == {"line_unreadable": 2}
    found = landing.fetch("SELECT value, raw FROM lake.quarantine ORDER BY value")
    assert found == [
        ("line 202: Expected Number of Columns: 5 Found: 2", "too,few"),
        (
            "line 203: Expected Number of Columns: 5 Found: 7",
            "one,two,three,four,5,six,seven",
        ),
    ]


def test_lines_behind_an_open_quote_are_quarantined_one_by_one(landing):
    rows = landing.rows()
    file = landing.write(rows)
    lines = file.read_text().splitlines()
    lines[-3] = lines[-3].replace("account", '"account')
    file.write_text("\n".join(lines) + "\n")
    report = landing.land()
    assert report.rows_in == 200
    assert report.broken_rules == {"line_unreadable": 3}
    raw = {row[0] for row in landing.fetch("SELECT raw FROM lake.quarantine")}
    assert raw == set(lines[-3:])


def test_open_quote_that_hides_too_much_is_refused(landing):
    file = landing.write(landing.rows(n=1000))
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace("account", '"account')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(SourceError, match=r"line 3: a quote is opened and hides.*close it, or"):
        landing.read()
    assert landing.read(quote="")[1].n_rows == 1000


def test_malformed_line_of_a_private_source_keeps_no_text(landing):
    file = landing.write(landing.rows())
    file.write_text(file.read_text() + "secret-name,few\n")
    landing.land(drop=["shop"], columns=landing.columns | {"merchant_id": "account"})
    assert landing.fetch("SELECT rule, raw FROM lake.quarantine") == [("line_unreadable", "")]
    assert not any(
        b"secret-name" in path.read_bytes()
        for path in landing.warehouse.path.rglob("*")
        if path.is_file()
    )


def test_changed_malformed_line_is_a_change(landing):
    file = landing.write(landing.rows())
    text = file.read_text()
    file.write_text(text + "too,few\n")
    landing.land()
    file.write_text(text + "two,few\n")
    assert landing.land().status == "published"
    assert landing.fetch("SELECT raw FROM lake.quarantine") == [("two,few",)]


def test_warehouse_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        WarehouseError, match=r"must be writable, but .*lake is not.*\[warehouse\]"
    ):
        Lake.open(WarehouseSettings(path=tmp_path / "file" / "warehouse"))


def test_catalog_that_is_no_catalog_is_refused(tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "catalog.sqlite").write_text("not a database, but a long enough text")
    with pytest.raises(WarehouseError, match=r"lake .*catalog\.sqlite cannot be opened"):
        Lake.open(WarehouseSettings(path=tmp_path))


def defect(kind, number, day):
    """Give what a defect of this kind changes in a row, and the rule that it breaks."""
    changes = {
        "good": ({}, None),
        "no id": ({"id": ""}, "transaction_id_missing"),
        "no account": ({"account": " "}, "account_id_missing"),
        "text": ({"amount": "?"}, "amount_unreadable"),
        "negative": ({"amount": f"-{number + 1}"}, "amount_not_positive"),
        "nan": ({"amount": "nan"}, "amount_not_finite"),
        "late": ({"time": f"{day - timedelta(days=1)} 10:00:00"}, "occurred_at_outside_day"),
        "no time": ({"time": "soon"}, "occurred_at_unreadable"),
        "copy": ({"id": f"t{day:%m%d}-0"}, "transaction_id_repeated_in_file"),
    }
    return changes[kind]


KINDS = ["no id", "no account", "text", "negative", "nan", "late", "no time", "copy"]


@pytest.fixture(scope="module")
def random_days(new_landing):
    made = new_landing()
    made.limits = ALL_MAY_BREAK
    made.days = iter(date(2025, 3, 1) + timedelta(days=2 * n) for n in range(1000))
    return made


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from(["good", "good", *KINDS]), max_size=30),
    broken_lines=st.integers(0, 3),
)
def test_random_day_loses_no_row_and_lands_once(random_days, kinds, broken_lines):
    landing, day = random_days, next(random_days.days)
    rows = landing.rows(day, n=len(kinds) + 1)
    expected = Counter({"line_unreadable": broken_lines} if broken_lines else {})
    for number, kind in enumerate(kinds, start=1):
        change, rule = defect(kind, number, day)
        rows[number] |= change
        expected.update([rule] if rule else [])
    file = landing.write(rows, day)
    file.write_text(file.read_text() + "a,b,c,d,e,f,g\n" * broken_lines)
    report = landing.land(day)
    assert report.rows_in == len(rows) + broken_lines
    assert report.broken_rules == expected
    everything = "SELECT * FROM lake.transactions WHERE event_date = ? ORDER BY transaction_id"
    before = (landing.fetch(everything, day), landing.lake.snapshot_id())
    assert landing.land(day).status == "unchanged"
    assert (landing.fetch(everything, day), landing.lake.snapshot_id()) == before
