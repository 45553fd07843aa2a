"""Rows to train on, read from the lake in blocks of days, so that memory follows what is kept.

Features of a block are computed, the wanted columns of the wanted rows kept, and the rest dropped:
a history that does not fit into memory is sampled on the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import polars as pl

from models.boosted import LEAST_FRAUDS
from tasks.feature_catalog import feature_names
from tasks.features import compute_features, lookback_days
from tasks.history import HISTORY_CHANNELS, HISTORY_LOOKBACK_DAYS, account_history
from tasks.tensors import frame_digest, history_of
from tasks.train_settings import TrainSettings
from warehouse.connection import Lake
from warehouse.errors import ModelMissingError, SettingsError
from warehouse.ledger import digest
from warehouse.reads import (
    are_selective,
    count_frauds_by_source,
    count_transactions,
    midnight,
    read_label_statements,
    read_transactions,
    read_truth,
)

BLOCK_ROWS = 5_000_000  # transactions whose features are in memory at a time, or one day's
KEYS = (
    "event_date",
    "transaction_id",
    "occurred_at",
    "account_id",
    "merchant_id",
    "is_fraud",
    "is_labelled",
)
DRAWN = ("for_members", "for_trees")
FEW_VALUES = 50  # of a column that may be the label in another form
TELLING = ("fraud", "scenario", "label", "chargeback")  # an extra column named so is a label


@dataclass(frozen=True)
class TrainingSpan:
    """The days of a training: rows from ``first`` to ``last``, the held-out ones from ``held_out``.

    ``last`` is the newest day that is mature at the start of ``as_of``: what is not labelled fraud
    by then counts as genuine. Where too few labels are known to learn from, nothing is waited for:
    ``is_mature`` is unset, and ``last`` is the day before. ``is_selective`` tells whether analysts,
    who saw what models had flagged, found most of the known frauds.
    """

    as_of: date
    first: date
    held_out: date
    last: date
    is_mature: bool = True
    is_selective: bool = False

    @classmethod
    def of(
        cls, settings: TrainSettings, as_of: date, maturity_days: int, *, is_mature: bool = True
    ) -> "TrainingSpan":
        """Lay the span back from ``as_of``."""
        last = as_of - timedelta(days=1 + (maturity_days if is_mature else 0))
        first = last - timedelta(days=settings.history_days - 1)
        held_out = last - timedelta(days=settings.held_out_days - 1)
        return cls(as_of, first, held_out, last, is_mature)

    def split(self, days: list[date]) -> date:
        """Choose the first held-out of the days there are; of a few, a third is held out."""
        least = days[len(days) - max(1, len(days) // 3)]
        return max(self.held_out, least) if self.held_out > days[0] else least


@dataclass(frozen=True)
class FeatureRequest:
    """What reading features and labels needs to know besides the days.

    Args:
        label_delay_days: Days until a label is known.
        time_zone: Where a day begins at midnight.
        maturity_days: Days until what is not labelled fraud counts as genuine.
        is_labelled: Whether the source labels every transaction.
    """

    label_delay_days: int
    time_zone: str
    maturity_days: int
    is_labelled: bool

    def start_of(self, day: date) -> datetime:
        """Give the moment at which a business day begins where the source is."""
        return midnight(day, self.time_zone)


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from and is held to.

    Args:
        frame: Rows with the features that members and trees see. Of the days before ``split``:
            genuine ones for the members (``for_members``), and frauds and genuine ones for the
            trees (``for_trees``), about ``max_rows`` of each. From it on all.
        events: What the frame's ``history_end`` and ``history_count`` point into; None where no
            member reads histories.
        split: The first held-out day.
        rows: Rows that were read.
        known_frauds: How many of them were known to be frauds.
        digest: Of all that was read.
        is_mature: Whether what is not labelled fraud counts as genuine.
        is_selective: Whether only what models had flagged was looked at.
    """

    frame: pl.DataFrame
    events: pl.DataFrame | None
    split: date
    rows: int
    known_frauds: int
    digest: str
    is_mature: bool = True
    is_selective: bool = False

    @property
    def train(self) -> pl.DataFrame:
        """Give the rows that members learn from."""
        return self.frame.filter((pl.col("event_date") < self.split) & pl.col("for_members"))

    @property
    def labelled(self) -> pl.DataFrame:
        """Give the rows that boosted trees learn from, frauds among them."""
        return self.frame.filter((pl.col("event_date") < self.split) & pl.col("for_trees"))

    @property
    def are_all_judged(self) -> bool:
        """Whether a row without a fraud label can be taken for genuine."""
        return self.is_mature and not self.is_selective

    @property
    def validation(self) -> list[date]:
        """Give the later half of the held-out days, which no weight is chosen on."""
        days: list[date] = self.held_out["event_date"].unique().sort().to_list()
        return days[len(days) // 2 :]

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
            block: The features of some days; with ``is_labelled``, whether anybody said what a row
                is, where that is not so of all.
            settings: Which features, and how many rows.
            split: The first held-out day.
            share: Share of the genuine rows before it that is kept, drawn by the hash of their
                identifier; if not given, what makes about ``max_rows``.

        Raises:
            SettingsError: if a feature is not known.
        """
        names = settings.all_features()
        require_features(block, names)
        if "is_labelled" not in block.columns:
            block = block.with_columns(is_labelled=pl.lit(value=True))
        is_held_out = pl.col("event_date") >= split
        if share is None:
            share = share_of(settings, block.filter(~is_held_out).height)
        drawn = block.with_columns(_draw(settings, share))
        columns = list(dict.fromkeys([*KEYS, *DRAWN, *names, *tree_features(block, settings)]))
        frame = drawn.filter(is_held_out | pl.any_horizontal(DRAWN)).select(columns)
        frauds = int(block["is_fraud"].sum())
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
            parts[0].is_mature,
            parts[0].is_selective,
        )


def share_of(settings: TrainSettings, n_rows: int) -> float:
    """Give the share of the training rows that makes about ``max_rows``."""
    return min(1.0, settings.max_rows / max(1, n_rows))


def _draw(settings: TrainSettings, share: float) -> list[pl.Expr]:
    """Draw rows by the hash of their identifier: members' from one end, trees' from the other.

    Trees get no rows of a day of which nobody has said anything. Trees that see the members' scores
    get other rows than the members learned from, whose scores would be too good.
    """
    place = pl.col("transaction_id").hash(settings.seed) / 2.0**64
    apart = settings.ensemble.member_scores
    if apart:
        share = min(share, 0.5)
    is_genuine = ~pl.col("is_fraud")
    for_members = is_genuine & (place < share)
    for_trees = ~is_genuine | (place >= 1.0 - share)
    wanted = pl.lit(settings.ensemble.mode != "unsupervised")
    judged = pl.col("is_labelled").any().over("event_date")
    return [for_members.alias("for_members"), (for_trees & wanted & judged).alias("for_trees")]


def tree_features(frame: pl.DataFrame, settings: TrainSettings) -> tuple[str, ...]:
    """Give what boosted trees see: the settings' features, of declared ones those that there are.

    Raises:
        SettingsError: if a feature is not known.
    """
    declared = set(feature_names())
    names = settings.ensemble.features
    require_features(frame, tuple(name for name in names if name not in declared))
    return tuple(name for name in names if name in frame.columns)


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


def load_rows(
    lake: Lake, start: date, end: date, request: FeatureRequest, window: int
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Compute what a model sees of the days given: features and, with a window, histories.

    Returns:
        See ``load_features`` and ``attach_history``; no events without a window.
    """
    features = load_features(lake, start, end, request)
    if not window or features.is_empty():
        return features, None
    return attach_history(lake, features, start, end, request, window)


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


def choose_span(
    lake: Lake, settings: TrainSettings, as_of: date, request: FeatureRequest
) -> TrainingSpan:
    """Choose the days: the mature ones, unless too few frauds are known before those held out.

    A source that labels every transaction is always waited for.
    """
    mature = TrainingSpan.of(settings, as_of, request.maturity_days)
    if request.is_labelled:
        return mature
    to_learn_from = mature.held_out - timedelta(days=1)
    found = count_frauds_by_source(lake, mature.first, to_learn_from, request.start_of(as_of))
    if sum(found.values()) < LEAST_FRAUDS:
        return TrainingSpan.of(settings, as_of, request.maturity_days, is_mature=False)
    return replace(mature, is_selective=are_selective(found))


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
        chosen = TrainingData.choose(block, settings, split, share)
        part = replace(chosen, is_mature=span.is_mature, is_selective=span.is_selective)
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
    waited = timedelta(days=request.maturity_days if span.is_mature else 0)
    known = features.filter(pl.col("occurred_at") <= as_of - waited)
    truth = read_truth(lake, start, end, as_of)
    joined = known.join(truth, on="transaction_id", how="left", maintain_order="left")
    return joined.with_columns(
        pl.col("is_fraud").fill_null(value=False),
        pl.col("is_fraud").is_not_null().alias("is_labelled"),
    )


def require_features(frame: pl.DataFrame, names: tuple[str, ...]) -> None:
    """Refuse features that the frame does not have, and those that are labels by their name.

    Raises:
        SettingsError: naming them, and what can be used.
    """
    declared = set(feature_names())
    telling = sorted(
        name for name in set(frame.columns) - declared if any(word in name for word in TELLING)
    )
    known = sorted(set(frame.columns) - {*KEYS, *DRAWN, *telling})
    unusable = sorted(set(names) - set(known))
    if set(unusable) & set(telling):
        message = (
            f"[train] features: {sorted(set(unusable) & set(telling))} tell what proved to be "
            "fraud, which nobody knows when the payment happens; leave them out, or rename a "
            "column that is known then"
        )
        raise SettingsError(message)
    if unusable:
        message = f"[train] features: {unusable} cannot be used; choose from {known}"
        raise SettingsError(message)


def require_no_disguise(frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Refuse a feature with few values each of which is all fraud or all genuine: a label.

    Args:
        frame: Rows of both kinds with ``is_fraud``.
        names: Features that nothing is declared of.

    Raises:
        SettingsError: naming the first.
    """
    if int(frame["is_fraud"].sum()) < LEAST_FRAUDS:
        return
    for name in names:
        shares = frame.group_by(name).agg(pl.col("is_fraud").mean().alias("share"))
        if shares.height <= FEW_VALUES and shares["share"].is_in([0.0, 1.0]).all():
            message = (
                f"[train] features: {name!r} tells frauds from genuine transactions without a "
                "single mistake, so it holds the label in another form; leave it out"
            )
            raise SettingsError(message)
