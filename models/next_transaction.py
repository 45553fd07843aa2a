"""What the detectors of sequences share: the density of a row given its account's history."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import BaseDetector
from models.detector import (
    BLOCK_ROWS,
    FitReport,
    OnEpoch,
    Rows,
    sample_places,
)
from models.gaussian import find_whitening
from models.history import WindowedRows
from models.mlp import initialise_weights, make_linear
from models.training import (
    TrainingConfig,
    mean_over_rows,
    train_with_adam,
)

MAX_LOG_VARIANCE = 8.0  # beyond it exp() would rule the loss
STEP_UNIT = 10.0  # of log-variance: an optimiser's small updates must get there within the fit
ERROR_ROWS = 50_000  # more do not change a covariance of tens of columns
FIRST_HEAD_SCALE = 0.1  # of its weights: training begins near one prediction for all


@dataclass(frozen=True)
class NextTransactionConfig(TrainingConfig):
    """Settings that the detectors of sequences share; the training is shorter than a plain MLP's.

    Args:
        window: Earlier transactions that are looked at, at most.
        channels: Values of one earlier transaction, its presence not counted.
        short_share: Share of the training rows whose history is cut to a random shorter length,
            so that accounts with little or no history are learned, too.
        min_log_variance: Least log-variance of a prediction in training: one feature that is
            predicted exactly must not outweigh all others.
        variance_floor: Added to every variance of the errors, for the same reason, in the score.
        freedom: Degrees of freedom of the errors' Student distribution: an error of many standard
            deviations counts like a logarithm, so that one column alone does not decide.
    """

    window: int = 32
    channels: int = 4
    short_share: float = 0.25
    min_log_variance: float = -4.5
    variance_floor: float = 1e-2
    freedom: float = 10.0
    epochs: int = 3
    min_steps: int = 450
    batch_rows: int = 512
    max_rows: int = 80_000

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a size is not positive or the share is not one.
        """
        super().__post_init__()
        if self.window <= 0 or self.channels <= 0 or not 0 <= self.short_share <= 1:
            raise ValueError(
                "expected window > 0, channels > 0 and 0 <= short_share <= 1, "
                f"got {self.window}, {self.channels} and {self.short_share}"
            )
        if self.variance_floor <= 0 or self.freedom <= 0:
            raise ValueError(
                "expected variance_floor > 0 and freedom > 0, "
                f"got {self.variance_floor} and {self.freedom}"
            )


class NextTransaction(BaseDetector[NextTransactionConfig]):
    """How surprising a row is after its account's earlier transactions: base of two detectors.

    A subclass turns the window into a context, from which a linear head predicts the mean m of
    each of the row's columns. Training lowers the negative log-likelihood of the errors x - m
    under a Gaussian per column, whose variance v(n) depends on nothing but the number n of events
    in the window. Then the covariance of the errors is taken once, over training rows: it says
    which errors go together, so that e = W ((x - m) / sqrt(v) - their mean) has unit covariance.

    score(x) = (freedom + 1) / 2 * sum(log(1 + e^2 / freedom)): the negative log-likelihood of e
    under Student distributions. The Gaussian is for training, since its mean follows rare large
    values, which is what makes them expected; the tails are for the score. Errors are in units of
    what is usual after n events, so a row of an account without history, about which little can
    be predicted, is not odd for that alone.

    Shape:
        x: (batch, row features + window * (channels + 1)), as ``models.history.WindowedRows``
            lays it out, preprocessed. Returns: (batch,), >= 0, higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit, or no column is left beside
            the window.
        NotFittedError: if fit was not called.

    Source: Malhotra et al., 2015, "Long Short Term Memory Networks for Anomaly Detection in Time
        Series": a predictor's errors under one Gaussian. Departures: a Student distribution for
        it, and the variance depends on the number of events. A variance that depends on what the
        events are was tried: it lost a fifth of the average precision on simulated card data.
    """

    center: Tensor
    whitening: Tensor

    def __init__(
        self, config: NextTransactionConfig, n_features: int, context_features: int
    ) -> None:
        """Make the parts that do not depend on how a window is read."""
        super().__init__(config, n_features)
        self.row_features = n_features - config.window * (config.channels + 1)
        if self.row_features < 1:
            raise ValueError(
                f"expected at least 1 column beside a window of {config.window} x "
                f"({config.channels} + 1), got {n_features} features in all"
            )
        width = self.row_features
        self.head = make_linear(context_features, width, bias=True)
        self.log_variance_steps = nn.Parameter(torch.zeros(config.window + 1, width))
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))

    def read_window(self, events: Tensor, presence: Tensor) -> Tensor:
        """Summarise what came before; absent places must not matter.

        Shape:
            events: (batch, window, channels), 0 where absent. presence: (batch, window), 0 to 1.
                Returns: (batch, context features).
        """
        raise NotImplementedError

    def learn(
        self,
        x: Rows,
        x_held_out: Rows,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Train on the negative log-likelihood of each row after its account's history."""
        self.float()
        self._reset(generator)
        places = sample_places(x.shape[0], self.config.max_rows, generator)
        rows = x.take(places) if isinstance(x, WindowedRows) else x[places]

        def loss(part: Tensor) -> Tensor:  # (rows, features) -> ()
            row, events, presence = self.split(part.float())
            presence = presence * self._draw_lengths(presence, generator)
            return self._likelihood_loss(row, events, presence).mean()

        report = train_with_adam(
            self,
            loss,
            lambda: mean_over_rows(self._row_losses, x_held_out),
            rows,
            self.config,
            generator,
            on_epoch,
        )
        self.double()
        self._measure_errors(rows)
        return report

    def _reset(self, generator: torch.Generator) -> None:
        initialise_weights(self, generator)
        nn.init.zeros_(self.log_variance_steps)
        with torch.no_grad():
            self.head.weight.mul_(FIRST_HEAD_SCALE)

    def _measure_errors(self, rows: Rows) -> None:
        """Find which errors go together, on some of the training rows."""
        with torch.no_grad():
            errors = torch.cat(
                [
                    self._errors(*self.split(rows[start : start + BLOCK_ROWS].double()))
                    for start in range(0, min(rows.shape[0], ERROR_ROWS), BLOCK_ROWS)
                ]
            )  # (rows, row features)
        self.center.copy_(errors.mean(dim=0))
        self.whitening.copy_(find_whitening(errors, self.config.variance_floor))

    def _draw_lengths(self, presence: Tensor, generator: torch.Generator) -> Tensor:
        """Cut some rows' windows: short ones are likelier than long ones.

        Shape:
            presence: (batch, window). Returns: (batch, window), 1 for the places that are kept.
        """
        n_rows, window = presence.shape
        uniform = torch.rand(n_rows, 2, generator=generator, device=presence.device)
        drawn = (uniform[:, 1].square() * window).floor()  # 0 in one draw of sqrt(window)
        length = torch.where(uniform[:, 0] < self.config.short_share, drawn, window)
        ago = torch.arange(window, 0, -1, device=presence.device)
        return (ago <= length[:, None]).to(presence.dtype)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the matrix apart, and compress large values of events.

        Shape:
            x: (batch, features). Returns: row (batch, row features), events (batch, window,
                channels), presence (batch, window).
        """
        window = x[:, self.row_features :].view(-1, self.config.window, self.config.channels + 1)
        presence = window[:, :, -1].clamp(0, 1)
        events = torch.where(presence[:, :, None] > 0, window[:, :, :-1], 0)
        return x[:, : self.row_features], events.asinh(), presence

    def predict(self, events: Tensor, presence: Tensor) -> Tensor:
        """Give the mean of each of the row's columns, from the window alone.

        Shape:
            events: (batch, window, channels). presence: (batch, window). Returns: (batch, row
                features).
        """
        mean: Tensor = self.head(self.read_window(events, presence))
        return mean

    def log_variances(self, presence: Tensor) -> Tensor:
        """Give each column's log-variance after as many events as are present.

        It is a sum of steps from event to event, so that a number of events that training never
        met has the variance of the nearest smaller one that it did meet.

        Shape:
            presence: (batch, window). Returns: (batch, row features).
        """
        table = STEP_UNIT * self.log_variance_steps.cumsum(dim=0)  # (window + 1, row features)
        table = table.clamp(self.config.min_log_variance, MAX_LOG_VARIANCE)
        return table[presence.sum(dim=1).round().nan_to_num().long()]

    def _likelihood_loss(self, row: Tensor, events: Tensor, presence: Tensor) -> Tensor:
        errors = self._errors(row, events, presence)
        return 0.5 * (errors.square() + self.log_variances(presence)).sum(dim=1)

    def _row_losses(self, x: Tensor) -> Tensor:
        return self._likelihood_loss(*self.split(x.float()))

    def _errors(self, row: Tensor, events: Tensor, presence: Tensor) -> Tensor:
        """Give the errors in units of what is usual after as many events."""
        deviation = (0.5 * self.log_variances(presence)).exp()
        return (row - self.predict(events, presence)) / deviation

    def forward(self, x: Tensor) -> Tensor:
        """Give the surprise of one block.

        Shape:
            x: (batch, features), of the module's dtype. Returns: (batch,).
        """
        errors = self._errors(*self.split(x)) - self.center
        squares = (errors @ self.whitening.T).square()  # (batch, row features)
        freedom = self.config.freedom
        return 0.5 * (freedom + 1) * (squares / freedom).log1p().sum(dim=1)
