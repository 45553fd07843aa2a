"""The gate: the same days and labels for both models, and a verdict that says what it rests on."""

import json
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.recurrent import Recurrent
from models.registry import REGISTRY, DetectorEntry
from tasks import gate
from tasks.gate import (
    NOTE,
    Comparison,
    GateSettings,
    compare,
    gate_markdown,
    run_gate,
    score_both,
    validation_days,
)
from tasks.score import score_features
from tasks.swap_set import EXAMPLES, swap_set
from tasks.tracking import Registry, TrainingRecord
from tasks.training_data import FeatureRequest, TrainingSpan, attach_history, load_features
from tests.tasks.test_fit import (
    AS_OF,
    DELAY,
    QUEUE,
    REQUEST,
    SMALL,
    insert,
    labels_of,
    make_lake,
    simulate,
    small_bundle,
    small_frame,
)
from tests.tasks.test_fit import train as train_on
from tests.tasks.test_sequence_members import Short
from tests.tasks.test_steps import make_context
from warehouse.errors import ModelMissingError, SourceError, UserError
from warehouse.maturity import last_mature_day
from warehouse.reads import read_transactions

POOR = ("is_night", "is_weekend")  # a champion that is easily beaten
FIRST, LAST = AS_OF - timedelta(days=20), AS_OF - timedelta(days=1)
MATURE = AS_OF - timedelta(days=DELAY + 1)
SETTINGS = GateSettings(QUEUE, least_gain=0.0, resamples=200)


def validated(first, last):
    return {"validation_first_day": str(first), "validation_last_day": str(last)}


def register(registry, bundle, as_of, tags, alias=None):
    """Register a bundle as a training does."""
    record = TrainingRecord(as_of, {"seed": 0}, {"rows": 9.0}, {}, tags)
    version = registry.register(bundle, record, small_frame().drop("is_fraud"))
    if alias:
        registry.set_alias(version, alias)
    return version


def make_warehouse(folder):
    """Make a lake, a poor champion that was trained long ago, and a good challenger."""
    frame = simulate()
    make_lake(folder, frame, labels_of(frame)).close()
    registry = Registry(make_context(folder).warehouse)
    long_ago = AS_OF - timedelta(days=30)
    old = validated(long_ago - timedelta(days=12), long_ago - timedelta(days=8))
    register(registry, small_bundle(*POOR), long_ago, old, "champion")
    register(registry, small_bundle(), AS_OF, validated(FIRST, LAST), "challenger")


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    make_warehouse(folder)
    with make_context(folder, device="cpu").closing() as made:
        yield made


@pytest.fixture(scope="module")
def models(context):
    """The champion and the challenger, each with its bundle."""
    registry = Registry(context.warehouse)
    return [(model, registry.load(model)) for model in map(registry.version, ("1", "2"))]


@pytest.fixture
def undone(context):
    """The lake inside a transaction that is rolled back."""
    lake = context.lake()
    lake.connection.execute("BEGIN")
    yield lake
    lake.connection.execute("ROLLBACK")


def judge(lake, models, first=FIRST, last=LAST, request=REQUEST, **changes):
    return compare(lake, *models, first, last, request, replace(SETTINGS, **changes))


def by_hand(lake, bundle):
    """Score each mature validation day as a night does, alone, with the truth known in the end."""
    days = [FIRST + timedelta(days=n) for n in range((MATURE - FIRST).days + 1)]
    scored = [
        score_features(
            load_features(lake, day, day, REQUEST), bundle, day=day, version="x", queue=QUEUE
        ).scores
        for day in days
    ]
    truth = simulate().select("transaction_id", "is_fraud", "amount")
    return pl.concat(scored).join(truth, on="transaction_id")


def test_figures_and_swap_set_are_those_of_the_nights(context, models):
    lake = context.lake()
    found = judge(lake, models)
    assert (found.verdict, found.passed) == ("better", True)
    assert (found.champion_version, found.challenger_version) == ("1", "2")
    assert (found.first, found.last, found.as_of) == (FIRST, MATURE, AS_OF)
    measured, nights = found.measured, [by_hand(lake, bundle) for _, bundle in models]
    for figures, night in zip((measured.champion, measured.challenger), nights, strict=True):
        fraud, score = night["is_fraud"].to_numpy(), night["score"].to_numpy()
        assert figures.average_precision == pytest.approx(average_precision_score(fraud, score))
        assert figures.roc_auc == pytest.approx(roc_auc_score(fraud, score))
        assert 0 < figures.card_precision < 1
    assert (measured.days, measured.transactions) == (13, nights[0].height)
    assert measured.frauds == nights[0]["is_fraud"].sum()
    gain = measured.challenger.average_precision - measured.champion.average_precision
    assert measured.gain == pytest.approx(gain)
    assert 0 < measured.gain_interval.low < gain < measured.gain_interval.high < 1

    old, new = (set(n.filter("is_flagged")["transaction_id"]) for n in nights)
    swap = measured.swap
    for part, ids in ((swap.stay, old & new), (swap.enter, new - old), (swap.leave, old - new)):
        rows = nights[0].filter(pl.col("transaction_id").is_in(list(ids)))
        assert (part.transactions, part.frauds) == (len(ids), rows["is_fraud"].sum())
        assert part.amount == pytest.approx(rows["amount"].sum())
        assert part.fraud_amount == pytest.approx(rows.filter("is_fraud")["amount"].sum())
        assert {one.transaction_id for one in part.examples} <= ids
        assert len(part.examples) == min(len(ids), EXAMPLES)
    assert swap.enter.frauds > swap.leave.frauds
    assert swap.enter.transactions > EXAMPLES
    best = swap.enter.examples[0]
    assert best.challenger_rank == 1 < best.champion_rank
    night = nights[1].filter(pl.col("transaction_id") == best.transaction_id)
    assert night["is_fraud"].item() is best.is_fraud


def test_days_are_drawn_alike_for_both(context, models):
    """Unpaired, the interval of a model's gain over itself would have a width."""
    (champion, _), (challenger, bundle) = models
    found = judge(context.lake(), ((champion, bundle), (challenger, bundle)))
    interval = found.measured.gain_interval
    assert (found.measured.gain, interval.low, interval.high) == (0, 0, 0)
    assert (found.verdict, found.passed) == ("not shown to be better", False)
    assert found.measured.swap.enter.transactions == found.measured.swap.leave.transactions == 0
    assert found.measured.swap.stay.transactions > 0


def test_gain_must_exceed_the_least(context, models):
    lake = context.lake()
    low = judge(lake, models).measured.gain_interval.low
    assert judge(lake, models, least_gain=low - 0.001).passed
    refused = judge(lake, models, least_gain=low)
    assert refused.verdict == "not shown to be better"
    assert refused.reason.endswith(f"not all of it above {low:g}")
    assert judge(lake, models[::-1]).verdict == "not comparable"


def test_worse_challenger_is_not_better(context, models):
    (champion, poor), (challenger, good) = models
    found = judge(context.lake(), ((champion, good), (challenger, poor)))
    assert found.measured.gain_interval.high < 0
    assert not found.passed


def test_labels_after_the_challengers_as_of_do_not_count(undone, models):
    before = judge(undone, models)
    known = simulate().filter(pl.col("event_date").is_between(FIRST, MATURE))

    def flip(moment):
        flipped = labels_of(known).with_columns(
            ~pl.col("is_fraud"), known_at=pl.lit(moment), recorded_at=pl.lit(moment)
        )
        insert(undone, "labels", flipped)

    as_of = datetime.combine(AS_OF, time.min, UTC)
    flip(as_of + timedelta(microseconds=1))
    assert judge(undone, models) == before
    flip(as_of)
    assert judge(undone, models).measured.frauds == known.height - before.measured.frauds


def test_unlabelled_transaction_of_a_mature_day_counts_as_genuine(undone, models):
    before = judge(undone, models)
    undone.connection.execute(
        "DELETE FROM lake.labels WHERE event_date BETWEEN ? AND ? AND NOT is_fraud",
        [FIRST, MATURE],
    )
    after = judge(undone, models)
    assert after.measured.transactions == before.measured.transactions
    assert after.measured.frauds == before.measured.frauds > 0


def test_unlabelled_transaction_that_is_not_mature_is_not_judged(context, models):
    """West of UTC the last hours of the last day are of the next one in UTC: not mature by then."""
    lake = context.lake()
    scored = score_both(lake, {"champion": models[0][1]}, MATURE, MATURE, REQUEST, QUEUE)
    noon = datetime.combine(MATURE, time(12), UTC)
    with lake.locked():
        lake.connection.execute("BEGIN")
        lake.connection.execute("DELETE FROM lake.labels WHERE NOT is_fraud")
        rows = gate.add_truth(
            lake, scored, MATURE, MATURE, noon + timedelta(days=DELAY), DELAY
        ).filter(pl.col("is_fraud").is_null() | ~pl.col("is_fraud"))
        lake.connection.execute("ROLLBACK")
    is_morning = pl.col("occurred_at") <= noon
    assert rows.filter(is_morning)["is_fraud"].null_count() == 0
    assert rows.filter(~is_morning)["is_fraud"].is_null().all()
    assert 0 < rows.filter(is_morning).height < rows.height


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.sampled_from(["UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Tokyo"]),
    st.integers(0, 60),
)
def test_day_is_mature_to_the_gate_when_it_is_to_training(as_of, zone, maturity):
    start = FeatureRequest(DELAY, zone, maturity, is_labelled=True).start_of(as_of)
    last = TrainingSpan.of(SMALL, as_of, maturity).last
    assert last_mature_day(start, zone, maturity) == last
    just_before = last_mature_day(start - timedelta(microseconds=1), zone, maturity)
    assert just_before == last - timedelta(days=1)


UNLABELLED = replace(REQUEST, is_labelled=False)


def decide(lake, models, every=10, source="analyst"):
    """Let only what the champion flags have a label, and of the rest one row in some."""
    scored = score_both(lake, {"champion": models[0][1]}, FIRST, MATURE, REQUEST, QUEUE)
    is_drawn = pl.col("transaction_id").rank("ordinal") % every == 0
    known = scored.filter(pl.col("champion_flagged") | is_drawn)
    wanted = simulate().join(known, on="transaction_id", how="semi")
    lake.connection.execute(
        "DELETE FROM lake.labels WHERE event_date BETWEEN ? AND ?", [FIRST, MATURE]
    )
    insert(lake, "labels", labels_of(wanted).with_columns(source=pl.lit(source)))
    return wanted


def test_rows_that_nobody_decided_are_not_judged_where_analysts_found_the_frauds(undone, models):
    """As genuine ones they would count against whoever finds frauds that were never flagged."""
    decided = decide(undone, models)
    nights = [by_hand(undone, bundle) for _, bundle in models]
    found = judge(undone, models, request=UNLABELLED)
    assert found.measured.transactions == decided.height < nights[0].height
    assert found.measured.frauds == decided["is_fraud"].sum() > 0
    assert found.reason.endswith("what they never saw does not count")
    assert f"the {decided.height:,} of {nights[0].height:,} transactions" in found.reason
    pair = (found.measured.champion, found.measured.challenger)
    for figures, night in zip(pair, nights, strict=True):
        rows = night.join(decided, on="transaction_id", how="semi")
        expected = average_precision_score(rows["is_fraud"], rows["score"])
        assert figures.average_precision == pytest.approx(expected)
    assert None in {one.is_fraud for one in found.measured.swap.enter.examples}


@pytest.mark.parametrize(
    ("request_of", "source"), [(REQUEST, "analyst"), (UNLABELLED, "chargeback")], ids=str
)
def test_silence_is_genuine_where_others_find_the_frauds(undone, models, request_of, source):
    decided = decide(undone, models, source=source)
    found = judge(undone, models, request=request_of)
    rows = simulate().filter(pl.col("event_date").is_between(FIRST, MATURE))
    assert found.measured.transactions == rows.height > decided.height
    assert "decided" not in found.reason


def test_too_few_decided_rows_are_not_comparable(undone, models):
    decided = decide(undone, models)
    undone.connection.execute(
        "DELETE FROM lake.labels WHERE event_date > ? AND event_date <= ?",
        [FIRST + timedelta(days=5), MATURE],
    )
    left = decided.filter(pl.col("event_date") <= FIRST + timedelta(days=5))
    assert left["is_fraud"].sum() > 0
    found = judge(undone, models, request=UNLABELLED)
    assert (found.verdict, found.measured) == ("not comparable", None)
    assert f"can be judged: {left.height} transactions, and 100 are needed" in found.reason


def test_champion_that_learned_from_the_days_is_not_comparable(context, models):
    (champion, poor), challenger = models
    tags = champion.tags | {"validation_last_day": str(FIRST)}
    found = judge(context.lake(), ((replace(champion, tags=tags), poor), challenger))
    assert (found.verdict, found.measured) == ("not comparable", None)
    assert f"champion, version 1, learned from days up to {FIRST}" in found.reason
    assert f"validation days begin on {FIRST}" in found.reason
    tags["validation_last_day"] = str(FIRST - timedelta(days=1))
    assert judge(context.lake(), ((replace(champion, tags=tags), poor), challenger)).passed


def test_champion_that_tells_no_days_may_have_learned_up_to_its_as_of(context, models):
    (champion, poor), challenger = models
    untold = replace(champion, tags={}, as_of=FIRST)
    assert judge(context.lake(), ((untold, poor), challenger)).passed
    later = replace(untold, as_of=FIRST + timedelta(days=1))
    found = judge(context.lake(), ((later, poor), challenger))
    assert found.verdict == "not comparable"


def test_immature_days_are_not_judged(context, models):
    request = replace(REQUEST, maturity_days=30)
    found = judge(context.lake(), models, request=request)
    assert (found.verdict, found.measured) == ("not comparable", None)
    assert f"none of the days from {FIRST} to {LAST} was mature on {AS_OF}" in found.reason


def test_few_days_are_too_few_whatever_the_gain(context, models):
    found = judge(context.lake(), models, first=MATURE - timedelta(days=3))
    assert found.measured.gain > 0
    assert found.verdict == "not shown to be better"
    assert "4 days are too few" in found.reason


def test_days_without_a_known_fraud_are_not_comparable(undone, models):
    undone.connection.execute("DELETE FROM lake.labels WHERE is_fraud")
    found = judge(undone, models)
    assert (found.verdict, found.measured) == ("not comparable", None)
    assert f"0 were known to be frauds on {AS_OF}" in found.reason


def test_days_without_transactions_are_named(context, models):
    first = AS_OF - timedelta(days=300)
    (champion, poor), challenger = models
    old = replace(champion, tags={}, as_of=first)
    with pytest.raises(SourceError, match=f"ingest --from {first} --to {first}"):
        judge(context.lake(), ((old, poor), challenger), first, first)


def test_blocks_of_days_do_not_matter(context, models, monkeypatch):
    whole = judge(context.lake(), models)
    monkeypatch.setattr(gate, "BLOCK_ROWS", 1)
    assert judge(context.lake(), models) == whole


def test_histories_are_read_where_one_model_wants_them(context, models, monkeypatch):
    lake = context.lake()
    monkeypatch.setitem(REGISTRY, "recurrent", DetectorEntry(Recurrent, Short))
    members = SMALL.model_copy(update={"members": ("gaussian", "recurrent")})
    bundle = train_on(lake, members).bundle
    among = score_both(
        lake, {"champion": models[0][1], "challenger": bundle}, FIRST, MATURE, REQUEST, QUEUE
    )
    features = load_features(lake, MATURE, MATURE, REQUEST)
    rows, events = attach_history(lake, features, MATURE, MATURE, REQUEST, 4)
    alone = score_features(rows, bundle, day=MATURE, version="x", queue=QUEUE, events=events)
    joined = alone.scores.join(among, on="transaction_id")
    assert joined.height == rows.height
    for name in ("score", "rank_of_day", "is_flagged"):
        part = name.removesuffix("_of_day").removeprefix("is_")
        assert joined[name].equals(joined[f"challenger_{part}"])


def test_gate_takes_the_days_from_the_challenger(context):
    registry = Registry(context.warehouse)
    challenger = registry.version("2")
    assert validation_days(challenger) == (FIRST, LAST)
    found = run_gate(
        registry, context.lake(), challenger, REQUEST, GateSettings.of(context), "cpu"
    )
    assert found.passed
    with pytest.raises(UserError, match="version 1 is the champion"):
        run_gate(registry, context.lake(), registry.champion(), REQUEST, SETTINGS, "cpu")


@pytest.mark.parametrize("end", ["first", "last"])
def test_model_without_validation_days_is_to_be_trained_again(context, end):
    found = Registry(context.warehouse).version("2")
    del found.tags[f"validation_{end}_day"]
    with pytest.raises(ModelMissingError, match=rf"version 2 .* train --as-of {AS_OF}"):
        validation_days(found)


def test_comparison_is_json(context, models):
    told = json.loads(json.dumps(asdict(judge(context.lake(), models)), default=str))
    assert told["verdict"] == "better"
    assert told["measured"]["swap"]["enter"]["examples"][0]["event_date"] >= str(FIRST)


def test_markdown_tells_verdict_figures_and_queue(context, models):
    found = judge(context.lake(), models)
    text = gate_markdown(found)
    measured = found.measured
    assert text.startswith("**Version 2 against champion 1: better**: average precision")
    assert NOTE in text
    for chosen in ("calibrated", "threshold", "probability", "trees join", "reserve"):
        assert chosen in NOTE
    pair = (measured.champion.average_precision, measured.challenger.average_precision)
    assert f"| average precision | {pair[0]:.3f} | {pair[1]:.3f} |" in text
    assert f"| enters | {measured.swap.enter.transactions} |" in text
    refused = Comparison("1", "2", FIRST, LAST, AS_OF, "not comparable", "no reason")
    assert gate_markdown(refused).endswith("not comparable**: no reason.")


def test_swap_set_holds_what_is_not_known(context, models):
    lake = context.lake()
    bundles = dict(zip(gate.ROLES, (bundle for _, bundle in models), strict=True))
    rows = score_both(lake, bundles, LAST, LAST, REQUEST, QUEUE)
    assert rows.height == read_transactions(lake, LAST, LAST).height
    unknown = rows.with_columns(pl.lit(None, pl.Boolean).alias("is_fraud"))
    found = swap_set(unknown).enter
    assert found.transactions > 0 == found.frauds
    assert {one.is_fraud for one in found.examples} == {None}
