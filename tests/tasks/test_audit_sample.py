"""The audit sample is uniform, repeatable, and never holds a flagged row."""

from datetime import date
from hashlib import sha256

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from tasks.audit_sample import choose_audit_sample

DAY = date(2026, 3, 2)


def day_of_scores(rows=300, flagged=20, prefix="t"):
    """A day's scores; the first ``flagged`` ranks are flagged."""
    ranks = pl.int_range(1, rows + 1, eager=True, dtype=pl.Int32)
    return pl.DataFrame(
        {
            "event_date": pl.Series([DAY] * rows, dtype=pl.Date),
            "transaction_id": pl.Series([f"{prefix}{n}" for n in range(rows)], dtype=pl.String),
            "score": (rows - ranks).cast(pl.Float64),
            "rank_of_day": ranks,
            "is_flagged": ranks <= flagged,
        }
    )


def draw(scores, *, share=0.1, capacity=100, seed=7):
    return choose_audit_sample(scores, capacity=capacity, audit_share=share, seed=seed)


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(0, 60),
    flagged=st.integers(0, 60),
    share=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
    order=st.integers(0, 1000),
    seed=st.integers(0, 10**9),
)
def test_sample_has_its_size_no_flagged_row_and_no_memory_of_the_order(
    rows, flagged, share, order, seed
):
    scores = day_of_scores(rows, flagged)
    drawn = draw(scores, share=share, seed=seed)
    below = max(rows - flagged, 0)
    expected = min(max(1, round(100 * share)), below) if share else 0
    assert drawn.height == drawn["transaction_id"].n_unique() == expected
    assert not drawn["is_flagged"].any()
    assert drawn["rank_of_day"].is_sorted()
    assert set(drawn["inclusion_probability"]) == ({expected / below} if expected else set())
    assert drawn.drop("inclusion_probability").columns == scores.columns
    mixed = scores.sample(fraction=1, shuffle=True, seed=order)
    assert draw(mixed, share=share, seed=seed).equals(drawn)


def test_order_of_the_draw_is_that_of_sha256_whichever_library_computes_it():
    below = [f"t{n}" for n in range(20, 300)]
    by_hash = sorted(below, key=lambda name: sha256(f"7:{name}".encode()).hexdigest())
    assert set(draw(day_of_scores())["transaction_id"]) == set(by_hash[:10])


def test_every_row_is_drawn_equally_often_over_seeds():
    scores, seeds, below = day_of_scores(rows=50, flagged=10), 120, 40
    drawn = pl.concat(draw(scores, share=0.08, seed=seed) for seed in range(seeds))
    times = np.bincount(drawn["rank_of_day"].to_numpy() - 11, minlength=below)
    assert times.size == below
    expected = seeds * 8 / below
    # Without replacement the counts vary less than a multinomial's, by (N - n) / (N - 1).
    statistic = ((times - expected) ** 2 / expected).sum() / (1 - 8 / below)
    assert chi2.ppf(0.001, below - 1) < statistic < chi2.ppf(0.999, below - 1)


def test_another_day_or_seed_draws_other_rows():
    one = draw(day_of_scores(3000))["rank_of_day"].to_list()
    assert len(set(one) & set(draw(day_of_scores(3000, prefix="u"))["rank_of_day"])) < 4
    assert len(set(one) & set(draw(day_of_scores(3000), seed=8)["rank_of_day"])) < 4


def test_day_scored_anew_keeps_what_is_still_below():
    before = draw(day_of_scores(300, 20), share=0.2)
    after = draw(day_of_scores(300, 60), share=0.2)
    still_below = set(before.filter(pl.col("rank_of_day") > 60)["transaction_id"])
    assert still_below
    assert still_below <= set(after["transaction_id"])
    assert after["inclusion_probability"].unique().to_list() == [20 / 240]


def test_several_days_are_refused():
    two = pl.concat(
        [day_of_scores(3), day_of_scores(3).with_columns(event_date=pl.lit(date(2026, 3, 3)))]
    )
    with pytest.raises(ValueError, match="expected the scores of one day, got 2 days"):
        draw(two)
