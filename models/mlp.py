"""Multi-layer perceptrons whose weights come from a given generator, never the global one."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn


def build_mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers with batch norm and ReLU between them; weights are not yet initialised.

    ReLU, because exponentials in float64 would halve the scoring speed. A linear layer before a
    batch norm has no bias: the norm would subtract it again.

    Shape:
        input: (batch, sizes[0]). output: (batch, sizes[-1]).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [make_linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    layers.append(make_linear(sizes[-2], sizes[-1], bias=True))
    return nn.Sequential(*layers)


def make_linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """Make a linear layer; unlike ``nn.Linear`` itself, draw nothing from the global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]  # (torch)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def initialise_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear layer anew and reset every batch norm.

    Source: He et al., 2015, "Delving Deep into Rectifiers": uniform with bound sqrt(3 / inputs) x
        gain; the
    gain is 1, since batch norm follows each hidden layer.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(3.0 / module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
