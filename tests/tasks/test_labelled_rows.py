"""Which rows the trees learn from: no fraud is lost, genuine rows are drawn evenly."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks import labelled_rows
from tasks.labelled_rows import choose_labelled_rows


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(labelled_rows, "LEAST_GENUINE", 1000)


def make_rows(n_rows, n_frauds):
    g = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "transaction_id": [f"t{place:06d}" for place in range(n_rows)],
            "amount": g.uniform(1, 100, n_rows),
            "is_fraud": g.permutation(np.arange(n_rows) < n_frauds),
        }
    )


def test_few_rows_are_all_kept():
    rows = make_rows(1010, 10)
    assert_frame_equal(choose_labelled_rows(rows), rows)


@pytest.mark.parametrize(("frauds", "expected"), [(10, 1000), (100, 5000)])
def test_of_many_rows_all_frauds_and_a_sample_stay(frauds, expected):
    rows = make_rows(20_000, frauds)
    chosen = choose_labelled_rows(rows)
    assert chosen["is_fraud"].sum() == frauds
    assert chosen.height - frauds == pytest.approx(expected, rel=0.15)
    mean = chosen.filter(~pl.col("is_fraud"))["amount"].mean()
    assert mean == pytest.approx(rows["amount"].mean(), rel=0.1)
    assert chosen["transaction_id"].is_sorted()


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_a_seed_has_drawn_are_drawn_anew(seed):
    rows = make_rows(40_000, 100)
    before = rows.filter(
        pl.col("is_fraud") | (pl.col("transaction_id").hash(seed) / 2.0**64 >= 0.5)
    )
    chosen = choose_labelled_rows(before)
    assert chosen.height - 100 == pytest.approx(5000, rel=0.15)


def test_the_order_of_the_rows_does_not_choose():
    rows = make_rows(20_000, 100)
    mixed = choose_labelled_rows(rows.sample(fraction=1, shuffle=True, seed=3))
    assert_frame_equal(mixed.sort("transaction_id"), choose_labelled_rows(rows))


def test_an_empty_frame_stays_empty():
    assert choose_labelled_rows(make_rows(5, 1).clear()).height == 0
