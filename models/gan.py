"""A bidirectional GAN: reconstruction error plus the critic's feature-matching distance."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import BaseDetector
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)
from models.mlp import initialise_weights, make_linear
from models.training import (
    Step,
    TrainingConfig,
    mean_over_rows,
    plan_epochs,
    train_epochs,
)

LATENT_BOUND = 3.0  # 99.7 % of a standard normal variable lies within
LEAK = 0.2  # of the leaky ReLU: a dead unit would hide a direction from the critic
ADAM_BETAS = (0.5, 0.99)
WARM_UP = 0.1  # share of the updates before the learning rate's peak
LEAST_UNIT_SHARE = 0.1  # least scale of a critic's unit, as a share of the mean scale
LEAST_UNIT_SCALE = 1e-6  # rows that are all alike are told apart by no unit at all


@dataclass(frozen=True)
class GANConfig(TrainingConfig):
    """Settings of :class:`GAN`.

    Args:
        hidden_features: Widths of the encoder's hidden layers; the generator mirrors them.
        critic_features: Widths of the critic's hidden layers; the last is the one compared.
        latent_share: Latent dimension as a share of the features (at least 1).
        gradient_penalty: Weight of the critic's squared gradient in its loss.
        adversarial_weight: Weight of the critic's verdict in generator's and encoder's loss, in
            which the cycle x -> z -> x has weight 1.
        latent_cycle_weight: Weight of the cycle z -> x -> z. Small: rare rows lie close together,
            so their latents cannot be told apart, and the generator would exaggerate them.
        error_floor: Least scale of a feature's error: one that is always reproduced exactly must
            not outweigh all others.
    """

    batch_rows: int = 512
    hidden_features: tuple[int, ...] = (64, 32)
    critic_features: tuple[int, ...] = (64, 32)
    latent_share: float = 0.45
    gradient_penalty: float = 0.1
    adversarial_weight: float = 1.0
    latent_cycle_weight: float = 0.1
    error_floor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a share, weight or floor is not positive.
        """
        super().__post_init__()
        for name in (
            "latent_share",
            "gradient_penalty",
            "adversarial_weight",
            "latent_cycle_weight",
            "error_floor",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")


def build_network(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers with leaky ReLU between them; weights are not yet initialised.

    No batch norm: the gradient penalty is a row's own, and in the generator one norm would have to
    serve both drawn and encoded latents, which are not distributed alike.

    Shape:
        input: (batch, sizes[0]). output: (batch, sizes[-1]).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [make_linear(inputs, outputs, bias=True), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers[:-1])


class Critic(nn.Module):
    """Say how much a pair of row and latent looks like (x, encode(x)) rather than (generate(z), z).

    The value is the sum of half of the last hidden units less that of the other half. Output
    weights would add nothing: a unit's own weights can take over their size.

    Shape:
        x: (batch, features), latent: (batch, latent). Returns: (batch,).

    Source: Donahue et al., 2017, "Adversarial Feature Learning". Departure: no output weights.
    """

    def __init__(self, inputs: int, hidden_features: Sequence[int]) -> None:
        """Make a critic for rows and latents that are ``inputs`` wide together."""
        super().__init__()
        self.hidden = nn.Sequential(build_network([inputs, *hidden_features]), nn.LeakyReLU(LEAK))

    def features(self, x: Tensor, latent: Tensor) -> Tensor:
        """Give the last hidden units.

        Shape:
            x: (batch, features), latent: (batch, latent). Returns: (batch, last hidden width).
        """
        units: Tensor = self.hidden(torch.cat([x, latent], dim=1))
        return units

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Give the critic's values.

        Shape:
            x: (batch, features), latent: (batch, latent). Returns: (batch,).
        """
        units = self.features(x, latent)  # (batch, last hidden width)
        half = units.shape[1] // 2
        return (units[:, :half].sum(dim=1) - units[:, half:].sum(dim=1)) / math.sqrt(
            units.shape[1]
        )


def make_player_step(
    player: nn.Module, loss: Callable[[Tensor], Tensor], config: TrainingConfig, n_rows: int
) -> Step:
    """Make one player's step: AdamW of short memory, since the other player moves meanwhile.

    ``make_adam_step`` cycles a momentum of up to 0.95, with which the players circle each other.

    Args:
        player: Its parameters are trained, and no others.
        loss: Maps a batch (rows, features) to a scalar.
        config: Rates and clip.
        n_rows: Training rows, which fix the length of the schedule.
    """
    epochs, batches = plan_epochs(n_rows, config)
    parameters = list(player.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=ADAM_BETAS, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.learning_rate,
        total_steps=epochs * batches + 1,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )

    def step(batch: Tensor) -> Tensor:
        value = loss(batch)
        gradients = torch.autograd.grad(value, parameters)  # leaves the other player's alone
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return value.detach()

    return step


class GAN(BaseDetector[GANConfig]):
    """Reconstruction error plus feature-matching distance, each in units of its usual size.

    With r = generate(encode(x)) and h the critic's last hidden units, score(x) is the mean of two
    terms: the mean over features of ((r - x) / s)^2, and the mean over units of ((h(r, encode(x))
    - h(x, encode(x))) / t)^2; s and t are the root mean squares on held-out normal rows. The critic
    learns against generated rows, never from real rows alone: that would teach it to say
    "real" to everything. Not valid far outside [-20, 20]: give preprocessed rows.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0, about 1 for a normal row.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Zenati et al., 2018, "Adversarially Learned Anomaly Detection" (cycles, features);
        Schlegl et al., 2019, "f-AnoGAN" (both terms in the score); Huang et al., 2024, "The GAN
        is dead; long live the GAN!" (the critic's loss).
        Departures: one critic of pairs (Donahue et al., 2017) instead of ALAD's three
            discriminators; encoder and generator trained together, not one after the other;
            both kinds of error standardised; latents bounded.
    """

    error_scale: Tensor
    unit_scale: Tensor

    def __init__(self, config: GANConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        self.latent = max(1, round(config.latent_share * n_features))
        hidden = config.hidden_features
        self.encoder = build_network([n_features, *hidden, self.latent])
        self.generator = build_network([self.latent, *reversed(hidden), n_features])
        self.critic = Critic(n_features + self.latent, config.critic_features)
        self.register_buffer("error_scale", torch.ones(n_features))
        self.register_buffer("unit_scale", torch.ones(config.critic_features[-1]))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Train critic and generator in turns, then measure the score's units on held-out rows.

        The training loss is the generator's and encoder's, against a moving critic, so it need
        not fall; the validation loss is reconstruction error plus feature-matching distance.
        """
        self.float()
        initialise_weights(self, generator)
        rows = sample_rows(x, self.config.max_rows, generator).float()
        held_out = x_held_out.float()
        critic_step, players_step = self.make_steps(rows.shape[0], generator)

        def step(batch: Tensor) -> Tensor:
            critic_step(batch)
            return players_step(batch)

        report = train_epochs(
            self,
            step,
            lambda: mean_over_rows(self._validation_loss, held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self.double()
        self._measure_scales(x_held_out.double())
        return report

    def make_steps(self, n_rows: int, generator: torch.Generator) -> tuple[Step, Step]:
        """Make the critic's step, and that of generator and encoder.

        Args:
            n_rows: Training rows, which fix the length of the schedules.
            generator: Source of the latents and of the points where the gradient is penalised.
        """
        players = nn.ModuleList([self.generator, self.encoder])
        return (
            make_player_step(
                self.critic, lambda part: self.critic_loss(part, generator), self.config, n_rows
            ),
            make_player_step(
                players, lambda part: self.players_loss(part, generator), self.config, n_rows
            ),
        )

    def critic_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Give the loss that only the critic minimises: misjudged couples and gradient penalty.

        Shape:
            x: (batch, features). Returns: ().

        Source: Huang et al., 2024, "The GAN is dead; long live the GAN!", eq. (5) to (7):
            relativistic loss, squared gradient penalised at real and generated pairs alike.
        """
        latent = self.draw_latents(x.shape[0], generator)
        with torch.no_grad():  # the other player's weights are given here
            rows = torch.cat([x, self.generator(latent)])  # (2 batch, features)
            latents = torch.cat([self.encode(x), latent])  # (2 batch, latent)
        rows.requires_grad_()
        latents.requires_grad_()
        values = self.critic(rows, latents)  # (2 batch,)
        gradients = torch.autograd.grad(values.sum(), (rows, latents), create_graph=True)
        penalty = torch.cat(gradients, dim=1).square().sum(dim=1).mean()
        real, generated = values.chunk(2)
        return (
            nn.functional.softplus(generated - real).mean()
            + self.config.gradient_penalty * penalty
        )

    def players_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Give the loss of generator and encoder: the critic's verdict and the two cycles.

        Shape:
            x: (batch, features). Returns: ().
        """
        latent = self.draw_latents(x.shape[0], generator)
        generated, encoded = self.generator(latent), self.encode(x)
        verdict = nn.functional.softplus(
            self.critic(x, encoded) - self.critic(generated, latent)
        ).mean()
        row_cycle: Tensor = (self.generator(encoded) - x).square().mean()
        latent_cycle: Tensor = (self.encode(generated) - latent).square().mean()
        cycles: Tensor = row_cycle + self.config.latent_cycle_weight * latent_cycle
        return cycles + self.config.adversarial_weight * verdict

    def draw_latents(self, n_rows: int, generator: torch.Generator) -> Tensor:
        """Draw from the standard normal that the generator starts from.

        Shape:
            Returns: (n_rows, latent), of the module's dtype.
        """
        weight = self.error_scale
        return torch.randn(
            n_rows, self.latent, generator=generator, dtype=weight.dtype, device=weight.device
        )

    def encode(self, x: Tensor) -> Tensor:
        """Give the latent of each row, within the range that the generator has seen.

        Without the bound a far row gets a far latent, from which the generator may well
        extrapolate to the row.

        Shape:
            x: (batch, features). Returns: (batch, latent), within +-LATENT_BOUND.
        """
        return LATENT_BOUND * torch.tanh(self.encoder(x) / LATENT_BOUND)

    def compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the errors of decode(encode(x)): of each feature, and of each of the critic's units.

        Shape:
            x: (batch, features). Returns: (batch, features) and (batch, last critic width).
        """
        latent = self.encode(x)  # (batch, latent)
        decoded = self.generator(latent)  # (batch, features)
        unit_error = self.critic.features(decoded, latent) - self.critic.features(x, latent)
        return decoded - x, unit_error

    def _validation_loss(self, x: Tensor) -> Tensor:
        error, unit_error = self.compare(x)
        return error.square().mean(dim=1) + unit_error.square().mean(dim=1)

    def _measure_scales(self, held_out: Tensor) -> None:
        with torch.no_grad():
            errors = self.compare(held_out)
        for scale, error in zip((self.error_scale, self.unit_scale), errors, strict=True):
            scale.copy_(error.square().mean(dim=0).sqrt())
        self.error_scale.clamp_(min=self.config.error_floor)
        least = LEAST_UNIT_SHARE * self.unit_scale.mean() + LEAST_UNIT_SCALE
        self.unit_scale.clamp_(min=float(least))

    def forward(self, x: Tensor) -> Tensor:
        """Give scores of one block.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        error, unit_error = self.compare(x)
        reconstruction = (error / self.error_scale).square().mean(dim=1)
        matching = (unit_error / self.unit_scale).square().mean(dim=1)
        return 0.5 * (reconstruction + matching)
