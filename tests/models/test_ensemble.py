import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.autoencoder import AutoencoderConfig
from models.calibration import Calibration
from models.ensemble import Ensemble
from models.ensemble_fit import EnsembleConfig, TrainingRows, fit_ensemble
from models.gaussian import GaussianConfig
from models.metrics import roc_auc
from models.registry import REGISTRY, get_entry
from tests.models.conftest import ANOMALIES, FEATURES, make_normal_rows, make_training_rows

GAUSSIAN_ONLY = EnsembleConfig(members={"gaussian": GaussianConfig()})


def test_score_is_the_weighted_mean_of_the_members(ensemble):
    x = make_normal_rows(100, 5)
    members = ensemble.member_scores(x)
    assert members.shape == (100, len(REGISTRY))
    weights = torch.tensor([ensemble.weights[name] for name in ensemble.member_names])
    expected = (members * weights).sum(dim=1) / weights.sum()
    torch.testing.assert_close(ensemble.score(x), expected)


def test_one_normal_row_in_ten_has_a_surprise_of_one(ensemble):
    share = (ensemble.member_scores(make_normal_rows(20_000, 6)) >= 1).double().mean(dim=0)
    assert share.tolist() == pytest.approx([0.1] * len(REGISTRY), abs=0.03)


@pytest.mark.parametrize("kind", sorted(ANOMALIES))
def test_planted_anomalies_score_higher(ensemble, kind):
    odd = ANOMALIES[kind](make_normal_rows(200, 8))
    scores = ensemble.score(torch.cat([make_normal_rows(1000, 7), odd]))
    assert roc_auc(scores, [0] * 1000 + [1] * 200) >= 0.95


@settings(max_examples=25, deadline=None)
@given(n_rows=st.integers(0, 300), seed=st.integers(0, 2**31))
def test_score_depends_on_the_row_alone(ensemble, n_rows, seed):
    x = make_normal_rows(300, 9)
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(seed))[:n_rows]
    assert torch.equal(ensemble.score(x[chosen]), ensemble.score(x)[chosen])


def test_input_is_left_as_it_is(ensemble):
    x = make_normal_rows(30, 9)
    before = x.clone()
    ensemble.score(x)
    assert torch.equal(x, before)


def test_other_columns_are_refused_by_name(ensemble):
    with pytest.raises(ValueError, match=r"expected 8 features as at fit, got 7; missing: \['m"):
        ensemble.score(torch.zeros(2, 7), FEATURES[:7])


def test_same_seed_gives_equal_scores(small_config, fitted):
    again, reports = fit_ensemble(
        make_training_rows(4000, 1), make_training_rows(2000, 2), FEATURES, small_config, seed=0
    )
    x = make_normal_rows(50, 5)
    assert torch.equal(again.score(x), fitted[0].score(x))
    assert [reports[name].train_losses for name in reports] == [
        fitted[1][name].train_losses for name in fitted[1]
    ]


def test_member_does_not_depend_on_the_other_members(ensemble):
    alone, _ = fit_ensemble(
        make_training_rows(4000, 1), make_training_rows(2000, 2), FEATURES, GAUSSIAN_ONLY, seed=0
    )
    x = make_normal_rows(50, 5)
    column = ensemble.member_names.index("gaussian")
    assert torch.equal(alone.score(x), ensemble.member_scores(x)[:, column])


def test_missing_and_categorical_columns_go_all_the_way():
    def make(n_rows, seed):
        x = make_normal_rows(n_rows, seed)
        x[::7, 0] = math.nan
        code = torch.arange(n_rows).remainder(3).add(1).float().unsqueeze(1)
        return TrainingRows(torch.cat([x, code], dim=1))

    config = EnsembleConfig(members={"gaussian": GaussianConfig()}, cardinalities={"kind": 4})
    ensemble, _ = fit_ensemble(make(500, 1), make(300, 2), [*FEATURES, "kind"], config, seed=0)
    x = make(2, 3).x
    usual = ensemble.score(x)
    assert usual.isfinite().all()
    x[:, -1] = 0  # unknown
    assert (ensemble.score(x) > usual).all()


def test_member_that_fails_is_left_out_loudly(caplog):
    config = EnsembleConfig(
        members={
            "gaussian": GaussianConfig(),
            "autoencoder": AutoencoderConfig(learning_rate=1e30, epochs=2, min_steps=20),
        },
        weights={"gaussian": 1.0, "autoencoder": 1.0},
    )
    with caplog.at_level(logging.ERROR):
        ensemble, reports = fit_ensemble(
            make_training_rows(500, 1), make_training_rows(300, 2), FEATURES, config, seed=0
        )
    assert ensemble.member_names == ("gaussian",)
    assert set(reports) == {"gaussian"}
    assert reports.failures["autoencoder"].startswith("TrainingDivergedError: expected finite")
    assert "autoencoder failed to train" in caplog.text


def test_all_members_failing_raises():
    with pytest.raises(RuntimeError, match="at least one member to train"):
        fit_ensemble(
            make_training_rows(500, 1), make_training_rows(9, 2), FEATURES, GAUSSIAN_ONLY, seed=0
        )


def test_epochs_are_told_by_member():
    seen = []
    fit_ensemble(
        make_training_rows(500, 1),
        make_training_rows(300, 2),
        FEATURES,
        GAUSSIAN_ONLY,
        seed=0,
        fit_each=lambda fit, names: [
            fit(name, lambda *values: seen.append(values)) for name in names
        ],
    )
    assert [values[:2] for values in seen] == [("gaussian", 1)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": {}}, "at least one member"),
        ({"members": {"oracle": GaussianConfig()}}, "expected a detector among"),
        ({"members": {"vae": GaussianConfig()}}, "expected VAEConfig for member 'vae'"),
        ({"weights": {"gaussian": 1.0}}, "weight > 0 for member"),
        ({"calibration_share": 1.0, "history_channels": ("gap",)}, "0 < calibration_share < 1"),
        ({}, "expected history_channels, since member .recurrent. reads them"),
    ],
    ids=["none", "unknown", "wrong_config", "no_weight", "share", "no_channels"],
)
def test_config_without_meaning_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**values)


def test_parts_that_do_not_fit_together_are_refused(ensemble):
    parts = (ensemble.members, ensemble.calibrations, ensemble.weights)
    with pytest.raises(ValueError, match="expected a history_scaler"):
        Ensemble(ensemble.preprocessor, *parts)
    with pytest.raises(ValueError, match="of the same names"):
        Ensemble(ensemble.preprocessor, ensemble.members, {}, ensemble.weights)


def test_registry_names_its_detectors():
    assert get_entry("gaussian").config is GaussianConfig
    assert not isinstance(get_entry("gaussian").detector(GaussianConfig(), 3), Calibration)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_scores_as_the_cpu_does(small_config):
    rows = (make_training_rows(4000, 1), make_training_rows(2000, 2))
    ensemble, _ = fit_ensemble(*rows, FEATURES, small_config, seed=0, device="cuda")
    x = make_normal_rows(5000, 5)
    on_gpu = ensemble.score(x)
    torch.testing.assert_close(ensemble.to("cpu").score(x), on_gpu, rtol=1e-5, atol=1e-6)
