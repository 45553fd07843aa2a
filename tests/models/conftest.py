"""A small normal population of transactions, anomalies planted in it, and a fitted ensemble."""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from models.ensemble import Ensemble, window_of
from models.ensemble_fit import EnsembleConfig, FitReports, TrainingRows, fit_ensemble
from models.history import History
from models.registry import REGISTRY
from models.training import TrainingConfig

FEATURES = (
    "amount_ratio",
    "amount_log",
    "count_1_day",
    "gap_log_seconds",
    "hour_sin",
    "hour_cos",
    "is_new_merchant",
    "merchant_risk",
)
HISTORY_CHANNELS = ("amount_log", "gap_log_seconds")
SHORT_WINDOW = {"window": 4, "channels": len(HISTORY_CHANNELS)}
FAST = {"epochs": 4, "min_steps": 250, "batch_rows": 512, "learning_rate": 1e-2}
DIM = 6


def make_normal_rows(n_rows: int, seed: int) -> Tensor:
    """Rows of an imaginary bank: amounts, counts and gaps hang together; nights are quiet."""
    g = torch.Generator().manual_seed(seed)
    habit = torch.randn(n_rows, generator=g)
    ratio = 0.5 * torch.randn(n_rows, generator=g)
    activity = torch.randn(n_rows, generator=g)
    hour = (14 + 3 * torch.randn(n_rows, generator=g)) * (torch.pi / 12)
    is_new = (torch.rand(n_rows, generator=g) < 0.05).float()
    risk = 0.05 * torch.rand(n_rows, generator=g) * (torch.rand(n_rows, generator=g) < 0.2)
    noise = 0.2 * torch.randn(3, n_rows, generator=g)
    columns = [
        ratio,
        0.8 * habit + ratio + noise[0],
        2 + activity + noise[1],
        8 - activity + noise[2],
        hour.sin(),
        hour.cos(),
        is_new,
        risk,
    ]
    return torch.stack(columns, dim=1)


def plant_amount_spike(x: Tensor) -> Tensor:
    """Eight times the usual amount."""
    x[:, 0] += 4.0
    x[:, 1] += 4.0
    return x


def plant_burst(x: Tensor) -> Tensor:
    """Many transactions, seconds apart."""
    x[:, 2] += 6.0
    x[:, 3] -= 6.0
    return x


def plant_new_merchant_at_night(x: Tensor) -> Tensor:
    """A merchant never seen, at three in the morning."""
    x[:, 4], x[:, 5], x[:, 6] = 0.707, 0.707, 1.0
    return x


def plant_correlation_break(x: Tensor) -> Tensor:
    """Many transactions a day and yet long gaps: each value is ordinary, the pair is not."""
    x[:, 2], x[:, 3] = 3.5, 9.5
    return x


ANOMALIES = {
    "amount_spike": plant_amount_spike,
    "burst": plant_burst,
    "new_merchant_at_night": plant_new_merchant_at_night,
    "correlation_break": plant_correlation_break,
}


def make_config(name: str) -> object:
    config_class = REGISTRY[name].config
    settings = FAST if issubclass(config_class, TrainingConfig) else {}
    return config_class(**settings, **(SHORT_WINDOW if window_of(config_class()) else {}))


def make_equal_weights(members: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(members, 1.0)


def make_history(n_rows: int, seed: int) -> History:
    """Spans of a table of ordinary events; every third row has none."""
    g = torch.Generator().manual_seed(seed)
    events = torch.randn(n_rows, len(HISTORY_CHANNELS), generator=g)
    end = torch.randint(0, n_rows + 1, (n_rows,), generator=g)
    count = torch.minimum(end, torch.randint(1, 9, (n_rows,), generator=g))
    count[::3] = 0
    return History(events, end, count)


def make_training_rows(n_rows: int, seed: int) -> TrainingRows:
    return TrainingRows(make_normal_rows(n_rows, seed), make_history(n_rows, seed))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny networks on one thread.

    On a busy machine, threads that wait for each other cost a hundred times the work itself
    (measured: 60 s instead of 0.4 s a fit).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_config() -> EnsembleConfig:
    return EnsembleConfig(
        members={name: make_config(name) for name in REGISTRY},
        weights=make_equal_weights(REGISTRY),
        history_channels=HISTORY_CHANNELS,
    )


@pytest.fixture(scope="session")
def fitted(small_config: EnsembleConfig) -> tuple[Ensemble, FitReports]:
    return fit_ensemble(
        make_training_rows(4000, 1), make_training_rows(2000, 2), FEATURES, small_config, seed=0
    )


@pytest.fixture(scope="session")
def ensemble(fitted: tuple[Ensemble, FitReports]) -> Ensemble:
    return fitted[0]
