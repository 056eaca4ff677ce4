import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from streamumap import initial


def in_blocks(rows, block_rows=70):
    return initial.blocks(lambda start, stop: rows[start:stop], rows.shape[0], block_rows)


def exact_pca(rows, n_components):
    centred = rows - rows.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:n_components].T


def unplaced(positions):
    """Without the start's own scale."""
    positions = positions - positions.mean(0)
    return positions / np.abs(positions).max()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csr_array])
def test_pca_is_the_exact_one(codes, form):
    rows = codes[:200, :800]
    start = initial.pca(in_blocks(form(rows)), form(rows), 800, 2, 0)
    assert start.dtype == np.float32 and start.shape == (200, 2)
    true = unplaced(exact_pca(rows.astype(np.float64), 2))
    ours = unplaced(start)
    ours *= np.sign((ours * true).sum(0))
    assert np.abs(ours - true).max() < 0.01
    assert np.abs(start).max() == pytest.approx(initial.WIDTH, rel=1e-3)
    assert np.abs(start.mean(0)).max() < 1e-3


def test_pca_centres_rows_far_from_the_origin():
    rows = np.random.default_rng(0).normal(size=(300, 20)) * np.linspace(5, 0.1, 20) + 1000
    ours, true = unplaced(initial.pca(in_blocks(rows), rows, 20, 3, 0)), unplaced(exact_pca(rows, 3))
    assert np.abs(np.abs(ours) - np.abs(true)).max() < 2e-3


def test_pca_does_not_depend_on_the_blocks_but_on_the_seed(codes):
    rows = codes[:100, :500]
    sample = rows[initial.sample_numbers(100, 60)]
    starts = [initial.pca(in_blocks(rows, n), sample, 500, 2, 7) for n in (1, 100, 105)]
    assert all(np.allclose(starts[0], other, atol=2e-5) for other in starts[1:])
    assert not np.array_equal(starts[0], initial.pca(in_blocks(rows, 1), sample, 500, 2, 8))


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_components"), [(3, 1, 2), (3, 4, 2), (5, 2, 10), (40, 12, 12), (3, 1, 1)]
)
def test_pca_of_small_matrices(n_rows, n_features, n_components):
    rows = np.random.default_rng(1).normal(size=(n_rows, n_features)).astype(np.float32)
    start = initial.pca(in_blocks(rows), rows, n_features, n_components, 0)
    assert start.shape == (n_rows, n_components) and np.isfinite(start).all()
    assert np.abs(start[:, 0]).max() > 1


@pytest.mark.parametrize("rows", [np.zeros((20, 5), np.float32), np.full((20, 5), 3, np.float32)])
def test_pca_of_equal_rows_parts_them_a_little(rows):
    for form in (np.asarray, sparse.csr_matrix):
        start = initial.pca(in_blocks(form(rows)), form(rows), 5, 2, 0)
        assert np.isfinite(start).all() and len(np.unique(start, axis=0)) == 20


def knn_graph(rows, k=6):
    """Symmetric weights 1 between each row and its k nearest."""
    distance = ((rows[:, None] - rows[None]) ** 2).sum(2)
    nearest = np.argsort(distance, axis=1)[:, 1 : k + 1]
    dense = np.zeros((len(rows), len(rows)), np.float32)
    np.put_along_axis(dense, nearest, 1, axis=1)
    return sparse.csr_matrix(np.maximum(dense, dense.T))


def start_of(graph, n_components=2, seed=0, block_rows=70, **more):
    return initial.spectral(lambda: in_blocks(graph, block_rows), graph.shape[0], n_components, seed, **more)


def test_spectral_parts_two_clusters():
    rows = np.random.default_rng(2).normal(size=(120, 2))
    rows[60:, 0] += 12
    graph = knn_graph(rows).tolil()
    graph[0, 60] = graph[60, 0] = 1
    start = start_of(graph.tocsr())
    assert start.dtype == np.float32 and start.shape == (120, 2)
    first = start[:, 0] * np.sign(start[0, 0])
    assert (first[:60] > 0).all() and (first[60:] < 0).all()
    assert np.abs(start).max() == pytest.approx(initial.WIDTH, rel=1e-3)


def test_spectral_is_the_leading_eigenvectors():
    graph = knn_graph(np.random.default_rng(3).normal(size=(150, 2)) * [5, 1])
    degree = np.asarray(graph.sum(1)).ravel()
    normalised = graph.toarray() / np.sqrt(degree[:, None] * degree[None])
    true = unplaced(np.linalg.eigh(normalised)[1][:, [-2]])
    ours = unplaced(start_of(graph, 1, n_products=600))
    assert np.abs(ours * np.sign((ours * true).sum()) - true).max() < 0.01


def test_spectral_blocks_change_nothing():
    graph = knn_graph(np.random.default_rng(4).normal(size=(90, 2)))
    starts = [start_of(graph, block_rows=n) for n in (1, 90, 95)]
    assert all(np.allclose(starts[0], other, atol=1e-3) for other in starts[1:])
    assert np.array_equal(starts[0], start_of(graph, block_rows=1))


def test_spectral_of_a_graph_in_many_pieces_is_finite():
    pieces = [knn_graph(np.random.default_rng(5).normal(size=(n, 2)), 2) for n in (3, 4, 5, 30)]
    graph = sparse.block_diag([*pieces, sparse.csr_matrix((6, 6), dtype=np.float32)], format="csr")
    start = start_of(graph)
    assert np.isfinite(start).all() and np.ptp(start) > 1


@pytest.mark.parametrize("n_components", [1, 2, 10])
@pytest.mark.parametrize("n_rows", [3, 4, 12])
def test_spectral_of_a_tiny_graph_has_its_shape(n_rows, n_components):
    graph = sparse.csr_matrix(1 - np.eye(n_rows, dtype=np.float32))
    start = start_of(graph, n_components)
    assert start.shape == (n_rows, n_components) and np.isfinite(start).all()


def test_spectral_without_any_edge_is_finite():
    start = start_of(sparse.csr_matrix((20, 20), dtype=np.float32))
    assert start.shape == (20, 2) and np.isfinite(start).all()


def test_random_fills_the_square_and_repeats():
    start = initial.random(5000, 3, 1)
    assert start.dtype == np.float32 and start.shape == (5000, 3)
    assert np.abs(start).max() <= initial.WIDTH and (np.ptp(start, axis=0) > 19.9).all()
    assert np.array_equal(start, initial.random(5000, 3, 1)) and not np.array_equal(start, initial.random(5000, 3, 2))


@given(st.integers(3, 10**9), st.integers(2, 1000))
def test_sampled_rows_span_all(n_rows, size):
    numbers = initial.sample_numbers(n_rows, size)
    assert numbers.dtype == np.int64 and len(numbers) == min(n_rows, size)
    assert numbers[0] == 0 and numbers[-1] == n_rows - 1 and (np.diff(numbers) > 0).all()
