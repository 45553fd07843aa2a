"""The challenger in the shadow: it scores the night's partition too, and nothing of it is queued."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.context import Context
from tasks.steps import choose_device, score_with
from tasks.tracking import RegisteredModel, Registry
from warehouse.errors import safe_text
from warehouse.ledger import PartitionRun, day_states, write_run
from warehouse.scores import is_shadowed, replace_shadow_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowedDay:
    """What the challenger gave; ``changed`` tells whether it had not stood there already."""

    day: date
    rows: int
    flagged: int
    model_version: str
    changed: bool


@task(name="shadow-day", task_run_name="shadow-{day}", cache_policy=NO_CACHE)
def shadow_day(context: Context, day: date) -> ShadowedDay | None:
    """Score a published day with the challenger and store that beside the champion's scores.

    The same features, challenger and settings again change nothing. A failure is logged and noted
    in the ledger, unless the same stands there as the day's newest, and the night goes on.

    Returns:
        None where ``[promotion] shadow`` is off, there is no challenger, it was trained on the
        day's future, or it failed.
    """
    if not context.promotion.shadow:
        return None
    started, challenger = datetime.now(UTC), None
    try:
        registry = context.registry()
        challenger = registry.find("challenger")
        if challenger is None:
            return None
        if challenger.as_of > day:
            logger.info(
                "%s is not scored in the shadow: challenger %s was trained as of %s",
                day,
                challenger.version,
                challenger.as_of,
            )
            return None
        return _score(context, registry, day, challenger, started)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with it, the night must go on)
        logger.warning("%s could not be scored in the shadow: %s", day, safe_text(error))
        _note_failure(context, day, challenger, started, error)
        return None


def _score(
    context: Context,
    registry: Registry,
    day: date,
    challenger: RegisteredModel,
    started: datetime,
) -> ShadowedDay:
    bundle = registry.load(challenger, choose_device(context))
    scored, run = score_with(context, day, challenger.version, bundle, "shadow", started)
    scores, lake = scored.scores, context.lake()
    changed = not is_shadowed(lake, run)
    if changed:
        replace_shadow_scores(lake, scores, run)
    flagged = int(scores["is_flagged"].sum())
    logger.info(
        "%s scored in the shadow with model %s: %d rows, %d would be flagged",
        day,
        challenger.version,
        run.rows_in,
        flagged,
    )
    return ShadowedDay(day, run.rows_in, flagged, challenger.version, changed)


def _note_failure(
    context: Context,
    day: date,
    challenger: RegisteredModel | None,
    started: datetime,
    error: Exception,
) -> None:
    run = PartitionRun(
        day,
        "shadow",
        "refused",
        started,
        context.scoring_digest(),
        model_version=challenger.version if challenger else None,
        error=safe_text(error),
    )
    with suppress(Exception):  # the lake itself may be what is wrong; the warning is out
        lake = context.lake()
        if _same_failure(run, day_states(lake, day, day).get((day, run.stage))):
            return
        with lake.commit() as connection:
            write_run(connection, run)


def _same_failure(run: PartitionRun, before: PartitionRun | None) -> bool:
    return before is not None and (
        (before.status, before.model_version, before.settings_digest, before.error)
        == (run.status, run.model_version, run.settings_digest, run.error)
    )
