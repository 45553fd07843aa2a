"""Train the ensemble as of a day and register it."""

from datetime import date
from pathlib import Path

from prefect import flow

from flows.settings import Settings
from tasks.steps import TrainedModel, train_as_of


@flow(name="train", validate_parameters=False)
def train(config: Path, as_of: date) -> TrainedModel:
    """Train on what was known at the start of ``as_of``; the model is champion or challenger."""
    with Settings.read(config).context().closing() as context:
        return train_as_of(context, as_of, aliased=True)
