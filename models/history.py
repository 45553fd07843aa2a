"""Rows that bring their account's earlier transactions along, gathered batch by batch.

A detector of sequences sees one matrix, as every detector does: the row's own columns, then the
window of its account's last transactions, oldest first. That matrix is ``window`` times as wide as
the row, so it is never made whole: ``WindowedRows`` makes the rows that are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Index = slice | Tensor
"""Which rows: a slice, or a tensor of places or of booleans."""


@dataclass(frozen=True, eq=False)
class History:
    """Each row's earlier transactions of the same account, as spans of one table of events.

    Args:
        events: Prepared values of every event; an account's events adjacent, oldest first.
        end: Per row, the place after the newest event that is earlier than the row.
        count: Per row, how many earlier events of its account stand before that place; may
            exceed the window.

    Shape:
        events: (events, channels), floating. end, count: (rows,), int64.

    Raises:
        ValueError: if the shapes do not fit together or a span leaves the table.
    """

    events: Tensor
    end: Tensor
    count: Tensor

    def __post_init__(self) -> None:
        """Refuse spans that would give a row some other account's events, or none at all."""
        if self.events.ndim != 2 or self.end.ndim != 1 or self.end.shape != self.count.shape:
            raise ValueError(
                "expected events (events, channels), end (rows,) and count (rows,), got shapes "
                f"{tuple(self.events.shape)}, {tuple(self.end.shape)}, {tuple(self.count.shape)}"
            )
        outside = (self.count < 0) | (self.count > self.end) | (self.end > self.events.shape[0])
        if outside.any():
            row = int(outside.long().argmax())
            raise ValueError(
                f"expected 0 <= count <= end <= {self.events.shape[0]} events, got count "
                f"{int(self.count[row])} and end {int(self.end[row])} in row {row}"
            )

    @property
    def n_rows(self) -> int:
        """Rows that have a history, be it an empty one."""
        return self.end.shape[0]

    @property
    def channels(self) -> int:
        """Values of one event."""
        return self.events.shape[1]

    @classmethod
    def none(cls, n_rows: int, channels: int, device: str | torch.device = "cpu") -> "History":
        """Give rows that have no history at all."""
        nowhere = torch.zeros(n_rows, dtype=torch.int64, device=device)
        return cls(torch.zeros(0, channels, device=device), nowhere, nowhere)

    @classmethod
    def concat(cls, parts: Sequence["History"]) -> "History":
        """Put several tables and their rows into one, in the order given.

        Raises:
            ValueError: if there are none.
        """
        if not parts:
            raise ValueError("expected at least one history to concatenate, got none")
        ends, start = [], 0
        for part in parts:
            ends.append(part.end + start)
            start += part.events.shape[0]
        events = torch.cat([part.events for part in parts])
        return cls(events, torch.cat(ends), torch.cat([part.count for part in parts]))

    def take(self, index: Index) -> "History":
        """Give the history of other rows; the table of events is shared.

        Shape:
            index: (chosen,), int64 or boolean, or a slice.
        """
        return History(self.events, self.end[index], self.count[index])

    def to(self, device: str | torch.device) -> "History":
        """Give the same history on another device."""
        return History(self.events.to(device), self.end.to(device), self.count.to(device))

    def compact(self, window: int) -> "History":
        """Keep only the events that some row's window holds; no window of that length changes.

        Rows need not be in any order, and spans may overlap: each span raises a running count
        where it begins and lowers it where it ends, and events at which the count is 0 go.
        """
        count = self.count.clamp(max=window)  # (rows,)
        ones = torch.ones_like(count)
        n_events = self.events.shape[0]
        steps = torch.zeros(n_events + 1, dtype=torch.int64, device=count.device)
        steps.index_add_(0, self.end - count, ones).index_add_(0, self.end, -ones)
        is_used = steps.cumsum(0)[:n_events] > 0  # (events,)
        place = torch.zeros_like(steps)  # (events + 1,): used events before each old place
        place[1:] = is_used.cumsum(0)
        return History(self.events[is_used], place[self.end], count)

    def windows(self, window: int, index: Index) -> Tensor:
        """Gather the last ``window`` earlier events of some rows.

        Shape:
            index: (batch,), int64 or boolean, or a slice. Returns: (batch, window, channels + 1),
                of the events' dtype, oldest first, the newest in the last place. The last channel
                is 1 where there is an event; where there is none, all channels are 0.
        """
        end, count = self.end[index], self.count[index]  # (batch,) each
        ago = torch.arange(window, 0, -1, device=end.device)  # (window,): newest is 1
        is_present = ago <= count[:, None]  # (batch, window)
        if self.events.shape[0] == 0:
            return self.events.new_zeros(*is_present.shape, self.channels + 1)
        places = (end[:, None] - ago).clamp(min=0)  # (batch, window)
        events = torch.where(is_present[:, :, None], self.events[places], 0)
        return torch.cat([events, is_present[:, :, None].to(events.dtype)], dim=2)


class WindowedRows:
    """Rows of features, each followed by its account's window; dense only where it is asked for.

    Column layout: the row's own columns, then the window flattened, oldest event first, each
    event's channels followed by its presence (1 or 0).

    Shape:
        x: (rows, features). As a whole: (rows, features + window * (channels + 1)).

    Raises:
        ValueError: if x and the history have different numbers of rows, or the window is not
            positive.
    """

    def __init__(self, x: Tensor, history: History, window: int) -> None:
        """Put rows and their history side by side; nothing is copied."""
        if x.ndim != 2 or x.shape[0] != history.n_rows:
            raise ValueError(
                f"expected a (rows, features) matrix with a history for each row, got shape "
                f"{tuple(x.shape)} and {history.n_rows} histories"
            )
        if window <= 0:
            raise ValueError(f"expected window > 0, got {window}")
        self.x = x
        self.history = history
        self.window = window

    @property
    def shape(self) -> torch.Size:
        """Rows and columns of the dense matrix."""
        width = self.x.shape[1] + self.window * (self.history.channels + 1)
        return torch.Size((self.x.shape[0], width))

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """What the dense matrix is made of."""
        return self.x.dtype

    def __len__(self) -> int:
        """Count the rows."""
        return self.x.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """Give the rows of an index tensor or slice as a dense matrix.

        Shape:
            Returns: (batch, features + window * (channels + 1)).
        """
        windows = self.history.windows(self.window, index).flatten(1)  # (batch, window * ...)
        return torch.cat([self.x[index], windows.to(self.x.dtype)], dim=1)

    def take(self, index: Index) -> "WindowedRows":
        """Choose rows without making them dense."""
        return WindowedRows(self.x[index], self.history.take(index), self.window)

    def float(self) -> "WindowedRows":
        """Give the same rows in float32."""
        return WindowedRows(self.x.float(), self.history, self.window)

    def double(self) -> "WindowedRows":
        """Give the same rows in float64; events keep their own dtype until they are gathered."""
        return WindowedRows(self.x.double(), self.history, self.window)

    def to(self, device: str | torch.device) -> "WindowedRows":
        """Give the same rows on another device."""
        return WindowedRows(self.x.to(device), self.history.to(device), self.window)
