"""The nearest of some rows for each of others: every backend held to the plain reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_checks import as_csr, hard_rows

from streamumap.events import no_advance
from streamumap.neighbors import reference
from streamumap.neighbors.dense import nearest as dense
from streamumap.neighbors.metric import named
from streamumap.neighbors.protocol import ComparedRows, NearestRequest
from streamumap.neighbors.sparse import nearest as sparse
from streamumap.source.formats.array import ArraySource

METRICS = ("euclidean", "cosine")
BLOCKS = (7, 64, 1000)


def parts_of(backend, rows, others, k, query_rows, other_rows, advance=no_advance):
    """Neighbors that a backend finds for float32 rows among `others`, ComparedRows, `query_rows` at a time."""
    request = NearestRequest(others, ArraySource(rows), k, query_rows, other_rows, n_threads=2, advance=advance)
    with backend.open_search(request) as search:
        parts = [search(at, min(at + query_rows, len(rows))) for at in range(0, len(rows), query_rows)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def by_products(rows, others, k, metric, non_negative, other_rows=64, query_rows=1000):
    there = ComparedRows(ArraySource(others), None, named(metric), non_negative)
    return parts_of(dense, rows, there, k, query_rows, other_rows)


def by_lists(rows, others, k, metric, non_negative, other_rows=64, query_rows=1000):
    there = ComparedRows(ArraySource(others), as_csr(others), named(metric), non_negative)
    return parts_of(sparse, rows, there, k, query_rows, other_rows)


WAYS = {"dense": by_products, "packed": by_lists}


def check(found, rows, others, k, metric, non_negative):
    """Right distances to right rows; which of several at one distance is free."""
    indices, distances = found
    true_indices, true_distances = reference.nearest(rows, others, k, metric, non_negative)
    assert (indices.shape, indices.dtype, distances.dtype) == ((len(rows), k), np.int32, np.float32)
    assert np.array_equal(indices < 0, true_indices < 0) and np.array_equal(np.isinf(distances), indices < 0)
    there = indices >= 0
    np.testing.assert_allclose(distances[there], true_distances[there], rtol=1e-5, atol=1e-5)
    true = np.take_along_axis(reference.distance_matrix(rows, others, metric), np.maximum(indices, 0), 1)
    np.testing.assert_allclose(distances[there], true[there], rtol=1e-5, atol=1e-5)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in indices)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("negative", [False, True])
def test_hard_rows(way, metric, negative):
    rows = hard_rows(190, negative=negative)
    new, others = rows[::3], np.delete(rows, np.s_[::3], axis=0)
    found = WAYS[way](new, others, 15, metric, not negative)
    check(found, new, others, 15, metric, not negative)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000), n=st.integers(1, 40), m=st.integers(1, 30), k=st.integers(2, 20), d=st.integers(1, 30)
)
def test_any_sizes(way, metric, seed, n, m, k, d):
    random = np.random.default_rng(seed)
    rows, others = (random.integers(0, 3, (size, d)).astype(np.float32) for size in (m, n))
    check(WAYS[way](rows, others, k, metric, True, other_rows=1 + seed % 9), rows, others, k, metric, True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("metric", METRICS)
def test_blocks_change_no_byte(way, metric, codes):
    """Not even where more rows lie at one distance than are kept."""
    random = np.random.default_rng(3)
    others = np.concatenate([codes[:200], np.repeat(codes[200:201], 60, 0), codes[200:400]])
    rows = np.concatenate([codes[400:450], codes[200:201] + 0.01 * (codes[200:201] > 0) * random.random(3072)])
    rows = rows.astype(np.float32)
    expected = WAYS[way](rows, others, 15, metric, True)
    for other_rows, query_rows in ((7, 1000), (64, 5), (1000, 51)):
        found = WAYS[way](rows, others, 15, metric, True, other_rows, query_rows)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_is_there_is_at_distance_zero(way, codes):
    for metric in METRICS:
        indices, distances = WAYS[way](codes[50:60], codes, 15, metric, True)
        assert (distances[:, 0] == 0).all()
        assert (codes[indices[:, 0]] == codes[50:60]).all()


def test_rows_far_from_the_origin():
    random = np.random.default_rng(0)
    rows = (1000 + random.normal(size=(120, 20))).astype(np.float32)
    check(by_products(rows[:20], rows[20:], 10, "euclidean", False), rows[:20], rows[20:], 10, "euclidean", False)


@pytest.mark.parametrize("way", WAYS)
def test_rows_much_larger_than_the_others(way):
    random = np.random.default_rng(0)
    others = random.random((50, 8)).astype(np.float32)
    rows = (others[:5] * np.float32(2.0**62)).astype(np.float32)
    indices, distances = WAYS[way](rows, others, 5, "euclidean", True)
    assert (indices >= 0).all() and np.isfinite(distances).all()
