"""Neighbors for rows of zeros, which have no direction: under cosine they are at distance 0 from each other and at 1 from all others.

Any zero rows are right as the neighbors of one, so they are chosen for the look of the map. If each took the next ones, the graph would
be a ring, and the layout would draw a string. Here it is a circulant graph whose offsets come from a hash: with about log N offsets
nearly all such graphs mix fast (Alon and Roichman 1994), and a graph that mixes fast is drawn as a blob.
"""

from functools import lru_cache

import numpy as np

TOGETHER = 1 << 16
"""Rows that get their neighbors at a time: bounds the temporaries."""


def join_zero_rows(indices: np.ndarray, distances: np.ndarray, zero_rows: np.ndarray) -> None:
    """Give each zero row other zero rows as its only neighbors, in place.

    `indices` int32 (N, k), `distances` float32 (N, k), `zero_rows` int32 row numbers, ascending.
    """
    for start in range(0, len(zero_rows), TOGETHER):
        rows = zero_rows[start : start + TOGETHER]
        neighbors = next_zero_rows(zero_rows, rows, indices.shape[1] - 1)
        indices[rows, 0], distances[rows, 0] = rows, 0.0
        indices[rows, 1:], distances[rows, 1:] = neighbors, np.where(neighbors >= 0, 0.0, np.inf)


def close_gaps(indices: np.ndarray, distances: np.ndarray) -> None:
    """Move missing neighbors, -1 and inf, to the end of their lists, in place."""
    rows_with_gaps = np.flatnonzero(((indices[:, :-1] < 0) & (indices[:, 1:] >= 0)).any(1))
    for start in range(0, len(rows_with_gaps), TOGETHER):
        rows = rows_with_gaps[start : start + TOGETHER]
        order = np.argsort(indices[rows] < 0, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(indices[rows], order, 1)
        distances[rows] = np.take_along_axis(distances[rows], order, 1)


def next_zero_rows(zero_rows: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Choose n neighbors for each of these zero rows: int32 (len(rows), n), none twice, -1 where there are no more zero rows. Each row is
    named by as many rows as it names."""
    neighbors = np.full((len(rows), n), -1, np.int32)
    steps = offsets(len(zero_rows), n)
    place = np.searchsorted(zero_rows, rows)[:, None] + steps
    neighbors[:, : len(steps)] = zero_rows[place % max(len(zero_rows), 1)]
    return neighbors


@lru_cache
def offsets(n_rows: int, n: int) -> np.ndarray:
    """Choose different steps around a ring of `n_rows` rows: int64 (min(n, n_rows - 1),), each from 1 to n_rows - 1. A step and the step
    back connect the same pairs of rows, so both are taken only where there are too few others."""
    half, n = n_rows // 2, max(min(n, n_rows - 1), 0)
    if half <= 2 * n:
        forth = np.arange(1, half + 1)
        forth = forth[np.argsort(_hash(forth), kind="stable")]
    else:
        drawn = 1 + (_hash(np.arange(1, 4 * n + 65)) * half >> 32)
        forth = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    back = n_rows - forth[2 * forth != n_rows]
    return np.concatenate([forth, back])[:n]


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Hash numbers below 2^32 into int64 below 2^32: `lowbias32` (Ellis 2018)."""
    x = numbers.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return (x ^ (x >> np.uint32(16))).astype(np.int64)
