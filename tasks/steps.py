"""The night's steps as Prefect tasks: thin shells around functions, with retries.

A user's mistake is never retried. Nothing is cached by Prefect: the partition ledger knows what is
done.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import torch
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from tasks.audit_sample import choose_audit_sample
from tasks.context import Context
from tasks.fit import Training, fit_as_of
from tasks.fit_members import devices_like, fit_each_on
from tasks.score import (
    DayScores,
    make_alerts,
    require_model_of_the_past,
    score_features,
    warn_of_other_threshold,
)
from tasks.tensors import frame_digest
from tasks.tracking import Bundle
from tasks.training_data import FeatureRequest, load_rows
from warehouse.account_transactions import STORY_DAYS, STORY_ROWS, keep_transactions
from warehouse.errors import BusyError, SettingsError, SourceError, UserError, safe_text
from warehouse.labels import COLLECTED, last_collected_decision, record_decisions
from warehouse.ledger import PartitionRun, day_states, find_repeated, is_queued, write_run
from warehouse.partitions import IngestReport, land_day
from warehouse.queue import Queue
from warehouse.queue_records import EnqueueResult, NewAlert
from warehouse.reads import read_newest_transactions
from warehouse.scores import replace_scores

Result = TypeVar("Result")


def may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Tell whether a failure may pass when the step is tried again: a user's mistake does not."""
    try:
        state.result()
    except Exception as error:  # noqa: BLE001 (whatever else went wrong is worth another try)
        return _may_pass(error)
    return True


def _may_pass(error: Exception) -> bool:
    return isinstance(error, BusyError) or not isinstance(error, UserError)


logger = logging.getLogger(__name__)

NIGHTLY, AUDIT = "nightly", "audit"
STORE_PAUSES = (5.0, 30.0, 120.0)
"""Seconds between tries: a step, and half an hour's training, wait for a store that starts again."""
RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": len(STORE_PAUSES),
    "retry_delay_seconds": list(STORE_PAUSES),
    "retry_condition_fn": may_pass,
}
TRAINED: dict[str, Any] = {"cache_policy": NO_CACHE, "retries": 0}
"""A seeded training that fails would fail again; only what it asks of the stores is tried again."""


@dataclass(frozen=True)
class ScoredDay:
    """What scoring a day gave: its alerts are not queued yet.

    ``audit`` are rows drawn from those that were not flagged. ``changed`` tells whether the day's
    scores were replaced, or were the same already.
    """

    day: date
    rows: int
    alerts: tuple[NewAlert, ...]
    audit: tuple[NewAlert, ...]
    model_version: str
    changed: bool
    started: datetime


@dataclass(frozen=True)
class TrainedModel:
    """A registered version, and the alias that it got (none for a backfill's own models)."""

    version: str
    as_of: date
    alias: str | None
    metrics: dict[str, float]
    failed_members: str
    mode: str
    mode_reason: str


@task(name="collect-decisions", **RETRIED)
def collect_decisions(context: Context) -> int:
    """Turn what analysts decided since the last time into labels; give how many are new.

    A decision waits until it can no longer be taken back, and those after it wait with it: so no
    label has to be withdrawn, and going on after the newest collected number misses none.
    """
    if context.queue.database is None and not context.warehouse.queue_path.exists():
        return 0
    started, lake = datetime.now(UTC), context.lake()
    done = last_collected_decision(lake)
    # a run that was killed may have left a queue without tables
    with Queue.open(context.queue_address, create=True) as queue:
        is_same = queue.last_decision() >= done  # else another queue
        before = queue.settled_before()
        decisions = queue.decisions(after=done if is_same else 0, settled_before=before)
    if not decisions:
        return 0
    added = record_decisions(lake, decisions)
    run = PartitionRun(
        started.date(),
        COLLECTED,
        "done",
        started,
        "",
        rows_in=len(decisions),
        rows_out=added,
        data_digest=str(decisions[-1].id),
    )
    with lake.commit() as connection:
        write_run(connection, run)
    logger.info("%d decisions became labels", added)
    return added


@task(name="ingest-day", task_run_name="ingest-{day}", **RETRIED)
def ingest_day(context: Context, day: date, *, force: bool = False) -> IngestReport:
    """Read, check and publish a day's transactions and labels."""
    report = land_day(
        context.lake(),
        context.source,
        context.validation,
        day,
        key=context.key,
        pages=context.pages,
        force=force,
    )
    logger.info(
        "%s %s: %d rows, %d quarantined",
        day,
        report.status,
        report.rows_published,
        report.rows_quarantined,
    )
    return report


@task(name="train", task_run_name="train-as-of-{as_of}", **TRAINED)
def train_as_of(context: Context, as_of: date, *, aliased: bool) -> TrainedModel:
    """Train as of the start of a day, register the model, and note it in the ledger.

    Without a champion the model becomes it, else the challenger; with ``aliased`` unset it gets no
    alias (a backfill's weekly models).

    Raises:
        SettingsError: if the device is not there.
        BusyError: if a store does not answer for minutes.
    """
    started, device = datetime.now(UTC), choose_device(context)
    training = fit_as_of(
        _patiently(context.lake),
        context.train,
        as_of,
        feature_request(context),
        queue=context.queue,
        device=device,
        fit_each=fit_each_on(devices_like(device, context.workers), context.workers),
    )
    tags = {**training.record.tags, "settings_digest": context.training_digest()}
    training = replace(training, record=replace(training.record, tags=tags))
    version = _patiently(lambda: _register(context, training))
    # apart from registering: what fails here must not register the model once more
    alias = _patiently(lambda: _give_alias(context, version)) if aliased else None
    run = _training_run(context, training, started, version)
    _patiently(lambda: _note(context, run))
    return TrainedModel(
        version,
        as_of,
        alias,
        dict(training.record.metrics),
        tags.get("failed_members", ""),
        tags["mode"],
        tags["mode_reason"],
    )


def _patiently(ask: Callable[[], Result]) -> Result:
    """Ask a store, and again after a pause where its failure may pass."""
    for seconds in STORE_PAUSES:
        try:
            return ask()
        except Exception as error:
            if not _may_pass(error):
                raise
            logger.warning("%s; trying again in %g s", safe_text(error), seconds)
            time.sleep(seconds)
    return ask()


def _register(context: Context, training: Training) -> str:
    registry = context.registry()
    with registry.locked():
        return registry.register(training.bundle, training.record, training.example)


def _give_alias(context: Context, version: str) -> str:
    """Make a version the champion where there is no other, else the challenger; give its alias."""
    registry = context.registry()
    with registry.locked():
        champion = registry.find("champion")
        is_first = champion is None or champion.version == version  # this may be the second try
        alias = "champion" if is_first else "challenger"
        registry.set_alias(version, alias)
    return alias


def _training_run(
    context: Context, training: Training, started: datetime, version: str
) -> PartitionRun:
    record = training.record
    failed = record.tags.get("failed_members")
    return PartitionRun(
        record.as_of,
        "train",
        "done",
        started,
        context.training_digest(),
        rows_in=int(record.metrics["rows"]),
        model_version=version,
        data_digest=record.tags["data_digest"],
        error=f"left out: {failed}" if failed else None,
    )


def _note(context: Context, run: PartitionRun) -> None:
    with context.lake().commit() as connection:
        write_run(connection, run)


@task(name="score-day", task_run_name="score-{day}", **RETRIED)
def score_day(context: Context, day: date, version: str | None = None) -> ScoredDay:
    """Score a published day with a version (default: the champion) and replace its scores.

    The same features, model and settings again change nothing.

    Raises:
        SourceError: if the day is not published.
        ModelMissingError: if there is no model, or it was trained on the day's future.
    """
    started, registry = datetime.now(UTC), context.registry()
    model = registry.version(version) if version else registry.champion()
    require_model_of_the_past(model, day)
    bundle = registry.load(model, choose_device(context))
    scored, run = score_with(context, day, model.version, bundle, "score", started)
    warn_of_other_threshold(bundle, model.version, context.queue)
    before = find_repeated(context.lake(), run)
    if before is None:
        replace_scores(context.lake(), scored.scores, run)
    scored = replace(scored, snapshot_id=(before or run).snapshot_id)
    flagged = scored.scores.filter("is_flagged")
    alerts = tuple(make_alerts(scored, bundle, flagged))
    drawn = choose_audit_sample(
        scored.scores,
        capacity=context.capacity,
        audit_share=context.queue.audit_share,
        seed=context.train.seed,
    )
    audit = tuple(make_alerts(scored, bundle, drawn))
    logger.info("%s scored: %d rows, %d flagged", day, run.rows_in, len(alerts))
    return ScoredDay(day, run.rows_in, alerts, audit, model.version, before is None, started)


def score_with(
    context: Context, day: date, version: str, bundle: Bundle, stage: str, started: datetime
) -> tuple[DayScores, PartitionRun]:
    """Score a published day, and give what the ledger is to say of it; nothing is written.

    Raises:
        SourceError: if the day is not published.
    """
    lake, window = context.lake(), bundle.ensemble.window
    snapshot = lake.snapshot_id()
    features, events = load_rows(lake, day, day, feature_request(context), window)
    if features.is_empty():
        message = f"{day} has no published transactions: run nightwarden ingest --date {day}"
        raise SourceError(message)
    scored = score_features(
        features, bundle, day=day, version=version, queue=context.queue, events=events
    )
    run = PartitionRun(
        day,
        stage,
        "done",
        started,
        context.scoring_digest(),
        rows_in=features.height,
        snapshot_id=snapshot,
        model_version=version,
        data_digest=frame_digest(features, *(() if events is None else (events,))),
    )
    return scored, run


@task(name="enqueue-day", task_run_name="enqueue-{scored.day}", **RETRIED)
def enqueue_day(context: Context, scored: ScoredDay, lane: str) -> EnqueueResult:
    """Put a scored day's alerts into the review queue; those already there stay as they are.

    A night's audit sample goes into a lane of its own. What the accounts did of late goes along,
    so that the review desk needs no lake.
    """
    audit = scored.audit if lane == NIGHTLY else ()
    accounts = {alert.account_id for alert in (*scored.alerts, *audit)}
    story = read_newest_transactions(
        context.lake(), accounts, scored.day, days=STORY_DAYS, rows=STORY_ROWS
    )
    with Queue.open(context.queue_address, create=True) as queue:
        keep_transactions(queue, story)
        result = queue.enqueue(scored.day, lane, scored.alerts)
        if audit:
            queue.enqueue(scored.day, AUDIT, audit)
    run = PartitionRun(
        scored.day,
        "enqueue",
        "done",
        scored.started,
        context.scoring_digest(),
        lane=lane,
        rows_in=len(scored.alerts),
        rows_out=result.added,
        model_version=scored.model_version,
    )
    logger.info("%s queued in lane %s: %d new alerts", scored.day, lane, result.added)
    states = day_states(context.lake(), scored.day - context.lookback, scored.day)
    known = is_queued(
        states,
        scored.day,
        model_version=scored.model_version,
        settings_digest=run.settings_digest,
        lookback=context.lookback,
    )
    if result.added or scored.changed or not known:
        with context.lake().commit() as connection:
            write_run(connection, run)
    return result


def feature_request(context: Context) -> FeatureRequest:
    """Give what computing features needs to know besides the days."""
    return FeatureRequest(
        context.label_delay_days,
        context.source.time_zone,
        context.maturity_days,
        is_labelled=context.source.label is not None,
    )


def choose_device(context: Context) -> str:
    """Choose the device, and the threads of a processor: weights may differ with their number.

    Raises:
        SettingsError: if the settings want a CUDA device and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if context.device == "cuda" and not has_cuda:
        message = (
            'device = "cuda" in [run] needs a CUDA device, and this machine has none that PyTorch '
            f'{torch.__version__} can use; set it to "auto", which takes the processor then'
        )
        raise SettingsError(message)
    torch.set_num_threads(context.threads)
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    if context.device == "auto":
        return "cuda" if has_cuda else "cpu"
    return context.device
