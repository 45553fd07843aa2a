import pytest
import torch

from models.autoencoder import Autoencoder, AutoencoderConfig

FAST = {"epochs": 3, "min_steps": 200, "learning_rate": 1e-2}


def test_bottleneck_is_a_share_of_the_features():
    detector = Autoencoder(AutoencoderConfig(bottleneck_share=0.45, hidden_features=(16,)), 9)
    assert detector.encoder(torch.zeros(2, 9)).shape == (2, 4)
    assert detector.reconstruct(torch.zeros(2, 9)).shape == (2, 9)


def test_held_out_rows_score_one_on_average_without_floor():
    g = torch.Generator().manual_seed(0)
    x, held_out = torch.randn(1000, 5, generator=g), torch.randn(400, 5, generator=g)
    detector = Autoencoder(AutoencoderConfig(**FAST, error_floor=1e-6), 5)
    detector.fit(x, held_out, seed=0)
    assert float(detector.score(held_out).mean()) == pytest.approx(1.0, rel=1e-5)


def test_error_floor_keeps_an_easy_feature_from_ruling():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 4, generator=g)
    x[:, 3] = 0.0
    detector = Autoencoder(AutoencoderConfig(**FAST, error_floor=0.5), 4)
    detector.fit(x, x[:200], seed=0)
    assert float(detector.error_scale[3]) == 0.5


@pytest.mark.parametrize(
    "values", [{"bottleneck_share": 1.0}, {"bottleneck_share": 0.0}, {"error_floor": 0.0}]
)
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected 0 < bottleneck_share < 1"):
        AutoencoderConfig(**values)
