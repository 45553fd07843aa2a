import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.hybrid import Hybrid, choose_hybrid
from models.metrics import average_precision

SURPRISE = st.floats(0, 12, width=32)
HYBRID = st.builds(
    Hybrid, label_free_from=SURPRISE, boosted_from=SURPRISE, reserved_share=st.just(0.2)
)
ROW = st.tuples(SURPRISE, SURPRISE)
N_DAYS, CAPACITY = 7, 100


def combine(hybrid, rows):
    return hybrid.combine(*torch.tensor(rows, dtype=torch.float32).reshape(-1, 2).T)


@given(HYBRID, ROW, st.floats(0, 5, width=32), st.sampled_from([0, 1]))
def test_a_higher_surprise_never_lowers_the_score(hybrid, row, rise, place):
    higher = list(row)
    higher[place] += rise
    before, after = combine(hybrid, [row, higher])
    assert after >= before
    if rise > 0.01:
        assert after > before


@given(HYBRID, st.lists(ROW, min_size=1, max_size=20))
def test_a_row_has_its_score_alone_and_in_any_company(hybrid, rows):
    together = combine(hybrid, rows)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert torch.equal(together, torch.cat([combine(hybrid, [row]) for row in rows]))
    assert torch.equal(together.flip(0), combine(hybrid, rows[::-1]))


def test_odd_rows_rank_behind_the_sure_and_before_the_doubtful():
    hybrid = Hybrid(label_free_from=2.0, boosted_from=3.0, reserved_share=0.2)
    sure, odd, odder, doubtful = combine(hybrid, [(0.1, 4.5), (2.1, 0.1), (6, 0.1), (1.9, 2.8)])
    assert doubtful < odd < odder < sure


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.25, 0.9]),
    st.integers(1, 40),
    st.integers(1, 5),
)
def test_the_parts_fill_the_capacity_of_the_held_out_days(seed, share, capacity, n_days):
    g = torch.Generator().manual_seed(seed)
    label_free, boosted = torch.rand(2, 60 * n_days, generator=g, dtype=torch.float64)
    days = torch.arange(n_days).repeat(60)
    chosen = choose_hybrid(label_free, boosted, days, capacity=capacity, reserved_share=share)
    is_sure = boosted > chosen.boosted_from
    is_odd = ~is_sure & (label_free > chosen.label_free_from)
    places = capacity * n_days
    assert chosen.reserved_share == share
    assert int(is_odd.sum()) == round(share * places)
    assert int(is_sure.sum()) == places - round(share * places)


def test_days_shorter_than_the_capacity_are_reviewed_whole():
    label_free, boosted = torch.rand(2, 30, generator=torch.Generator().manual_seed(0))
    chosen = choose_hybrid(
        label_free, boosted, torch.zeros(30), capacity=CAPACITY, reserved_share=0.2
    )
    assert chosen.boosted_from == pytest.approx(float(boosted.min()))
    assert chosen.combine(label_free, boosted).isfinite().all()


def simulate(n_known, n_new, seed):
    """Give days of genuine rows, known frauds of which trees see four in five, and new frauds.

    Returns:
        label_free, boosted, days, kind (0 genuine, 1 known, 2 new), each (rows,).
    """
    g = torch.Generator().manual_seed(seed)
    n_rows = 3000 * N_DAYS
    label_free, boosted = -torch.rand(2, n_rows, generator=g, dtype=torch.float64).log10()
    days = torch.arange(N_DAYS).repeat_interleave(3000)
    place = torch.arange(3000).repeat(N_DAYS)
    kind = torch.where(place < n_known, 1, torch.where(place < n_known + n_new, 2, 0))
    drawn = torch.rand(n_rows, generator=g, dtype=torch.float64)
    boosted = torch.where((kind == 1) & (drawn < 0.8), 3 + drawn, boosted)
    label_free = torch.where(kind == 2, 3 + drawn, label_free)
    return label_free, boosted, days, kind


def recall(scores, days, kind, of):
    found = 0
    for day in range(N_DAYS):
        chosen = kind[days == day][scores[days == day].topk(CAPACITY).indices]
        found += int((chosen == of).sum())
    return found / int((kind == of).sum())


def choose_on(rows, share, *, with_labels=True):
    label_free, boosted, days, kind = rows
    return choose_hybrid(
        label_free,
        boosted,
        days,
        capacity=CAPACITY,
        reserved_share=share,
        is_fraud=kind == 1 if with_labels else None,
    )


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_new_kind_is_caught_and_known_kinds_keep_their_rank(with_labels):
    hybrid = choose_on(simulate(50, 0, seed=0), 0.2, with_labels=with_labels)
    label_free, boosted, days, kind = simulate(50, 12, seed=1)
    scores = hybrid.combine(label_free, boosted)
    assert recall(boosted, days, kind, of=2) < 0.3
    assert recall(scores, days, kind, of=2) >= 0.9 * recall(label_free, days, kind, of=2)
    was_known = kind != 2
    is_fraud = kind[was_known] == 1
    alone = average_precision(boosted[was_known].numpy(), is_fraud.numpy())
    assert average_precision(scores[was_known].numpy(), is_fraud.numpy()) >= 0.99 * alone


def test_the_reserve_is_wide_where_known_frauds_need_few_places():
    few = choose_on(simulate(10, 0, seed=0), 0.2)
    many = choose_on(simulate(100, 0, seed=0), 0.2)
    assert few.reserved_share >= 0.6
    assert many.reserved_share <= 0.3
    assert few.label_free_from < many.label_free_from


def test_without_known_frauds_the_reserve_is_as_set():
    label_free, boosted, days, kind = simulate(10, 0, seed=0)
    chosen = choose_hybrid(
        label_free, boosted, days, capacity=10, reserved_share=0.3, is_fraud=kind == 9
    )
    assert chosen.reserved_share == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boosted": torch.ones(3)}, r"shapes \(2,\) and \(3,\)"),
        ({"days": torch.ones(1)}, r"shapes \(2,\) and \(1,\)"),
        ({"is_fraud": torch.tensor([True])}, r"shapes \(2,\) and \(1,\)"),
        ({"boosted": torch.tensor([1.0, torch.nan])}, "NaN or infinity"),
        ({"capacity": 0}, "got 0 and 0.2"),
        ({"reserved_share": 0.95}, "got 1 and 0.95"),
        (dict.fromkeys(["label_free", "boosted", "days"], torch.ones(0)), "got none"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    given = {
        "label_free": torch.ones(2),
        "boosted": torch.ones(2),
        "days": torch.ones(2),
        "capacity": 1,
        "reserved_share": 0.2,
    }
    with pytest.raises(ValueError, match=message):
        choose_hybrid(**(given | change))


def test_columns_of_different_rows_are_not_joined():
    with pytest.raises(ValueError, match="one value a row"):
        Hybrid(1.0, 1.0, 0.2).combine(torch.ones(2), torch.ones(1))
