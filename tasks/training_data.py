"""Rows to train on, read from the lake in blocks of days, so that memory follows what is kept.

Features of a block are computed, the wanted columns of the wanted rows kept, and the rest dropped:
a history that does not fit into memory is sampled on the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from tasks.features import compute_features, lookback_days
from tasks.history import HISTORY_CHANNELS, HISTORY_LOOKBACK_DAYS, account_history
from tasks.tensors import frame_digest, history_of
from tasks.train_settings import TrainSettings
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, SettingsError
from warehouse.ledger import digest
from warehouse.reads import (
    count_transactions,
    read_label_statements,
    read_transactions,
    read_truth,
)

BLOCK_ROWS = 5_000_000  # transactions whose features are in memory at a time, or one day's
KEYS = ("event_date", "transaction_id", "is_fraud")
NO_FEATURES = {*KEYS, "occurred_at"}


@dataclass(frozen=True)
class TrainingSpan:
    """The days of a training: rows from ``first`` to ``last``, the held-out ones from ``held_out``.

    ``last`` is the newest day all of whose labels are known at the start of ``as_of``.
    """

    as_of: date
    first: date
    held_out: date
    last: date

    @classmethod
    def of(cls, settings: TrainSettings, as_of: date, known_after_days: int) -> "TrainingSpan":
        """Lay the span back from ``as_of``; without labels it ends the day before."""
        last = as_of - timedelta(days=1 + known_after_days)
        first = last - timedelta(days=settings.history_days - 1)
        held_out = last - timedelta(days=settings.held_out_days - 1)
        return cls(as_of, first, held_out, last)

    def split(self, days: list[date]) -> date:
        """Choose the first held-out of the days there are; of a few, a third is held out."""
        least = days[len(days) - max(1, len(days) // 3)]
        return max(self.held_out, least) if self.held_out > days[0] else least


@dataclass(frozen=True)
class FeatureRequest:
    """What ``load_features`` needs to know besides the days."""

    label_delay_days: int
    time_zone: str
    has_labels: bool

    @property
    def known_after_days(self) -> int:
        """Days after which a day's labels can all be known; 0 where there are none to wait for."""
        return self.label_delay_days if self.has_labels else 0

    def start_of(self, day: date) -> datetime:
        """Give the moment at which a business day begins where the source is."""
        return datetime.combine(day, time.min, ZoneInfo(self.time_zone)).astimezone(UTC)


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from and is held to.

    Args:
        frame: Rows with the features that members see: of the days before ``split`` genuine ones
            only, at most about ``max_rows``; from it on all.
        events: What the frame's ``history_end`` and ``history_count`` point into; None where no
            member reads histories.
        split: The first held-out day.
        rows: Rows that were read.
        known_frauds: How many of them were known to be frauds.
        digest: Of all that was read.
    """

    frame: pl.DataFrame
    events: pl.DataFrame | None
    split: date
    rows: int
    known_frauds: int
    digest: str

    @property
    def train(self) -> pl.DataFrame:
        """Give the rows that members learn from."""
        return self.frame.filter(pl.col("event_date") < self.split)

    @property
    def held_out(self) -> pl.DataFrame:
        """Give the rows that stop, calibrate, weigh and set the threshold."""
        return self.frame.filter(pl.col("event_date") >= self.split)

    @classmethod
    def choose(
        cls, block: pl.DataFrame, settings: TrainSettings, split: date, share: float | None = None
    ) -> "TrainingData":
        """Keep what members see of a frame of features and ``is_fraud`` (as known).

        Args:
            block: The features of some days.
            settings: Which features, and how many rows.
            split: The first held-out day.
            share: Share of the genuine rows before it that is kept, drawn by the hash of their
                identifier; if not given, what makes about ``max_rows``.

        Raises:
            SettingsError: if a feature is not known.
        """
        names = settings.all_features()
        require_features(block, names)
        is_held_out = pl.col("event_date") >= split
        if share is None:
            share = share_of(settings, block.filter(~is_held_out).height)
        is_drawn = pl.col("transaction_id").hash(settings.seed) / 2.0**64 < share
        is_kept = is_held_out | (~pl.col("is_fraud") & is_drawn)
        columns = list(dict.fromkeys([*KEYS, *names]))
        frauds = int(block["is_fraud"].sum())
        frame = block.filter(is_kept).select(columns)
        return cls(frame, None, split, block.height, frauds, frame_digest(block))

    @classmethod
    def concat(cls, parts: Sequence["TrainingData"]) -> "TrainingData":
        """Put blocks of days together; their events become one table."""
        frames, tables, places = [], [], 0
        for part in parts:
            if part.events is None:
                frames.append(part.frame)
                continue
            frames.append(part.frame.with_columns(pl.col("history_end") + places))
            tables.append(part.events)
            places += part.events.height
        return cls(
            pl.concat(frames),
            pl.concat(tables) if tables else None,
            parts[0].split,
            sum(part.rows for part in parts),
            sum(part.known_frauds for part in parts),
            digest([part.digest for part in parts]),
        )


def share_of(settings: TrainSettings, n_rows: int) -> float:
    """Give the share of the training rows that makes about ``max_rows``."""
    return min(1.0, settings.max_rows / max(1, n_rows))


def load_features(lake: Lake, start: date, end: date, request: FeatureRequest) -> pl.DataFrame:
    """Compute the features of the days given, reading no more history than they look back on.

    Returns:
        See ``tasks.features.compute_features``; the user's extra columns are joined.
    """
    before = start - timedelta(days=lookback_days(request.label_delay_days))
    next_day = end + timedelta(days=1)  # west of Greenwich the day ends in UTC's next one
    transactions = read_transactions(lake, before, end)
    features = compute_features(
        transactions,
        read_label_statements(lake, before, next_day),
        start=start,
        end=end,
        label_delay_days=request.label_delay_days,
        time_zone=request.time_zone,
    )
    extras = [name for name in transactions.columns if name not in features.columns]
    days = transactions.filter(pl.col("event_date") >= start)
    return features.join(
        days.select("transaction_id", *extras),
        on="transaction_id",
        how="left",
        maintain_order="left",
    )


def attach_history(
    lake: Lake, rows: pl.DataFrame, start: date, end: date, request: FeatureRequest, window: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find the last ``window`` earlier transactions of each row's account.

    Returns:
        The rows, which are of the days from ``start`` to ``end``, with ``history_end`` and
        ``history_count``; and the events that these point into, see
        ``tasks.history.account_history``.
    """
    transactions = read_transactions(lake, start - timedelta(days=HISTORY_LOOKBACK_DAYS), end)
    events, spans = account_history(transactions, rows, time_zone=request.time_zone, window=window)
    return _drop_unused_events(rows.hstack(spans.drop("transaction_id")), events, window)


def _drop_unused_events(
    rows: pl.DataFrame, events: pl.DataFrame, window: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    history = history_of(rows, events)
    if history is None or rows.is_empty():
        return rows, events
    kept = history.compact(window)
    places = pl.Series(kept.end.numpy()), pl.Series(kept.count.numpy())
    used = pl.DataFrame(kept.events.numpy(), schema=list(HISTORY_CHANNELS))
    return rows.with_columns(history_end=places[0], history_count=places[1]), used


def load_training_data(
    lake: Lake,
    settings: TrainSettings,
    span: TrainingSpan,
    request: FeatureRequest,
    *,
    window: int,
    block_rows: int = BLOCK_ROWS,
) -> TrainingData:
    """Read what is known at ``span.as_of``, in blocks of days.

    With a window, the rows get the last ``window`` earlier transactions of their accounts. A block
    holds ``block_rows`` transactions at most, or one day.

    Raises:
        ModelMissingError: if the lake has too few days before ``span.as_of``.
        SettingsError: if a feature is not known.
    """
    counts = count_transactions(lake, span.first, span.last)
    if len(counts) < 2:
        message = (
            f"training as of {span.as_of} needs at least two days from {span.first} to {span.last} "
            f"(their labels are known by then); the lake has {len(counts)}; ingest more days, or "
            "train as of a later day"
        )
        raise ModelMissingError(message)
    split = span.split(list(counts))
    share = share_of(settings, sum(count for day, count in counts.items() if day < split))
    parts = []
    for start, end in plan_blocks(counts, block_rows):
        block = _known_features(lake, start, end, span, request)
        part = TrainingData.choose(block, settings, split, share)
        if window:
            frame, events = attach_history(lake, part.frame, start, end, request, window)
            part = replace(part, frame=frame, events=events)
        parts.append(part)
    return TrainingData.concat(parts)


def plan_blocks(counts: Mapping[date, int], block_rows: int) -> Iterator[tuple[date, date]]:
    """Cut the days into blocks of at most ``block_rows`` rows, or of one day.

    Example:
        >>> counts = {date(2026, 1, day): 100 for day in (1, 2, 3)}
        >>> [(a.day, b.day) for a, b in plan_blocks(counts, 250)]
        [(1, 2), (3, 3)]
    """
    start, last, held = None, None, 0
    for day, count in counts.items():
        if start is not None and last is not None and held + count > block_rows:
            yield start, last
            start, held = None, 0
        start, last, held = start or day, day, held + count
    if start is not None and last is not None:
        yield start, last


def _known_features(
    lake: Lake, start: date, end: date, span: TrainingSpan, request: FeatureRequest
) -> pl.DataFrame:
    """Compute the features of some days, with what was known of them at ``span.as_of``."""
    features = load_features(lake, start, end, request)
    as_of = request.start_of(span.as_of)
    # where clocks go forward meanwhile, the last day's last hour is labelled an hour too late
    known = features.filter(
        pl.col("occurred_at") <= as_of - timedelta(days=request.known_after_days)
    )
    truth = read_truth(lake, start, end, as_of)
    joined = known.join(truth, on="transaction_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("is_fraud").fill_null(value=False))


def require_features(frame: pl.DataFrame, names: tuple[str, ...]) -> None:
    """Refuse features that the frame does not have.

    Raises:
        SettingsError: naming them, and what can be used.
    """
    known = sorted(set(frame.columns) - NO_FEATURES)
    unusable = sorted(set(names) - set(known))
    if unusable:
        message = f"[train] features: {unusable} cannot be used; choose from {known}"
        raise SettingsError(message)
