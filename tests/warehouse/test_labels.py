"""Labels are appended once, whoever states them, and the newest known by a moment holds at it."""

import codecs
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.alerts import new_alert
from tests.services import on_both_back_ends
from warehouse.connection import Lake
from warehouse.errors import SettingsError, SourceError, UserError
from warehouse.labels import (
    import_labels,
    label_conflicts,
    list_rejected_labels,
    record_decisions,
)
from warehouse.privacy import PseudonymKey
from warehouse.queue import Queue
from warehouse.queue_records import Decision
from warehouse.reads import read_truth

DAY = date(2026, 1, 15)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
HEADER = "transaction_id,label,known_at,source"
QUOTE = '"'
KEY = PseudonymKey(b"0123456789abcdef0123456789abcdef")
STATEMENTS = (
    "SELECT transaction_id, is_fraud, known_at, source FROM lake.labels "
    "ORDER BY known_at, transaction_id, source"
)


class _Labels:
    """A lake with one landed day, to import label files into."""

    def __init__(self, landing):
        self.landing = landing
        self.lake = landing.lake
        self.fetch = landing.fetch

    def write(self, *lines, header=HEADER, name="labels.csv", encoding="utf-8"):
        file = self.landing.folder / name
        file.write_bytes("\n".join([header, *lines, ""]).encode(encoding))
        return file

    def load(self, file, *, now=None, source="import", **changes):
        """Import a file, under one law: every row is added, was there, or is set aside."""
        report = import_labels(
            self.lake,
            file,
            self.landing.settings(**changes),
            key=self.landing.key,
            default_source=source,
            now=now,
        )
        assert report.rows_read == report.added + report.already_there + report.set_aside
        assert report.set_aside == sum(one.rows for one in report.rejected)
        return report

    def load_lines(self, *lines, **options):
        return self.load(self.write(*lines), **options)

    def rejected(self):
        return self.fetch(
            "SELECT row_number, rule, value FROM lake.label_quarantine ORDER BY row_number, rule"
        )

    def truth(self, moment, day=DAY):
        found = read_truth(self.lake, day, day, moment)
        return dict(zip(found["transaction_id"], found["is_fraud"], strict=True))

    def clear(self):
        with self.lake.commit() as connection:
            connection.execute("DELETE FROM lake.labels; DELETE FROM lake.label_quarantine")


@pytest.fixture(scope="module")
def landed(new_landing):
    """A lake whose one day has the transactions t0115-0 to t0115-199."""
    landing = new_landing()
    landing.write(landing.rows())
    landing.land()
    return _Labels(landing)


@pytest.fixture
def labels(landed):
    """The landed lake without any label."""
    landed.clear()
    return landed


def test_file_becomes_statements(labels):
    report = labels.load_lines(
        "t0115-0,1,2026-01-20 10:00:00,chargeback",
        "t0115-1,genuine,2026-01-20T10:00:00+02:00,",
    )
    assert (report.rows_read, report.added, report.set_aside, report.conflicts) == (2, 2, 0, 0)
    rows = labels.fetch("SELECT * EXCLUDE (recorded_at) FROM lake.labels ORDER BY ALL")
    ten, eight = (datetime(2026, 1, 20, hour, tzinfo=UTC) for hour in (10, 8))
    assert rows == [
        (DAY, "t0115-0", "account 0", "shop 0", True, ten, "chargeback"),
        (DAY, "t0115-1", "account 1", "shop 1", False, eight, "import"),
    ]


def test_words_for_fraud_and_genuine(labels):
    fraud = ["1", "true", "TRUE", "fraud", " Fraud ", "1.0"]
    genuine = ["0", "false", "False", "genuine", "GENUINE", "0.0"]
    words = fraud + genuine
    labels.load_lines(*(f"t0115-{n},{word},2026-01-20," for n, word in enumerate(words)))
    assert labels.truth(datetime.now(UTC)) == {
        f"t0115-{n}": n < len(fraud) for n in range(len(words))
    }


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Europe/Berlin", 1)])
def test_time_without_zone_is_the_sources_and_a_date_counts_from_its_end(labels, zone, hours):
    ten, midnight = (datetime(2026, 1, 20, hour, tzinfo=UTC) for hour in (10, 0))
    shift = timedelta(hours=hours)
    moments = {
        "2026-01-20 10:00:00": ten - shift,
        "2026-01-20T10:00:00Z": ten,
        "2026-01-20 10:00:00.25+03": ten - timedelta(hours=2, minutes=59, seconds=59.75),
        "2026-01-20": midnight + timedelta(days=1) - shift,
        "2026-01-15": midnight - timedelta(days=4) - shift,  # the transaction's own day
    }
    lines = (f"t0115-{n},1,{text}," for n, text in enumerate(moments))
    labels.load_lines(*lines, time_zone=zone)
    found = labels.fetch("SELECT known_at FROM lake.labels ORDER BY transaction_id")
    assert [row[0] for row in found] == list(moments.values())


@pytest.mark.parametrize(
    "columns",
    [
        "'t0115-0' AS transaction_id, 1 AS label, TIMESTAMP '2026-01-20 10:00:00' AS known_at",
        "'t0115-0' AS transaction_id, true AS label, "
        "TIMESTAMPTZ '2026-01-20 12:00:00+02' AS known_at, 'import' AS source",
        "'t0115-0' AS \"Transaction_ID\", 1.0 AS label, "
        "TIMESTAMP_NS '2026-01-20 10:00:00' AS known_at, [1] AS other",
    ],
    ids=["plain", "zoned", "odd types"],
)
def test_parquet_gives_the_same_as_csv(labels, columns):
    file = labels.landing.folder / "labels.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT {columns}) TO '{file}' (FORMAT parquet)")
    assert labels.load(file).added == 1
    assert labels.load_lines("t0115-0,1,2026-01-20 10:00:00,").already_there == 1


def test_wrong_types_of_parquet_are_set_aside(labels):
    file = labels.landing.folder / "labels.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 't0115-0' AS transaction_id, [1] AS label, 1768435200 AS known_at "
            "UNION ALL SELECT 't0115-1', NULL, NULL) "
            f"TO '{file}' (FORMAT parquet)"
        )
    labels.load(file)
    assert labels.rejected() == [(1, "label_unreadable", "[1]"), (2, "label_missing", None)]


BROKEN = {
    ",1,2026-01-20,": ("transaction_id_missing", None),
    "  ,1,2026-01-20,": ("transaction_id_missing", None),
    "t0115-0,,2026-01-20,": ("label_missing", None),
    "t0115-0,2,2026-01-20,": ("label_unreadable", "2"),
    "t0115-0,perhaps,2026-01-20,": ("label_unreadable", "perhaps"),
    "t0115-0,1,,": ("known_at_missing", None),
    "t0115-0,1,20.01.2026,": ("known_at_unreadable", "20.01.2026"),
    "t0115-0,1,infinity,": ("known_at_unreadable", "infinity"),
    "t0115-0,1,now,": ("known_at_unreadable", "now"),
    "t0115-0,1,294246-12-31,": ("known_at_in_future", "294246-12-31"),
    "t0115-0,1,294247-01-10,": ("known_at_unreadable", "294247-01-10"),
    "t0115-0,1,2026-01-20,gossip": ("source_unknown", "gossip"),
    "t0115-0,1,2026-01-20,source": ("source_unknown", "source"),
    "t9,1,2026-01-20,": ("transaction_unknown", "t9"),
    "t0115-5,1,2026-01-15 05:04:59,": ("known_at_before_transaction", "2026-01-15 05:04:59"),
    "t0115-5,1,2026-01-14,": ("known_at_before_transaction", "2026-01-14"),
    "t0115-0,1,2026-02-02 00:00:01,": ("known_at_in_future", "2026-02-02 00:00:01"),
}


def test_row_that_breaks_a_rule_is_set_aside_and_the_rest_is_added(labels):
    now = datetime(2026, 2, 1, tzinfo=UTC)
    report = labels.load_lines("t0115-1,1,2026-01-20,", *BROKEN, now=now)
    assert (report.added, report.set_aside) == (1, len(BROKEN))
    assert labels.rejected() == [(n, *told) for n, told in enumerate(BROKEN.values(), start=2)]
    rows = labels.fetch("SELECT raw, source_file FROM lake.label_quarantine ORDER BY row_number")
    said = [[text.strip() or None for text in line.split(",")] for line in BROKEN]
    assert [list(json.loads(raw).values()) for raw, _ in rows] == said
    assert list(json.loads(rows[0][0])) == HEADER.split(",")
    assert {file for _, file in rows} == {str(labels.landing.folder / "labels.csv")}


def test_moment_of_the_transaction_and_of_tomorrow_are_accepted(labels):
    now = datetime(2026, 2, 1, tzinfo=UTC)
    lines = ("t0115-5,1,2026-01-15 05:05:00,", "t0115-6,1,2026-02-01,")
    assert labels.load_lines(*lines, now=now).added == 2


def test_contradiction_inside_a_file_sets_all_its_rows_aside(labels):
    report = labels.load_lines(
        "t0115-0,1,2026-01-20,",
        "t0115-0,0,2026-01-20,chargeback",
        "t0115-0,1,2026-01-20,",
        "t0115-0,0,2026-01-21,",
        "t0115-1,1,2026-01-20,",
        "t0115-1,0,2026-01-20,gossip",
    )
    assert (report.added, report.set_aside) == (2, 4)
    rule = "label_contradicted_in_file"
    assert labels.rejected() == [
        (1, rule, "1"),
        (2, rule, "0"),
        (3, rule, "1"),
        (6, "source_unknown", "gossip"),
    ]


def test_the_same_again_changes_nothing_at_all(labels):
    lines = ("t0115-0,1,2026-01-20,", "t0115-0,fraud,2026-01-20,IMPORT", "t9,1,2026-01-20,")
    assert labels.load_lines(*lines).already_there == 1
    snapshot = labels.lake.snapshot_id()
    rejected = labels.fetch("FROM lake.label_quarantine")
    report = labels.load_lines(*lines)
    assert (report.added, report.already_there, report.set_aside) == (0, 2, 1)
    assert labels.lake.snapshot_id() == snapshot
    assert labels.fetch("FROM lake.label_quarantine") == rejected


def test_statements_and_rejections_are_one_commit(labels):
    snapshot = labels.lake.snapshot_id()
    labels.load_lines("t0115-0,1,2026-01-20,", "t9,1,2026-01-20,")
    assert labels.lake.snapshot_id() == snapshot + 1


def test_another_source_or_moment_is_a_statement_of_its_own(labels):
    labels.load_lines("t0115-0,1,2026-01-20,")
    assert labels.load_lines("t0115-0,1,2026-01-20,", source="chargeback").added == 1
    assert labels.load_lines("t0115-0,1,2026-01-21,").added == 1
    assert labels.load_lines("t0115-0,0,2026-01-20,").added == 1
    assert labels.fetch("SELECT count(*) FROM lake.labels") == [(4,)]


def test_newest_known_by_a_moment_holds_and_the_last_written_breaks_ties(labels):
    labels.load_lines("t0115-0,1,2026-01-20 10:00:00,")
    labels.load_lines("t0115-0,0,2026-01-22 10:00:00,", source="chargeback")
    labels.load_lines("t0115-0,1,2026-01-18 10:00:00,", source="analyst")
    moments = {18: {}, 19: {"t0115-0": True}, 22: {"t0115-0": True}, 23: {"t0115-0": False}}
    for day, truth in moments.items():
        assert labels.truth(datetime(2026, 1, day, tzinfo=UTC)) == truth
    labels.load_lines("t0115-0,1,2026-01-22 10:00:00,")
    assert labels.truth(datetime(2026, 1, 22, 10, tzinfo=UTC)) == {"t0115-0": True}


statement = st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans())


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    drawn=st.lists(statement, min_size=3, max_size=9, unique_by=lambda one: one[:2]),
    data=st.data(),
)
def test_order_and_number_of_imports_do_not_change_the_truth_and_no_row_changes(
    labels, drawn, data
):
    """Statements of a transaction at different moments, in files of any order, some repeated."""
    lines = [
        f"t0115-{number},{int(is_fraud)},{NOON + timedelta(days=days):%Y-%m-%d %H:%M:%S},"
        + ("chargeback" if is_charged else "")
        for number, days, is_fraud, is_charged in drawn
    ]
    labels.clear()
    shuffled = data.draw(st.permutations(lines + lines[:3]))
    written = []
    for part in (shuffled[::3], shuffled[1::3], shuffled[2::3]):
        labels.load_lines(*part)
        before, written = written, labels.fetch("FROM lake.labels")
        assert set(before) <= set(written)
    assert len(written) == len(lines)
    for days in range(-1, 4):
        known = sorted((one for one in drawn if one[1] <= days), key=lambda one: one[1])
        truth = {f"t0115-{number}": is_fraud for number, _, is_fraud, _ in known}
        assert labels.truth(NOON + timedelta(days=days)) == truth


@on_both_back_ends
def test_two_imports_at_once_add_each_statement_once(landing):
    landing.write(landing.rows())
    landing.land()
    labels = _Labels(landing)
    file = labels.write(*(f"t0115-{i},1,2026-01-20," for i in range(150)), "t9,1,2026-01-20,")

    def load(_):
        with Lake.open(labels.landing.warehouse) as lake:
            return import_labels(lake, file, labels.landing.settings(), key=None).added

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(load, range(3))) == [0, 0, 150]
    assert labels.fetch("SELECT count(*) FROM lake.labels") == [(150,)]
    assert len(labels.rejected()) == 1


def test_row_that_passes_later_leaves_the_quarantine(new_landing):
    landing = new_landing()
    landing.write(landing.rows())
    landing.land()
    labels = _Labels(landing)
    file = labels.write("late0114-0,1,2026-01-20,", "t0115-0,maybe,2026-01-20,", "a,b")
    assert labels.load(file).set_aside == 3
    yesterday = DAY - timedelta(days=1)
    landing.write(landing.rows(yesterday, prefix="late"), yesterday)
    landing.land(yesterday)
    assert labels.load(file).added == 1
    assert [row[:2] for row in labels.rejected()] == [
        (2, "label_unreadable"),
        (3, "line_unreadable"),
    ]
    mended = labels.write(
        "late0114-0,1,2026-01-20,", "t0115-0,maybe not,2026-01-20,", "t0115-1,1,2026-01-20,"
    )
    assert labels.load(mended).added == 1
    assert labels.rejected() == [(2, "label_unreadable", "maybe not")]
    other = labels.write("t9,1,2026-01-20,", "t8,1,2026-01-20,")
    assert labels.load(other).set_aside == 2
    assert [row[0] for row in labels.rejected()] == [1, 2, 2]


def test_rejected_are_counted_by_rule_with_an_example(labels):
    report = labels.load_lines("t9,1,2026-01-20,", "t0115-0,x,2026-01-20,", "t8,1,2026-01-20,")
    found = [(one.rule, one.rows, one.example_value) for one in report.rejected]
    assert found == [("transaction_unknown", 2, "t9"), ("label_unreadable", 1, "x")]
    assert list_rejected_labels(labels.lake) == list(report.rejected)
    assert (found[0][1], report.rejected[0].example_row_number) == (2, 1)


# files as people send them


@pytest.mark.parametrize(
    ("content", "added"),
    [
        (codecs.BOM_UTF8 + b"transaction_id,label,known_at\nt0115-0,1,2026-01-20\n", 1),
        (b"transaction_id;label;known_at\r\nt0115-0;1;2026-01-20\r\n", 1),
        (b"transaction_id\tlabel\tknown_at\nt0115-0\t1\t2026-01-20", 1),
        (b'"Transaction_ID"," LABEL ","known_at"\n"t0115-0","1","2026-01-20"\n', 1),
        (b'known_at,note,label,transaction_id\n2026-01-20,"a, ""b""\nc",1,t0115-0\n', 1),
        ("transaction_id,label,known_at\nt0115-0,1,2026-01-20\n".encode("utf-16"), 1),
        ("transaction_id,label,known_at,né\nt0115-0,1,2026-01-20,\n".encode("latin-1"), 1),
        (b"transaction_id,label,known_at\n", 0),
        (b"transaction_id,label,known_at", 0),
    ],
    ids=[
        "byte order mark",
        "semicolons",
        "tabs",
        "quoted names",
        "other columns",
        "utf-16",
        "latin-1",
        "header only",
        "header without line end",
    ],
)
def test_file_as_people_send_it(labels, content, added):
    file = labels.landing.folder / "sent.csv"
    file.write_bytes(content)
    report = labels.load(file)
    assert (report.rows_read, report.added) == (added, added)
    assert labels.fetch("SELECT transaction_id FROM lake.labels") == [("t0115-0",)] * added


def test_lines_that_are_no_rows_are_set_aside_and_numbers_stay_right(labels):
    report = labels.load_lines(
        "t7,1,2026-01-20,",
        "t0115-1,1",
        "t0115-2,1,2026-01-20,,too,many",
        "t9,1,2026-01-20,",
        "t0115-3,1,2026-01-20,",
        "t0115-4",
        "t8,1,2026-01-20,",
    )
    assert (report.rows_read, report.added, report.set_aside) == (7, 1, 6)
    assert [row[:2] for row in labels.rejected()] == [
        (1, "transaction_unknown"),
        (2, "line_unreadable"),
        (3, "line_unreadable"),
        (4, "transaction_unknown"),
        (6, "line_unreadable"),
        (7, "transaction_unknown"),
    ]
    assert labels.rejected()[1][2].startswith("line 3: Expected Number of Columns: 4 Found: 2")


REFUSED = {
    "empty": (b"", "is empty; correct its name"),
    "no header": (b"t0115-0,1,2026-01-20\n", "has no transaction_id, label, known_at; it has"),
    "column lacks": (b"transaction_id,known_at\nx,2026-01-20\n", "has no label; it has"),
    "gzip": (gzip.compress(b"transaction_id,label,known_at\n"), "is gzip data; unpack it first"),
    "cut parquet": (b"PAR1 and no more", "cannot be read as a table of labels"),
    "only line ends": (b"\n\n\n", "has no transaction_id|is empty"),
    "only a mark": (codecs.BOM_UTF8, "is empty: expected a header line"),
    "only a wide mark": (codecs.BOM_UTF16_LE, "is empty: expected a header line"),
    "endless line": (
        b"x" * 140_000,
        "expected a first line with the columns transaction_id, label, known_at, but that of .* is "
        "no header",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_file_that_is_no_table_of_labels_is_refused_whole(labels, case):
    content, reason = REFUSED[case]
    file = labels.landing.folder / "refused.csv"
    file.write_bytes(content)
    snapshot = labels.lake.snapshot_id()
    with pytest.raises(SourceError, match=reason):
        labels.load(file)
    assert labels.lake.snapshot_id() == snapshot


def test_missing_file_folder_and_unknown_source_are_refused(labels):
    with pytest.raises(SourceError, match="is no file; correct its name"):
        labels.load(labels.landing.folder / "none.csv")
    with pytest.raises(SourceError, match="is no file"):
        labels.load(labels.landing.folder)
    with pytest.raises(UserError, match="expected the labels' source to be one of chargeback"):
        labels.load_lines("t0115-0,1,2026-01-20,", source="source")


def test_odd_ids_are_only_texts(labels):
    odd = [
        "t'); DROP TABLE lake.labels; --",
        "$now",
        "{{}}",
        "%s",
        "ü ✓",
        "NULL",
        "\\N",
        'say "x"',
    ]
    lines = [f'"{text.replace(QUOTE, QUOTE * 2)}",1,2026-01-20,' for text in (*odd, "a\x00b")]
    assert labels.load_lines("t0115-0,1,2026-01-20,", *lines).added == 1
    odd.append("a\ufffdb")  # no database looks for a text with a zero character
    expected = [(n, "transaction_unknown", text) for n, text in enumerate(odd, start=2)]
    assert labels.rejected() == expected
    assert labels.load_lines("t0115-0,1,2026-01-20,", *lines).already_there == 1
    assert labels.rejected() == expected


def test_odd_file_name_is_only_a_name(labels):
    file = labels.write("t0115-0,1,2026-01-20,", "t9,1,2026-01-20,", name="it's [1] *.csv")
    labels.write("t0115-1,1,2026-01-20,", name="it's 1 x.csv")
    assert labels.load(file).added == 1
    assert labels.load(file).already_there == 1


def test_pseudonymised_ids_match_and_the_plain_ones_are_stored_nowhere(new_landing):
    landing = new_landing()
    landing.key = KEY
    landing.source["pseudonymise"] = ["ID"]
    landing.write(landing.rows())
    landing.land()
    labels = _Labels(landing)
    file = labels.write(
        "t0115-0,1,2026-01-20,,4111111111111111",
        "t0115-77777,1,2026-01-20,,4111111111111111",
        "t0115-88888,1",
        header=f"{HEADER},card",
    )
    report = labels.load(file)
    assert (report.added, report.set_aside) == (1, 2)
    stored = str(labels.fetch("FROM lake.label_quarantine") + labels.fetch("FROM lake.labels"))
    for private in ("t0115-0", "t0115-77777", "t0115-88888", "4111111111111111"):
        assert private not in stored
    assert labels.load(file).already_there == 1
    landing.key = PseudonymKey(b"another key of 32 bytes, or more")
    with pytest.raises(SettingsError, match="the pseudonym key is not the one"):
        labels.load(file)
    landing.key = None
    with pytest.raises(SettingsError, match="ids are pseudonymised, which needs the key"):
        labels.load(file)


def test_id_that_returned_years_later_is_the_newest_that_had_happened(new_landing):
    landing = new_landing()
    later = date(2026, 3, 20)
    for day in (DAY, later):
        rows = [row | {"id": f"again {i}"} for i, row in enumerate(landing.rows(day))]
        landing.write(rows, day)
        landing.limits = landing.limits.model_copy(update={"duplicate_window_days": 30})
        landing.land(day)
    labels = _Labels(landing)
    labels.load_lines("again 3,1,2026-02-01,", "again 3,0,2026-04-01,")
    found = labels.fetch("SELECT event_date, is_fraud FROM lake.labels ORDER BY 1")
    assert found == [(DAY, True), (later, False)]


# decisions


@pytest.fixture
def decided(tmp_path):
    """A queue with five alerts; the n-th verdict comes n hours after the first."""
    moments = (NOON + timedelta(days=1, hours=n) for n in range(100))
    with Queue.open(tmp_path / "queue.sqlite", create=True, clock=lambda: next(moments)) as queue:
        alerts = [
            new_alert(f"t0115-{n}", account=f"account {n}", merchant=f"shop {n}") for n in range(5)
        ]
        queue.enqueue(DAY, "nightly", alerts)
        yield queue


def test_verdicts_become_labels_from_the_moment_of_the_decision(labels, decided):
    for number, verdict in enumerate(["fraud", "genuine", "unsure"], start=1):
        decided.decide(number, verdict, "ann")
    decisions = decided.decisions()
    assert record_decisions(labels.lake, decisions) == 2
    moments = [one.decided_at for one in decisions]
    assert labels.fetch(STATEMENTS) == [
        ("t0115-0", True, moments[0], "analyst"),
        ("t0115-1", False, moments[1], "analyst"),
    ]
    assert labels.truth(moments[0] - timedelta(microseconds=1)) == {}
    assert labels.truth(moments[0]) == {"t0115-0": True}


def test_decisions_recorded_before_add_nothing_and_make_no_snapshot(labels, decided):
    assert record_decisions(labels.lake, []) == 0
    decided.decide(1, "unsure", "ann")
    assert record_decisions(labels.lake, decided.decisions()) == 0
    decided.decide(1, "fraud", "ann")
    assert record_decisions(labels.lake, decided.decisions()) == 1
    snapshot = labels.lake.snapshot_id()
    assert record_decisions(labels.lake, decided.decisions()) == 0
    assert labels.lake.snapshot_id() == snapshot
    decided.decide(1, "genuine", "bob")
    assert record_decisions(labels.lake, decided.decisions()) == 1
    assert labels.lake.snapshot_id() == snapshot + 1
    assert labels.truth(datetime.now(UTC)) == {"t0115-0": False}


def test_settled_verdicts_that_a_later_one_follows_become_no_labels(labels, decided):
    for number, verdicts in ((1, ("fraud", "unsure")), (2, ("genuine", "fraud"))):
        for verdict in verdicts:
            decided.decide(number, verdict, "ann")
    settled = decided.decisions(settled_before=decided.settled_before())
    assert record_decisions(labels.lake, settled) == 1
    assert labels.truth(datetime.now(UTC)) == {"t0115-1": True}


def test_decisions_of_one_moment_are_all_recorded_and_the_later_of_an_alert_counts(labels):
    def decision(number, transaction, verdict):
        said = (number, 1, 1, transaction, DAY, "account 0", "shop 0", verdict, "ann", "")
        return Decision(*said, decided_at=NOON, proposed_by=None, is_retracted=False)

    first = decision(1, "t0115-0", "fraud")
    assert record_decisions(labels.lake, [first]) == 1
    more = [
        first,
        decision(2, "t0115-1", "fraud"),
        decision(4, "t0115-2", "genuine"),
        decision(3, "t0115-2", "fraud"),
    ]
    assert record_decisions(labels.lake, more) == 2
    expected = {"t0115-0": True, "t0115-1": True, "t0115-2": False}
    assert labels.truth(NOON) == expected


# conflicts


def test_conflicts_with_other_sources_are_counted_and_explained(labels):
    labels.load_lines("t0115-0,1,2026-01-20,", "t0115-1,1,2026-01-20,", "t0115-2,1,2026-01-20,")
    same_source = labels.load_lines("t0115-1,0,2026-01-21,")
    assert same_source.conflicts == 0
    report = labels.load_lines(
        "t0115-0,0,2026-01-19,", "t0115-2,0,2026-01-20,", "t0115-3,0,2026-01-20,", source="analyst"
    )
    assert (report.added, report.conflicts) == (3, 2)
    found = label_conflicts(labels.lake, DAY, DAY, datetime.now(UTC)).rows(named=True)
    assert [
        (one["transaction_id"], one["is_fraud"], one["source"], one["decided_by"]) for one in found
    ] == [
        ("t0115-0", True, "import", "known_at"),
        ("t0115-1", False, "import", "known_at"),
        ("t0115-2", False, "analyst", "recorded_at"),
    ]
    assert [(s["is_fraud"], s["source"]) for s in found[0]["statements"]] == [
        (False, "analyst"),
        (True, "import"),
    ]
    assert (found[0]["says_fraud"], found[0]["says_genuine"]) == (1, 1)
    for one in found:
        truth = labels.truth(datetime.now(UTC))
        assert truth[one["transaction_id"]] == one["is_fraud"]


def test_conflicts_are_those_known_by_the_moment_on_the_days_asked(labels):
    labels.load_lines("t0115-0,1,2026-01-20 10:00:00,", "t0115-0,0,2026-01-22 10:00:00,")
    moment = datetime(2026, 1, 22, 10, tzinfo=UTC)
    assert label_conflicts(labels.lake, DAY, DAY, moment).height == 1
    assert label_conflicts(labels.lake, DAY, DAY, moment - timedelta(seconds=1)).height == 0
    later = DAY + timedelta(days=1)
    assert label_conflicts(labels.lake, later, later, moment).height == 0
