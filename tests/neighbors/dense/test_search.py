"""Dense neighbours on a CPU, held to `reference.py`: small rows, hard rows, one or two threads, and the memory that
was promised.
"""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_checks import compared, search_request
from numba import njit

from streamumap.neighbors import reference, table
from streamumap.neighbors.dense import cells, exhaustive, sizes
from streamumap.neighbors.dense import search as dense
from streamumap.source.formats.array import ArraySource

K = 8


class Rows(ArraySource):
    """A source that remembers the most rows it was asked for at once."""

    def __init__(self, values):
        self.most, self._lock = 0, threading.Lock()
        super().__init__(np.asarray(values, np.float32))
        self.most = 0  # opening reads a few

    def read(self, start, stop, out=None):
        return self._seen(super().read(start, stop, out))

    def take(self, rows):
        assert (np.diff(rows) > 0).all()
        return self._seen(super().take(rows))

    def _seen(self, rows):
        with self._lock:
            self.most = max(self.most, len(rows))
        return rows


@pytest.fixture
def approximate(monkeypatch):
    monkeypatch.setattr(dense, "all_with_all_is_cheaper", lambda n_rows, n_features: False)


def clustered(n, d, seed=0):
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((12, 10))[random.integers(0, 12, n)] * 2 + random.standard_normal((n, 10))
    return (hidden @ random.standard_normal((10, d)) + 0.1 * random.standard_normal((n, d))).astype(np.float32)


def run(values, metric, k=K, cell_rows=120, n_threads=2, reached=lambda indices: True, exhaustive=False, seed=3):
    """`reached` is asked about the neighbours of all rows."""
    values = np.asarray(values, np.float32)
    options = dict(seed=seed, n_threads=n_threads, reached=reached, exhaustive=exhaustive, is_zero=~values.any(axis=1))
    rows = compared(values, metric, source=Rows(values))
    return dense.search(search_request(rows, k, {"cell_rows": cell_rows}, sample=np.arange(len(values)), **options))


def recall(values, metric, indices, distances, k=K):
    """By distance, so that any of several equally near rows is right."""
    d = reference.distance_matrix(values, values, metric)
    np.fill_diagonal(d, np.inf)
    worst = np.sort(d, axis=1)[:, k - 2]
    return (distances[:, 1:] <= worst[:, None] * (1 + 1e-4) + 1e-6).mean()


def check(values, metric, indices, distances):
    """Self first, no row twice, sorted, and every distance that of the rows."""
    n = len(values)
    true = reference.distance_matrix(values, values, metric)
    assert (indices[:, 0] == np.arange(n)).all() and (distances[:, 0] == 0).all()
    assert (distances[:, :-1] <= distances[:, 1:]).all()
    assert (np.isinf(distances) == (indices < 0)).all()
    for i in range(n):
        found = indices[i][indices[i] >= 0]
        assert len(set(found)) == len(found)
        assert np.allclose(distances[i][: len(found)], true[i, found], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("n", "d", "cell_rows"), [(3, 1, 1), (5, 4, 2), (300, 7, 40), (700, 33, 90), (257, 300, 64)])
def test_all_with_all_is_the_reference(metric, n, d, cell_rows):
    values = clustered(n, d)
    indices, distances = run(values, metric, cell_rows=cell_rows, exhaustive=True)
    check(values, metric, indices, distances)
    expected = reference.search(values, K, metric)[1]
    width = min(K, n)
    assert np.allclose(distances[:, :width], expected[:, :width], rtol=1e-4, atol=2e-6)
    assert (indices[:, width:] == -1).all() and np.isinf(distances[:, width:]).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("d", [20, 300])
def test_sketches_and_measuring_find_neighbours(approximate, metric, d):
    values = clustered(1500, d)
    indices, distances = run(values, metric)
    check(values, metric, indices, distances)
    assert recall(values, metric, indices, distances) > 0.95


def test_joins_of_rows_find_more_and_a_floor_not_reached_ends_with_all(approximate):
    values, seen = clustered(1500, 300), []

    def reached(indices):
        true = np.argsort(reference.distance_matrix(values, values, "cosine") + 9 * np.eye(1500), axis=1)[:, : K - 1]
        seen.append(np.mean([len(np.intersect1d(a, b)) for a, b in zip(indices, true, strict=True)]) / (K - 1))
        return False

    indices, distances = run(values, "cosine", reached=reached)
    assert len(seen) == 1 + dense.ROW_JOINS and seen[1] >= seen[0]
    assert recall(values, "cosine", indices, distances) == 1.0


@pytest.mark.parametrize(("k", "floor", "ends_with_all"), [(15, 0.88, False), (8, 0.97, True)])
def test_noise_that_sketches_cannot_tell_reaches_the_floor(approximate, monkeypatch, k, floor, ends_with_all):
    random, last = np.random.default_rng(0), []
    values = (
        random.standard_normal((5, 300))[random.integers(0, 5, 1500)] + random.standard_normal((1500, 300))
    ).astype(np.float32)
    true = np.argsort(reference.distance_matrix(values, values, "cosine") + 9 * np.eye(1500), axis=1)[:, : k - 1]
    seen = []

    def found(indices):
        return np.mean([len(np.intersect1d(a, b)) for a, b in zip(indices, true, strict=True)]) / (k - 1)

    def reached(indices):
        seen.append(found(indices))
        return seen[-1] >= floor

    all_with_all = dense.all_with_all
    monkeypatch.setattr(
        dense, "all_with_all", lambda work, checkpoint: (last.append(work), all_with_all(work, checkpoint))
    )
    indices, distances = run(values, "cosine", k=k, reached=reached)
    check(values, "cosine", indices, distances)
    assert seen[0] < floor - 0.1 <= floor <= found(indices[:, 1:])
    assert (len(last) == 1) == ends_with_all == (max(seen) < floor)


@pytest.mark.parametrize("exhaustive", [False, True])
def test_same_bytes_for_any_number_of_threads(approximate, exhaustive):
    values = clustered(1500, 280)
    one, two = (run(values, "cosine", n_threads=t, exhaustive=exhaustive, reached=lambda i: False) for t in (1, 2))
    assert one[0].tobytes() == two[0].tobytes() and one[1].tobytes() == two[1].tobytes()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_duplicates_zero_rows_and_far_rows(approximate, metric, exhaustive):
    values = clustered(1600, 12)
    values[:700] = values[0]
    values[700:760] = 0
    values[1500] *= 1e6
    indices, distances = run(values, metric, exhaustive=exhaustive)
    check(values, metric, indices, distances)
    assert (distances[:760] == 0).all()
    assert recall(values, metric, indices, distances) > 0.95
    if metric == "cosine":
        assert (indices[700:760] >= 700).all() and (indices[700:760] < 760).all()


def test_one_cell_would_take_all(approximate):
    values = np.random.default_rng(1).standard_normal((1500, 6)).astype(np.float32) * 1e-3
    values[::100] += 50 * np.random.default_rng(2).standard_normal((15, 6)).astype(np.float32)
    indices, distances = run(values, "euclidean")
    check(values, "euclidean", indices, distances)
    assert recall(values, "euclidean", indices, distances) > 0.95


def test_every_row_gets_a_cell_when_no_room_is_left():
    found, room = np.full((7, 2), -1, np.int32), np.array([2, 1])
    cells._assign(np.tile(np.array([0, 1], np.int32), (7, 1)), room, found)
    assert (found[:, 0] >= 0).all() and found[0].tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=40), st.integers(1, 6))
def test_insert_keeps_the_nearest(pairs, width):
    squares_of = {number: np.float32(square) for number, square in pairs}
    products = -np.array([[squares_of[n] for n, _ in pairs]], np.float32).reshape(1, -1) / 2
    indices, squares = np.full((1, width), -1, np.int32), np.full((1, width), np.inf, np.float32)
    fresh = np.zeros((1, width), np.uint8)
    for column, (number, _) in enumerate(pairs):
        _insert_one(indices[0], squares[0], fresh[0], -2 * products[0, column], number)
    expected = sorted((square, number) for number, square in squares_of.items())[:width]
    assert list(zip(squares[0][: len(expected)], indices[0], strict=False)) == expected
    assert (indices[0][len(expected) :] == -1).all() and (fresh[0] == (indices[0] >= 0)).all()


@njit
def _insert_one(indices, squares, fresh, square, number):
    table.insert_fresh(indices, squares, fresh, np.float32(square), np.int32(number))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_products_are_merged_both_ways(n, m, width, seed):
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, (n + m, 3)).astype(np.float32)
    norms = (x**2).sum(1)
    products = np.ascontiguousarray(x[:n] @ x[n:].T)
    true = ((x[:n, None] - x[None, n:]) ** 2).sum(2)
    squares = np.full((n + m, width), np.inf, np.float32)
    indices = np.full((n + m, width), -1, np.int32)
    exhaustive._merge(products, norms[:n], norms[n:], 0, n, indices, squares)
    exhaustive._merge_down(0, m, products, norms[:n], norms[n:], 0, n, indices, squares)
    for row, distances in [(i, true[i]) for i in range(n)] + [(n + j, true[:, j]) for j in range(m)]:
        expected = np.sort(distances)[:width]
        assert (squares[row][: len(expected)] == expected).all() and np.isinf(squares[row][len(expected) :]).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_count_closer_is_the_reference_and_no_row_is_closer_than_itself(metric):
    values = clustered(900, 40) + (100 if metric == "euclidean" else 0)
    values[100:400] = values[100]
    values[500:520] = 0
    sample = np.array([3, 150, 510, 899])
    true = reference.distance_matrix(values, values, metric)
    others = np.argsort(true[sample] + 1e9 * (np.arange(900) == sample[:, None]), axis=1)[:, [0, 4, 30, 500]]
    others[0, 3] = -1
    source = Rows(values)
    counts = dense.count_closer(compared(values, metric, source=source), sample, others, 128)
    assert source.most <= 128
    assert counts[0, 3] == 899
    for i, s in enumerate(sample):
        for j, o in enumerate(others[i]):
            if o >= 0:
                below = (np.delete(true[s], s) < true[s, o] - 1e-9).sum()
                assert below - 3 <= counts[i, j] <= below


@pytest.mark.parametrize("exhaustive", [False, True])
def test_memory_is_what_footprint_says(approximate, exhaustive):
    values = clustered(6000, 300)
    run(values[:600], "cosine", reached=lambda indices: False)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run(values, "cosine", cell_rows=1500, exhaustive=exhaustive)
        used = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    promised = sizes.search(6000, 300, 4, K, 1500, 2)
    assert promised / 3 < used < promised, (used, promised)


def test_memory_of_counting_is_what_footprint_says():
    values = clustered(6000, 300)
    rows, sample = compared(values, "cosine"), np.arange(0, 6000, 10)
    others = np.random.default_rng(0).integers(0, 6000, (600, 5))
    dense.count_closer(rows, sample[:5], others[:5], 100)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        dense.count_closer(rows, sample, others, 2000)
        used = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    promised = sizes.count_closer(600, 5, 300, 4, 2000)
    assert promised / 3 < used < promised, (used, promised)
