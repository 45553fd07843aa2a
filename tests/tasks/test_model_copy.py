"""Models move from a warehouse folder into a shared MLflow, under their numbers."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from tasks.model_copy import ModelCopy
from tasks.registry_settings import MlflowSettings
from tasks.tracking import DIGEST, MODEL_NAME, Registry, TrainingRecord, score_frame
from tests import mlflow_service
from tests.tasks.test_fit import AS_OF, small_bundle, small_frame
from warehouse.connection import WarehouseSettings
from warehouse.errors import ModelMissingError, WarehouseError

mlflow_server = mlflow_service.mlflow_server  # the fixture
CURVE = [1 / (1 + step) for step in range(1200)]


@pytest.fixture(scope="module")
def features():
    return small_frame().drop("is_fraud")


@pytest.fixture(scope="module")
def template(features, tmp_path_factory):
    """A folder with the versions 1, 3 and 4; 2 and the newest, 5, were deleted."""
    folder = tmp_path_factory.mktemp("models") / "warehouse-data"
    registry = Registry(WarehouseSettings(path=folder))
    bundles = [small_bundle("category", "amount"), small_bundle("amount")]
    for number in range(5):
        record = TrainingRecord(
            AS_OF, {"number": number}, {"rows": 9.0}, {"loss": CURVE}, {"note": f"n. {number}"}
        )
        registry.register(bundles[number % 2], record, features)
    for version in ("2", "5"):
        registry.client.delete_model_version(MODEL_NAME, version)
    client, first = registry.client, registry.version("1")
    client.delete_model_version_tag(MODEL_NAME, "1", DIGEST)  # as the first release left it
    client.log_metric(first.run_id, "far", float("inf"), timestamp=1234, step=7)
    registry.set_alias("4", "champion")
    registry.set_alias("1", "challenger")
    report = folder / "page.html"
    report.write_text("a page")
    registry.keep_report(first, report)
    return folder


@pytest.fixture
def folder(template, tmp_path):
    """The folder at another place than where its models were registered."""
    return shutil.copytree(template, tmp_path / "moved")


def database(tmp_path):
    """A store in a file, which takes seconds less to make than one in PostgreSQL."""
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    return MlflowSettings(tracking_uri=store, artifacts=str(tmp_path / "shared"))


@pytest.fixture(params=["database", "server", "postgresql and s3"])
def mlflow(request, tmp_path, monkeypatch):
    """The settings of a shared MLflow of each kind, with nothing in it."""
    if request.param == "database":
        return database(tmp_path)
    if request.param == "server":
        return MlflowSettings(tracking_uri=request.getfixturevalue("mlflow_server").url)
    store = request.getfixturevalue("s3")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    url = request.getfixturevalue("postgresql").new_database("mlflow")
    url = url.replace("postgresql://", "postgresql+psycopg://")
    return MlflowSettings(tracking_uri=url, artifacts=store.new_prefix())


def begin(folder, mlflow):
    local = WarehouseSettings(path=folder.parent / "local")
    return ModelCopy.begin(folder, local, mlflow)


def copy(folder, mlflow):
    with begin(folder, mlflow) as work:
        (found,) = work.run()
    return found


def shared_registry(folder, mlflow):
    return Registry(WarehouseSettings(path=folder.parent / "other"), mlflow)


def told(registry, model):
    """All that a version and its run tell, apart from ids and where files lie."""
    client = registry.client
    run = client.get_run(model.run_id)
    curves = {
        key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(model.run_id, key)]
        for key in run.data.metrics
    }
    tags = {k: v for k, v in run.data.tags.items() if k != "copied_from"}
    own = {k: v for k, v in model.tags.items() if k not in (DIGEST, "copied_from")}
    times = (run.info.start_time, run.info.end_time, run.info.status, run.info.run_name)
    return model.version, model.as_of, model.aliases, own, run.data.params, curves, tags, times


def test_versions_arrive_with_numbers_runs_aliases_and_equal_scores(folder, mlflow, features):
    with begin(folder, mlflow) as work:
        (planned,), (found,) = work.look(), work.run()
    assert (planned.there, planned.arrived) == (3, 0)
    assert (found.there, found.arrived, found.is_whole) == (3, 3, True)
    mine = Registry(WarehouseSettings(path=folder))
    theirs = shared_registry(folder, mlflow)
    assert [told(theirs, m) for m in theirs.versions()] == [told(mine, m) for m in mine.versions()]
    for model in theirs.versions():
        assert model.tags[DIGEST]
        expected = score_frame(mine.load(mine.version(model.version)), features)
        assert_frame_equal(score_frame(theirs.load(model), features), expected, check_exact=True)
    page = theirs.client.download_artifacts(theirs.version("1").run_id, "reports/page.html")
    assert Path(page).read_text() == "a page"
    record = TrainingRecord(AS_OF, {}, {}, {}, {})
    assert theirs.register(small_bundle("amount"), record, features) == "6"


def test_copying_again_changes_nothing_even_after_the_copy_went_on(folder, tmp_path, features):
    mlflow = database(tmp_path)
    copy(folder, mlflow)
    theirs = shared_registry(folder, mlflow)
    theirs.set_alias("3", "champion")
    theirs.register(small_bundle("amount"), TrainingRecord(AS_OF, {}, {}, {}, {}), features)
    before = theirs.versions()
    found = copy(folder, mlflow)
    assert (found.there, found.arrived, found.is_whole) == (3, 3, True)
    assert theirs.versions() == before
    assert theirs.champion().version == "3"


def test_other_models_are_left_alone(folder, tmp_path, features):
    mlflow = database(tmp_path)
    theirs = shared_registry(folder, mlflow)
    theirs.register(small_bundle("amount"), TrainingRecord(AS_OF, {}, {}, {}, {}), features)
    before = theirs.versions()
    with begin(folder, mlflow) as work, pytest.raises(WarehouseError, match="not of here"):
        work.look()
    with pytest.raises(WarehouseError, match="not of here"):
        copy(folder, mlflow)
    assert theirs.versions() == before


def test_a_damaged_model_is_named(folder, tmp_path):
    mine = Registry(WarehouseSettings(path=folder))
    files = folder / "mlflow/artifacts" / mine.champion().run_id / "artifacts/model"
    (files / "artifacts/bundle/encoding.json").write_text("{}")
    with pytest.raises(ModelMissingError, match="version 4 cannot be copied"):
        copy(folder, database(tmp_path))


def test_a_folder_without_models_has_nothing_to_copy(tmp_path):
    (tmp_path / "bare").mkdir()
    found = copy(tmp_path / "bare", database(tmp_path))
    assert (found.there, found.arrived, found.is_whole) == (0, 0, True)
    assert not (tmp_path / "bare/mlflow").exists()


COPY = """
import os
import sys
from pathlib import Path
from mlflow import MlflowClient
from tasks.model_copy import ModelCopy
from tasks.registry_settings import MlflowSettings
from warehouse.connection import WarehouseSettings
folder, uri, artifacts, moment = sys.argv[1:]
setattr(MlflowClient, moment, lambda *_, **__: os.kill(os.getpid(), 9))
local = WarehouseSettings(path=Path(folder).parent / "local")
mlflow = MlflowSettings(tracking_uri=uri, artifacts=artifacts)
with ModelCopy.begin(Path(folder), local, mlflow) as work:
    work.run()
"""


@pytest.mark.slow
def test_a_copy_that_was_killed_can_be_finished(folder, tmp_path):
    mlflow = database(tmp_path)
    words = [str(folder), mlflow.tracking_uri.get_secret_value(), str(mlflow.artifacts)]
    # in the middle of a run, before a number is given up, before the end
    for moment in ("log_artifacts", "delete_model_version", "set_registered_model_tag"):
        command = [sys.executable, "-c", COPY, *words, moment]
        ended = subprocess.run(command, check=False, timeout=300)  # noqa: S603 (our own command)
        assert ended.returncode == -signal.SIGKILL
        with begin(folder, mlflow) as work:
            assert not work.look()[0].is_whole
    assert copy(folder, mlflow).is_whole
    mine, theirs = Registry(WarehouseSettings(path=folder)), shared_registry(folder, mlflow)
    assert [told(theirs, m) for m in theirs.versions()] == [told(mine, m) for m in mine.versions()]
