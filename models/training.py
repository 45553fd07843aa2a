"""The epoch loop: tensors resident on the device, early stopping, explicit randomness."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.detector import FitReport, OnEpoch, Rows

Step = Callable[[Tensor], Tensor]
"""Takes one batch (rows, features), updates the weights, returns the detached scalar loss."""

VALIDATION_ROWS = 65_536  # rows per validation chunk: bounds memory, not the result


class TrainingDivergedError(RuntimeError):
    """The loss stopped being finite."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast a network is trained; every network config extends this one.

    Args:
        epochs: Most epochs, if that gives at least ``min_steps`` updates.
        min_steps: Small data get more epochs until this many updates are reached.
        batch_rows: Rows per update.
        max_rows: Training rows drawn at random beyond this number are left out.
        learning_rate: Peak of the one-cycle schedule (Smith & Topin 2019).
        weight_decay: Decoupled weight decay of AdamW (Loshchilov & Hutter 2019).
        gradient_clip: Largest gradient norm of one update.
        patience: Stop after this many epochs without a better validation loss.
    """

    epochs: int = 8
    min_steps: int = 1500
    batch_rows: int = 1024
    max_rows: int = 150_000
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    gradient_clip: float = 5.0
    patience: int = 8

    def __post_init__(self) -> None:
        """Refuse values that cannot train anything.

        Raises:
            ValueError: if a count or rate is not positive.
        """
        for name in ("epochs", "min_steps", "batch_rows", "max_rows", "learning_rate", "patience"):
            if getattr(self, name) <= 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """Give a generator of its own, so that nothing touches torch's global one."""
    return torch.Generator(device=device).manual_seed(seed)


def plan_epochs(n_rows: int, config: TrainingConfig) -> tuple[int, int]:
    """Give (epochs, batches an epoch); the last, incomplete batch of an epoch is left out.

    Example:
        >>> plan_epochs(1_000_000, TrainingConfig(epochs=3, batch_rows=1000))
        (3, 1000)
        >>> plan_epochs(500, TrainingConfig(epochs=3, batch_rows=1000, min_steps=60))
        (8, 8)
    """
    batch_rows = batch_size(n_rows, config)
    batches = max(1, n_rows // batch_rows)
    return max(config.epochs, math.ceil(config.min_steps / batches)), batches


def batch_size(n_rows: int, config: TrainingConfig) -> int:
    """Give the rows per update: small data are cut into eight batches of at least 32 rows."""
    return min(config.batch_rows, max(32, n_rows // 8), n_rows)


def make_adam_step(
    network: nn.Module, loss: Callable[[Tensor], Tensor], config: TrainingConfig, n_rows: int
) -> Step:
    """Make the usual step: one AdamW update on the mean loss, one-cycle learning rate.

    Args:
        network: Its parameters are trained.
        loss: Maps a batch (rows, features) to a scalar.
        config: Rates and clip.
        n_rows: Training rows, which fix the length of the schedule.
    """
    epochs, batches = plan_epochs(n_rows, config)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=epochs * batches + 1
    )

    def step(batch: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()
        schedule.step()
        return value.detach()

    return step


def mean_over_rows(row_losses: Callable[[Tensor], Tensor], x: Rows) -> float:
    """Average a per-row loss without holding all activations at once.

    Shape:
        x: (rows, features). row_losses: (rows, features) -> (rows,).
    """
    with torch.no_grad():
        total = math.fsum(
            float(row_losses(x[start : start + VALIDATION_ROWS]).sum())
            for start in range(0, x.shape[0], VALIDATION_ROWS)
        )
    return total / x.shape[0]


def train_epochs(
    network: nn.Module,
    step: Step,
    validation_loss: Callable[[], float],
    x: Rows,
    config: TrainingConfig,
    generator: torch.Generator,
    on_epoch: OnEpoch | None = None,
) -> FitReport:
    """Run epochs until done or no better for ``patience`` epochs; keep the best epoch's weights.

    Shape:
        x: (rows, features), float32, on the network's device.

    Raises:
        TrainingDivergedError: if a loss is not finite.
    """
    epochs, _ = plan_epochs(x.shape[0], config)
    train_losses: list[float] = []
    validation_losses: list[float] = []
    best_epoch, best_state = 0, copy_state(network)
    for epoch in range(1, epochs + 1):
        network.train()
        train_losses.append(run_one_epoch(step, x, batch_size(x.shape[0], config), generator))
        network.eval()
        validation_losses.append(validation_loss())
        check_finite(epoch, train_losses[-1], validation_losses[-1])
        if on_epoch is not None:
            on_epoch(epoch, train_losses[-1], validation_losses[-1])
        if best_epoch == 0 or validation_losses[-1] < validation_losses[best_epoch - 1]:
            best_epoch, best_state = epoch, copy_state(network)
        elif epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(best_state)
    return FitReport(len(train_losses), tuple(train_losses), tuple(validation_losses), best_epoch)


def train_with_adam(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    validation_loss: Callable[[], float],
    x: Rows,
    config: TrainingConfig,
    generator: torch.Generator,
    on_epoch: OnEpoch | None = None,
) -> FitReport:
    """Run epochs of the usual step on one loss; see ``make_adam_step`` and ``train_epochs``.

    Shape:
        x: (rows, features), float32, on the network's device. loss: (batch, features) -> ().

    Raises:
        TrainingDivergedError: if a loss is not finite.
    """
    step = make_adam_step(network, loss, config, x.shape[0])
    return train_epochs(network, step, validation_loss, x, config, generator, on_epoch)


def run_one_epoch(step: Step, x: Rows, batch_rows: int, generator: torch.Generator) -> float:
    """Visit the rows once in random order; give the mean loss."""
    order = torch.randperm(x.shape[0], generator=generator, device=x.device)
    n_batches = max(1, x.shape[0] // batch_rows)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for index in range(n_batches):
        total += step(x[order[index * batch_rows : (index + 1) * batch_rows]])
    return float(total) / n_batches  # one transfer an epoch, not one a batch


def check_finite(epoch: int, train_loss: float, validation_loss: float) -> None:
    """Stop a training that cannot recover.

    Raises:
        TrainingDivergedError: if either loss is NaN or infinite.
    """
    if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
        raise TrainingDivergedError(
            f"expected finite losses, got {train_loss} (training) and {validation_loss} "
            f"(validation) in epoch {epoch}; lower learning_rate"
        )


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    """Copy every tensor of the network, so that later updates do not reach the copy."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
