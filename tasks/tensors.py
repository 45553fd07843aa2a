"""Frames to tensors: the columns that a model sees, in order; categories numbered; histories."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch

from models.history import History

UNKNOWN = 0


@dataclass(frozen=True)
class Encoding:
    """The columns that a model sees, and the known values of the categorical ones.

    A categorical value is numbered by its place in the vocabulary, from 1; a value not seen in
    training, or none, is 0.
    """

    feature_names: tuple[str, ...]
    vocabularies: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, frame: pl.DataFrame, feature_names: Sequence[str]) -> "Encoding":
        """Collect the vocabularies of the text columns among the features.

        Raises:
            ValueError: if the frame lacks a feature.
        """
        missing = [name for name in feature_names if name not in frame.columns]
        if missing:
            message = f"features must be columns of the frame, but {missing} are not"
            raise ValueError(message)
        texts = [name for name in feature_names if frame.schema[name] == pl.String]
        vocabularies = {
            name: tuple(frame[name].drop_nulls().unique().sort().to_list()) for name in texts
        }
        return cls(tuple(feature_names), vocabularies)

    def cardinalities(self) -> dict[str, int]:
        """Give each categorical feature's number of codes, the unknown one included."""
        return {name: len(values) + 1 for name, values in self.vocabularies.items()}

    def matrix(self, frame: pl.DataFrame) -> torch.Tensor:
        """Turn a frame into the matrix that the model sees.

        Shape:
            Returns: (rows, features), float32; missing numbers are NaN.
        """
        numbers = frame.select(self._column(name) for name in self.feature_names)
        return torch.from_numpy(numbers.to_numpy(order="c", writable=True))

    def _column(self, name: str) -> pl.Expr:
        column = pl.col(name)
        if name not in self.vocabularies:
            return column.cast(pl.Float32).fill_null(float("nan"))
        values = self.vocabularies[name]
        codes = pl.Series(range(1, len(values) + 1), dtype=pl.Float32)
        known = pl.Series(values, dtype=pl.String)
        texts = column.cast(pl.String)  # a day without any value has a column of nulls
        return texts.replace_strict(known, codes, default=float(UNKNOWN), return_dtype=pl.Float32)


def history_of(rows: pl.DataFrame, events: pl.DataFrame | None) -> History | None:
    """Turn the rows' ``history_end`` and ``history_count``, and the events, into tensors.

    Returns:
        The raw history of each row; None where there are no events.
    """
    if events is None:
        return None
    end, count = (
        torch.from_numpy(rows[name].to_numpy(writable=True))
        for name in ("history_end", "history_count")
    )
    return History(torch.from_numpy(events.to_numpy(order="c", writable=True)), end, count)


def frame_digest(*frames: pl.DataFrame) -> str:
    """Give the SHA-256 of frames' columns and rows, in their order."""
    content = hashlib.sha256()
    for frame in frames:
        content.update(",".join(f"{n}:{t}" for n, t in frame.schema.items()).encode())
        content.update(frame.hash_rows(seed=0).to_numpy().tobytes())
    return content.hexdigest()
