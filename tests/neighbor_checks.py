"""Rows that are hard for a neighbour search, and what its result must be."""

import numpy as np

from streamumap.neighbors import reference
from streamumap.neighbors.metric import named
from streamumap.neighbors.protocol import ComparedRows, SearchRequest
from streamumap.source.formats.array import ArraySource
from streamumap.source.sparse.csr_rows import pack


def hard_rows(n=150, n_features=60, negative=False, seed=0):
    """Sparse float32 rows of small whole numbers (many ties): zero rows, duplicates, multiples, rows that share no feature with the rest.

    At least 24 rows of 3 features.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 9, (n, n_features)).astype(np.float32) * (rng.random((n, n_features)) < 0.1)
    if negative:
        rows *= rng.choice([-1, 1], rows.shape)
    rows[:, -2:] = 0
    rows[5] = rows[n // 2] = rows[-1] = 0
    rows[10 : 12 + n // 5] = rows[10]
    rows[1:4] = 3 * rows[10]
    rows[7] = rows[8] = 0
    rows[7, -2] = rows[8, -2:] = 2
    return rows


def as_csr(rows, folder=None):
    return pack(ArraySource(rows), 100, int(np.count_nonzero(rows)), folder)


def compared(rows, metric, csr=None, device=None, source=None):
    """float32 rows as backends get them, as they are or as another `source` of theirs."""
    return ComparedRows(source or ArraySource(rows), csr, named(metric), bool((rows >= 0).all()), device)


def search_request(rows, k, blocks, *, sample=None, reached=None, is_zero=None, seed=0, **more):
    """A request for a search of ComparedRows, of which none is zero unless it is said; `reached` is asked about neighbours alone."""
    n = rows.source.n_rows
    return SearchRequest(
        rows, k, blocks, np.zeros(n, bool) if is_zero is None else is_zero, np.arange(0) if sample is None else sample,
        lambda neighbors, count=None: True if reached is None else reached(neighbors), seed, **more,
    )  # fmt: skip


def check_neighbors(found, rows, k, metric, atol=1e-5):
    """Right distances to right rows: which of several at one distance is free. (For cosine: `atol` on the distance itself.)"""
    indices, distances = found
    true_indices, true_distances = reference.search(rows, k, metric)
    n, width = true_indices.shape
    assert (indices.shape, indices.dtype) == ((n, k), np.int32) and (distances.shape, distances.dtype) == (
        (n, k),
        np.float32,
    )
    assert (indices[:, width:] == -1).all() and np.isinf(distances[:, width:]).all()
    indices, distances = indices[:, :width], distances[:, :width]
    assert np.array_equal(indices[:, 0], np.arange(n)) and (distances[:, 0] == 0).all()
    assert np.array_equal(indices < 0, true_indices < 0) and np.array_equal(np.isinf(distances), indices < 0)
    there = indices >= 0
    assert np.allclose(distances[there], true_distances[there], rtol=1e-5, atol=atol)
    true = np.take_along_axis(reference.distance_matrix(rows, rows, metric), np.maximum(indices, 0), 1)
    assert np.allclose(distances[there], true[there], rtol=1e-5, atol=atol)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in indices)
    with np.errstate(invalid="ignore"):
        assert not (np.diff(distances, axis=1) < 0).any()


def check_counts(counts, rows, sample, others, metric, rtol=2e-6, atol=1e-9, tie=1e-7):
    """Rows that are closer by more than the tolerance are counted; rows that are as close, but for a `tie`, or further are not."""
    d = reference.distance_matrix(rows[sample], rows, metric)
    theirs = np.where(
        others >= 0, np.take_along_axis(d, np.maximum(others, 0), 1), 1.0 if metric == "cosine" else np.inf
    )
    d[np.arange(len(sample)), sample] = np.inf
    least = (d[:, None] < theirs[:, :, None] * (1 - rtol) - atol).sum(2)
    most = (d[:, None] < theirs[:, :, None] * (1 - tie) - 1e-12).sum(2)
    assert (counts.shape, counts.dtype) == (others.shape, np.int64)
    assert (least <= counts).all()
    assert (counts <= most).all()


def some_others(rows, sample, k, metric, seed=0):
    """For each sampled row: true neighbours, any rows, and empty slots."""
    near = reference.search(rows, k, metric)[0][sample, 1:]
    anyone = np.random.default_rng(seed).integers(0, len(rows), (len(sample), 4))
    anyone = np.where(anyone == sample[:, None], -1, anyone)
    return np.concatenate([near, anyone, np.full((len(sample), 1), -1)], axis=1)
