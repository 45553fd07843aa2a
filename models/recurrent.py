"""Surprise at a transaction after a recurrent network has read its account's earlier ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.mlp import make_linear
from models.next_transaction import NextTransaction, NextTransactionConfig

KEEP = 100.0  # added to an update gate, it keeps the state: sigmoid(100) is 1 in float64


@dataclass(frozen=True)
class RecurrentConfig(NextTransactionConfig):
    """Settings of :class:`Recurrent`.

    Args:
        hidden_features: Width of the state.
    """

    hidden_features: int = 32

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a size is not positive.
        """
        super().__post_init__()
        if self.hidden_features <= 0:
            raise ValueError(f"expected hidden_features > 0, got {self.hidden_features}")


class Recurrent(NextTransaction):
    """Surprise at a row after a gated recurrent unit has read the window, oldest event first.

    An absent place keeps the state as it is, so a shorter history is the same as a longer window;
    without any history the state is a learned one. The score is that of
    :class:`~models.next_transaction.NextTransaction`.

    Shape:
        x: (batch, row features + window * (channels + 1)), preprocessed. Returns: (batch,), >= 0.

    Raises:
        ValueError: if x has another number of features than at fit, or no column is left beside
            the window.
        NotFittedError: if fit was not called.

    Source: Cho et al., 2014, "Learning Phrase Representations using RNN Encoder-Decoder", eq. (5)
        to (8); Malhotra et al., 2015. Departures: a GRU for the LSTM; a learned first state; the
        reset gate is applied after the matrix, as torch does.
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        hidden = config.hidden_features
        super().__init__(config, n_features, hidden)
        self.inward = make_linear(config.channels, 3 * hidden, bias=True)  # reset, update, new
        self.onward = make_linear(hidden, 3 * hidden, bias=False)
        self.first_state = nn.Parameter(torch.zeros(hidden))

    def _reset(self, generator: torch.Generator) -> None:
        super()._reset(generator)
        nn.init.zeros_(self.first_state)
        with torch.no_grad():  # remember at first: a month has tens of events
            self.inward.bias.chunk(3)[1].fill_(1.0)

    def read_window(self, events: Tensor, presence: Tensor) -> Tensor:
        """Give the state after the newest event.

        The absence of an event is one input more, which does nothing but hold the update gate:
        thus torch's own kernel can be used, at twice the speed of a loop over places.

        Shape:
            events: (batch, window, channels), 0 where absent. presence: (batch, window), 0 to 1.
                Returns: (batch, hidden_features).
        """
        hidden = self.config.hidden_features
        hold = torch.zeros_like(self.inward.weight[:, :1])  # (3 * hidden, 1)
        hold[hidden : 2 * hidden] = KEEP
        inputs = torch.cat([events, 1 - presence[:, :, None]], dim=2)
        first = self.first_state.expand(1, events.shape[0], hidden).contiguous()
        no_bias = torch.zeros_like(self.inward.bias)
        weights = [
            torch.cat([self.inward.weight, hold], dim=1),
            self.onward.weight,
            self.inward.bias,
            no_bias,
        ]
        # cuDNN would warn at every call that the weights do not lie in one piece
        with torch.backends.cudnn.flags(enabled=False):
            states, _ = torch.gru(inputs, first, weights, True, 1, 0.0, self.training, False, True)
        last: Tensor = states[:, -1]
        return last
