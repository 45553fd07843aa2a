"""A detector of sequences through training, scoring and reasons, on a real lake."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pytest

from models.recurrent import Recurrent, RecurrentConfig
from models.registry import REGISTRY, DetectorEntry
from tasks.explain import explain_alerts
from tasks.score import score_features
from tasks.tracking import Bundle, score_frame
from tasks.training_data import attach_history, load_features
from tests.tasks.test_fit import AS_OF, QUEUE, REQUEST, SMALL, labels_of, make_lake, simulate
from tests.tasks.test_fit import train as train_on


@dataclass(frozen=True)
class Short(RecurrentConfig):
    """Trains within seconds on the little that the lake has."""

    window: int = 4
    min_steps: int = 60
    epochs: int = 2


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    frame = simulate()
    with make_lake(tmp_path_factory.mktemp("sequences"), frame, labels_of(frame)) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(lake):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "recurrent", DetectorEntry(Recurrent, Short))
        settings = SMALL.model_copy(update={"members": ("gaussian", "recurrent")})
        yield train_on(lake, settings).bundle


def load(lake, first, last):
    features = load_features(lake, first, last, REQUEST)
    return attach_history(lake, features, first, last, REQUEST, 4)


def test_both_members_are_trained(bundle):
    assert bundle.ensemble.member_names == ("gaussian", "recurrent")
    assert bundle.ensemble.window == 4


def test_a_day_scores_the_same_alone_and_among_others(lake, bundle):
    last = AS_OF + timedelta(days=2)
    among, events = load(lake, AS_OF, last)
    scores = among.select("event_date", "transaction_id").hstack(
        score_frame(bundle, among, events)
    )
    for days in range(3):
        day = AS_OF + timedelta(days=days)
        alone, own_events = load(lake, day, day)
        expected = scores.filter(pl.col("event_date") == day).sort("transaction_id")
        found = alone.select("event_date", "transaction_id").hstack(
            score_frame(bundle, alone, own_events)
        )
        assert found.sort("transaction_id").equals(expected)


def test_history_counts(lake, bundle):
    rows, events = load(lake, AS_OF, AS_OF)
    assert (rows["history_count"] > 0).any()
    with_history = score_frame(bundle, rows, events)["member.recurrent"]
    without = score_frame(bundle, rows)["member.recurrent"]
    assert not with_history.equals(without)
    assert without.is_finite().all()


def test_saved_model_scores_the_same(lake, bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "recurrent", DetectorEntry(Recurrent, Short))
    bundle.save(tmp_path)
    rows, events = load(lake, AS_OF, AS_OF)
    loaded = Bundle.load(tmp_path)
    assert score_frame(loaded, rows, events).equals(score_frame(bundle, rows, events))


def test_reasons_are_given_with_the_history(lake, bundle):
    rows, events = load(lake, AS_OF, AS_OF)
    scored = score_features(rows, bundle, day=AS_OF, version="1", queue=QUEUE, events=events)
    assert scored.events is events
    odd = rows.head(2).with_columns(
        pl.Series("amount_to_account_median_30d", [80.0, 80.0]),
        pl.Series("amount", [999.0, 999.0]),
    )
    for reasons in explain_alerts(odd, bundle, events):
        assert {reason.feature for reason in reasons} & {"amount", "amount_to_account_median_30d"}
    together = explain_alerts(odd, bundle, events)
    assert [explain_alerts(odd[place], bundle, events)[0] for place in (0, 1)] == together
