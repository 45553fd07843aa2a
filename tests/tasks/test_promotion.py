"""Promotion and rollback: gated, logged, reversible, and whole after a kill at any moment."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tasks import promotion
from tasks.gate import Comparison
from tasks.promotion import find_challenger, finish_move, promote, replaced_by, rollback
from tasks.tracking import Registry
from tests.tasks.test_fit import AS_OF, small_bundle
from tests.tasks.test_gate import POOR, register
from tests.tasks.test_steps import make_context
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, UserError
from warehouse.promotions import Promotion, append_promotion, list_promotions

PASSED = Comparison("1", "2", AS_OF, AS_OF, AS_OF, "better", "a gain of +0.100")
FAILED = replace(PASSED, verdict="not shown to be better", reason="a gain of +0.001")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A warehouse with the champion 1, the challenger 2, and 3, which is neither."""
    folder = tmp_path_factory.mktemp("promotion") / "template"
    settings = make_context(folder).warehouse
    Lake.open(settings).close()
    registry, bundle = Registry(settings), small_bundle(*POOR)
    for alias in ("champion", "challenger", None):
        register(registry, bundle, AS_OF, {}, alias)
    return folder


@pytest.fixture
def warehouse(template, tmp_path):
    """A copy of it of the test's own: its registry and its lake."""
    settings = make_context(shutil.copytree(template, tmp_path / "copy")).warehouse
    with Lake.open(settings) as lake:
        yield Registry(settings), lake


def aliases(registry):
    return {name: model.version for model in registry.versions() for name in model.aliases}


def force(warehouse, version, **changes):
    given = {"actor": "ada", "reason": "asked for", "force": True} | changes
    return promote(*warehouse, version, None, **given)


def told(lake):
    return [
        (line.action, line.model_version, line.replaced_version) for line in list_promotions(lake)
    ]


def test_promotion_moves_the_aliases_and_is_logged(warehouse):
    registry, lake = warehouse
    line = promote(registry, lake, "2", PASSED, actor="ada")
    assert aliases(registry) == {"champion": "2"}
    assert list_promotions(lake) == [line]
    assert (line.actor, line.reason) == ("ada", "a gain of +0.100")
    assert json.loads(line.figures)["verdict"] == "better"
    assert json.loads(line.figures)["as_of"] == str(AS_OF)


def test_own_reason_stands_instead_of_the_gates(warehouse):
    assert promote(*warehouse, "2", PASSED, actor="ada", reason="both").reason == "both"


def test_challenger_that_is_not_promoted_stays(warehouse):
    registry, lake = warehouse
    force(warehouse, "3")
    assert aliases(registry) == {"champion": "3", "challenger": "2"}
    assert rollback(registry, lake, actor="bob", reason="worse").model_version == "1"
    assert aliases(registry) == {"champion": "1", "challenger": "2"}


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        (FAILED, r"version 2 is not shown to be better: a gain of \+0.001; --force"),
        (replace(PASSED, verdict="not comparable"), "version 2 is not comparable: "),
        (None, "version 2 was compared with no champion; --force"),
        (replace(PASSED, champion_version="9"), "the champion has changed; run this again"),
        (replace(PASSED, challenger_version="3"), "the champion has changed; run this again"),
    ],
)
def test_promotion_without_a_passed_gate_is_refused(warehouse, comparison, message):
    registry, lake = warehouse
    with pytest.raises(UserError, match=message):
        promote(registry, lake, "2", comparison, actor="ada", reason="please")
    assert aliases(registry) == {"champion": "1", "challenger": "2"}
    assert list_promotions(lake) == []


def test_forced_promotion_logs_its_reason_and_the_figures(warehouse):
    registry, lake = warehouse
    for reason in (None, "", "  "):
        with pytest.raises(UserError, match="add --reason TEXT"):
            promote(registry, lake, "2", FAILED, actor="ada", reason=reason, force=True)
    line = promote(registry, lake, "2", FAILED, actor="ada", reason=" new shops ", force=True)
    assert line.reason == "new shops"
    assert json.loads(line.figures)["reason"] == "a gain of +0.001"
    assert aliases(registry) == {"champion": "2"}
    with pytest.raises(UserError, match="the champion has changed"):
        promote(registry, lake, "3", PASSED, actor="ada", reason="x", force=True)


def test_champion_cannot_be_promoted_again(warehouse):
    with pytest.raises(UserError, match="version 1 is champion already; nothing was changed"):
        force(warehouse, "1")
    assert told(warehouse[1]) == []


def test_version_that_is_not_there_or_is_broken_is_refused(warehouse):
    registry, lake = warehouse
    with pytest.raises(ModelMissingError, match="version 9 is not registered"):
        force(warehouse, "9")
    shutil.rmtree(registry._artifacts / registry.version("2").run_id)
    with pytest.raises(ModelMissingError, match="version 2 cannot be loaded"):
        promote(registry, lake, "2", PASSED, actor="ada")
    assert list_promotions(lake) == []
    assert aliases(registry) == {"champion": "1", "challenger": "2"}


def test_without_a_champion_a_forced_version_becomes_it(warehouse):
    registry, lake = warehouse
    registry.client.delete_registered_model_alias("nightwarden", "champion")
    assert force(warehouse, "3").replaced_version is None
    assert registry.champion().version == "3"
    with pytest.raises(UserError, match="no version that champion 3 replaced"):
        rollback(registry, lake, actor="ada", reason="x")


def test_rollbacks_go_back_promotion_by_promotion(warehouse):
    registry, lake = warehouse
    for version in ("2", "3", "1"):
        force(warehouse, version)
    for version in ("3", "2", "1"):
        rollback(registry, lake, actor="bob", reason="worse")
        assert registry.champion().version == version
    with pytest.raises(UserError, match="nothing to roll back to"):
        rollback(registry, lake, actor="bob", reason="worse")
    assert told(lake)[3:] == [
        ("rollback", "3", "1"),
        ("rollback", "2", "3"),
        ("rollback", "1", "2"),
    ]
    assert [m.version for m in registry.versions()] == ["3", "2", "1"]
    with pytest.raises(UserError, match="add --reason"):
        force(warehouse, "2", reason="")
    force(warehouse, "2")
    rollback(registry, lake, actor="bob", reason="worse")
    assert registry.champion().version == "1"


def test_rollback_needs_a_reason(warehouse):
    force(warehouse, "2")
    with pytest.raises(UserError, match="add --reason"):
        rollback(*warehouse, actor="ada", reason=" ")
    assert warehouse[0].champion().version == "2"


def test_champion_that_came_by_other_means_is_not_rolled_back(warehouse):
    registry, lake = warehouse
    force(warehouse, "2")
    registry.set_alias("3", "champion")
    with pytest.raises(UserError, match="no version that champion 3 replaced"):
        rollback(registry, lake, actor="ada", reason="x")
    assert registry.champion().version == "3"


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@contextmanager
def killed(step):
    """Kill what runs inside: before or after the log's line, or between the aliases."""

    def die(*_: object) -> None:
        raise KilledError

    def move_champion_only(registry: Registry, line: Promotion) -> None:
        registry.set_alias(line.model_version, "champion")
        raise KilledError

    replaced = {
        "before the log": ("append_promotion", die),
        "after the log": ("_move_aliases", die),
        "after the champion": ("_move_aliases", move_champion_only),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, *replaced[step])
        with pytest.raises(KilledError):
            yield


@pytest.mark.parametrize("step", ["after the log", "after the champion"])
def test_promotion_that_was_killed_is_finished_by_running_it_again(warehouse, step):
    registry, lake = warehouse
    with killed(step):
        promote(registry, lake, "2", PASSED, actor="ada")
    assert registry.champion().version == ("1" if step == "after the log" else "2")
    line = promote(registry, lake, "2", PASSED, actor="ada")
    assert aliases(registry) == {"champion": "2"}
    assert list_promotions(lake) == [line]
    assert finish_move(registry, lake) is None
    rollback(registry, lake, actor="ada", reason="x")
    assert told(lake) == [("promote", "2", "1"), ("rollback", "1", "2")]


@pytest.mark.parametrize("step", ["after the log", "after the champion"])
def test_rollback_that_was_killed_is_finished_once(warehouse, step):
    registry, lake = warehouse
    force(warehouse, "2")
    force(warehouse, "3")
    with killed(step):
        rollback(registry, lake, actor="ada", reason="x")
    if step == "after the log":
        assert rollback(registry, lake, actor="ada", reason="x").model_version == "2"
    assert registry.champion().version == "2"
    assert told(lake)[2:] == [("rollback", "2", "3")]


def test_killed_promotion_is_finished_before_another_decision(warehouse):
    registry, lake = warehouse
    with killed("after the log"):
        promote(registry, lake, "2", PASSED, actor="ada")
    stale = replace(PASSED, challenger_version="3")
    with pytest.raises(UserError, match=r"with champion 2, but .* the champion has changed"):
        promote(registry, lake, "3", stale, actor="bob")
    assert rollback(registry, lake, actor="bob", reason="x").model_version == "1"
    assert told(lake) == [("promote", "2", "1"), ("rollback", "1", "2")]
    assert aliases(registry) == {"champion": "1"}


def test_kill_before_the_log_changes_nothing(warehouse):
    registry, lake = warehouse
    with killed("before the log"):
        promote(registry, lake, "2", PASSED, actor="ada")
    assert aliases(registry) == {"champion": "1", "challenger": "2"}
    assert promote(registry, lake, "2", PASSED, actor="ada").model_version == "2"


def test_nothing_is_finished_where_nothing_was_begun(warehouse):
    registry, lake = warehouse
    assert finish_move(registry, lake) is None
    force(warehouse, "2")
    registry.set_alias("3", "champion")  # by other means
    assert finish_move(registry, lake) is None
    assert registry.champion().version == "3"


def test_replaced_version_comes_from_the_newest_promotion_that_stands():
    def line(action, version, replaced):
        return Promotion(action, version, replaced, "ada", "x")

    log = [line("promote", "2", "1"), line("promote", "3", "2"), line("rollback", "2", "3")]
    assert replaced_by(log, "2") == "1"
    log.append(line("promote", "3", "2"))
    assert replaced_by(log, "3") == "2"
    for champion in ("1", "2"):
        with pytest.raises(UserError, match=f"champion {champion} replaced"):
            replaced_by(log, champion)


def test_challenger_is_found_by_alias_or_number(warehouse):
    registry, lake = warehouse
    assert find_challenger(registry, None).version == "2"
    assert find_challenger(registry, "3").version == "3"
    promote(registry, lake, "2", PASSED, actor="ada")
    with pytest.raises(ModelMissingError, match="there is no challenger"):
        find_challenger(registry, None)


def test_line_without_a_move_is_finished(warehouse):
    """The parts called one by one, as a kill between them leaves them."""
    registry, lake = warehouse
    line = append_promotion(lake, Promotion("promote", "3", "1", "ada", "x"))
    assert registry.champion().version == "1"
    assert finish_move(registry, lake) == line
    assert aliases(registry) == {"champion": "3", "challenger": "2"}
