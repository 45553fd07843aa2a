import pytest
import torch
from sklearn.neighbors import NearestNeighbors as ReferenceNeighbors

from models.nearest_neighbours import (
    CHUNK_ROWS,
    TILE_ROWS,
    NearestNeighbours,
    NearestNeighboursConfig,
    choose_coreset,
    measure_distances,
)


def make_rows(n_rows, seed, n_features=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_features, generator=g, dtype=torch.float64)


def fit(x, **values):
    detector = NearestNeighbours(NearestNeighboursConfig(**values), x.shape[1])
    detector.fit(x, x[:50], seed=0)
    return detector


@pytest.mark.parametrize("shift", [0.0, 1e4], ids=["centred", "far_from_the_origin"])
@pytest.mark.parametrize("neighbours", [1, 10])
def test_score_equals_scikit_learns_mean_distance(neighbours, shift):
    x, other = make_rows(500, 0) + shift, 2 * make_rows(300, 1) + shift
    reference = ReferenceNeighbors(n_neighbors=neighbours, algorithm="brute").fit(x - shift)
    distances, _ = reference.kneighbors((other - shift).numpy())
    scores = fit(x, neighbours=neighbours).forward(other)
    torch.testing.assert_close(scores, torch.from_numpy(distances.mean(axis=1)), rtol=0, atol=1e-6)


def test_search_in_chunks_and_tiles_equals_search_at_once():
    coreset, x = make_rows(2 * CHUNK_ROWS + 7, 0), make_rows(TILE_ROWS + 5, 1)
    at_once = torch.cdist(x, coreset, compute_mode="donot_use_mm_for_euclid_dist")
    expected = at_once.topk(9, dim=1, largest=False).values
    torch.testing.assert_close(measure_distances(x, coreset, 9), expected, rtol=0, atol=1e-12)


def test_neighbours_at_tiny_distances_are_told_apart():
    steps = 1e-6 * torch.arange(1.0, 6.0, dtype=torch.float64)
    coreset = torch.zeros(105, 3, dtype=torch.float64)
    coreset[:5, 0] = 7.0 + steps
    coreset[5:] = 50 + make_rows(100, 0, 3)
    x = torch.tensor([[7.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(measure_distances(x, coreset, 5)[0], steps, rtol=1e-6, atol=0)


def test_coreset_keeps_to_its_size_and_seed():
    x = make_rows(1000, 0)
    first, again, other = (
        choose_coreset(x, 100, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (100, 6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert fit(x, coreset_rows=100).coreset.shape == (100, 6)


def test_coreset_covers_rare_normal_rows():
    rare = 0.1 * make_rows(10, 2) + 30
    x = torch.cat([make_rows(5000, 0), rare])
    covered, sampled = fit(x, coreset_rows=64), fit(x, coreset_rows=64, cover_share=0.0)
    assert (covered.coreset > 20).all(dim=1).sum() == 10
    assert covered.score(rare).max() < 1
    assert sampled.score(rare).max() > 10


def test_many_equal_rows_count_once():
    x = torch.cat([torch.zeros(900, 6, dtype=torch.float64), make_rows(100, 0)])
    detector = fit(x, neighbours=3)
    assert detector.coreset.shape == (101, 6)
    scores = detector.score(0.3 * make_rows(200, 1))
    assert (scores > 0).all()
    assert scores.unique().shape == (200,)


def test_training_row_does_not_count_itself():
    x = make_rows(400, 0)
    detector = NearestNeighbours(NearestNeighboursConfig(neighbours=4), 6)
    report = detector.fit(x, make_rows(400, 1), seed=0)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    others = distances.topk(5, dim=1, largest=False).values[:, 1:]
    assert report.train_losses[0] == pytest.approx(float(others.mean()), rel=1e-6)


def test_farther_is_higher_without_bound():
    detector = fit(make_rows(300, 0))
    powers = torch.arange(1.0, 30.0, dtype=torch.float64)
    scores = detector.score(10 ** powers.unsqueeze(1) * torch.ones(1, 6, dtype=torch.float64))
    assert (scores.diff() > 0).all()


def test_gradient_points_away_from_the_neighbours():
    detector = fit(torch.zeros(10, 6, dtype=torch.float64))
    x = torch.zeros(2, 6, dtype=torch.float64)
    x[1, 0] = 3.0
    x.requires_grad_()
    detector.forward(x).sum().backward()
    expected = torch.zeros(2, 6, dtype=torch.float64)
    expected[1, 0] = 1.0
    torch.testing.assert_close(x.grad, expected)  # 0, not NaN, at distance 0


def test_short_coreset_loads_into_a_new_detector():
    detector = fit(make_rows(20, 0), neighbours=30)
    loaded = NearestNeighbours(detector.config, 6).double()
    loaded.load_state_dict(detector.state_dict())
    x = make_rows(40, 1)
    assert loaded.coreset.shape == (20, 6)
    assert torch.equal(loaded.score(x), detector.score(x))


@pytest.mark.parametrize("values", [{"neighbours": 0}, {"coreset_rows": 1}, {"cover_share": 1.0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        NearestNeighboursConfig(**values)
