"""Models through an MLflow that several machines share: they come whole, or not at all."""

import asyncio
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import polars as pl
import pytest
from prefect.states import exception_to_failed_state

from tasks.model_files import bundle_digest
from tasks.registry_settings import MlflowSettings
from tasks.steps import may_pass, train_as_of
from tasks.tracking import Registry, TrainingRecord, score_frame
from tests import mlflow_service
from tests.tasks.test_fit import AS_OF, labels_of, make_lake, simulate, small_bundle, small_frame
from tests.tasks.test_steps import make_context
from warehouse.connection import WarehouseSettings
from warehouse.errors import BusyError, ModelMissingError, WarehouseError
from warehouse.ledger import day_states

mlflow_server = mlflow_service.mlflow_server  # the fixture

ROOT = Path(__file__).parents[2]
FEATURES = ("category", "amount", "amount_to_account_median_30d")
PLANTED = "planted-secret"
OTHER_MACHINE = """
import sys
from pathlib import Path
import polars as pl
from tasks.registry_settings import MlflowSettings
from tasks.tracking import Registry, score_frame
from warehouse.connection import WarehouseSettings

folder, address, frame, scores = sys.argv[1:]
shared = MlflowSettings(tracking_uri=address)
registry = Registry(WarehouseSettings(path=Path(folder)), shared)
model = registry.champion()
print("found", flush=True)
sys.stdin.readline()
score_frame(registry.load(model), pl.read_parquet(frame)).write_parquet(scores)
"""


def record(**changes):
    values = {
        "as_of": AS_OF,
        "parameters": {f"parameter {number}": number for number in range(150)},
        "metrics": {"rows": 9.0},
        "curves": {"loss": [1 / (1 + step) for step in range(1500)]},
        "tags": {"note": "first"},
    }
    return TrainingRecord(**values | changes)


@pytest.fixture(scope="module")
def features():
    return small_frame().drop("is_fraud")


@pytest.fixture(scope="module")
def bundle():
    return small_bundle(*FEATURES)


@pytest.fixture(scope="module")
def trained(mlflow_server, bundle, features, tmp_path_factory):
    """A server with a champion; the folder of who trained it is gone."""
    folder = tmp_path_factory.mktemp("trainer")
    registry = registry_at(folder, mlflow_server.url)
    with registry.locked():
        registry.set_alias(registry.register(bundle, record(), features), "champion")
    folder.rename(folder.with_name("away"))
    yield mlflow_server
    assert not folder.exists()


def registry_at(folder, address, **more):
    return Registry(WarehouseSettings(path=folder), MlflowSettings(tracking_uri=address, **more))


@pytest.fixture
def night(trained, tmp_path):
    """The registry as another machine sees it, which has loaded nothing yet."""
    return registry_at(tmp_path / "night", trained.url)


@pytest.fixture
def start_machine(trained, features, tmp_path):
    """Start processes with a home and a working folder of their own, which then wait for a line."""
    frame = tmp_path / "frame.parquet"
    features.write_parquet(frame)
    started = []

    def start(name, warehouse):
        home = tmp_path / name
        home.mkdir()
        paths = [str(warehouse), trained.url, str(frame), str(home / "scores.parquet")]
        known = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-c", OTHER_MACHINE, *paths],
            cwd=home,
            env=known | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def found(process):
    assert process.stdout.readline() == "found\n"


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


def requests_for_files(server):
    """Count the files that were downloaded from the server so far."""
    return len(
        re.findall(r'"GET /api/2.0/mlflow-artifacts/artifacts/\S+bundle', server.log.read_text())
    )


def stored(server, name):
    (file,) = (server.folder / "artifacts").rglob(name)
    return file


def test_two_machines_at_once_load_bit_identical_models_and_download_each_file_once(
    trained, start_machine, bundle, features, tmp_path
):
    before = requests_for_files(trained)
    machines = [start_machine(name, tmp_path / "shared cache") for name in ("ada", "bob")]
    for process in machines:
        found(process)
    for process in machines:
        go_on(process)
    assert [process.wait(120) for process in machines] == [0, 0]
    expected = score_frame(bundle, features)
    for name in ("ada", "bob"):
        assert pl.read_parquet(tmp_path / name / "scores.parquet").equals(expected)
    files = [file for file in stored(trained, "bundle").rglob("*") if file.is_file()]
    assert requests_for_files(trained) == before + len(files)


def test_many_threads_download_a_version_once(trained, night, bundle, features):
    before, model, loaded = requests_for_files(trained), night.champion(), []
    threads = [threading.Thread(target=lambda: loaded.append(night.load(model))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = score_frame(bundle, features)
    assert [score_frame(one, features).equals(expected) for one in loaded] == [True] * 6
    assert requests_for_files(trained) == before + 3


def test_killed_download_leaves_nothing_that_is_taken_for_a_model(
    trained, night, start_machine, bundle, features, tmp_path
):
    cache = tmp_path / "night/mlflow/models"
    process = start_machine("ada", tmp_path / "night")
    found(process)
    os.killpg(trained.process.pid, signal.SIGSTOP)  # a download that hangs
    try:
        go_on(process)
        until = time.monotonic() + 60
        while not list(cache.glob("fetch-*")):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.wait()
    finally:
        os.killpg(trained.process.pid, signal.SIGCONT)
    assert list(cache.glob("fetch-*"))
    model = night.champion()
    assert score_frame(night.load(model), features).equals(score_frame(bundle, features))
    names = {one.name for one in cache.iterdir()}
    assert names == {model.tags["bundle_digest"], "fetch.lock"}


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing", "more"])
def test_damaged_copy_on_this_machine_is_fetched_anew(night, bundle, features, tmp_path, damage):
    model = night.champion()
    night.load(model)
    copy = tmp_path / "night/mlflow/models" / model.tags["bundle_digest"]
    file = copy / "encoding.json"
    content = file.read_text()
    if damage == "missing":
        file.unlink()
    elif damage == "more":
        (copy / "more.json").write_text("{}")
    else:
        file.write_text(content[:-9] if damage == "cut off" else content.replace("capacity", "x"))
    assert score_frame(night.load(model), features).equals(score_frame(bundle, features))
    assert bundle_digest(copy) == model.tags["bundle_digest"]


@pytest.mark.parametrize("damage", ["changed", "file missing", "folder missing"])
def test_model_that_was_tampered_with_in_the_store_is_refused(trained, night, tmp_path, damage):
    name = "bundle" if damage == "folder missing" else "encoding.json"
    file = stored(trained, name)
    away = file.rename(tmp_path / "away")
    if damage == "changed":
        file.write_text(away.read_text().replace("capacity", "incapacity"))
    try:
        with pytest.raises(ModelMissingError, match=r"version 1 cannot be loaded: .*; restore"):
            night.load(night.champion())
        assert [one.name for one in (tmp_path / "night/mlflow/models").iterdir()] == ["fetch.lock"]
    finally:
        away.rename(file)
    assert night.load(night.champion())


def test_version_without_a_digest_is_not_taken_from_a_shared_store(night):
    model = night.champion()
    night.client.delete_model_version_tag("nightwarden", "1", "bundle_digest")
    try:
        with pytest.raises(ModelMissingError, match="must have the tag bundle_digest"):
            night.load(night.champion())
    finally:
        night.client.set_model_version_tag(
            "nightwarden", "1", "bundle_digest", model.tags["bundle_digest"]
        )


def test_digest_names_files_and_contents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_text("2")
    (tmp_path / "one").write_text("1")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    expected = hashlib.sha256(f"b/two\0{two}\none\0{one}\n".encode()).hexdigest()
    assert bundle_digest(tmp_path) == expected
    (tmp_path / "one").rename(tmp_path / "three")
    assert bundle_digest(tmp_path) != expected


def test_run_is_logged_in_few_requests(trained, bundle, features, tmp_path):
    registry = registry_at(tmp_path, trained.url, artifacts=str(tmp_path / "models"))
    assert registry.client
    before = trained.log.read_text().count("HTTP/1.1")
    version = registry.version(registry.register(bundle, record(), features))
    assert trained.log.read_text().count("HTTP/1.1") - before < 30  # 1651 figures and parameters
    run = registry.client.get_run(version.run_id)
    assert len(run.data.params) == 150
    assert (run.data.metrics["rows"], run.info.status) == (9.0, "FINISHED")
    curve = registry.client.get_metric_history(version.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [
        (step, 1 / (1 + step)) for step in range(1500)
    ]
    experiment = registry.client.get_experiment(run.info.experiment_id)
    assert experiment.artifact_location == (tmp_path / "models").as_uri()
    registry.client.delete_model_version("nightwarden", version.version)


def test_models_lie_where_the_server_puts_them_under_one_experiment(night):
    run = night.client.get_run(night.champion().run_id)
    experiment = night.client.get_experiment(run.info.experiment_id)
    assert experiment.name == "nightwarden"
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")


def test_report_is_kept_with_the_run(night, tmp_path):
    page = tmp_path / "gate.html"
    page.write_text("<p>fine</p>")
    model = night.champion()
    night.keep_report(model, page)
    (tmp_path / "copy").mkdir()
    copy = night.client.download_artifacts(model.run_id, "reports", str(tmp_path / "copy"))
    assert (Path(copy) / "gate.html").read_text() == "<p>fine</p>"


def test_database_is_shared_as_a_server_is(bundle, features, tmp_path):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    trainer = registry_at(tmp_path / "a", address, artifacts=str(tmp_path / "models"))
    version = trainer.register(bundle, record(), features)
    (tmp_path / "a").rename(tmp_path / "away")
    night = registry_at(tmp_path / "b", address, artifacts=str(tmp_path / "models"))
    loaded = night.load(night.version(version))
    assert score_frame(loaded, features).equals(score_frame(bundle, features))
    assert not (tmp_path / "a").exists()


def test_postgresql_and_an_object_store_are_shared(postgresql, s3, bundle, features, tmp_path):
    os.environ |= s3.environment
    try:
        shared = {"artifacts": s3.new_prefix()}
        address = postgresql.new_database()
        trainer = registry_at(tmp_path / "a", address, **shared)
        version = trainer.register(bundle, record(), features)
        night = registry_at(tmp_path / "b", address, **shared)
        loaded = night.load(night.version(version))
        assert score_frame(loaded, features).equals(score_frame(bundle, features))
        refused = address.replace(postgresql.password, PLANTED)
        with pytest.raises(WarehouseError, match="must let this user in, and refused") as caught:
            registry_at(tmp_path / "b", refused, **shared).versions()
        assert PLANTED not in "".join(traceback.format_exception(caught.value))
    finally:
        for name in s3.environment:
            del os.environ[name]


def test_lock_holds_across_machines_where_the_catalogue_is_shared(
    postgresql, tmp_path, monkeypatch
):
    monkeypatch.setattr("tasks.tracking.LOCK_TIMEOUT_SECONDS", 0.2)
    shared = MlflowSettings(tracking_uri="http://127.0.0.1:1")
    catalog = postgresql.new_database()
    first, second = (
        Registry(WarehouseSettings(path=tmp_path / name, catalog=catalog, data="s3://a"), shared)
        for name in ("a", "b")
    )
    result = []

    def hold():
        try:
            with second.locked():
                result.append("held")
        except BusyError as error:
            result.append(str(error))

    for expected in ("another process has held the registry lock", "held"):
        thread = threading.Thread(target=hold)
        if expected == "held":
            thread.start()
        else:
            with first.locked(), first.locked():
                thread.start()
                thread.join()
        thread.join()
        assert result.pop().startswith(expected)


@pytest.mark.parametrize("password", [PLANTED, f"{PLANTED}/{PLANTED}@{PLANTED}", f"%4{PLANTED}#"])
def test_password_of_a_database_is_in_no_text(tmp_path, caplog, capfd, password):
    address = f"postgresql://user:{password}@127.0.0.1:1/{PLANTED}"
    shared = MlflowSettings(tracking_uri=address, artifacts=str(tmp_path))
    registry = Registry(WarehouseSettings(path=tmp_path), shared)
    with caplog.at_level(logging.DEBUG), pytest.raises(WarehouseError) as caught:
        registry.versions()
    said = "".join(traceback.format_exception(caught.value))
    assert "must answer, and did not" in said
    told = [said, str(caught.value), repr(registry), repr(shared), str(registry), caplog.text]
    assert PLANTED not in "".join([*told, *capfd.readouterr()])


def test_server_with_a_password_in_its_address_is_refused():
    for address in ("http://user:p@host", "http://user:p/q@host"):
        with pytest.raises(ValueError, match="must not hold a user or password"):
            MlflowSettings(tracking_uri=address)


def test_folder_of_models_that_means_another_on_each_machine_is_refused():
    with pytest.raises(ValueError, match="artifacts must be an absolute path or an address"):
        MlflowSettings(tracking_uri="http://host", artifacts="models")


def test_server_that_is_away_is_said_and_waited_for(tmp_path, monkeypatch, caplog):
    """A training outlasts a server that starts again, without training twice."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("tasks.steps.STORE_PAUSES", (1.0,) * 90)
    frame = simulate()
    make_lake(tmp_path / "a", frame, labels_of(frame)).close()
    with mlflow_service.running_mlflow(tmp_path / "server") as server:
        server.stop()
        registry = registry_at(tmp_path / "a", server.url)
        with pytest.raises(BusyError, match=rf"{server.url}, .* must answer, and did not") as away:
            registry.champion()
        state = asyncio.run(exception_to_failed_state(away.value))
        assert may_pass(train_as_of, None, state) is True

        def start_when_missed():
            while "trying again in 1 s" not in caplog.text:
                time.sleep(0.1)
            server.start()

        starting = threading.Thread(target=start_when_missed, daemon=True)
        starting.start()
        shared = MlflowSettings(tracking_uri=server.url)
        context = make_context(tmp_path / "a", device="cpu", mlflow=shared)
        with context.closing():
            trained = train_as_of.fn(context, AS_OF, aliased=True)
            assert (trained.version, trained.alias) == ("1", "champion")
            noted = day_states(context.lake(), AS_OF, AS_OF)[AS_OF, "train"]
            assert (noted.status, noted.model_version) == ("done", "1")
        starting.join()
        assert [model.version for model in registry.versions()] == ["1"]
