import pytest
import torch

from models.gan import GAN, GANConfig, build_network
from models.metrics import roc_auc
from models.mlp import initialise_weights
from models.training import copy_state, make_generator
from tests.models.conftest import ANOMALIES, FEATURES, make_normal_rows

FAST = {"epochs": 4, "min_steps": 250, "learning_rate": 1e-2}


def standardised(x):
    reference = make_normal_rows(3000, 1)
    return (x - reference.mean(dim=0)) / reference.std(dim=0)


def two_clusters(n_rows):
    g = torch.Generator().manual_seed(0)
    x = 0.2 * torch.randn(n_rows, 2, generator=g)
    x[:, 0] += torch.where(torch.rand(n_rows, generator=g) < 0.5, -1.5, 1.5)
    return x


def generate(detector, n_rows):
    latents = torch.randn(n_rows, detector.latent, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return detector.generator(latents.double())


@pytest.fixture(scope="module")
def detector():
    detector = GAN(GANConfig(**FAST), len(FEATURES))
    detector.fit(
        standardised(make_normal_rows(3000, 1)), standardised(make_normal_rows(1000, 2)), seed=0
    )
    return detector


def critic_distance(detector, x):
    with torch.no_grad():
        unit_error = detector.compare(x.double())[1]
    return (unit_error / detector.unit_scale).square().mean(dim=1)


def train_on_real_rows_alone():
    discriminator = build_network([len(FEATURES), 64, 1])
    initialise_weights(discriminator, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-2)
    rows = standardised(make_normal_rows(500, 1))
    for _ in range(500):
        optimizer.zero_grad()
        torch.nn.functional.softplus(-discriminator(rows)).mean().backward()  # all are real
        optimizer.step()
    return lambda x: discriminator(x).detach().sigmoid()[:, 0]


def test_critic_knows_anomalies_but_a_discriminator_of_real_rows_alone_does_not(detector):
    probability_real = train_on_real_rows_alone()
    normal, labels = make_normal_rows(1000, 7), [0] * 1000 + [1] * 200
    for kind, plant in ANOMALIES.items():
        x = standardised(torch.cat([normal, plant(make_normal_rows(200, 8))]))
        assert roc_auc(critic_distance(detector, x), labels) > 0.85, kind
        assert roc_auc(detector.score(x), labels) > 0.95, kind
        naive = probability_real(x).round(decimals=3)
        assert naive.min() > 0.99, kind
        assert roc_auc(-naive, labels) == pytest.approx(0.5, abs=0.1), kind


def test_critic_step_and_players_step_each_change_their_own_networks_only():
    detector = GAN(GANConfig(**FAST), 5)
    generator = make_generator(0, torch.device("cpu"))
    initialise_weights(detector, generator)
    steps = detector.make_steps(1000, generator)
    batch = torch.randn(64, 5, generator=generator)
    for step, changing in zip(steps, [{"critic"}, {"encoder", "generator"}], strict=True):
        before = copy_state(detector)
        step(batch)
        changed = {
            name.split(".")[0]
            for name, tensor in detector.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
        assert changed == changing
        assert all(parameter.grad is None for parameter in detector.parameters())


def test_generated_rows_have_the_means_and_deviations_of_the_data(detector):
    made = generate(detector, 4000)
    deviations = made.std(dim=0)
    assert made.mean(dim=0).abs().max() < 0.35
    # two sparse columns, 19 of 20 and 4 of 5 values alike, are the hard ones
    assert (deviations[:6] - 1).abs().max() < 0.35
    assert 0.25 < deviations[6:].min() <= deviations[6:].max() < 2.0


def test_both_of_two_clusters_are_generated():
    detector = GAN(GANConfig(**FAST, batch_rows=256, latent_share=1.0), 2)
    detector.fit(two_clusters(2000), two_clusters(300), seed=0)
    made = generate(detector, 4000)[:, 0]
    for share in ((made > 0.9).double().mean(), (made < -0.9).double().mean()):
        assert float(share) > 0.2


def test_held_out_rows_score_one_on_average_without_floor():
    g = torch.Generator().manual_seed(0)
    x, held_out = torch.randn(1000, 5, generator=g), torch.randn(400, 5, generator=g)
    detector = GAN(GANConfig(epochs=1, min_steps=50, error_floor=1e-6), 5)
    detector.fit(x, held_out, seed=0)
    assert float(detector.score(held_out).mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", ["latent_share", "gradient_penalty", "error_floor"])
def test_config_without_meaning_is_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} > 0, got 0"):
        GANConfig(**{name: 0.0})
