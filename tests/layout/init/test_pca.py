import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from streamumap.layout.init import pca


def in_blocks(rows, block_rows=70):
    return pca.blocks(lambda start, stop: rows[start:stop], rows.shape[0], block_rows)


def exact_pca(rows, n_components):
    centred = rows - rows.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:n_components].T


def unplaced(positions):
    """Removes the scale of first positions."""
    positions = positions - positions.mean(0)
    return positions / np.abs(positions).max()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csr_array])
def test_pca_is_the_exact_one(codes, form):
    rows = codes[:200, :800]
    start = pca.pca(in_blocks(form(rows)), form(rows), 800, 2, 0)
    assert start.dtype == np.float32 and start.shape == (200, 2)
    true = unplaced(exact_pca(rows.astype(np.float64), 2))
    ours = unplaced(start)
    ours *= np.sign((ours * true).sum(0))
    assert np.abs(ours - true).max() < 0.01
    assert np.abs(start).max() == pytest.approx(pca.WIDTH, rel=1e-3)
    assert np.abs(start.mean(0)).max() < 1e-3


def test_pca_centres_rows_far_from_the_origin():
    rows = np.random.default_rng(0).normal(size=(300, 20)) * np.linspace(5, 0.1, 20) + 1000
    ours, true = unplaced(pca.pca(in_blocks(rows), rows, 20, 3, 0)), unplaced(exact_pca(rows, 3))
    assert np.abs(np.abs(ours) - np.abs(true)).max() < 2e-3


def test_pca_does_not_depend_on_the_blocks_but_on_the_seed(codes):
    rows = codes[:100, :500]
    sample = rows[pca.sample_numbers(100, 60)]
    starts = [pca.pca(in_blocks(rows, n), sample, 500, 2, 7) for n in (1, 100, 105)]
    assert all(np.allclose(starts[0], other, atol=2e-5) for other in starts[1:])
    assert not np.array_equal(starts[0], pca.pca(in_blocks(rows, 1), sample, 500, 2, 8))


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_components"), [(3, 1, 2), (3, 4, 2), (5, 2, 10), (40, 12, 12), (3, 1, 1)]
)
def test_pca_of_small_matrices(n_rows, n_features, n_components):
    rows = np.random.default_rng(1).normal(size=(n_rows, n_features)).astype(np.float32)
    start = pca.pca(in_blocks(rows), rows, n_features, n_components, 0)
    assert start.shape == (n_rows, n_components) and np.isfinite(start).all()
    assert np.abs(start[:, 0]).max() > 1


@pytest.mark.parametrize("rows", [np.zeros((20, 5), np.float32), np.full((20, 5), 3, np.float32)])
def test_pca_of_equal_rows_parts_them_a_little(rows):
    for form in (np.asarray, sparse.csr_matrix):
        start = pca.pca(in_blocks(form(rows)), form(rows), 5, 2, 0)
        assert np.isfinite(start).all() and len(np.unique(start, axis=0)) == 20


def scaled_by_umap_learn(umap_, positions):
    """Asks umap-learn where its layout starts: it makes no epochs, on a graph of one edge a row."""
    n = len(positions)
    graph = sparse.coo_matrix((np.ones(n, np.float32), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return umap_.simplicial_set_embedding(
        None, graph, positions.shape[1], 1.0, 1.6, 0.9, 1.0, 5, 0, positions, np.random.RandomState(0), "euclidean",
        {}, False, {}, False,
    )[0]  # fmt: skip


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (100, -3), (1e-6, 0), (1, 1e5), (1e30, 0)])
def test_given_positions_are_scaled_as_umap_learn_scales_them(scale, offset, umap_learn):
    positions = np.random.default_rng(0).normal(size=(60, 2)) * [3, 1] * scale + offset
    ours = pca.given(positions, 0)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, scaled_by_umap_learn(umap_learn, positions), rtol=0, atol=1e-5)


def test_given_positions_that_coincide_are_shaken_as_umap_learn_shakes_them(umap_learn):
    positions = np.random.default_rng(0).normal(size=(60, 2))
    positions[1:20:2] = positions[:20:2]
    ours, theirs = pca.given(positions, 0), scaled_by_umap_learn(umap_learn, positions)
    assert len(np.unique(ours, axis=0)) == 60 and np.abs(ours - theirs).max() < 0.01
    apart = [np.linalg.norm(start[:20:2] - start[1:20:2], axis=1).mean() for start in (ours, theirs)]
    assert 0.1 < apart[0] / apart[1] < 10
    assert np.array_equal(ours, pca.given(positions, 0)) and not np.array_equal(ours, pca.given(positions, 1))


def test_an_axis_that_says_nothing_is_shaken_only():
    start = pca.given(np.stack([np.arange(50.0), np.full(50, 7.0)], 1), 0)
    assert np.ptp(start[:, 0]) == pytest.approx(10, abs=1e-3) and 0 < np.ptp(start[:, 1]) < 1e-3


@given(st.floats(1e-300, 1e300), st.floats(-1, 1), st.integers(0, 2**32 - 1))
def test_given_positions_of_any_size_span_the_width(scale, offset, seed):
    positions = (np.random.default_rng(seed).uniform(-1, 1, (20, 3)) + offset) * scale
    start = pca.given(positions, 0)
    np.testing.assert_allclose(np.ptp(start, axis=0), pca.WIDTH, rtol=1e-5)


def test_random_fills_the_square_and_repeats():
    start = pca.random(5000, 3, 1)
    assert start.dtype == np.float32 and start.shape == (5000, 3)
    assert np.abs(start).max() <= pca.WIDTH and (np.ptp(start, axis=0) > 19.9).all()
    assert np.array_equal(start, pca.random(5000, 3, 1)) and not np.array_equal(start, pca.random(5000, 3, 2))


@given(st.integers(3, 10**9), st.integers(2, 1000))
def test_sampled_rows_span_all(n_rows, size):
    numbers = pca.sample_numbers(n_rows, size)
    assert numbers.dtype == np.int64 and len(numbers) == min(n_rows, size)
    assert numbers[0] == 0 and numbers[-1] == n_rows - 1 and (np.diff(numbers) > 0).all()
