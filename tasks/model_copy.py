"""Copies the registered models of one machine into an MLflow that several share.

Versions keep their numbers, which the ledger, the scores and the alerts name; their runs get new ids.
A copy that was cut off goes on where it ended: each run and version carries the id of its source.
"""

import logging
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tasks.model_files import DamagedFilesError, bundle_digest, require_digest
from tasks.registry_errors import said_plainly
from tasks.registry_settings import MlflowSettings
from tasks.tracking import BUNDLE, DIGEST, MODEL_NAME, RegisteredModel, Registry
from warehouse.connection import WarehouseSettings
from warehouse.copied import Copied, refuse
from warehouse.errors import ModelMissingError, WarehouseError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

ORIGIN = "copied_from"
"""Tag of a run and of a version at the target: the id of the source's run."""
WHOLE = "copied_whole"
"""Tag of the registered model at the target, set last."""
BLOCK = 1_000  # metrics that MLflow takes at a time


class ModelCopy:
    """The models of a folder, to which nobody may add meanwhile, and the MLflow that they go to."""

    def __init__(
        self, folder: Path, source: Registry | None, target: Registry, where: str
    ) -> None:
        """Take the source, locked; ``ModelCopy.begin`` opens it."""
        self._folder, self._target, self._where = folder / "mlflow", target, where
        self._source = source
        self._models = source.versions()[::-1] if source else []

    @classmethod
    @contextmanager
    def begin(
        cls, folder: Path, target: WarehouseSettings, mlflow: MlflowSettings
    ) -> Iterator[Self]:
        """Keep others from registering models in a warehouse folder until the block ends.

        Raises:
            BusyError: if another holds the registry's lock.
        """
        shared, where = Registry(target, mlflow), mlflow.describe()
        if not (folder / "mlflow/mlflow.db").exists():
            yield cls(folder, None, shared, where)
            return
        source = Registry(WarehouseSettings(path=folder))
        with source.locked():
            yield cls(folder, source, shared, where)

    def look(self) -> list[Copied]:
        """Count the versions in the folder, and of them those at the target; writes no version.

        Raises:
            BusyError: if the target does not answer.
            WarehouseError: if it holds other models.
        """
        with said_plainly(self._where):
            there, is_whole = self._numbers_there(), self._is_whole()
        return [Copied("models", MODEL_NAME, len(self._models), len(there), is_whole)]

    def run(self) -> list[Copied]:
        """Copy every version that is not there, and compare each one's files at the target.

        Raises:
            BusyError: if the target does not answer.
            ModelMissingError: if files of the source are missing or damaged.
            WarehouseError: if the target holds other models.
        """
        with self._target.locked(), said_plainly(self._where):
            if not self._is_whole():
                self._copy_missing()
            is_same = all(map(self._is_same, self._models))
            return [
                Copied(
                    "models", MODEL_NAME, len(self._models), len(self._numbers_there()), is_same
                )
            ]

    @property
    def _client(self) -> "MlflowClient":
        return self._target.client

    @property
    def _reader(self) -> "MlflowClient":
        if self._source is None:
            message = f"{self._folder} holds no models"
            raise WarehouseError(message)
        return self._source.client

    def _is_whole(self) -> bool:
        """Tell whether all versions are there, with their aliases."""
        if not self._models:
            return True
        if len(self._numbers_there()) < len(self._models):
            return False
        return WHOLE in self._client.get_registered_model(MODEL_NAME).tags

    def _numbers_there(self) -> dict[str, str]:
        """Give the copied versions at the target with their runs; refuse a target with others.

        Once all have arrived, the target may have newer ones of its own.
        """
        mine = {model.version: model.run_id for model in self._models}
        found = self._target.versions()
        origins = {m.version: m.tags.get(ORIGIN) for m in found}
        copied = {
            m.version: m.run_id for m in found if origins[m.version] == mine.get(m.version, "")
        }
        strange = [version for version, origin in origins.items() if origin not in mine.values()]
        if strange and (not mine or len(copied) < len(mine)):
            raise refuse("models", self._where, f"version {strange[-1]}, which is not of here")
        return copied

    def _copy_missing(self) -> None:
        there = self._numbers_there()
        for model in self._target.versions():
            if model.version not in there and ORIGIN in model.tags:
                # it was made to take up a number, and the copy was killed
                self._client.delete_model_version(MODEL_NAME, model.version)
        if not self._client.search_registered_models(f"name = '{MODEL_NAME}'"):
            self._client.create_registered_model(MODEL_NAME)
        for number, model in enumerate(self._models, start=1):
            if model.version not in there:
                logger.info(
                    "copying version %s (%d of %d)", model.version, number, len(self._models)
                )
                there[model.version] = self._copy_version(model)
        newest = self._models[-1]
        self._use_up_numbers(newest, there[newest.version])
        for model in self._models:
            for alias in model.aliases:
                self._target.set_alias(model.version, alias)
        self._client.set_registered_model_tag(MODEL_NAME, WHOLE, "true")

    def _copy_version(self, model: RegisteredModel) -> str:
        """Copy a version with its run, under its number; gives the new run."""
        run_id = self._copy_run(model)
        digest = bundle_digest(self._files(model) / BUNDLE)
        tags = {**model.tags, DIGEST: digest, ORIGIN: model.run_id}
        source, number = f"runs:/{run_id}/model", 0
        while number < int(model.version):
            # a number that the source has not, such as a deleted version's, is taken and given up
            if number:
                self._client.delete_model_version(MODEL_NAME, str(number))
            made = self._client.create_model_version(MODEL_NAME, source, run_id, tags=tags)
            number = int(made.version)
        if number != int(model.version):
            self._client.delete_model_version(MODEL_NAME, str(number))
            raise refuse("models", self._where, f"version {model.version}, deleted meanwhile")
        return run_id

    def _copy_run(self, model: RegisteredModel) -> str:
        """Copy a run that is not there as a whole; gives its new id."""
        client, experiment = self._client, self._target.experiment()
        for left in client.search_runs([experiment], f"tags.{ORIGIN} = '{model.run_id}'"):
            if left.info.status == "FINISHED":
                return str(left.info.run_id)
            client.delete_run(left.info.run_id)  # the copy was killed in its middle
        run = self._reader.get_run(model.run_id)
        tags = {**run.data.tags, ORIGIN: model.run_id}
        started, name = run.info.start_time, run.info.run_name
        made = client.create_run(experiment, start_time=started, tags=tags, run_name=name)
        run_id = str(made.info.run_id)
        for key, value in run.data.params.items():
            client.log_param(run_id, key, value)
        for key in run.data.metrics:
            history = self._reader.get_metric_history(model.run_id, key)
            for start in range(0, len(history), BLOCK):
                client.log_batch(run_id, metrics=history[start : start + BLOCK])
        client.log_artifacts(run_id, str(self._files(model)))
        client.set_terminated(run_id, "FINISHED", run.info.end_time)
        return run_id

    def _files(self, model: RegisteredModel) -> Path:
        """Give the folder of a run's files, which lie beside the store, also after it moved.

        Raises:
            ModelMissingError: if the model's are missing or damaged.
        """
        folder = self._folder / "artifacts" / model.run_id / "artifacts"
        bundle = folder / BUNDLE
        try:
            require_digest(bundle, model.tags.get(DIGEST) or bundle_digest(bundle), str(bundle))
            if not bundle.is_dir():
                message = f"{bundle} must be the model's folder, and is missing"
                raise DamagedFilesError(message)
        except DamagedFilesError as error:
            message = f"model version {model.version} cannot be copied: {error}"
            raise ModelMissingError(message) from error
        return folder

    def _is_same(self, model: RegisteredModel) -> bool:
        """Compare the files that a version is scored with."""
        run_id = self._numbers_there().get(model.version)
        if run_id is None:
            return False
        with tempfile.TemporaryDirectory() as folder:
            files = Path(self._client.download_artifacts(run_id, BUNDLE, folder))
            return bundle_digest(files) == bundle_digest(self._files(model) / BUNDLE)

    def _use_up_numbers(self, newest: RegisteredModel, run_id: str) -> None:
        """Take the numbers of versions that were deleted at the end: none may be given twice."""
        with closing(sqlite3.connect(self._folder / "mlflow.db")) as connection:
            sql = "SELECT max(version) FROM model_versions WHERE name = ?"
            last = int(connection.execute(sql, [MODEL_NAME]).fetchone()[0])
        tags, number = (
            {"as_of": newest.as_of.isoformat(), ORIGIN: newest.run_id},
            int(newest.version),
        )
        while number < last:
            made = self._client.create_model_version(
                MODEL_NAME, f"runs:/{run_id}/model", run_id, tags=tags
            )
            number = int(made.version)
            self._client.delete_model_version(MODEL_NAME, str(number))
