import math

import pytest
import torch

from models.tails import Tails, TailsConfig


def make_rows(n_rows, seed):
    """A column with a long right tail, one with a long left tail, and one of a few whole numbers."""
    g = torch.Generator().manual_seed(seed)
    right = -torch.rand(n_rows, generator=g).log()
    left = torch.rand(n_rows, generator=g).log()
    whole = (3 * torch.rand(n_rows, generator=g).square()).floor()
    return torch.stack([right, left, whole], dim=1).double()


@pytest.fixture(scope="module")
def tails():
    detector = Tails(TailsConfig(), 3)
    detector.fit(make_rows(50_000, 1), make_rows(1000, 2), seed=0)
    return detector


def test_longer_side_of_each_column_counts(tails):
    assert tails.sides[:2].tolist() == [1.0, -1.0]
    usual = torch.tensor([[0.7, -0.7, 0.0]])
    far = torch.tensor([[12.0, -0.7, 0.0], [0.7, -12.0, 0.0]])
    other_side = torch.tensor([[0.0001, -0.7, 0.0], [0.7, -0.0001, 0.0]])
    assert tails.score(far).min() > 4
    assert tails.score(other_side).max() <= tails.score(usual)[0]


def test_shorter_side_counts_beyond_all_that_was_seen(tails):
    x = torch.tensor([[v, -0.7, 0.0] for v in (0.7, -1.0, -10.0, -1000.0)])
    assert tails.score(x).diff().min() > 0


def test_surprise_is_the_share_of_rows_as_extreme(tails):
    x = make_rows(2000, 3)
    exact = x[:, 0] / math.log(10)  # -log10 of exp(-x)
    found = tails.column_surprises(x)[:, 0]
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.02)
    shares = tails.column_surprises(
        torch.tensor([[0.7, -0.7, v] for v in (0.0, 1.0, 2.0)]).double()
    )
    expected = torch.tensor(
        [0.0, -math.log10(1 - 3**-0.5), -math.log10(1 - (2 / 3) ** 0.5)], dtype=torch.float64
    )
    torch.testing.assert_close(shares[:, 2], expected, rtol=0.02, atol=0.01)


def test_score_grows_without_end(tails):
    x = torch.tensor([[v, -0.7, 0.0] for v in (5.0, 10.0, 20.0, 100.0, 1e6)])
    assert tails.score(x).diff().min() > 0


def test_score_is_the_rarest_value(tails):
    x = make_rows(500, 4)
    columns = tails.column_surprises(x)
    torch.testing.assert_close(tails.score(x), columns.max(dim=1).values.float())


def test_values_never_seen_do_not_run_away():
    """One value more than ever in a column of hardly any values is odd, not infinitely so."""
    x = torch.zeros(10_000, 1)
    x[:3] = 1.0
    detector = Tails(TailsConfig(), 1)
    detector.fit(x, x[:100], seed=0)
    seen, more = detector.score(torch.tensor([[1.0], [2.0]])).tolist()
    assert 2 < seen < more < 30


@pytest.mark.parametrize(
    "values",
    [
        {"max_rows": 1},
        {"knots": 1},
        {"scale_floor": 0.0},
        {"tail_share": 0.0},
        {"tail_share": 0.5},
    ],
)
def test_settings_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match="expected"):
        TailsConfig(**values)
