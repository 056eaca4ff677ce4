"""Rows in groups, and checks of the k-NN graph that an approximate search finds of them."""

import numpy as np

from streamumap import quality
from streamumap.neighbors import reference


def same_bytes(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def group_rows(n, n_features=40, seed=0):
    """Non-negative rows in groups, 1 in 5 values not zero; zero rows and duplicates."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, max(2, n // 12), n)
    rows = rng.random((n // 12 + 2, n_features))[which] * (rng.random((n // 12 + 2, n_features)) < 0.2)[which]
    rows = np.round(rows * (1 + 0.3 * rng.random((n, n_features))), 3).astype(np.float32)
    rows[[3, n // 2]] = 0
    rows[5] = rows[4]
    return rows


def true_recall(rows, lists, sample, metric):
    """Computes the recall of neighbours int32 (S, k - 1), counted in float64."""
    d = reference.distance_matrix(rows[sample], rows, metric)
    d[np.arange(len(sample)), sample] = np.inf
    none = 1.0 if metric == "cosine" else np.inf
    theirs = np.where(lists >= 0, np.take_along_axis(d, np.maximum(lists, 0), 1), none)
    return quality.recall((d[:, None] < theirs[:, :, None] * (1 - 1e-5) - 1e-6).sum(2), lists)


class Floor:
    """Says yes when the recall is at least `least`; remembers what it was asked about."""

    def __init__(self, rows, metric, least, sample=None):
        self.rows, self.metric, self.least, self.recalls = rows, metric, least, []
        self.sample = np.arange(len(rows)) if sample is None else sample

    def __call__(self, lists):
        assert lists.dtype == np.int32 and len(lists) == len(self.sample)
        self.recalls.append(true_recall(self.rows, lists, self.sample, self.metric))
        return self.recalls[-1] >= self.least


def check_graph(found, rows, k, metric, least):
    """Right distances to other rows, each once, nearest first; recall at least `least`."""
    indices, distances = found
    n, true = len(rows), reference.distance_matrix(rows, rows, metric)
    assert (indices.dtype, distances.dtype, indices.shape, distances.shape) == (np.int32, np.float32, (n, k), (n, k))
    assert np.array_equal(indices[:, 0], np.arange(n)) and not distances[:, 0].any()
    there = indices >= 0
    assert np.array_equal(np.isinf(distances), ~there)
    exact = np.take_along_axis(true, np.maximum(indices, 0), 1)
    assert np.allclose(distances[there], exact[there], rtol=1e-4, atol=1e-5)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in indices)
    with np.errstate(invalid="ignore"):
        assert not (np.diff(distances, axis=1) < 0).any()
    if metric == "cosine":
        zero = ~rows.any(1)
        assert zero[indices[zero][there[zero]]].all()
        if (rows >= 0).all():
            assert (distances[there] < 1).all()
    assert true_recall(rows, indices[:, 1:], np.arange(n), metric) >= least
