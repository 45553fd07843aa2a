"""Train the ensemble as of a day and register it."""

import logging
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.days import last_finished_day
from flows.options import find_config
from flows.reports import log_steps, tell_of_training
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


def _first_unknown_day(settings: Settings) -> date:
    """Give the day after the last finished one: all that is known by now may be trained on."""
    return last_finished_day(settings.source.time_zone) + timedelta(days=1)


def _name_run() -> str:
    given = flow_run.parameters
    if given.get("as_of"):
        return f"train as of {given['as_of']}"
    with suppress(UserError):  # the run itself says what is wrong with the settings
        return f"train as of {_first_unknown_day(Settings.read(find_config(given.get('config'))))}"
    return "train"


@flow(name="train", flow_run_name=_name_run)
def train(config: Path | None = None, as_of: date | None = None) -> TrainedModel:
    """Train on what was known at the start of ``as_of``; the model is champion or challenger.

    Args:
        config: The settings file; else ``NIGHTWARDEN_CONFIG`` names it.
        as_of: Without one, the day on which the run was scheduled to begin, in the source's zone.
    """
    log_steps()
    settings = Settings.read(find_config(config))
    with settings.context().closing() as context:
        collect_decisions(context)
        trained = train_as_of(context, as_of or _first_unknown_day(settings), aliased=True)
        tell_of_training(trained)
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
