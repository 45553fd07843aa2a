"""Make a version champion, and take that back: the aliases move, and the log says who and why.

The log is written first, then the aliases are moved. A kill between the two leaves a log whose
newest line is ahead of the aliases; the next promotion or rollback finishes that move first, so that
running the same command again ends as if nothing had happened. Until then nights are scored by the
old champion. Aliases that were moved by other means are not touched, except that a champion which is
the very version that the newest line replaced is taken for an unfinished move.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

from tasks.gate import Comparison
from tasks.tracking import RegisteredModel, Registry
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, UserError
from warehouse.promotions import Promotion, append_promotion, list_promotions

logger = logging.getLogger(__name__)


def promote(
    registry: Registry,
    lake: Lake,
    version: str,
    comparison: Comparison | None,
    *,
    actor: str,
    reason: str | None = None,
    force: bool = False,
) -> Promotion:
    """Make a version champion; it is no challenger any more.

    Args:
        registry: Where the models are.
        lake: Where the log is.
        version: The version.
        comparison: The gate's, of this version with the champion; with ``force`` there may be none.
        actor: Who does it.
        reason: Why; if not given, the gate's own words.
        force: Promote whatever the gate says; needs a reason.

    Raises:
        ModelMissingError: if the version is not registered or cannot be loaded.
        UserError: if it is champion already, did not pass the gate, or the champion is not the one
            that it was compared with.
    """
    with registry.locked():
        mended = finish_move(registry, lake)
        if mended and (mended.action, mended.model_version) == ("promote", version):
            return mended
        champion = registry.find("champion")
        replaced = champion.version if champion else None
        if replaced == version:
            message = f"version {version} is champion already; nothing was changed"
            raise UserError(message)
        _require_pair(comparison, version, replaced)
        why = _require_reason(reason) if force else _require_passed(comparison, version, reason)
        figures = json.dumps(asdict(comparison), default=str) if comparison else None
        line = Promotion("promote", version, replaced, actor, why, figures)
        return _decide(registry, lake, line)


def rollback(registry: Registry, lake: Lake, *, actor: str, reason: str) -> Promotion:
    """Make the version champion again that the champion replaced; nothing is deleted.

    A second rollback goes one promotion further back. One that was cut short is finished, not
    done twice.

    Raises:
        ModelMissingError: if there is no champion, or the version that it replaced is gone.
        UserError: if the log does not tell which version the champion replaced.
    """
    with registry.locked():
        mended = finish_move(registry, lake)
        if mended and mended.action == "rollback":
            return mended
        champion = registry.champion().version
        earlier = replaced_by(list_promotions(lake), champion)
        line = Promotion("rollback", earlier, champion, actor, _require_reason(reason))
        return _decide(registry, lake, line)


def replaced_by(log: Sequence[Promotion], champion: str) -> str:
    """Find in the log, oldest line first, which version the champion replaced.

    A rollback takes back the newest promotion that is not yet taken back.

    Raises:
        UserError: if the champion was not promoted, or replaced none.

    Example:
        >>> log = [Promotion("promote", "2", "1", "ada", "better")]
        >>> replaced_by(log, "2")
        '1'
    """
    standing: list[Promotion] = []
    for line in log:
        if line.action == "promote":
            standing.append(line)
        elif standing:
            standing.pop()
    newest = standing[-1] if standing else None
    if newest is None or newest.model_version != champion or newest.replaced_version is None:
        message = (
            f"the log knows no version that champion {champion} replaced, so there is nothing to "
            "roll back to; promote one by its number, see nightwarden models list"
        )
        raise UserError(message)
    return newest.replaced_version


def champion_of(registry: Registry, lake: Lake, day: date) -> str | None:
    """Find the version that may score a day: the champion, else the newest before it in the log.

    A night that was missed before a promotion is done with the model that was champion then.

    Returns:
        A version; None where no champion of any time may score the day, or there is none.
    """
    champion = registry.find("champion")
    past = [line.replaced_version for line in reversed(list_promotions(lake))]
    known = {model.version: model for model in registry.versions()}
    found = [known[number] for number in past if number in known]
    able = [model for model in (champion, *found) if model and model.as_of <= day]
    return able[0].version if able else None


def finish_move(registry: Registry, lake: Lake) -> Promotion | None:
    """Finish the move of the log's newest line if it was cut short; give that line."""
    with registry.locked():
        log = list_promotions(lake)
        if not log:
            return None
        newest = log[-1]
        champion, challenger = (
            found.version if found else None
            for found in (registry.find("champion"), registry.find("challenger"))
        )
        is_behind = champion == newest.replaced_version
        is_left_challenger = champion == challenger == newest.model_version
        if not (is_behind or is_left_challenger):
            return None
        _move_aliases(registry, newest)
    logger.warning(
        "finished the %s of version %s, which was cut short", newest.action, newest.model_version
    )
    return newest


def find_challenger(registry: Registry, version: str | None) -> RegisteredModel:
    """Find a version by its number, or the challenger.

    Raises:
        ModelMissingError: if the version is not registered, or there is no challenger.
    """
    if version is not None:
        return registry.version(version)
    found = registry.find("challenger")
    if found is None:
        message = (
            "there is no challenger: run nightwarden train --as-of DAY, or name a version, see "
            "nightwarden models list"
        )
        raise ModelMissingError(message)
    return found


def _decide(registry: Registry, lake: Lake, line: Promotion) -> Promotion:
    registry.load(registry.version(line.model_version))  # a night that cannot load it would fail
    decided = append_promotion(lake, line)
    _move_aliases(registry, decided)
    return decided


def _move_aliases(registry: Registry, line: Promotion) -> None:
    registry.set_alias(line.model_version, "champion")
    challenger = registry.find("challenger")
    if challenger and challenger.version == line.model_version:
        registry.drop_alias("challenger")


def _require_pair(comparison: Comparison | None, version: str, champion: str | None) -> None:
    if comparison is None:
        return
    compared = (comparison.challenger_version, comparison.champion_version)
    if compared != (version, champion):
        message = (
            f"version {version} must be compared with champion {champion}, but the comparison is "
            f"of {compared[0]} with {compared[1]}: the champion has changed; run this again"
        )
        raise UserError(message)


def _require_passed(comparison: Comparison | None, version: str, reason: str | None) -> str:
    if comparison is None:
        message = (
            f"version {version} was compared with no champion; --force --reason TEXT promotes it "
            "without"
        )
        raise UserError(message)
    if not comparison.passed:
        message = (
            f"version {version} is {comparison.verdict}: {comparison.reason}; --force --reason "
            "TEXT promotes it all the same"
        )
        raise UserError(message)
    return reason or comparison.reason


def _require_reason(reason: str | None) -> str:
    if reason is None or not reason.strip():
        message = "this needs a reason for the log: add --reason TEXT"
        raise UserError(message)
    return reason.strip()
