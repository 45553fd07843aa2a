import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models.vae import VAE, VAEConfig, kl_to_standard_normal

FAST = {"epochs": 3, "min_steps": 200, "learning_rate": 1e-2, "hidden_features": (16,)}


def fit_small(**values):
    g = torch.Generator().manual_seed(0)
    detector = VAE(VAEConfig(**FAST, **values), 5)
    detector.fit(torch.randn(800, 5, generator=g), torch.randn(200, 5, generator=g), seed=0)
    return detector


def test_kl_equals_the_closed_form_of_torch():
    g = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 20, 3, generator=g)
    reference = kl_divergence(
        Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(3), torch.ones(3))
    ).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), reference)


def test_score_is_the_mean_negative_elbo_over_the_fixed_draws():
    detector = fit_small(draws=4, beta=0.5)
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        each = torch.stack([detector.negative_elbo(x, noise) for noise in detector.noise])
    torch.testing.assert_close(detector.score(x), each.mean(dim=0).float())


def test_draws_come_in_pairs_of_opposite_sign():
    noise = fit_small(draws=6).noise
    assert torch.equal(noise[:3], -noise[3:])
    assert noise.abs().sum() > 0


def test_beta_weighs_the_kl_term():
    plain, heavy = fit_small(beta=1.0), fit_small(beta=20.0)
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        kl = [float(kl_to_standard_normal(*d.encode(x)).mean()) for d in (plain, heavy)]
    assert kl[1] < 0.5 * kl[0]


@pytest.mark.parametrize("values", [{"latent_share": 0.0}, {"beta": -1.0}, {"draws": 3}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        VAEConfig(**values)
