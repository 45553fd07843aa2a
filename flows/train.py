"""Train the ensemble as of a day and register it."""

import logging
from datetime import date
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.settings import Settings
from tasks.context import Context
from tasks.gate import GateSettings, gate_markdown, run_gate
from tasks.steps import (
    TrainedModel,
    choose_device,
    collect_decisions,
    feature_request,
    train_as_of,
)
from warehouse.errors import UserError

CHALLENGER = "challenger"
logger = logging.getLogger(__name__)


def run_training(config: Path, as_of: date) -> TrainedModel:
    """Run the training flow, with as many members side by side as ``run.workers`` says."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=Settings.read(config).run.workers)
    return train.with_options(task_runner=runner)(config, as_of)


@flow(name="train", validate_parameters=False)
def train(config: Path, as_of: date) -> TrainedModel:
    """Train on what was known at the start of ``as_of``; the model is champion or challenger."""
    with Settings.read(config).context().closing() as context:
        collect_decisions(context)
        trained = train_as_of(context, as_of, aliased=True)
        if trained.alias == CHALLENGER:
            _hold_to_gate(context, trained)
        return trained


def _hold_to_gate(context: Context, trained: TrainedModel) -> None:
    """Compare the challenger with the champion, for the record; only ``models promote`` moves it."""
    registry = context.registry()
    try:
        comparison = run_gate(
            registry,
            context.lake(),
            registry.version(trained.version),
            feature_request(context),
            GateSettings.of(context),
            choose_device(context),
        )
    except UserError as error:
        logger.warning("version %s is not compared: %s", trained.version, error)
        return
    logger.info("version %s: %s: %s", trained.version, comparison.verdict, comparison.reason)
    create_markdown_artifact(
        gate_markdown(comparison), key="gate", description=f"Version {trained.version}"
    )
