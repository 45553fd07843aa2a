import math

import pytest
import torch
from torch import nn

from models.mlp import build_mlp, initialise_weights
from models.training import (
    TrainingConfig,
    TrainingDivergedError,
    batch_size,
    make_adam_step,
    make_generator,
    mean_over_rows,
    plan_epochs,
    train_epochs,
)

CPU = torch.device("cpu")


def run(losses, config=None):
    """Train on scripted validation losses; the one weight counts the epochs."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    script = iter(losses)

    def step(batch):
        with torch.no_grad():
            network.weight += 1 / 8  # 8 batches an epoch
        return batch.sum() * 0

    config = config or TrainingConfig(epochs=len(losses), min_steps=1, patience=2)
    x = torch.zeros(256, 1)
    generator = make_generator(0, CPU)
    report = train_epochs(network, step, lambda: next(script), x, config, generator)
    return report, float(network.weight.detach())


def test_weights_of_the_best_epoch_are_kept():
    report, weight = run([3.0, 1.0, 2.0])
    assert (report.epochs, report.best_epoch, weight) == (3, 2, 2.0)
    assert report.validation_losses == (3.0, 1.0, 2.0)


def test_training_stops_when_patience_is_over():
    report, weight = run([3.0, 1.0, 2.0, 2.0, 0.0])
    assert (report.epochs, report.best_epoch, weight) == (4, 2, 2.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_training(loss):
    with pytest.raises(TrainingDivergedError, match="in epoch 2; lower learning_rate"):
        run([1.0, loss])


def test_every_row_is_visited_once_an_epoch():
    seen = []
    network = nn.Linear(1, 1)

    def step(batch):
        seen.append(batch)
        return batch.sum() * 0

    config = TrainingConfig(epochs=1, min_steps=1, batch_rows=64)
    x = torch.arange(512.0).unsqueeze(1)
    train_epochs(network, step, lambda: 0.0, x, config, make_generator(0, CPU))
    visited = torch.cat(seen).flatten()
    assert not torch.equal(visited, x.flatten())
    assert torch.equal(visited.sort().values, x.flatten())


@pytest.mark.parametrize(
    ("n_rows", "expected"), [(2, 2), (100, 32), (1000, 125), (1_000_000, 1024)]
)
def test_batches_fit_the_data(n_rows, expected):
    assert batch_size(n_rows, TrainingConfig()) == expected


def test_small_data_get_more_epochs():
    assert plan_epochs(256, TrainingConfig(epochs=2, min_steps=80)) == (10, 8)


def test_adam_step_lowers_the_loss():
    network = build_mlp([2, 8, 1])
    initialise_weights(network, make_generator(0, CPU))
    x = torch.randn(256, 2, generator=make_generator(1, CPU))

    def loss(part):
        return (network(part).squeeze(1) - part.sum(dim=1)).square().mean()

    config = TrainingConfig(epochs=20, min_steps=1, learning_rate=1e-2)
    step = make_adam_step(network, loss, config, 256)
    report = train_epochs(
        network, step, lambda: float(loss(x).detach()), x, config, make_generator(0, CPU)
    )
    assert report.validation_losses[-1] < 0.2 * report.validation_losses[0]


def test_mean_over_rows_is_the_mean():
    x = torch.arange(10.0).unsqueeze(1)
    assert mean_over_rows(lambda part: part[:, 0], x) == 4.5


@pytest.mark.parametrize("name", ["epochs", "batch_rows", "learning_rate", "patience"])
def test_config_without_meaning_is_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} > 0, got 0"):
        TrainingConfig(**{name: 0})
