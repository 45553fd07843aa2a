"""What holds for every detector of sequences, whatever reads the window."""

from dataclasses import replace

import pytest
import torch

from models.gaussian import Gaussian, GaussianConfig
from models.history import History, WindowedRows
from models.metrics import roc_auc
from models.recurrent import Recurrent, RecurrentConfig
from models.transformer import Transformer, TransformerConfig

WINDOW, CHANNELS, ROW = 6, 2, 3
FAST = {"epochs": 4, "min_steps": 200, "batch_rows": 256, "learning_rate": 1e-2}
CONFIGS = {
    Recurrent: RecurrentConfig(**FAST, window=WINDOW, channels=CHANNELS, hidden_features=12),
    Transformer: TransformerConfig(**FAST, window=WINDOW, channels=CHANNELS, width=12, heads=2),
}
each_detector = pytest.mark.parametrize("kind", list(CONFIGS), ids=lambda kind: kind.__name__)


def make_rows(n_rows, seed, least=0):
    """Accounts each with a level of their own, which their events and their rows repeat.

    The row's columns are the level, something that has nothing to do with the history, and the
    gap to come, which is as long as the account's last gap.
    """
    g = torch.Generator().manual_seed(seed)
    level = 1.5 * torch.randn(n_rows, 1, generator=g)
    gap = torch.randn(n_rows, WINDOW, generator=g)
    noise = 0.15 * torch.randn(n_rows, WINDOW + 2, generator=g)
    events = torch.stack([level + noise[:, :WINDOW], gap], dim=2).reshape(-1, CHANNELS)
    count = torch.randint(least, WINDOW + 1, (n_rows,), generator=g)
    last = torch.where(count > 0, gap[:, -1], torch.randn(n_rows, generator=g))
    row = [level[:, 0] + noise[:, WINDOW], torch.randn(n_rows, generator=g), last + noise[:, -1]]
    history = History(events, WINDOW * torch.arange(1, n_rows + 1), count)
    return WindowedRows(torch.stack(row, dim=1), history, WINDOW)


def without_history(rows):
    return WindowedRows(rows.x, History.none(len(rows), CHANNELS), WINDOW)


@pytest.fixture(scope="module")
def fitted():
    detectors = {}
    for kind, config in CONFIGS.items():
        detectors[kind] = kind(config, ROW + WINDOW * (CHANNELS + 1))
        detectors[kind].fit(make_rows(3000, 1), make_rows(800, 2), seed=0)
    return detectors


@each_detector
@pytest.mark.parametrize("column", [0, 2], ids=["level", "gap"])
def test_a_break_of_the_accounts_own_pattern_is_odd(fitted, kind, column):
    normal = make_rows(1500, 3, least=3)
    g = torch.Generator().manual_seed(0)
    odd = WindowedRows(normal.x.clone(), normal.history, WINDOW)
    odd.x[:, column] = odd.x[torch.randperm(1500, generator=g), column]  # some other account's
    labels = [0] * 1500 + [1] * 1500
    score = torch.cat([fitted[kind].score(normal), fitted[kind].score(odd)])
    assert roc_auc(score, labels) >= 0.9
    gaussian = Gaussian(GaussianConfig(), ROW)
    gaussian.fit(make_rows(3000, 1).x, make_rows(800, 2).x, seed=0)
    score = torch.cat([gaussian.score(normal.x), gaussian.score(odd.x)])
    assert 0.45 < roc_auc(score, labels) < 0.55


@each_detector
def test_rows_without_history_are_as_odd_as_others(fitted, kind):
    rows = make_rows(4000, 4, least=1)
    usual = fitted[kind].score(rows)
    alone = fitted[kind].score(without_history(rows))
    assert (alone > usual.quantile(0.99)).float().mean() < 0.05
    assert 0.3 < float((usual < alone.median()).float().mean()) < 0.7


@each_detector
def test_short_histories_are_as_odd_as_long_ones(fitted, kind):
    rows = make_rows(6000, 5)
    score = fitted[kind].score(rows)
    tail = score.quantile(0.99)
    for count in range(WINDOW + 1):
        assert (score[rows.history.count == count] > tail).float().mean() < 0.05, count


@each_detector
def test_prediction_does_not_see_the_row(fitted, kind):
    x = make_rows(50, 6)[:].double().requires_grad_()
    detector = fitted[kind]
    _, events, presence = detector.split(x)
    detector.predict(events, presence).sum().backward()
    assert x.grad[:, :ROW].abs().max() == 0
    assert x.grad[:, ROW:].abs().max() > 0
    detector.zero_grad()


@each_detector
def test_what_stands_in_absent_places_does_not_matter(fitted, kind):
    x = make_rows(200, 7)[:]
    window = x[:, ROW:].view(-1, WINDOW, CHANNELS + 1)
    expected = fitted[kind].score(x)
    absent = window[:, :, -1] == 0
    assert absent.any()
    window[:, :, :-1][absent] = 7.0
    assert torch.equal(fitted[kind].score(x), expected)


@each_detector
def test_order_of_events_matters(fitted, kind):
    x = make_rows(200, 8, least=WINDOW)[:]
    turned = x.clone()
    turned[:, ROW:] = x[:, ROW:].view(-1, WINDOW, CHANNELS + 1).flip(1).flatten(1)
    assert ((fitted[kind].score(x) - fitted[kind].score(turned)).abs() > 0.1).float().mean() > 0.5


@each_detector
def test_lazy_rows_fit_and_score_as_the_dense_matrix_does(kind):
    config = replace(CONFIGS[kind], epochs=1, min_steps=10)
    train, held_out, rows = make_rows(400, 1), make_rows(100, 2), make_rows(300, 9)
    lazy, dense = (kind(config, train.shape[1]) for _ in range(2))
    lazy.fit(train, held_out, seed=0)
    dense.fit(train[:], held_out[:], seed=0)
    assert torch.equal(dense.score(rows[:]), lazy.score(rows))


@each_detector
def test_columns_that_hang_together_are_judged_together(kind):
    g = torch.Generator().manual_seed(0)

    def twins(n_rows):
        common = torch.randn(n_rows, 1, generator=g)
        return torch.cat([common, common + 0.1 * torch.randn(n_rows, 1, generator=g)], dim=1)

    config = replace(CONFIGS[kind], min_steps=100)
    detector = kind(config, 2 + WINDOW * (CHANNELS + 1))
    train, held_out = (
        WindowedRows(x, History.none(len(x), CHANNELS), WINDOW) for x in (twins(2000), twins(300))
    )
    detector.fit(train, held_out, seed=0)
    broken = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    odd, usual = detector.score(WindowedRows(broken, History.none(2, CHANNELS), WINDOW))
    assert odd > 10 * usual


@each_detector
def test_a_matrix_with_nothing_beside_the_window_is_refused(kind):
    with pytest.raises(ValueError, match=r"at least 1 column beside a window of 6 x \(2 \+ 1\)"):
        kind(CONFIGS[kind], WINDOW * (CHANNELS + 1))


@each_detector
@pytest.mark.parametrize("values", [{"window": 0}, {"channels": 0}, {"short_share": 1.5}])
def test_config_without_meaning_is_refused(kind, values):
    with pytest.raises(ValueError, match="expected window > 0"):
        type(CONFIGS[kind])(**values)
