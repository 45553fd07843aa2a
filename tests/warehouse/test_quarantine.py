"""Rows set aside come back once the mapping is mended, on the right day, and none is lost."""

from datetime import date, timedelta

import duckdb
import pytest

from tests.services import on_both_back_ends
from warehouse.errors import UserError
from warehouse.quarantine import list_quarantine, replay_quarantine

DAY = date(2026, 1, 15)
YESTERDAY = DAY - timedelta(days=1)
MENDED = {"amount": "sql: replace(amount, ',', '')::DOUBLE"}


def replay(landing, day=DAY, *, to_own_day=False, **changes):
    settings = landing.settings(**changes)
    return replay_quarantine(landing.lake, settings, landing.limits, day, to_own_day=to_own_day)


@on_both_back_ends
def test_mended_mapping_publishes_the_rows(landing):
    rows = landing.rows()
    for row in rows[:5]:
        row["amount"] = "1,200.50"
    rows[5]["amount"] = "-3"
    landing.write(rows)
    assert landing.land().broken_rules == {"amount_unreadable": 5, "amount_not_positive": 1}
    report = replay(landing, columns=landing.columns | MENDED)
    assert (report.published, report.still_broken, report.days) == (5, 1, (DAY,))
    assert (landing.published(), landing.quarantined()) == (199, 1)
    assert landing.fetch("SELECT count(*) FROM lake.transactions WHERE amount = 1200.5") == [(5,)]
    runs = "SELECT rows_in, rows_out FROM lake.partition_runs WHERE stage = 'replay'"
    assert landing.fetch(runs) == [(5, 5)]
    again = replay(landing, columns=landing.columns | MENDED)
    assert (again.published, again.still_broken) == (0, 1)
    report = landing.land()
    assert report.status == "unchanged"


def test_ingest_with_the_mended_mapping_gives_the_same_as_a_replay(landing):
    rows = landing.rows()
    rows[3]["amount"] = "1,200.50"
    landing.write(rows)
    landing.land()
    replay(landing, columns=landing.columns | MENDED)
    query = (
        "SELECT * EXCLUDE (batch_id, ingested_at) FROM lake.transactions ORDER BY transaction_id"
    )
    before = landing.fetch(query)
    assert landing.land(columns=landing.columns | MENDED).rows_published == 200
    assert landing.fetch(query) == before


@on_both_back_ends
def test_identical_rows_are_not_lost(landing):
    """Of two equal rows the first is published and the second stays in quarantine."""
    rows = landing.rows()
    rows[3]["amount"] = "1,200.50"
    landing.write([*rows, rows[3]])
    assert landing.land().broken_rules == {"amount_unreadable": 2}
    report = replay(landing, columns=landing.columns | MENDED)
    assert (report.published, report.still_broken) == (1, 1)
    assert landing.published() + landing.quarantined() == 201


def test_row_that_is_published_already_stays(landing):
    rows = landing.rows()
    landing.write([*rows, rows[3] | {"amount": "1,200.50"}])
    landing.land()
    report = replay(landing, columns=landing.columns | MENDED)
    assert (report.published, report.still_broken) == (0, 1)
    assert landing.published() == 200


def test_odd_column_names_and_types_survive_the_way_through_json(landing):
    names = ["Beträge", 'say "x"', "it's", "a.b", "back\\slash", "$"]
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    landing.write_parquet(f"""
        WITH r AS (SELECT i, 't' || i AS id, 'a' AS account, 's' AS shop FROM range(200) t(i))
        SELECT id, account, shop, TIMESTAMPTZ '2026-01-15 10:00:00+02' + i * INTERVAL 1 SECOND
                   AS time, CASE WHEN i < 5 THEN -1 ELSE 1 END * (i + 1)::DECIMAL(9, 2) AS amount,
               {", ".join(f"i + {n} AS n{n}" for n in range(len(names)))}
        FROM r
    """)
    file = landing.folder / "in" / f"{DAY}.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * FROM '{file}'")
        for n, name in enumerate(columns.split(", ")):
            connection.execute(f"ALTER TABLE t RENAME n{n} TO {name}")
        connection.execute(f"COPY t TO '{file}' (FORMAT parquet)")
    extra = {
        f"x{n}": {"column": name if n != 5 else 'sql: "$"', "type": "numeric"}
        for n, name in enumerate(names)
    }
    assert landing.land(extra=extra).broken_rules == {"amount_not_positive": 5}
    columns = landing.columns | {"amount": "sql: abs(amount)"}
    assert replay(landing, columns=columns, extra=extra).published == 5
    found = landing.fetch(
        "SELECT x0, x1, x2, x3, x4, x5, amount, occurred_at::VARCHAR FROM lake.transactions "
        "WHERE transaction_id = 't2'"
    )
    assert found == [(2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 3.0, "2026-01-15 08:00:02+00")]


def test_extra_column_that_came_with_the_mended_mapping_is_added(landing):
    rows = landing.rows()
    rows[3]["amount"] = "1,200.50"
    landing.write(rows)
    landing.land()
    extra = {"place": {"column": "shop", "type": "categorical"}}
    assert replay(landing, columns=landing.columns | MENDED, extra=extra).published == 1
    assert landing.fetch("SELECT count(place) FROM lake.transactions") == [(1,)]


def late_day(landing):
    """Yesterday's file, and today's file with three rows of yesterday."""
    landing.write(landing.rows(YESTERDAY), YESTERDAY)
    landing.land(YESTERDAY)
    late = landing.rows(YESTERDAY, n=3, prefix="late")
    landing.write(landing.rows() + late)
    assert landing.land().broken_rules == {"occurred_at_outside_day": 3}


def test_late_rows_join_their_own_day_and_survive_its_ingest(landing):
    late_day(landing)
    report = replay(landing)
    assert (report.published, report.still_broken) == (0, 3)
    report = replay(landing, to_own_day=True)
    assert (report.published, report.still_broken, report.days) == (3, 0, (YESTERDAY,))
    assert landing.published(YESTERDAY) == 203
    assert landing.land(YESTERDAY, force=True).rows_published == 200
    assert landing.published(YESTERDAY) == 203
    late = landing.rows(YESTERDAY, n=3, prefix="late")
    landing.write(landing.rows(YESTERDAY) + late[:2], YESTERDAY)
    assert landing.land(YESTERDAY).rows_published == 202
    assert landing.published(YESTERDAY) == 203
    ids = landing.fetch("SELECT count(*), count(DISTINCT transaction_id) FROM lake.transactions")
    assert ids == [(403, 403)]


def test_labels_of_late_rows_are_stored_on_their_day(landing):
    label = {"column": "fraud"}
    landing.source["label"] = label
    rows = [row | {"fraud": "1"} for row in landing.rows(YESTERDAY, n=2)]
    landing.write([row | {"fraud": "0"} for row in landing.rows()] + rows)
    landing.land()
    replay(landing, to_own_day=True)
    found = landing.fetch("SELECT event_date, count(*) FROM lake.labels WHERE is_fraud GROUP BY 1")
    assert found == [(YESTERDAY, 2)]


def test_replay_of_nothing_says_so(landing):
    with pytest.raises(UserError, match="no row of 2026-01-15 is in quarantine; see nightwarden"):
        replay(landing)
    file = landing.write(landing.rows())
    file.write_text(file.read_text() + "too,few\n")
    landing.land()
    with pytest.raises(UserError, match="no row of 2026-01-15"):
        replay(landing)


def test_list_counts_by_day_and_rule(landing):
    rows = landing.rows()
    rows[0]["amount"], rows[1]["amount"], rows[2]["shop"] = "0", "-1", ""
    landing.write(rows)
    landing.land()
    found = list_quarantine(landing.lake)
    assert [(count.rule, count.rows) for count in found] == [
        ("amount_not_positive", 2),
        ("merchant_id_missing", 1),
    ]
    assert found[0].example_value in ("0", "-1")
    assert list_quarantine(landing.lake, start=DAY + timedelta(days=1)) == []
    assert list_quarantine(landing.lake, end=YESTERDAY) == []
