import json

import pytest
import torch

from models.persistence import DESCRIPTION_FILE, TENSOR_FILE, load_ensemble, save_ensemble
from tests.models.conftest import FEATURES, make_normal_rows


@pytest.fixture
def saved(ensemble, tmp_path):
    save_ensemble(ensemble, tmp_path / "model")
    return tmp_path / "model"


def change(saved, **values):
    path = saved / DESCRIPTION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_loaded_ensemble_scores_the_same(ensemble, saved):
    loaded = load_ensemble(saved)
    x = make_normal_rows(500, 5)
    assert torch.equal(loaded.member_scores(x), ensemble.member_scores(x))
    assert torch.equal(loaded.score(x), ensemble.score(x))
    assert loaded.feature_names == FEATURES
    assert loaded.weights == ensemble.weights
    assert [m.config for m in loaded.members.values()] == [
        m.config for m in ensemble.members.values()
    ]


def test_threshold_is_kept(ensemble, saved):
    assert load_ensemble(saved).threshold is None
    try:
        ensemble.threshold = 2.5
        save_ensemble(ensemble, saved)
    finally:
        ensemble.threshold = None
    assert load_ensemble(saved).threshold == 2.5


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    save_ensemble(load_ensemble(saved), tmp_path / "again")
    for name in (DESCRIPTION_FILE, TENSOR_FILE):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(p.name for p in saved.iterdir()) == [DESCRIPTION_FILE, TENSOR_FILE]


def test_description_is_sorted_and_versioned(saved):
    text = (saved / DESCRIPTION_FILE).read_text()
    description = json.loads(text)
    assert description["format_version"] == 3
    assert text == json.dumps(description, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", [DESCRIPTION_FILE, TENSOR_FILE])
def test_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}, found no such file"):
        load_ensemble(saved)


@pytest.mark.parametrize("name", [DESCRIPTION_FILE, TENSOR_FILE])
def test_truncated_file_is_refused(saved, name):
    path = saved / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        load_ensemble(saved)


def test_another_format_version_is_refused(saved):
    change(saved, format_version=99)
    with pytest.raises(ValueError, match=r"expected format_version 3 in .*, got 99"):
        load_ensemble(saved)


@pytest.mark.parametrize(
    "values",
    [
        {"members": {"vae": {}}},
        {"preprocessor": {"unknown": 1}},
        {"history_scaler": {"config": {}}},
    ],
    ids=["member", "setting", "scaler"],
)
def test_description_that_does_not_fit_is_refused(saved, values):
    change(saved, **values)
    with pytest.raises(ValueError, match="expected a whole ensemble"):
        load_ensemble(saved)


def test_nothing_is_pickled(saved):
    assert b"pickle" not in (saved / TENSOR_FILE).read_bytes()
    assert (saved / TENSOR_FILE).read_bytes()[:1] != b"\x80"
