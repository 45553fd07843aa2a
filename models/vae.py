"""Negative ELBO of a variational autoencoder, over fixed draws."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import BaseDetector
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
)
from models.mlp import build_mlp, initialise_weights
from models.training import (
    TrainingConfig,
    mean_over_rows,
    train_with_adam,
)

LOG_VARIANCE_RANGE = (-8.0, 8.0)  # of the posterior: beyond it exp() would rule the loss


@dataclass(frozen=True)
class VAEConfig(TrainingConfig):
    """Settings of :class:`VAE`.

    Args:
        hidden_features: Widths of the encoder's hidden layers; the decoder mirrors them.
        latent_share: Latent dimension as a share of the features (at least 1).
        beta: KL weight, in training and in the score; 1 is the plain ELBO.
        draws: Latent draws averaged in a score; fixed at fit, in pairs of opposite sign.
        min_log_variance: Least log-variance of the decoder: one feature that is reproduced
            exactly must not outweigh all others.
    """

    hidden_features: tuple[int, ...] = (64, 32)
    latent_share: float = 0.45
    beta: float = 1.0
    draws: int = 4
    min_log_variance: float = -4.5

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a share or beta is not positive or draws is not a positive even number.
        """
        super().__post_init__()
        if self.latent_share <= 0 or self.beta < 0:
            raise ValueError(
                f"expected latent_share > 0 and beta >= 0, got {self.latent_share} and {self.beta}"
            )
        if self.draws <= 0 or self.draws % 2:
            raise ValueError(f"expected a positive even number of draws, got {self.draws}")


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Give KL(N(mean, exp(log_variance)) || N(0, I)) per row.

    Shape:
        mean, log_variance: (batch, latent). Returns: (batch,), >= 0.

    Source: Kingma & Welling, 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


class VAE(BaseDetector[VAEConfig]):
    """Negative evidence lower bound, averaged over fixed latent draws.

    score(x) = mean over draws of 0.5 * sum_f ((x_f - decode(z)_f)^2 / v_f + log v_f) + beta *
    KL(q(z|x) || p(z)), with one learned variance v_f per feature. The draws are part of the
    fitted model, so a row always gets the same score. May be negative: it is (up to a constant) a
    bound on -log p(x).

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Kingma & Welling, 2014, "Auto-Encoding Variational Bayes", eq. (10); An & Cho, 2015,
        "Variational Autoencoder based Anomaly Detection using Reconstruction Probability".
        Departures: the KL term stays in the score; decoder variance learned per feature, not per
            row (Rybkin et al., 2021); fixed draws.
    """

    noise: Tensor

    def __init__(self, config: VAEConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        self.latent = max(1, round(config.latent_share * n_features))
        hidden = config.hidden_features
        self.encoder = build_mlp([n_features, *hidden, 2 * self.latent])
        self.decoder = build_mlp([self.latent, *reversed(hidden), n_features])
        self.log_variance = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("noise", torch.zeros(config.draws, self.latent))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Train on the negative ELBO with fresh noise; score and validate with fixed noise."""
        self.float()
        self._reset(generator)
        rows = sample_rows(x, self.config.max_rows, generator).float()
        held_out = x_held_out.float()

        def loss(part: Tensor) -> Tensor:  # (rows, features) -> ()
            shape = (part.shape[0], self.latent)
            fresh = torch.randn(shape, generator=generator, device=part.device)
            return self.negative_elbo(part, fresh).mean()

        report = train_with_adam(
            self,
            loss,
            lambda: mean_over_rows(self, held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self.double()
        return report

    def _reset(self, generator: torch.Generator) -> None:
        initialise_weights(self, generator)
        nn.init.zeros_(self.log_variance)
        shape = (self.config.draws // 2, self.latent)
        half = torch.randn(shape, generator=generator, device=self.noise.device)
        self.noise.copy_(torch.cat([half, -half]))  # antithetic: odd terms of the error cancel

    def negative_elbo(self, x: Tensor, noise: Tensor) -> Tensor:
        """Give the negative ELBO of each row for one latent draw.

        Shape:
            x: (batch, features). noise: (batch, latent) or (latent,). Returns: (batch,).
        """
        mean, log_variance = self.encode(x)
        return self._decoding_loss(
            x, mean + noise * (0.5 * log_variance).exp()
        ) + self.config.beta * kl_to_standard_normal(mean, log_variance)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the posterior's mean and log-variance.

        Shape:
            x: (batch, features). Returns: two of (batch, latent).
        """
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def _decoding_loss(self, x: Tensor, latent: Tensor) -> Tensor:
        log_variance = self.log_variance.clamp(min=self.config.min_log_variance)  # (features,)
        error = self.decoder(latent) - x  # (batch, features)
        loss: Tensor = 0.5 * (error.square() * (-log_variance).exp() + log_variance).sum(dim=1)
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """Give the negative ELBO of one block, averaged over the fixed draws.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        mean, log_variance = self.encode(x)  # (batch, latent) each
        deviation = (0.5 * log_variance).exp()
        loss = torch.zeros_like(mean[:, 0])
        for noise in self.noise:  # (latent,)
            loss = loss + self._decoding_loss(x, mean + noise * deviation)
        kl = kl_to_standard_normal(mean, log_variance)
        return loss / self.config.draws + self.config.beta * kl
