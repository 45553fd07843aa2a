"""Training as of a day: what it may know, what it refuses, and that it repeats to the byte."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.registry import REGISTRY, DetectorEntry
from tasks.feature_catalog import LEAN_FEATURES
from tasks.features import compute_features, lookback_days
from tasks.fit import fit_as_of, fit_data
from tasks.review_settings import QueueSettings
from tasks.score import score_features
from tasks.simulate import simulate_transactions
from tasks.tracking import Bundle, score_frame
from tasks.train_settings import TrainSettings
from tasks.training_data import FeatureRequest, TrainingData, TrainingSpan, load_features
from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import ModelMissingError, SettingsError
from warehouse.reads import read_label_statements, read_transactions

START = date(2026, 1, 1)
DAYS = 62
AS_OF = START + timedelta(days=58)  # the lake has days from it on, too
DELAY = 7
CAPACITY = 8
QUEUE = QueueSettings(capacity=CAPACITY)
REQUEST = FeatureRequest(DELAY, "UTC", DELAY, is_labelled=True)
SMALL = TrainSettings(history_days=15, held_out_days=5, members=("gaussian",))
NEURAL = SMALL.model_copy(update={"members": ("gaussian", "autoencoder")})


def simulate(start: date = START, days: int = DAYS, seed: int = 3) -> pl.DataFrame:
    """Make up transactions as the lake holds them, and their label."""
    frame = simulate_transactions(
        start=start, days=days, accounts=40, merchants=25, seed=seed, fraud_share=0.02
    )
    return frame.select(
        pl.col("occurred_at").dt.date().alias("event_date"),
        (pl.lit(f"{start}-") + pl.col("transaction_id").cast(pl.String)).alias("transaction_id"),
        pl.col("occurred_at").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("account_id").cast(pl.String),
        pl.col("merchant_id").cast(pl.String),
        "amount",
        "category",
        pl.col("is_fraud").cast(pl.Boolean),
    )


def labels_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Write a label of each transaction, known a delay after it."""
    return frame.select(
        "event_date",
        "transaction_id",
        "account_id",
        "merchant_id",
        "is_fraud",
        (pl.col("occurred_at") + pl.duration(days=DELAY)).alias("known_at"),
        pl.lit("source").alias("source"),
        (pl.col("occurred_at") + pl.duration(days=DELAY)).alias("recorded_at"),
    )


def insert(lake: Lake, table: str, frame: pl.DataFrame) -> None:
    """Append rows to a table of the lake; the caller commits."""
    if table == "transactions":
        frame = frame.drop("is_fraud", strict=False).with_columns(
            pl.lit("batch").alias("batch_id"), pl.lit(datetime.now(UTC)).alias("ingested_at")
        )
    lake.connection.register("new_rows", frame.to_arrow())
    lake.connection.execute(f"INSERT INTO lake.{table} BY NAME SELECT * FROM new_rows")
    lake.connection.unregister("new_rows")


def make_lake(folder: Path, frame: pl.DataFrame, labels: pl.DataFrame | None) -> Lake:
    """Fill a new lake with transactions, one file a day, and labels."""
    lake = Lake.open(WarehouseSettings(path=folder, threads=1))
    with lake.commit():
        insert(lake, "transactions", frame)
        if labels is not None:
            insert(lake, "labels", labels)
    return lake


@cache
def small_frame() -> pl.DataFrame:
    """Compute the features of 20 days, with their truth."""
    frame = simulate()
    first, last = AS_OF - timedelta(days=20), AS_OF - timedelta(days=1)
    features = compute_features(
        frame.drop("is_fraud"), labels_of(frame), start=first, end=last, label_delay_days=DELAY
    )
    return features.join(frame.select("transaction_id", "is_fraud"), on="transaction_id")


@cache
def small_bundle(*features: str) -> Bundle:
    """Fit the Gaussian and the autoencoder on the first 15 of those days."""
    torch.set_num_threads(1)
    chosen = NEURAL.model_copy(update={"features": features or LEAN_FEATURES})
    known = small_frame().filter(pl.col("event_date") < AS_OF - timedelta(days=5))
    split = AS_OF - timedelta(days=10)
    data = TrainingData.choose(known, chosen, split)
    return fit_data(data, chosen, queue=QUEUE, device="cpu").bundle


def bundle_bytes(bundle: Bundle) -> dict[str, str]:
    """Give the digest of each file of a bundle."""
    with TemporaryDirectory() as folder:
        bundle.save(Path(folder))
        return {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(Path(folder).rglob("*"))
            if file.is_file()
        }


def train(lake: Lake, chosen: TrainSettings = SMALL, as_of: date = AS_OF, request=REQUEST):
    torch.set_num_threads(1)
    return fit_as_of(lake, chosen, as_of, request, queue=QUEUE, device="cpu")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    frame = simulate()
    with make_lake(tmp_path_factory.mktemp("fit"), frame, labels_of(frame)) as made:
        yield made


@pytest.fixture
def undone(lake):
    """The lake inside a transaction that is rolled back."""
    lake.connection.execute("BEGIN")
    yield lake
    lake.connection.execute("ROLLBACK")


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(2, 100),
    st.integers(1, 120),
    st.integers(0, 60),
)
def test_span_ends_on_the_newest_day_whose_labels_are_known(as_of, history, held_out, delay):
    chosen = TrainSettings(history_days=history, held_out_days=held_out)
    span = TrainingSpan.of(chosen, as_of, delay)
    last_moment = datetime.combine(span.last + timedelta(days=1), time.min)
    assert last_moment + timedelta(days=delay) == datetime.combine(as_of, time.min)
    assert (span.last - span.first).days == history - 1
    assert span.held_out <= span.last


def test_training_takes_only_days_whose_labels_are_known(lake):
    training = train(lake)
    told = training.record.parameters
    last = AS_OF - timedelta(days=DELAY + 1)
    assert (told["first_day"], told["last_day"]) == (last - timedelta(days=14), last)
    assert told["first_held_out_day"] == last - timedelta(days=4)
    assert training.example["event_date"].max() == last
    used = simulate().filter(pl.col("event_date").is_between(told["first_day"], last))
    assert training.record.metrics["rows"] == used.height
    assert training.record.metrics["known_frauds"] == used["is_fraud"].sum()


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Tokyo", "Europe/Berlin"])
def test_labels_of_the_last_day_are_known_in_every_time_zone(tmp_path, zone):
    local = pl.col("occurred_at").dt.convert_time_zone(zone).dt.date()
    by_night = pl.col("occurred_at") + pl.duration(hours=14)  # midnight falls into busy hours
    frame = simulate(days=30).with_columns(by_night).with_columns(local.alias("event_date"))
    frame = frame.with_columns(is_fraud=pl.col("amount") > 20)
    as_of = START + timedelta(days=28)
    request = FeatureRequest(DELAY, zone, DELAY, is_labelled=True)
    with make_lake(tmp_path, frame, labels_of(frame)) as lake:
        record = train(lake, as_of=as_of, request=request).record
        used = frame.filter(
            pl.col("event_date").is_between(
                record.parameters["first_day"], record.parameters["last_day"]
            )
        )
        assert record.metrics["known_frauds"] == used["is_fraud"].sum()
        assert record.metrics["rows"] == used.height
        first, last = START + timedelta(days=20), START + timedelta(days=25)
        among = load_features(lake, first, last, request)
        for day in (first, last):
            alone = load_features(lake, day, day, request)
            assert alone.equals(among.filter(pl.col("event_date") == day))


def test_hour_that_a_clock_change_delays_is_left_out(tmp_path):
    """Clocks go forward on 2026-03-29: the last hour's labels come at 01:00 of ``as_of``."""
    zone = "Europe/Berlin"
    local = pl.col("occurred_at").dt.convert_time_zone(zone)
    frame = simulate(date(2026, 3, 1), 31).with_columns(local.dt.date().alias("event_date"))
    request = FeatureRequest(DELAY, zone, DELAY, is_labelled=True)
    as_of = date(2026, 4, 1)
    with make_lake(tmp_path, frame, labels_of(frame)) as lake:
        record = train(lake, as_of=as_of, request=request).record
    span = TrainingSpan.of(SMALL, as_of, DELAY)
    used = frame.filter(pl.col("event_date").is_between(span.first, span.last))
    too_late = (local.dt.date() == span.last) & (local.dt.hour() == 23)
    assert record.metrics["rows"] == used.filter(~too_late).height < used.height


def test_later_days_and_later_labels_leave_training_and_scores_unchanged(lake):
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def hold(data):
        lake.connection.execute("BEGIN")
        try:
            future = simulate(date(2026, 3, 10), 4, seed=data.draw(st.integers(0, 99)))
            insert(lake, "transactions", future)
            insert(lake, "labels", labels_of(future))
            known = (
                simulate()
                .filter(pl.col("event_date") <= AS_OF)
                .sample(data.draw(st.integers(1, 400)), seed=data.draw(st.integers(0, 99)))
            )
            after = datetime.combine(AS_OF + timedelta(days=1), time.min, UTC)
            moment = after + timedelta(seconds=data.draw(st.integers(0, 10**6)))
            flipped = labels_of(known).with_columns(
                ~pl.col("is_fraud"), known_at=pl.lit(moment), recorded_at=pl.lit(moment)
            )
            insert(lake, "labels", flipped)
            assert bundle_bytes(train(lake).bundle) == before
            features = load_features(lake, AS_OF, AS_OF, REQUEST)
            assert scored(features).equals(scores)
        finally:
            lake.connection.execute("ROLLBACK")

    def scored(features):
        return score_features(features, bundle, day=AS_OF, version="1", queue=QUEUE).scores.drop(
            "scored_at"
        )

    bundle = train(lake).bundle
    before = bundle_bytes(bundle)
    scores = scored(load_features(lake, AS_OF, AS_OF, REQUEST))
    assert scores.height > 40
    hold()


def test_labels_known_by_the_day_do_matter(undone):
    """The law above is not kept by ignoring labels."""
    before = load_features(undone, AS_OF, AS_OF, REQUEST)
    known = simulate().filter(pl.col("event_date") == AS_OF - timedelta(days=9))
    moment = datetime.combine(AS_OF - timedelta(days=1), time.min, UTC)
    insert(
        undone,
        "labels",
        labels_of(known).with_columns(
            is_fraud=pl.lit(True), known_at=pl.lit(moment), recorded_at=pl.lit(moment)
        ),
    )
    assert not load_features(undone, AS_OF, AS_OF, REQUEST).equals(before)


def test_older_history_changes_neither_features_nor_what_is_read(lake):
    day = START + timedelta(days=50)
    before = load_features(lake, day, day, REQUEST)
    start = day - timedelta(days=lookback_days(DELAY))
    readers = (read_transactions, read_label_statements)
    rows = [read(lake, start, day).height for read in readers]
    files = [files_read(read, lake, start, day) for read in readers]
    assert files[0] == lookback_days(DELAY) + 1
    lake.connection.execute("BEGIN")
    older = simulate(START - timedelta(days=60), 60, seed=11)
    insert(lake, "transactions", older)
    insert(lake, "labels", labels_of(older).filter(pl.col("known_at").dt.date() < START))
    try:
        assert load_features(lake, day, day, REQUEST).equals(before)
        assert [read(lake, start, day).height for read in readers] == rows
        lake.connection.execute("COMMIT")
        assert [files_read(read, lake, start, day) for read in readers] == files
        assert load_features(lake, day, day, REQUEST).equals(before)
    finally:
        with lake.commit():
            for table in ("transactions", "labels"):
                lake.connection.execute(f"DELETE FROM lake.{table} WHERE event_date < ?", [START])


def files_read(read, lake: Lake, start: date, end: date) -> int:
    """Count the Parquet files that reading these days opens, by DuckDB's own profile."""
    with TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.txt"
        lake.connection.execute(f"SET profiling_output = '{profile}'")
        lake.connection.execute("SET enable_profiling = 'query_tree'")
        try:
            read(lake, start, end)
        finally:
            lake.connection.execute("SET enable_profiling = 'no_output'")
            lake.connection.execute("PRAGMA disable_profiling")
        text = " ".join(profile.read_text().replace("│", " ").split())
    return int(text.split("Total Files Read: ")[1].split()[0])


@pytest.mark.parametrize("as_of", [START, START + timedelta(days=DELAY + 1), date(2020, 1, 1)])
def test_too_few_days_are_named(lake, as_of):
    with pytest.raises(ModelMissingError, match=r"needs at least two days from .* ingest more"):
        train(lake, as_of=as_of)


def test_short_history_holds_out_a_third(lake):
    training = train(lake, as_of=START + timedelta(days=DELAY + 6))
    assert training.record.parameters["first_held_out_day"] == START + timedelta(days=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("amount", "amout")}, r"\[train\] features: .*'amout'.*choose from"),
        ({"features": ("amount", "is_fraud")}, r"\[train\] features: .*'is_fraud'.* proved to be"),
        ({"features": ("event_date",)}, r"\[train\] features: .*'event_date'.*choose from"),
        ({"features": ("amount", "amount")}, r"\[train\] features: .*'amount'.* twice"),
        ({"members": ("gausian",)}, r"\[train\] members: .*'gausian'.* choose from"),
        ({"weights": {"gausian": 1.0}}, r"\[train\] weights: .*'gausian'.* choose from"),
        ({"weights": {"gaussian": 0.0}}, r"\[train\] weights must be .*gaussian.* 0.0"),
        ({"weights": {"gaussian": float("inf")}}, r"\[train\] weights must be .*gaussian.* inf"),
    ],
)
def test_unusable_settings_are_named(lake, changes, message):
    with pytest.raises(SettingsError, match=message):
        train(lake, SMALL.model_copy(update=changes))


def test_same_seed_gives_the_same_bytes_and_another_seed_others(lake):
    few = NEURAL.model_copy(update={"max_rows": 200})
    first, second = train(lake, few), train(lake, few)
    assert bundle_bytes(first.bundle) == bundle_bytes(second.bundle)
    assert first.record.tags == second.record.tags
    other = train(lake, few.model_copy(update={"seed": 1}))
    assert bundle_bytes(other.bundle) != bundle_bytes(first.bundle)


def test_more_rows_than_allowed_are_sampled_down(lake):
    few = SMALL.model_copy(update={"max_rows": 200})
    assert bundle_bytes(train(lake, few).bundle) == bundle_bytes(train(lake, few).bundle)
    assert bundle_bytes(train(lake, few).bundle) != bundle_bytes(train(lake).bundle)


def test_category_unknown_in_training_is_scored(lake):
    chosen = NEURAL.model_copy(update={"features": ("amount", "category")})
    bundle = train(lake, chosen).bundle
    known = bundle.encoding.vocabularies["category"]
    assert known == tuple(sorted(known))
    features = load_features(lake, AS_OF, AS_OF, REQUEST).head(3)
    odd = features.with_columns(pl.Series("category", [known[0], "space travel", None]))
    scores = score_frame(bundle, odd)
    assert scores["score"].is_finite().all()
    assert bundle.encoding.matrix(odd)[:, 1].tolist() == [1.0, 0.0, 0.0]


def test_extra_columns_of_the_source_are_features(undone):
    undone.connection.execute("ALTER TABLE lake.transactions ADD COLUMN risk DOUBLE")
    undone.connection.execute("ALTER TABLE lake.transactions ADD COLUMN channel VARCHAR")
    undone.connection.execute(
        "UPDATE lake.transactions SET risk = amount % 7, "
        "channel = CASE WHEN amount % 2 < 1 THEN 'web' ELSE 'shop' END WHERE event_date > ?",
        [START + timedelta(days=40)],  # a column that is new in the source is null before
    )
    chosen = SMALL.model_copy(update={"features": ("amount", "risk", "channel")})
    bundle = train(undone, chosen).bundle
    assert bundle.encoding.vocabularies == {"channel": ("shop", "web")}
    features = load_features(undone, AS_OF, AS_OF, REQUEST)
    assert score_frame(bundle, features)["score"].is_finite().all()


def test_source_without_labels_trains_on_all_days_before(tmp_path):
    request = FeatureRequest(DELAY, "UTC", 30, is_labelled=False)
    with make_lake(tmp_path, simulate(days=30), None) as lake:
        training = train(lake, as_of=START + timedelta(days=30), request=request)
    assert training.record.parameters["last_day"] == START + timedelta(days=29)
    assert training.record.metrics["known_frauds"] == 0


def test_too_few_rows_are_named(tmp_path):
    days = [START + timedelta(days=1), START + timedelta(days=2)]
    tiny = simulate(days=3).filter(pl.col("event_date").is_in(days))
    tiny = tiny.group_by("event_date", maintain_order=True).head(11)
    with make_lake(tmp_path, tiny, None) as lake:
        request = FeatureRequest(DELAY, "UTC", 30, is_labelled=False)
        with pytest.raises(ModelMissingError, match="there are 11 and 11; ingest more days"):
            train(lake, NEURAL, START + timedelta(days=3), request)


@dataclass(frozen=True)
class Hot(AutoencoderConfig):
    """An autoencoder whose training diverges."""

    learning_rate: float = 1e38


def test_member_that_diverges_is_left_out_and_named(lake, monkeypatch):
    monkeypatch.setitem(REGISTRY, "hot", DetectorEntry(Autoencoder, Hot))
    found = train(lake, SMALL.model_copy(update={"members": ("hot", "gaussian")}))
    assert found.bundle.ensemble.member_names == ("gaussian",)
    assert found.record.tags["failed_members"].startswith("hot: TrainingDivergedError")


def test_no_member_left_is_named(lake, monkeypatch):
    monkeypatch.setitem(REGISTRY, "hot", DetectorEntry(Autoencoder, Hot))
    with pytest.raises(RuntimeError, match="at least one member to train"):
        train(lake, SMALL.model_copy(update={"members": ("hot",)}))
