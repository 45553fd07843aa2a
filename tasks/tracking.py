"""Training runs and registered models. The only module that imports mlflow.

Every call names its store and its run; there is no global active run, so that threads and processes
never write into each other's. The store lies in the warehouse folder, or is one that several machines
share: then models go and come through its artifact store, never by a path of the machine that trained.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from models.ensemble import Ensemble
from models.persistence import load_ensemble, save_ensemble
from tasks.model_files import bundle_digest, fetch, require_digest
from tasks.registry_errors import require_database, said_plainly
from tasks.registry_settings import MlflowSettings
from tasks.tensors import Encoding, history_of
from warehouse.commit_lock import CommitLock, FolderLock, PostgresqlLock
from warehouse.connection import LOCK_TIMEOUT_SECONDS, WarehouseSettings, writing_to
from warehouse.errors import ModelMissingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME = "nightwarden"
EXPERIMENT = "nightwarden"
BUNDLE = "model/artifacts/bundle"  # where MLflow puts it among a run's artifacts
DIGEST = "bundle_digest"
PYFUNC_FILE = Path(__file__).with_name("pyfunc_model.py")
EMBEDDED = MlflowSettings()

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a bank's nightly job phones nobody
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # --json writes there
# MLflow tries 7 times over four minutes; this is enough for a server that starts again, and the
# steps of a night try again by themselves.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


@dataclass(frozen=True)
class Bundle:
    """All that scoring needs: the ensemble, the encoding of its input, and each feature's usual value.

    ``usual`` is the median over the training rows, in the features' own units, None where most of
    them have no value; ``policy`` what the threshold was chosen for, see
    ``tasks.flagging.threshold_basis``.
    """

    ensemble: Ensemble
    encoding: Encoding
    usual: dict[str, float | None]
    policy: str

    def save(self, folder: Path) -> None:
        """Write the bundle: safetensors and JSON, no pickle."""
        save_ensemble(self.ensemble, folder / "ensemble")
        content = {
            "feature_names": self.encoding.feature_names,
            "vocabularies": self.encoding.vocabularies,
            "usual": self.usual,
            "policy": self.policy,
        }
        text = json.dumps(content, sort_keys=True, indent=1)
        (folder / "encoding.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Bundle":
        """Read a bundle.

        Raises:
            ValueError: if a file is missing, cut off, or of another format.
        """
        try:
            content = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
            vocabularies = {k: tuple(v) for k, v in content["vocabularies"].items()}
            encoding = Encoding(tuple(content["feature_names"]), vocabularies)
            usual, policy = dict(content["usual"]), str(content["policy"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{folder} holds no whole model (encoding.json): {error}; train again"
            raise ValueError(message) from error
        ensemble = load_ensemble(folder / "ensemble", device=device)
        if encoding.feature_names != ensemble.feature_names or set(usual) != set(
            ensemble.feature_names
        ):
            message = f"{folder} holds no whole model (other features in a part); train again"
            raise ValueError(message)
        return cls(ensemble, encoding, usual, policy)


@dataclass(frozen=True)
class TrainingRecord:
    """What is written down about a training run."""

    as_of: date
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class RegisteredModel:
    """A version of the registered model."""

    version: str
    as_of: date
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str


class Registry:
    """An MLflow store: runs, curves, registered models and their aliases.

    Its files lie in the warehouse folder, or, with ``[mlflow] tracking_uri``, where that says.
    """

    def __init__(self, settings: WarehouseSettings, shared: MlflowSettings = EMBEDDED) -> None:
        """Name the store; nothing is opened yet."""
        folder = settings.path / "mlflow"
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        address = shared.tracking_uri
        self.uri = address.get_secret_value() if address else f"sqlite:///{folder / 'mlflow.db'}"
        self._is_shared = address is not None
        self._where = shared.describe()
        self._artifacts = folder / "artifacts"
        self._location = shared.location if self._is_shared else self._artifacts.as_uri()
        self._cache = folder / "models"
        self._lock: CommitLock = FolderLock(folder / "registry.lock", LOCK_TIMEOUT_SECONDS)
        if self._is_shared and settings.catalog is not None:
            catalog = settings.catalog.get_secret_value()
            self._lock = PostgresqlLock(catalog, "registry", LOCK_TIMEOUT_SECONDS)
        self._client: MlflowClient | None = None

    @property
    def client(self) -> "MlflowClient":
        """Open the store; MLflow takes seconds to import, so only when it is needed.

        Raises:
            BusyError: if a shared store does not answer.
            WarehouseError: if it refuses.
        """
        if self._client is None:
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)  # not "Creating tables..."
            if self._is_shared:  # what a driver says may hold a secret
                logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            is_server = self.uri.startswith(("http://", "https://"))
            # two that make a new database at once would break each other
            with nullcontext() if is_server else self._lock.held(), self._asking():
                if self._is_shared and not is_server:
                    require_database(self.uri)
                client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                client.search_experiments(max_results=1)
            self._client = client
        return self._client

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry's lock: versions and aliases are read and then moved.

        With a shared store it is a lock in the shared catalogue, which holds across machines;
        where the warehouse has none, one of this machine alone.

        Raises:
            BusyError: if another holds it for too long.
        """
        with self._lock.held():
            yield

    def _asking(self) -> AbstractContextManager[None]:
        """Give a block in which a shared store's errors become ours; see ``said_plainly``."""
        return said_plainly(self._where) if self._is_shared else nullcontext()

    def register(self, bundle: Bundle, record: TrainingRecord, example: pl.DataFrame) -> str:
        """Log a training run and register its model.

        Returns:
            The new version.

        Raises:
            BusyError: if a shared store does not answer.
            WarehouseError: if it refuses.
        """
        with self._asking():
            experiment = self.experiment()
        with tempfile.TemporaryDirectory() as folder:
            self._save_pyfunc(bundle, example, Path(folder))
            with self._asking():
                return self._register(record, experiment, Path(folder) / "model")

    def _register(self, record: TrainingRecord, experiment: str, folder: Path) -> str:
        run = self.client.create_run(experiment, None, dict(record.tags), f"as-of-{record.as_of}")
        run_id = str(run.info.run_id)
        try:
            self._log_figures(record, run_id, run.info.start_time)
            self.client.log_artifacts(run_id, str(folder), "model")
            self.client.set_terminated(run_id)
            return self._name_version(record, run_id, folder)
        except Exception:
            with suppress(Exception):  # the store may be what is away; the first error is told
                self.client.set_terminated(run_id, "FAILED")
            raise

    def _name_version(self, record: TrainingRecord, run_id: str, folder: Path) -> str:
        """Make a version of a run's model; nothing may fail after it, or it would be made twice."""
        if not self.client.search_registered_models(f"name = '{MODEL_NAME}'"):
            self.client.create_registered_model(MODEL_NAME)
        digest, source = bundle_digest(folder.parent / BUNDLE), f"runs:/{run_id}/model"
        tags = {"as_of": record.as_of.isoformat(), DIGEST: digest, **record.tags}
        return str(self.client.create_model_version(MODEL_NAME, source, run_id, tags=tags).version)

    def _log_figures(self, record: TrainingRecord, run_id: str, now: int) -> None:
        from mlflow.entities import Metric, Param

        params = [Param(name, str(value)) for name, value in record.parameters.items()]
        metrics = [Metric(name, figure, now, 0) for name, figure in record.metrics.items()]
        for name, curve in record.curves.items():
            metrics += [Metric(name, figure, now, step) for step, figure in enumerate(curve)]
        # a call to a server takes a round trip each, so many go in one; it takes no more than these
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def experiment(self) -> str:
        """Find the experiment whose files lie where they should; for another place, make one.

        A moved warehouse folder is another place. A server may choose the place itself.
        """
        found = self.client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT}%'")
        here = [
            one.experiment_id
            for one in found
            if one.artifact_location == self._location
            or (self._location is None and one.name == EXPERIMENT)
        ]
        if here:
            return str(here[0])
        name = f"{EXPERIMENT}-{len(found) + 1}" if found and self._location else EXPERIMENT
        return str(self.client.create_experiment(name, artifact_location=self._location))

    def _save_pyfunc(self, bundle: Bundle, example: pl.DataFrame, folder: Path) -> None:
        import mlflow.pyfunc
        from mlflow.models import infer_signature

        bundle_folder = folder / "bundle"
        bundle_folder.mkdir()
        bundle.save(bundle_folder)
        sample = example.select(bundle.encoding.feature_names).head(5).to_pandas()
        scores = score_frame(bundle, example.head(5)).to_pandas()
        mlflow.pyfunc.save_model(
            folder / "model",
            python_model=str(PYFUNC_FILE),
            artifacts={"bundle": str(bundle_folder)},
            signature=infer_signature(sample, scores),
            input_example=sample,
            pip_requirements=["nightwarden"],
        )

    def set_alias(self, version: str, alias: str) -> None:
        """Point an alias (``champion``, ``challenger``) at a version."""
        with self._asking():
            self.client.set_registered_model_alias(MODEL_NAME, alias, version)

    def drop_alias(self, alias: str) -> None:
        """Let an alias point at nothing."""
        with self._asking():
            self.client.delete_registered_model_alias(MODEL_NAME, alias)

    def keep_report(self, model: RegisteredModel, file: Path) -> None:
        """Put a copy of a page among the artifacts of the run that trained a model."""
        if self._is_shared:
            with self._asking():
                self.client.log_artifact(model.run_id, str(file), "reports")
            return
        folder = self._artifacts / model.run_id / "artifacts/reports"
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)

    def versions(self) -> list[RegisteredModel]:
        """List the registered versions, newest first."""
        with self._asking():
            if not self.client.search_registered_models(f"name = '{MODEL_NAME}'"):
                return []
            aliases = self.client.get_registered_model(MODEL_NAME).aliases
            found = self.client.search_model_versions(f"name = '{MODEL_NAME}'")
        models = [_as_registered(version, aliases) for version in found]
        return sorted(models, key=lambda model: int(model.version), reverse=True)

    def find(self, alias: str) -> RegisteredModel | None:
        """Find the version that an alias points at."""
        return next((m for m in self.versions() if alias in m.aliases), None)

    def champion(self) -> RegisteredModel:
        """Find the champion.

        Raises:
            ModelMissingError: if there is none.
        """
        found = self.find("champion")
        if found is None:
            message = "there is no model yet: run nightwarden train --as-of DAY first"
            raise ModelMissingError(message)
        return found

    def version(self, number: str) -> RegisteredModel:
        """Find a version by its number.

        Raises:
            ModelMissingError: if it is not registered.
        """
        found = next((m for m in self.versions() if m.version == number), None)
        if found is None:
            message = f"model version {number} is not registered; see nightwarden models list"
            raise ModelMissingError(message)
        return found

    def load(self, model: RegisteredModel, device: str = "cpu") -> Bundle:
        """Load a version's bundle, after a check that its files are those that were registered.

        They lie beside an embedded store, also after the folder moved; from a shared one they are
        downloaded once.

        Raises:
            ModelMissingError: if a file of it is missing or damaged.
            BusyError: if a shared store does not answer.
        """
        try:
            return Bundle.load(self._files(model), device)
        except (ValueError, ModelMissingError) as error:
            message = f"model version {model.version} cannot be loaded: {error}"
            raise ModelMissingError(message) from error

    def _files(self, model: RegisteredModel) -> Path:
        digest = model.tags.get(DIGEST)
        if not self._is_shared:
            folder = self._artifacts / model.run_id / "artifacts" / BUNDLE
            if digest is not None:  # versions of the first release have none
                require_digest(folder, digest, str(folder))
            return folder
        if digest is None:
            message = f"it must have the tag {DIGEST}, and has none; train again"
            raise ValueError(message)

        def download(target: Path) -> Path:
            with self._asking():
                return Path(self.client.download_artifacts(model.run_id, BUNDLE, str(target)))

        return fetch(self._cache, digest, download, f"the artifact store of {self._where}")


def _as_registered(version: "ModelVersion", aliases: Mapping[str, object]) -> RegisteredModel:
    number = str(version.version)
    mine = tuple(sorted(name for name, target in aliases.items() if str(target) == number))
    tags = dict(version.tags)
    return RegisteredModel(
        number, date.fromisoformat(tags["as_of"]), mine, tags, str(version.run_id)
    )


def score_frame(
    bundle: Bundle, frame: pl.DataFrame, events: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Score feature rows: ``score``, ``member.NAME`` for each member, and ``probability``.

    Rows are in their order; ``probability`` is there where the model knew enough frauds.

    Args:
        bundle: The model.
        frame: Feature rows; with ``history_end`` and ``history_count`` where there are events.
        events: What these point into; without, each row counts as its account's first.
    """
    ensemble = bundle.ensemble
    members = ensemble.member_scores(
        bundle.encoding.matrix(frame), history=history_of(frame, events)
    )
    score = ensemble.combine(members).cpu()
    columns = {"score": score.numpy()}
    for position, name in enumerate(ensemble.member_names):
        columns[f"member.{name}"] = members[:, position].cpu().numpy()
    if ensemble.probability is not None:
        columns["probability"] = ensemble.probability.forward(score).numpy()
    return pl.DataFrame(columns).cast(pl.Float64)
