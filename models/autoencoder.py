"""Reconstruction error of a bottlenecked network."""

from dataclasses import dataclass

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class AutoencoderConfig(TrainingConfig):
    """Settings of :class:`Autoencoder`.

    Args:
        hidden_features: Widths of the encoder's hidden layers; the decoder mirrors them.
        bottleneck_share: Bottleneck width as a share of the features (at least 1 unit).
        error_floor: Least scale of a feature's error: one that is always reproduced exactly must
            not outweigh all others.
    """

    hidden_features: tuple[int, ...] = (64, 32)
    bottleneck_share: float = 0.45
    error_floor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if the bottleneck is not narrower than the input or the floor is not
                positive.
        """
        super().__post_init__()
        if not 0 < self.bottleneck_share < 1 or self.error_floor <= 0:
            raise ValueError(
                "expected 0 < bottleneck_share < 1 and error_floor > 0, "
                f"got {self.bottleneck_share} and {self.error_floor}"
            )


class Autoencoder(BaseDetector[AutoencoderConfig]):
    """Mean squared reconstruction error, each feature's error in units of its usual size.

    score(x) = mean over features of ((decode(encode(x)) - x) / s)^2, s the root mean squared
    error of the feature on held-out normal rows. Without s the features that are hard to
    reproduce for everyone decide alone. Not valid far outside [-20, 20]: give preprocessed rows.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0, about 1 for a normal row.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Hinton & Salakhutdinov, 2006, "Reducing the Dimensionality of Data with Neural
        Networks".
        Departures: batch norm, ReLU and AdamW instead of layer-wise pretraining; errors
            standardised.
    """

    error_scale: Tensor

    def __init__(self, config: AutoencoderConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        bottleneck = max(1, round(config.bottleneck_share * n_features))
        hidden = config.hidden_features
        self.encoder = build_mlp([n_features, *hidden, bottleneck])
        self.decoder = build_mlp([bottleneck, *reversed(hidden), n_features])
        self.register_buffer("error_scale", torch.ones(n_features))

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Train on the mean squared error, then measure each feature's error on the held-out rows."""
        self.float()
        self.error_scale.fill_(1.0)
        initialise_weights(self, generator)
        rows = sample_rows(x, self.config.max_rows, generator).float()
        held_out = x_held_out.float()
        report = train_with_adam(
            self,
            lambda part: self(part).mean(),
            lambda: mean_over_rows(self, held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self.double()
        with torch.no_grad():
            error = self.reconstruct(x_held_out.double()) - x_held_out.double()
            self.error_scale.copy_(error.square().mean(dim=0).sqrt())
            self.error_scale.clamp_(min=self.config.error_floor)
        return report

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode and decode.

        Shape:
            x: (batch, features). Returns: (batch, features).
        """
        decoded: Tensor = self.decoder(self.encoder(x))
        return decoded

    def forward(self, x: Tensor) -> Tensor:
        """Give standardised reconstruction errors of one block.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        return ((self.reconstruct(x) - x) / self.error_scale).square().mean(dim=1)
