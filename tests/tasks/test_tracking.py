"""The registry: what is registered comes back, without pickle, also after the folder moved."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import date

import mlflow
import pandas as pd
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from tasks.tracking import MODEL_NAME, Bundle, Registry, TrainingRecord, score_frame
from tests.tasks.test_fit import AS_OF, small_bundle, small_frame
from warehouse.connection import WarehouseSettings
from warehouse.errors import ModelMissingError

BUNDLE = "model/artifacts/bundle"


def record(as_of=AS_OF, **tags):
    return TrainingRecord(as_of, {"seed": 0}, {"rows": 9.0}, {"loss": [2.0, 1.0]}, tags)


@pytest.fixture(scope="module")
def features():
    return small_frame().drop("is_fraud")


@pytest.fixture(scope="module")
def bundle():
    return small_bundle("category", "amount", "amount_to_account_median_30d")


@pytest.fixture(scope="module")
def settings(bundle, features, tmp_path_factory):
    """A warehouse with one registered model, the champion."""
    found = WarehouseSettings(path=tmp_path_factory.mktemp("registry") / "ware house")
    registry = Registry(found)
    registry.set_alias(registry.register(bundle, record(note="first"), features), "champion")
    return found


@pytest.fixture
def copied(settings, tmp_path):
    """A copy of it elsewhere, the original being out of reach."""
    shutil.copytree(settings.path, tmp_path / "moved")
    away = settings.path.with_name("away")
    settings.path.rename(away)
    yield Registry(WarehouseSettings(path=tmp_path / "moved"))
    assert not settings.path.exists()  # nothing is written where the folder was
    away.rename(settings.path)


def test_registered_model_comes_back_with_equal_scores(settings, bundle, features):
    registry = Registry(settings)
    model = registry.champion()
    assert (model.version, model.as_of, model.aliases) == ("1", AS_OF, ("champion",))
    assert re.fullmatch("[0-9a-f]{64}", model.tags["bundle_digest"])
    tags = {"as_of": AS_OF.isoformat(), "note": "first"}
    assert {k: v for k, v in model.tags.items() if k != "bundle_digest"} == tags
    assert registry.version("1") == model == registry.find("champion")
    loaded = registry.load(model)
    assert score_frame(loaded, features).equals(score_frame(bundle, features))
    assert (loaded.usual, loaded.encoding) == (bundle.usual, bundle.encoding)
    assert loaded.ensemble.threshold == bundle.ensemble.threshold


def test_bundle_keeps_what_its_threshold_was_chosen_for(bundle, tmp_path):
    policy = "false_positives 5.0 a day"
    replace(bundle, policy=policy).save(tmp_path)
    assert Bundle.load(tmp_path).policy == policy
    file = tmp_path / "encoding.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"policy": ""}))
    assert Bundle.load(tmp_path).policy == ""
    content = json.loads(file.read_text())
    del content["policy"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no whole model .*'policy'; train again"):
        Bundle.load(tmp_path)


def test_run_holds_parameters_figures_and_curves(settings):
    registry = Registry(settings)
    run = registry.client.get_run(registry.champion().run_id)
    assert (run.data.params, run.data.metrics["rows"]) == ({"seed": "0"}, 9.0)
    curve = registry.client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(0, 2.0), (1, 1.0)]
    assert run.info.status == "FINISHED"


def test_model_loads_with_mlflow_alone(settings, bundle, features):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(Registry(settings).uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}@champion")
    finally:
        mlflow.set_tracking_uri(before)
    some = pl.Series([None, "space travel"] + ["x"] * (features.height - 2))
    for frame in (features, features.with_columns(category=some)):
        found = model.predict(frame.select(bundle.encoding.feature_names).to_pandas())
        pd.testing.assert_frame_equal(found, score_frame(bundle, frame).to_pandas())


def test_nothing_is_pickled(settings):
    files = [file for file in settings.path.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"ensemble.safetensors", "ensemble.json", "encoding.json", "MLmodel"} <= names
    assert not [file for file in files if file.suffix in (".pkl", ".pickle", ".joblib", ".pt")]
    (described,) = (file for file in files if file.name == "MLmodel")
    text = described.read_text()
    assert "loader_module: mlflow.pyfunc.loaders.code_model" in text
    assert "python_model:" not in text  # where MLflow names a pickled model
    heads = [file.read_bytes()[:2] for file in files]
    assert not [head for head in heads if head[:1] == b"\x80"]  # how a pickle begins


def test_moved_folder_still_loads(copied, bundle, features):
    loaded = copied.load(copied.champion())
    assert score_frame(loaded, features).equals(score_frame(bundle, features))


@pytest.mark.parametrize("kind", ["missing", "cut off", "changed"])
@pytest.mark.parametrize(
    "name", ["encoding.json", "ensemble/ensemble.json", "ensemble/ensemble.safetensors"]
)
def test_damaged_file_is_refused(bundle, tmp_path, name, kind):
    bundle.save(tmp_path)
    file = tmp_path / name
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "cut off":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(b"[1]" + content[3:] if name == "encoding.json" else b"{}" + content[2:])
    with pytest.raises(ValueError, match=str(tmp_path)):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"vocabularies": {"a": 1}, "feature_names": []}, 5])
def test_encoding_of_another_shape_is_refused(bundle, tmp_path, content):
    bundle.save(tmp_path)
    (tmp_path / "encoding.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"holds no whole model .*train again"):
        Bundle.load(tmp_path)


def test_encoding_of_another_model_is_refused(bundle, tmp_path):
    bundle.save(tmp_path)
    file = tmp_path / "encoding.json"
    content = json.loads(file.read_text())
    content["feature_names"].reverse()
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"holds no whole model .*train again"):
        Bundle.load(tmp_path)


def test_model_whose_files_are_gone_is_refused(copied):
    model = copied.champion()
    (folder,) = copied._artifacts.rglob("bundle")
    shutil.rmtree(folder)
    with pytest.raises(ModelMissingError, match="version 1 cannot be loaded: "):
        copied.load(model)


def test_damaged_model_is_the_users_to_mend(copied):
    (file,) = copied._artifacts.rglob("ensemble.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelMissingError, match="version 1 cannot be loaded: "):
        copied.load(copied.champion())


def test_files_that_are_whole_but_not_those_registered_are_refused(copied, bundle, features):
    model = copied.champion()
    (file,) = copied._artifacts.rglob("bundle/encoding.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"policy": "another"}))
    with pytest.raises(ModelMissingError, match=r"must hold files of digest .*; restore them"):
        copied.load(model)
    copied.client.delete_model_version_tag(MODEL_NAME, "1", "bundle_digest")
    loaded = copied.load(copied.champion())  # versions of the first release have no such tag
    assert score_frame(loaded, features).equals(score_frame(bundle, features))


def test_no_model_is_said(tmp_path):
    registry = Registry(WarehouseSettings(path=tmp_path))
    assert registry.versions() == []
    assert registry.find("champion") is None
    with pytest.raises(ModelMissingError, match="no model yet: run nightwarden train"):
        registry.champion()
    with pytest.raises(ModelMissingError, match="version 7 is not registered"):
        registry.version("7")


def test_versions_are_listed_newest_first_and_aliases_move(copied, features):
    gaussian = small_bundle("category", "amount", "amount_to_account_median_30d")
    second = copied.register(gaussian, record(date(2026, 3, 1)), features)
    copied.set_alias(second, "challenger")
    assert [m.version for m in copied.versions()] == ["2", "1"]
    assert copied.champion().version == "1"
    copied.set_alias(second, "champion")
    newest = copied.champion()
    assert (newest.version, newest.aliases) == ("2", ("challenger", "champion"))
    assert copied.version("1").aliases == ()
    assert score_frame(copied.load(newest), features).equals(score_frame(gaussian, features))


@pytest.mark.parametrize("table", ["metrics", "model_versions"])
def test_run_of_a_model_that_could_not_be_registered_has_failed(copied, bundle, features, table):
    known = [version.run_id for version in copied.versions()]
    with closing(sqlite3.connect(copied.uri.removeprefix("sqlite:///"))) as store:
        refuse = "BEGIN SELECT RAISE(ABORT, 'no'); END"
        store.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} {refuse}")
    with pytest.raises(MlflowException):
        copied.register(bundle, record(date(2026, 3, 1)), features)
    runs = copied.client.search_runs([copied.experiment()], max_results=9)
    states = {run.info.status for run in runs if run.info.run_id not in known}
    assert states == {"FAILED"}
    assert [version.run_id for version in copied.versions()] == known


def test_score_columns_are_numbers_in_row_order(bundle, features):
    scores = score_frame(bundle, features)
    assert scores.columns == ["score", "member.autoencoder", "member.gaussian"]
    assert set(scores.dtypes) == {pl.Float64}
    assert score_frame(bundle, features.reverse()).equals(scores.reverse())
    assert score_frame(bundle, features.clear()).height == 0
