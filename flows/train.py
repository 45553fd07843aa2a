"""Train the ensemble as of a day and register it."""

from datetime import date
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.settings import Settings
from tasks.steps import TrainedModel, train_as_of


def run_training(config: Path, as_of: date) -> TrainedModel:
    """Run the training flow, with as many members side by side as ``run.workers`` says."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=Settings.read(config).run.workers)
    return train.with_options(task_runner=runner)(config, as_of)


@flow(name="train", validate_parameters=False)
def train(config: Path, as_of: date) -> TrainedModel:
    """Train on what was known at the start of ``as_of``; the model is champion or challenger."""
    with Settings.read(config).context().closing() as context:
        return train_as_of(context, as_of, aliased=True)
