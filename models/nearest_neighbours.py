"""Mean distance to the nearest rows of a coreset of normal rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.base import BaseDetector, report_once
from models.detector import (
    FitReport,
    OnEpoch,
    sample_rows,
    score_in_blocks,
)

TILE_ROWS = 256  # rows searched at once: with CHUNK_ROWS it keeps the products in the cache
CHUNK_ROWS = 1024  # coreset rows compared at once, a multiple of GROUP_ROWS
GROUP_ROWS = 16  # coreset rows of which only the nearest is ranked at first
LOSS_ROWS = 8192  # rows drawn for the losses, which only report


@dataclass(frozen=True)
class NearestNeighboursConfig:
    """Settings of :class:`NearestNeighbours`.

    Args:
        max_rows: Training rows drawn at random beyond this number are left out.
        coreset_rows: Most rows kept to compare with.
        cover_share: Share of a full coreset given to the rows that a random sample leaves
            farthest away; 0 keeps a plain random sample.
        neighbours: Nearest coreset rows whose distances are averaged.
    """

    max_rows: int = 300_000
    coreset_rows: int = 16_384
    cover_share: float = 0.5
    neighbours: int = 5

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a count is too small or the share is not in [0, 1).
        """
        if min(self.max_rows, self.coreset_rows) < 2 or self.neighbours < 1:
            raise ValueError(
                "expected max_rows >= 2, coreset_rows >= 2 and neighbours >= 1, "
                f"got {self.max_rows}, {self.coreset_rows} and {self.neighbours}"
            )
        if not 0 <= self.cover_share < 1:
            raise ValueError(f"expected 0 <= cover_share < 1, got {self.cover_share}")


def find_nearest(x: Tensor, coreset: Tensor, count: int) -> Tensor:
    """Find the places of the ``count`` nearest coreset rows, nearest first.

    The nearest rows lie in the groups with the least minima, so only as many groups as
    neighbours are looked at again. There distances are taken from differences: the products
    |x|^2 - 2 x'c + |c|^2 cancel near 0.

    Shape:
        x: (batch, features), coreset: (coreset rows, features), both float64. Returns: (batch,
            count), int64.
    """
    centre = coreset.mean(dim=0)  # small norms, small rounding errors
    padding = (0, 0, 0, -coreset.shape[0] % GROUP_ROWS)
    others = nn.functional.pad(coreset - centre, padding)  # (padded coreset rows, features)
    half_square = 0.5 * others.square().sum(dim=1)
    half_square[coreset.shape[0] :] = torch.inf  # a padding row is nobody's neighbour
    places = [
        _find_nearest_in_tile(tile, others, half_square, count)
        for tile in torch.split(x - centre, TILE_ROWS)
    ]
    last = coreset.shape[0] - 1
    return torch.cat(places).clamp(max=last)  # a row with NaN may have found padding


def _find_nearest_in_tile(x: Tensor, others: Tensor, half_square: Tensor, count: int) -> Tensor:
    minima = []
    for chunk, squares in zip(
        torch.split(others, CHUNK_ROWS), torch.split(half_square, CHUNK_ROWS), strict=True
    ):
        half_distance = torch.addmm(squares, x, chunk.T, alpha=-1)  # lacks |x|^2 / 2: same order
        minima.append(half_distance.view(x.shape[0], -1, GROUP_ROWS).amin(dim=2))
    least = torch.cat(minima, dim=1)  # (batch, groups)
    groups = least.topk(min(count, least.shape[1]), dim=1, largest=False).indices
    within = torch.arange(GROUP_ROWS, device=x.device)
    candidates = (groups.unsqueeze(2) * GROUP_ROWS + within).flatten(1)  # (batch, candidates)
    distance = (x.unsqueeze(1) - others[candidates]).square().sum(dim=2)
    distance = distance.masked_fill(half_square[candidates].isinf(), torch.inf)
    return candidates.gather(1, distance.topk(count, dim=1, largest=False).indices)


def measure_distances(x: Tensor, coreset: Tensor, count: int) -> Tensor:
    """Give the Euclidean distances to the ``count`` nearest coreset rows, least first.

    Differentiable in ``x``: the search is not, the distances to what it found are.

    Shape:
        x: (batch, features), coreset: (coreset rows, features), both float64. Returns: (batch,
            count).
    """
    with torch.no_grad():
        places = find_nearest(x, coreset, count)
    distances: Tensor = torch.linalg.vector_norm(x.unsqueeze(1) - coreset[places], dim=2)
    return distances


def choose_coreset(
    x: Tensor, n_rows: int, cover_share: float, generator: torch.Generator
) -> Tensor:
    """Choose distinct rows to stand for all: a random sample and what it covers worst.

    A random sample leaves out rare normal rows, and then calls their like anomalous. So a share
    of the places goes to the rows that are farthest from the sample.

    Shape:
        x: (rows, features), float64. Returns: (at most n_rows, features).

    Source: the second part is one batched step of Gonzalez, 1985, "Clustering to minimize the
        maximum intercluster distance". Departures: started from a sample; rows are taken all at
        once.
    """
    distinct: Tensor = x.unique(dim=0)  # type: ignore[no-untyped-call]  # torch does not annotate it
    distinct = sample_rows(distinct, distinct.shape[0], generator)  # unique has sorted them
    if distinct.shape[0] <= n_rows:
        return distinct
    n_far = int(n_rows * cover_share)
    sample, rest = distinct[: n_rows - n_far], distinct[n_rows - n_far :]
    if n_far == 0:
        return sample
    distance = score_in_blocks(lambda part: measure_distances(part, sample, 1), rest)
    return torch.cat([sample, rest[distance[:, 0].topk(n_far).indices]])


def make_room_for_coreset(
    module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object
) -> None:
    """Take the saved coreset's shape before it is loaded: its length depends on the data."""
    saved = state_dict.get(prefix + "coreset")
    if saved is not None and isinstance(module, NearestNeighbours):
        module.coreset = module.coreset.new_empty(saved.shape)


class NearestNeighbours(BaseDetector[NearestNeighboursConfig]):
    """Mean Euclidean distance to the nearest rows of a coreset of normal rows.

    score(x) = mean over j = 1..neighbours of |x - c_j|, c_j the j-th nearest coreset row. It
    follows normal rows of any shape and knows no bound: farther is higher. It fails where the
    features are many and mostly noise, where columns have different scales (give preprocessed
    rows), and where fraud hides among the training rows: the coreset's cover keeps odd rows on
    purpose, and a few alike make their kind normal; ``cover_share`` 0 is safer there. How often
    a row occurs does not count: the coreset's rows are distinct. A coreset row scored again counts
    itself as one neighbour, at distance 0.

    Shape:
        x: (batch, features), preprocessed. Returns: (batch,), >= 0, higher is more anomalous.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if fit was not called.

    Source: Ramaswamy, Rastogi & Shim, 2000, "Efficient Algorithms for Mining Outliers from Large
        Data Sets"; Livernoche et al., 2024, "On Diffusion Modeling for Anomaly Detection"
        (DTE-NP).
        Departures: the mean over the neighbours instead of the k-th distance (Angiulli & Pizzuti,
            2002); a coreset as in :func:`choose_coreset`.
    """

    coreset: Tensor

    def __init__(self, config: NearestNeighboursConfig, n_features: int) -> None:
        """Make an unfitted detector for ``n_features`` columns."""
        super().__init__(config, n_features)
        self.register_buffer("coreset", torch.zeros(0, n_features, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(make_room_for_coreset)  # type: ignore[no-untyped-call]  # (torch)

    def learn(
        self,
        x: Tensor,
        x_held_out: Tensor,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> FitReport:
        """Choose the coreset; losses are mean distances, of training rows without themselves."""
        rows = sample_rows(x, self.config.max_rows, generator).double()
        self.coreset = choose_coreset(
            rows, self.config.coreset_rows, self.config.cover_share, generator
        )
        held_out = sample_rows(x_held_out, LOSS_ROWS, generator)
        losses = [
            float(score_in_blocks(self._leave_out_self, rows[:LOSS_ROWS]).mean()),
            float(score_in_blocks(self.forward, held_out).mean()),
        ]
        return report_once((losses[0], losses[1]), on_epoch)

    def _leave_out_self(self, x: Tensor) -> Tensor:
        count = min(self.config.neighbours + 1, self.coreset.shape[0])
        distances = measure_distances(x, self.coreset, count)  # (batch, count)
        if count == 1:
            return distances[:, 0]
        is_kept = distances[:, :1] == 0  # coreset rows are distinct: it is the row itself
        return torch.where(is_kept, distances[:, 1:], distances[:, :-1]).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Give mean distances of one block.

        Shape:
            x: (batch, features), float64. Returns: (batch,).
        """
        count = min(self.config.neighbours, self.coreset.shape[0])
        return measure_distances(x, self.coreset, count).mean(dim=1)
