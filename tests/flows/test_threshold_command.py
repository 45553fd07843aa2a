"""The plan of thresholds over stored scores: a table, JSON, a picture, and mistakes."""

import json
import re
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from flows import cli
from flows.settings import Settings
from tests.tasks.test_threshold_plan import LAST, START, make
from warehouse.connection import Lake
from warehouse.errors import UserError
from warehouse.ledger import PartitionRun
from warehouse.scores import replace_scores

CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
[source.columns]
transaction_id = "transaction_id"
occurred_at = "occurred_at"
account_id = "account_id"
merchant_id = "merchant_id"
amount = "amount"
[source.label]
column = "is_fraud"
delay_days = 7
[queue]
capacity = 6
[warehouse]
threads = 1
"""
SPAN = ("--from", str(START), "--to", str(LAST))


def insert(lake, table, frame):
    lake.connection.register("new_rows", frame.to_arrow())
    with lake.commit():
        lake.connection.execute(f"INSERT INTO lake.{table} BY NAME SELECT * FROM new_rows")
    lake.connection.unregister("new_rows")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A warehouse with twelve scored days whose frauds are known."""
    config = tmp_path_factory.mktemp("threshold") / "nightwarden.toml"
    config.write_text(CONFIG)
    scored, truth = make()
    moment = datetime.combine(START, datetime.min.time(), UTC)
    rows = scored.join(truth, on="transaction_id").with_columns(merchant_id=pl.lit("m"))
    with Lake.open(Settings.read(config).warehouse) as lake:
        insert(
            lake,
            "transactions",
            rows.select(
                "event_date", "transaction_id", "account_id", "merchant_id", "amount"
            ).with_columns(
                occurred_at=pl.lit(moment), batch_id=pl.lit("b"), ingested_at=pl.lit(moment)
            ),
        )
        insert(
            lake,
            "labels",
            rows.select(
                "event_date", "transaction_id", "account_id", "merchant_id", "is_fraud"
            ).with_columns(
                known_at=pl.lit(moment), source=pl.lit("source"), recorded_at=pl.lit(moment)
            ),
        )
        for day in scored.drop("account_id", "amount").partition_by("event_date"):
            stored = day.with_columns(
                pl.col("score").alias("member.gaussian"),
                is_flagged=pl.lit(value=False),
                model_version=pl.lit("1"),
                scored_at=pl.lit(moment),
            )
            run = PartitionRun(day["event_date"][0], "score", "done", moment, "digest")
            replace_scores(lake, stored, run)
    return config


@pytest.fixture
def run(project):
    def run_command(*words, config=project):
        words = ["threshold", "plan", *map(str, words), "--config", str(config)]
        return CliRunner().invoke(cli.app, words)

    return run_command


def test_table_names_every_point_and_the_picture(run, project):
    result = run(*SPAN)
    assert result.exit_code == 0, result.output
    picture = project.parent / "warehouse-data" / "reports" / f"threshold_{START}_{LAST}.svg"
    assert picture.exists()
    assert str(picture) in result.output
    for words in ("5 a day", "50 a day", "now: capacity", "recall %"):
        assert words in result.output
    assert "Judged on 12 days" in result.output
    assert "net value" not in result.output


def test_machines_read_the_same_figures(run, tmp_path):
    result = run(*SPAN, "--json", "--picture", tmp_path / "plan.png")
    plan = json.loads(result.stdout, parse_constant=pytest.fail)  # NaN is no JSON
    assert plan["picture"] == str(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").exists()
    assert plan["points"][0]["name"] == "5 a day"
    assert plan["current"]["alerts"] == 6
    assert plan["current"]["net_value"] is None
    assert "curve" not in plan
    recall = plan["points"][1]["recall"]
    assert recall["interval"]["low"] < recall["value"] < recall["interval"]["high"]


def test_what_cannot_be_measured_is_null_or_a_dash(run, project, tmp_path):
    queue = 'capacity = 6\nthreshold = "score"\nleast_score = 1e6\nreview_cost = 5.0'
    config = project.with_name("high.toml")
    config.write_text(CONFIG.replace("capacity = 6", queue))
    words = (*SPAN, "--picture", tmp_path / "plan.svg")
    told = run(*words, "--json", config=config)
    current = json.loads(told.stdout, parse_constant=pytest.fail)["current"]
    assert current["precision"] is None
    assert current["net_value"]["value"] == 0
    told = run(*words, config=config)
    assert re.search(r"now: score .* 0\.0 \(0 to 0\) *│ - *│ 0 \(0 to 0\)", told.output)
    assert "net value" in told.output


@pytest.mark.parametrize(("zone", "kept"), [("UTC", 12), ("America/Los_Angeles", 11)])
def test_days_are_mature_where_the_source_is(run, project, tmp_path, monkeypatch, zone, kept):
    night = datetime.combine(LAST + timedelta(days=8), datetime.min.time(), UTC)
    night += timedelta(hours=2)  # the evening before in California
    clock = type("Clock", (datetime,), {"now": classmethod(lambda *_: night)})
    monkeypatch.setattr("flows.commands.threshold.datetime", clock)
    config = project.with_name("elsewhere.toml")
    config.write_text(CONFIG.replace("[source]", f'[source]\ntime_zone = "{zone}"', 1))
    told = run(*SPAN, "--json", "--picture", tmp_path / "plan.svg", config=config)
    plan = json.loads(told.stdout)
    assert (plan["days"], plan["immature_days"]) == (kept, 12 - kept)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", LAST, "--to", START), "last day must not be before the first"),
        (("--from", date(2020, 1, 1), "--to", date(2020, 1, 9)), "no scores from 2020-01-01"),
        (("--from", START, "--to", START + timedelta(days=2)), "there are 3 with"),
        ((*SPAN, "--picture", "plan.jpeg"), "an .svg or a .png file"),
    ],
    ids=["reversed", "no_scores", "few_days", "picture"],
)
def test_mistake_is_said_in_one_sentence(run, words, message):
    error = run(*words).exception
    assert isinstance(error, UserError)
    assert message in str(error)
