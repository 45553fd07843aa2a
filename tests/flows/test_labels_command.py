"""``nightwarden labels`` on a small project: what it prints, and how it ends."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from flows.ingest import ingest
from flows.settings import Settings
from tasks.simulate import simulate_transactions, write_days

FIRST_DAY = date(2026, 1, 1)
DAYS = 3
LAST_DAY = FIRST_DAY + timedelta(days=DAYS - 1)
SPAN = ("--from", FIRST_DAY, "--to", LAST_DAY)
CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
drop = ["fraud_scenario"]
pseudonymise = ["card_number"]
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "card_number"
merchant_id = "merchant_id"
amount = "amount"
[source.label]
column = "is_fraud"
delay_days = 7
[labels]
mature_after_days = 8
[warehouse]
threads = 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A project with three landed days."""
    folder = tmp_path_factory.mktemp("labels")
    frame = simulate_transactions(start=FIRST_DAY, days=DAYS, accounts=30, merchants=10, seed=3)
    write_days(frame, folder / "in", format="csv")
    (folder / "nightwarden.key").write_text("0123456789abcdef0123456789abcdef")
    (folder / "nightwarden.key").chmod(0o600)
    file = folder / "nightwarden.toml"
    file.write_text(CONFIG)
    _, refused = ingest(file, FIRST_DAY, LAST_DAY)
    assert not refused
    return file


@pytest.fixture
def western(config) -> Path:
    """Settings of the same project with a source in California."""
    file = config.with_name("western.toml")
    file.write_text(CONFIG.replace("[source]", '[source]\ntime_zone = "America/Los_Angeles"', 1))
    return file


@pytest.fixture
def run(run, config):
    """Run ``nightwarden labels`` on the project."""

    def run_labels(*words: object, config: Path = config) -> tuple[int, str, str]:
        return run("labels", *words, "--config", config)

    return run_labels


@pytest.fixture(scope="module")
def disputed(config) -> str:
    """A transaction of the first day that its source calls genuine."""
    with Settings.read(config).context().closing() as context:
        found = (
            context.lake()
            .connection.execute(
                "SELECT min(transaction_id) FROM lake.labels WHERE NOT is_fraud AND event_date = ?",
                [FIRST_DAY],
            )
            .fetchone()
        )
    return found[0]


def write(config: Path, *lines: str) -> Path:
    file = config.parent / "chargebacks.csv"
    file.write_text("\n".join(["transaction_id,label,known_at", *lines, ""]))
    return file


def test_import_says_what_it_did_and_where_the_rest_is(run, config, disputed):
    file = write(config, f"{disputed},fraud,2026-01-20", "nobody,fraud,2026-01-20")
    code, out, _ = run("import", file, "--source", "chargeback")
    assert code == 0
    assert "2 rows read: 1 labels added, 0 were there already, 1 set aside" in out
    assert "1 transactions were labelled otherwise by another source: nightwarden labels" in out
    assert "transaction_unknown" in out
    assert "nightwarden labels rejected" in out

    code, out, _ = run("import", file, "--source", "chargeback", "--json")
    report = json.loads(out)
    assert (code, report["added"], report["already_there"], report["set_aside"]) == (0, 0, 1, 1)
    assert report["rejected"][0]["example_value"] == "nobody"

    code, out, _ = run("rejected")
    assert code == 0
    assert {"transaction_unknown", "nobody", "row 2"} <= {
        cell.strip() for line in out.splitlines() for cell in line.split("│")
    }
    assert json.loads(run("rejected", "--json")[1]) == report["rejected"]


def test_clean_import_names_no_rejected_rows(run, config, disputed):
    code, out, _ = run("import", write(config, f"{disputed},0,2026-01-03 10:00:00"))
    assert code == 0
    assert "set aside: " not in out
    assert "rejected" not in out


def test_conflicts_name_the_label_that_holds_at_a_moment(run, config, disputed):
    run("import", write(config, f"{disputed},fraud,2026-01-20"), "--source", "chargeback")
    code, out, _ = run("conflicts", *SPAN)
    assert code == 0
    assert disputed in out
    (found,) = json.loads(run("conflicts", *SPAN, "--json")[1])
    assert (found["is_fraud"], found["source"]) == (True, "chargeback")
    assert found["known_at"].startswith("2026-01-21 00:00:00")
    assert json.loads(run("conflicts", *SPAN, "--as-of", "2026-01-20", "--json")[1]) == []
    assert len(json.loads(run("conflicts", *SPAN, "--as-of", "2026-01-21", "--json")[1])) == 1


def test_status_shows_how_far_the_days_are(run):
    code, out, _ = run("status", *SPAN, "--as-of", "2026-01-10", "--json")
    days = json.loads(out)
    assert code == 0
    assert [one["is_mature"] for one in days] == [True, False, False]
    assert [one["expected_share"] for one in days] == [1.0, 1.0, 0.0]
    assert [one["known_share"] for one in days] == [1.0, 1.0, None]
    _, out, _ = run("status", *SPAN)
    assert "100.0%" in out
    assert str(FIRST_DAY) in out


def test_as_of_is_the_start_of_the_day_where_the_source_is(run, config, western, disputed):
    """In California the 10th begins at 8 o'clock UTC: labels of the 3rd have begun to be due."""
    of_days = json.loads(
        run("status", *SPAN, "--as-of", "2026-01-10", "--json", config=western)[1]
    )
    assert [one["is_mature"] for one in of_days] == [True, False, False]
    assert [one["expected_share"] for one in of_days[:2]] == [1.0, 1.0]
    assert 0 < of_days[2]["expected_share"] < 1
    assert of_days[2]["known_share"] == 1.0

    file = write(
        config, f"{disputed},fraud,2026-02-01 07:59:59", f"{disputed},0,2026-02-01 08:00:01"
    )
    run("import", file, "--source", "chargeback")
    to = (*SPAN, "--as-of", "2026-02-01", "--json")
    (found,) = json.loads(run("conflicts", *to, config=western)[1])
    assert found["known_at"].startswith("2026-02-01 07:59:59")


def test_day_is_mature_when_it_is_over_where_the_source_is(run, western, monkeypatch):
    night = datetime(2026, 1, 10, 3, tzinfo=UTC)  # the evening of the 9th in California
    clock = type("Clock", (datetime,), {"now": classmethod(lambda *_: night)})
    monkeypatch.setattr("flows.commands.labels.datetime", clock)
    here = json.loads(run("status", *SPAN, "--json")[1])
    there = json.loads(run("status", *SPAN, "--json", config=western)[1])
    assert [one["is_mature"] for one in here] == [True, False, False]
    assert [one["is_mature"] for one in there] == [False, False, False]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("import", "none.csv"), "expected a CSV or Parquet file of labels"),
        (("import", "none.csv", "--source", "gossip"), "gossip"),
        (("status", "--from", LAST_DAY, "--to", FIRST_DAY), "the last day must not be before"),
        (("conflicts", "--from", LAST_DAY, "--to", FIRST_DAY), "the last day must not be before"),
    ],
)
def test_mistakes_end_with_2_and_one_sentence(run, words, reason):
    code, _, err = run(*words)
    assert code == 2
    assert reason in err
    assert "Traceback" not in err


def test_file_without_the_columns_is_refused(run, config):
    file = config.parent / "other.csv"
    file.write_text("id,fraud\n1,1\n")
    code, _, err = run("import", file)
    assert code == 2
    assert err.startswith("Error: expected the columns transaction_id, label, known_at and")
    assert "it has ['id', 'fraud']; rename its columns" in err
