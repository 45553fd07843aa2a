"""The command line in this process: help, JSON, exit codes, and mistakes said in one sentence."""

import json
from pathlib import Path

import click
import pytest
import typer

from flows import cli
from flows.nightly import nightly
from tests.flows.conftest import AS_OF, FIRST_DAY, copy_project, day


@pytest.fixture(scope="module")
def used(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after one night; its tests only read it."""
    config = copy_project(template, tmp_path_factory.mktemp("used") / "project")
    nightly(config, day(0))
    return config


def commands() -> list[list[str]]:
    def below(command: click.Command, path: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", {})
        return [p for n, c in inner.items() for p in below(c, [*path, n])] if inner else [path]

    return below(typer.main.get_command(cli.app), [])


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert f"Example: nightwarden {' '.join(command)}" in " ".join(out.split())


def test_no_command_shows_the_commands(run):
    _, out, err = run()
    assert {"nightly", "backfill", "queue"} <= set((out + err).replace("│", " ").split())


def test_machines_read_json(run, used):
    to = ("--config", used, "--json")
    code, out, _ = run("nightly", "--date", day(0), *to)
    night = json.loads(out)
    assert (code, night["ingested"]["status"], night["queued"]["added"]) == (0, "unchanged", 0)
    flagged = night["scored"]["flagged"]
    assert night["drawn_for_audit"] == 1

    code, out, _ = run("score", "--date", day(0), *to)
    assert (code, json.loads(out)["flagged"], json.loads(out)["changed"]) == (0, flagged, False)

    code, out, _ = run("status", "--from", day(-1), "--to", day(0), *to)
    stages = {(row["event_date"], row["stage"]) for row in json.loads(out)}
    assert code == 0
    assert stages == {(str(day(-1)), "ingest")} | {
        (str(day(0)), stage) for stage in ("ingest", "train", "score", "enqueue")
    }

    code, out, _ = run("queue", "list", *to)
    cases = json.loads(out)
    assert code == 0
    assert sum(case["alert_count"] for case in cases if case["lane"] == "nightly") == flagged
    assert sum(case["alert_count"] for case in cases if case["lane"] == "audit") == 1
    code, out, _ = run("queue", "show", cases[0]["id"], *to)
    shown = json.loads(out)
    assert (code, shown["summary"]["id"]) == (0, cases[0]["id"])
    assert all(reason["text"] for alert in shown["alerts"] for reason in alert["reasons"])

    code, out, _ = run("quarantine", "list", *to)
    assert (code, json.loads(out)) == (0, [])
    code, out, _ = run("models", "list", *to)
    assert (code, [(m["version"], m["as_of"]) for m in json.loads(out)]) == (
        0,
        [("1", str(AS_OF))],
    )
    days = ("--from", day(0), "--to", day(1))
    code, out, _ = run("backfill", *days, "--dry-run", *to)
    assert code == 0
    assert [(p["day"], p["ingest"], p["score"]) for p in json.loads(out)] == [
        (str(day(0)), False, False),
        (str(day(1)), True, True),
    ]


def test_people_read_sentences_and_tables(run, used):
    to = ("--config", used)
    run("nightly", "--date", day(0), *to)
    code, out, progress = run("nightly", "--date", day(0), *to)
    assert code == 0
    assert progress.count(f"{day(0)} scored") == 1, "each message comes once"
    assert "the same as before" in out
    assert "0 new alerts" in out
    assert "1 drawn at random in lane audit" in out
    code, out, _ = run("queue", "list", *to)
    number = next(word for word in out.replace("│", " ").split() if word.isdigit())
    code, out, _ = run("queue", "show", number, *to)
    assert code == 0
    assert f"Case {number}, account" in out
    assert "rank" in out
    for words in (
        ("status", "--from", day(0), "--to", day(0)),
        ("quarantine", "list"),
        ("models", "list"),
        ("backfill", "--from", day(0), "--to", day(1), "--dry-run"),
    ):
        code, out, err = run(*words, *to)
        assert (code, err) == (0, "")
        assert out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nightly", "--date", day(-1)], "would know that day's future; run nightwarden train"),
        (["nightly", "--date", "2027-05-01"], "2027-05-01"),
        (["score", "--date", day(5)], f"{day(5)} has no published transactions"),
        (["train", "--as-of", FIRST_DAY], "ingest more days, or train as of a later day"),
        (["backfill", "--from", day(-3), "--to", day(1)], "--retrain weekly"),
        (["backfill", "--from", day(2), "--to", day(1)], "must not be before the first"),
        (["ingest", "--from", day(2), "--to", day(1)], "must not be before the first"),
        (["ingest", "--from", day(2)], "name the days: --date DAY, or --from DAY --to DAY"),
        (["evaluate", "--from", day(3), "--to", day(4)], "run nightwarden backfill over them"),
        (["evaluate", "--from", day(4), "--to", day(3)], "must not be before the first"),
        (["status", "--from", day(4), "--to", day(3)], "must not be before the first"),
        (
            ["quarantine", "list", "--from", day(4), "--to", day(3)],
            "must not be before the first",
        ),
        (["queue", "show", 99999], "got 99999; run: nightwarden queue list"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistake_is_said_in_one_sentence(run, used, words, message):
    assert_said(run(*words, "--config", used), message)


def assert_said(result, message):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert err.count("Error:") == 1


def test_no_settings_file_is_said(run, tmp_path):
    for words in (["nightly", "--date", day(0)], ["models", "list"], ["queue", "list"]):
        result = run(*words, "--config", tmp_path / "none.toml")
        assert_said(result, "make one with nightwarden init --source GLOB")


def test_unknown_key_is_said(run, project):
    project.write_text(project.read_text() + "\n[monitor]\nx = 1\n")
    result = run("nightly", "--date", day(0), "--config", project)
    assert_said(result, "unknown key monitor; remove it or correct its spelling")


@pytest.mark.parametrize(
    "words",
    [
        ["score", "--date", "2026-13-01"],
        ["score", "--date", "yesterday"],
        ["score", "--date", "01.02.2026"],
        ["backfill", "--from", "2026-02-14", "--to", "2026-02-15", "--retrain", "daily"],
        ["queue", "list", "--lane", "morning"],
        ["queue", "list", "--state", "ajar"],
    ],
    ids=" ".join,
)
def test_word_of_the_wrong_kind_is_a_usage_error(run, used, words):
    code, out, err = run(*words, "--config", used)
    assert (code, out) == (2, "")
    assert f"'{words[-1]}'" in err
    assert "Traceback" not in err


def test_day_without_a_file_is_said(run, project):
    (project.parent / "in" / f"{day(1)}.csv").unlink()
    result = run("nightly", "--date", day(1), "--config", project)
    assert_said(result, f"no file for {day(1)}")
    code, out, err = run("ingest", "--date", day(1), "--config", project, "--json")
    assert (code, list(json.loads(out)["refused"])) == (2, [str(day(1))])
    assert f"no file for {day(1)}" in json.loads(out)["refused"][str(day(1))]
    assert "Traceback" not in err


def test_refused_day_is_said_and_force_publishes_it(run, project):
    file = project.parent / "in" / f"{day(0)}.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    result = run("nightly", "--date", day(0), "--config", project)
    assert_said(result, f"{day(0)} is not published")
    code, _, err = run("ingest", "--date", day(0), "--config", project)
    assert code == 2
    assert f"{day(0)} refused: " in err
    code, out, _ = run("ingest", "--date", day(0), "--config", project, "--force", "--json")
    assert (code, json.loads(out)["days"][0]["rows_published"]) == (0, 3)


def test_simulated_files_work_unchanged(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(
        "simulate", "in", "--from", "2026-01-01", "--days", 8, "--accounts", 40, "--merchants", 20
    )
    assert (code, "in 8 files" in out) == (0, True)
    code, out, err = run("init", "--source", "in/*.csv")
    assert code == 0, err
    assert "nightwarden.toml" in out
    assert_said(run("init", "--source", "in/*.csv"), "write it anew with --force")
    code, out, err = run("ingest", "--from", "2026-01-01", "--to", "2026-01-02", "--json")
    assert code == 0, err
    days = json.loads(out)["days"]
    assert [d["rows_quarantined"] for d in days] == [0, 0]
    assert all(d["rows_published"] == d["rows_in"] > 40 for d in days)
    assert_said(run("nightly", "--date", "2026-01-04"), "no model yet: run nightwarden train")
    assert_said(run("train", "--as-of", "2026-01-03"), "ingest more days")
    assert run("models", "list", "--json")[:2] == (0, "[]\n")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("amount", "--map must be canonical=SOURCE"),
        ("=x", "--map must be canonical=SOURCE"),
        ("amuont=amount", "amuont"),
        ("amount=betrag", "betrag"),
    ],
)
def test_wrong_mapping_is_said(run, project, mapping, message):
    source = project.parent / "in" / "*.csv"
    config = project.with_name("new.toml")
    assert_said(run("init", "--source", source, "--map", mapping, "--config", config), message)
    assert not config.exists()


def test_backfill_says_which_days_failed(run, project):
    (project.parent / "in" / f"{day(0)}.csv").unlink()
    days = ("--from", day(0), "--to", day(1))
    code, out, err = run("backfill", *days, "--config", project, "--workers", 1)
    assert code == 2
    assert "1 days done, 0 were done before, 1 failed" in out
    assert f"{day(0)} failed: no file for {day(0)}" in err
    assert err.splitlines()[-1].startswith(f"Error: 1 of 2 days failed: {day(0)}; ")

    code, out, _ = run("backfill", *days, "--config", project, "--workers", 1, "--json")
    assert code == 2
    found = json.loads(out)
    assert (found["done"], found["skipped"]) == ([], [str(day(1))])
    assert list(found["failed"]) == [str(day(0))]


def test_evaluation_of_a_day_whose_labels_are_known_by_now(run, used):
    code, out, err = run("evaluate", "--from", day(0), "--to", day(0), "--config", used, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [quality["name"] for quality in found["qualities"]] == ["ensemble", "gaussian"]
    assert all(0 <= quality["auc"] <= 1 for quality in found["qualities"])
    assert Path(found["page"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

    code, out, err = run("evaluate", "--from", day(0), "--to", day(0), "--config", used)
    assert (code, "Page: " in out, "card precision" in out) == (0, True, True), err


def test_queue_is_estimated_from_what_was_decided(run, used):
    to = ("--from", day(0), "--to", day(0), "--config", used)
    code, out, err = run("queue", "estimate", *to)
    assert code == 0, err
    assert "audit" in out
    code, out, err = run("queue", "estimate", *to, "--json")
    assert (code, json.loads(out)["days"]) == (0, 1), err
