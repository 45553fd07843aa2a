"""Surprise at a transaction after attention has read its account's earlier ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.mlp import make_linear
from models.next_transaction import NextTransaction, NextTransactionConfig

NOTHING = 1e-30  # stands for the sum of no weights
PLACE_SPREAD = 0.3  # of the first position embeddings, beside event embeddings of about 1


@dataclass(frozen=True)
class TransformerConfig(NextTransactionConfig):
    """Settings of :class:`Transformer`.

    Args:
        width: Features of a token.
        heads: Attention heads; they share the width.
        layers: Attention layers; all but the last compute every place, so a second one costs six
            times as much as the first.
    """

    width: int = 32
    heads: int = 4
    layers: int = 1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a size is not positive or the heads do not divide the width.
        """
        super().__post_init__()
        if self.layers <= 0 or self.heads <= 0 or self.width <= 0 or self.width % self.heads:
            raise ValueError(
                "expected layers > 0 and a width that is a multiple of heads > 0, got "
                f"{self.layers}, {self.width} and {self.heads}"
            )


class AttentionLayer(nn.Module):
    """Causal multi-head attention and a small MLP, each added to its normalised input.

    Shape:
        tokens: (batch, places, width). presence: (batch, places), 0 to 1; a place of presence 0
            is not looked at. Returns: (batch, queries, width), the queries being all places or
            the last one alone.

    Source: Vaswani et al., 2017, "Attention Is All You Need", section 3; normalised before, not
        after (Xiong et al., 2020).
    """

    def __init__(self, width: int, heads: int) -> None:
        """Make a layer whose weights are not yet initialised."""
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = make_linear(width, width, bias=False)
        self.key_value = make_linear(width, 2 * width, bias=False)
        self.merge = make_linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            make_linear(width, 2 * width, bias=True),
            nn.ReLU(),
            make_linear(2 * width, width, bias=True),
        )

    def forward(self, tokens: Tensor, presence: Tensor, *, last_only: bool) -> Tensor:
        """Let every place, or the last one, look at the places up to itself."""
        normed = self.attention_norm(tokens)
        asking = slice(-1, None) if last_only else slice(None)
        queries = self._heads_of(self.query(normed[:, asking]))  # (batch, heads, queries, part)
        keys, values = map(self._heads_of, self.key_value(normed).chunk(2, dim=2))
        mixed = attend(queries, keys, values, presence)  # (batch, heads, queries, part)
        tokens = tokens[:, asking] + self.merge(mixed.transpose(1, 2).flatten(2))
        widened: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return widened

    def _heads_of(self, values: Tensor) -> Tensor:
        """Split the width into heads: (batch, heads, places, width / heads)."""
        n_rows, n_places, width = values.shape
        return values.view(n_rows, n_places, self.heads, width // self.heads).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, presence: Tensor) -> Tensor:
    """Average the values of present places up to each query's, by the softmax of their products.

    The queries belong to the last places. The softmax is written out, so that a place's presence
    is a factor of its weight and not a minus infinity, whose gradient is none.

    Shape:
        queries: (batch, heads, queries, part). keys, values: (batch, heads, places, part).
            presence: (batch, places). Returns: (batch, heads, queries, part), 0 for a query that
            sees nothing.
    """
    n_queries, n_places = queries.shape[2], keys.shape[2]
    products = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
    causal = products.new_ones(n_queries, n_places).tril(n_places - n_queries)
    visible = presence[:, None, None, :] * causal  # (batch, 1, queries, places)
    largest = products.detach().masked_fill(visible == 0, -math.inf).amax(dim=3, keepdim=True)
    weights = (products - largest).clamp(max=0.0).exp() * visible
    total = weights.sum(dim=3, keepdim=True).clamp(min=NOTHING)
    return weights @ values / total


class Transformer(NextTransaction):
    """Surprise at a row after a small causal transformer has read the window.

    A token that stands for the row to come (it holds nothing of the row) follows the events, and
    what attention gathers there is the context. Without any history it sees itself alone. The
    score is that of :class:`~models.next_transaction.NextTransaction`.

    Shape:
        x: (batch, row features + window * (channels + 1)), preprocessed. Returns: (batch,), >= 0.

    Raises:
        ValueError: if x has another number of features than at fit, or no column is left beside
            the window.
        NotFittedError: if fit was not called.

    Source: Vaswani et al., 2017, "Attention Is All You Need". Departures: places are counted back
        from the row and their embeddings are learned; no dropout; the last layer computes the
        last place alone.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features, config.width)
        self.embed = make_linear(config.channels, config.width, bias=True)
        self.places = nn.Parameter(torch.zeros(config.window + 1, config.width))
        self.layers = nn.ModuleList(
            AttentionLayer(config.width, config.heads) for _ in range(config.layers)
        )

    def _reset(self, generator: torch.Generator) -> None:
        super()._reset(generator)
        nn.init.normal_(self.places, std=PLACE_SPREAD, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def read_window(self, events: Tensor, presence: Tensor) -> Tensor:
        """Give what the token after the events has gathered.

        Shape:
            events: (batch, window, channels), 0 where absent. presence: (batch, window), 0 to 1.
                Returns: (batch, width).
        """
        own = events.new_zeros(events.shape[0], 1, self.config.width)
        tokens = torch.cat([self.embed(events), own], dim=1) + self.places
        presence = torch.cat([presence, torch.ones_like(presence[:, :1])], dim=1)
        last_layer = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, presence, last_only=number == last_layer)
        return tokens[:, -1]
