"""The group of commands around the champion: the gate shown, aliases moved, mistakes in a sentence."""

import getpass
import json
import shutil

import pytest

from tasks import promotion
from tasks.tracking import Registry
from tests.tasks.test_fit import AS_OF, small_bundle
from tests.tasks.test_gate import FIRST, MATURE, POOR, make_warehouse, register
from tests.tasks.test_steps import make_context

CONFIG = """
[source]
format = "csv"
path = "in/{date}.csv"
[source.columns]
transaction_id = "id"
occurred_at = "time"
account_id = "account"
merchant_id = "shop"
amount = "amount"
[source.label]
column = "fraud"
delay_days = 7
[queue]
capacity = 8
[evaluate]
resamples = 100
[warehouse]
threads = 1
[run]
device = "cpu"
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project with the champion 1, the better challenger 2, and 3, that tells no days."""
    folder = tmp_path_factory.mktemp("models") / "project"
    make_warehouse(folder / "warehouse-data")
    registry = Registry(make_context(folder / "warehouse-data").warehouse)
    register(registry, small_bundle(*POOR), AS_OF, {})
    (folder / "nightwarden.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def project(template, tmp_path):
    return shutil.copytree(template, tmp_path / "copy") / "nightwarden.toml"


@pytest.fixture
def run(run, project):
    """Run ``nightwarden models`` on the project."""
    return lambda *words: run("models", *words, "--config", project)


def aliases(run):
    _, out, _ = run("list", "--json")
    return {name: model["version"] for model in json.loads(out) for name in model["aliases"]}


def assert_said(result, message):
    code, out, err = result
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert err.count("Error:") == 1


def test_compare_shows_figures_queue_and_verdict_and_changes_nothing(run):
    before = aliases(run)
    code, out, err = run("compare")
    assert (code, err) == (0, "")
    for words in (
        f"Version 2 against champion 1, {FIRST} to {MATURE} as known on {AS_OF}: 13 days",
        "average precision",
        "card precision",
        "What enters (first 20 of",
        "What leaves (first 20 of",
        "Verdict: better: average precision",
        "Note: The challenger was calibrated on these days",
    ):
        assert words in out
    assert aliases(run) == before == {"champion": "1", "challenger": "2"}


def test_machines_read_the_comparison(run):
    code, out, _ = run("compare", "--challenger", "2", "--json")
    told = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
    assert (code, told["verdict"], told["champion_version"]) == (0, "better", "1")
    assert told["measured"]["gain"] > told["measured"]["gain_interval"]["low"] > 0
    example = told["measured"]["swap"]["enter"]["examples"][0]
    assert {"transaction_id", "account_id", "is_fraud", "champion_rank"} <= set(example)


def test_challenger_is_promoted_rolled_back_and_all_is_logged(run):
    code, out, _ = run("promote", "--as", "ada")
    assert code == 0
    assert "Version 2 is champion now instead of 1 (promote by ada: average precision" in out
    assert aliases(run) == {"champion": "2"}
    code, out, _ = run("rollback", "--reason", "too many alerts", "--as", "bob", "--json")
    done = json.loads(out)
    assert (code, done["model_version"], done["replaced_version"]) == (0, "1", "2")
    assert aliases(run) == {"champion": "1"}
    code, out, _ = run("log", "--json")
    newest, oldest = json.loads(out)
    assert (newest["action"], newest["actor"], newest["reason"]) == (
        "rollback",
        "bob",
        "too many alerts",
    )
    assert newest["figures"] is None
    assert (oldest["action"], oldest["figures"]["verdict"]) == ("promote", "better")
    code, out, _ = run("log")
    assert code == 0
    assert out.index("rollback") < out.index("promote")


def test_who_is_logged_in_decides_by_default(run, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "carol")
    code, out, _ = run("promote", "2", "--reason", "passed", "--json")
    assert (code, json.loads(out)["actor"]) == (0, "carol")

    def fail():
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", fail)
    assert_said(run("rollback", "--reason", "x"), "add --as NAME")
    assert_said(run("rollback", "--reason", "x", "--as", " "), "add --as NAME")


def test_model_without_validation_days_is_promoted_by_force_only(run):
    untold = "version 3 does not tell on which days it was validated; run nightwarden train"
    assert_said(run("promote", "3", "--as", "ada"), f"{untold} --as-of {AS_OF}")
    assert_said(run("promote", "3", "--as", "ada", "--force"), "add --reason TEXT")
    assert aliases(run) == {"champion": "1", "challenger": "2"}
    code, out, err = run("promote", "3", "--as", "ada", "--force", "--reason", "asked", "--json")
    assert (code, json.loads(out)["figures"]) == (0, None)
    assert "the log gets no figures" in " ".join(err.split())
    assert aliases(run) == {"champion": "3", "challenger": "2"}


def test_refused_by_the_gate_and_then_forced_with_its_figures(run):
    assert run("promote", "--as", "ada")[0] == 0
    said = run("promote", "1", "--as", "ada")
    assert_said(said, "version 1 is not comparable: the champion, version 2, learned from days up")
    assert "--force --reason TEXT promotes it all the same" in " ".join(said[2].split())
    code, out, _ = run("promote", "1", "--force", "--reason", "old", "--as", "ada", "--json")
    done = json.loads(out)
    assert (code, done["figures"]["verdict"], done["reason"]) == (0, "not comparable", "old")
    code, out, _ = run("compare", "--challenger", "2")
    assert (code, aliases(run)) == (0, {"champion": "1"})


def test_comparison_that_cannot_be_made_says_why(run):
    run("promote", "--as", "ada")
    code, out, _ = run("compare", "--challenger", "1")
    assert code == 0
    assert out.startswith("Verdict: not comparable: the champion, version 2, learned from days")


@pytest.mark.parametrize("step", ["log", "champion"])
def test_promotion_that_was_killed_is_finished_by_the_same_command(run, monkeypatch, step):
    class KilledError(BaseException):
        pass

    def die(registry, line):
        if step == "champion":
            registry.set_alias(line.model_version, "champion")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_move_aliases", die)
        with pytest.raises(KilledError):
            run("promote", "--as", "ada")
    code, out, err = run("promote", "--as", "bob")
    assert code == 0
    assert "finished the promote of version 2, which was cut short" in " ".join(err.split())
    assert "Version 2 is champion now instead of 1 (promote by ada" in out
    assert aliases(run) == {"champion": "2"}
    assert len(json.loads(run("log", "--json")[1])) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "--challenger", "9"), "model version 9 is not registered"),
        (("compare", "--challenger", "1"), "but version 1 is the champion; name another"),
        (("promote", "9", "--as", "ada"), "model version 9 is not registered"),
        (("promote", "1", "--as", "ada"), "but version 1 is the champion"),
        (("promote", "1", "--force", "--reason", "x", "--as", "a"), "1 is champion already"),
        (("rollback", "--reason", "x", "--as", "ada"), "nothing to roll back to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistake_is_said_in_one_sentence(run, words, message):
    assert_said(run(*words), message)


def test_rollback_without_a_reason_is_a_usage_error(run):
    code, out, err = run("rollback", "--as", "ada")
    assert (code, out) == (2, "")
    assert "--reason" in err


def test_log_of_a_new_warehouse_is_empty(run):
    assert run("log", "--json") == (0, "[]\n", "")
