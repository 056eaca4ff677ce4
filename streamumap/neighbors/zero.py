"""All-zero rows under cosine, which has no angle for them: at distance 0 from each other and at 1 from every other
row.

Any zero rows may be the neighbours of one, so they are chosen for the map. A row's next ones would make the graph a
ring, which is drawn as a string in the order of the rows. Here the graph is a circulant with offsets from a hash: of
about log N such offsets nearly all choices mix fast (Alon and Roichman 1994), and what mixes fast is drawn as a blob.
"""

from functools import lru_cache

import numpy as np

TOGETHER = 1 << 16
"""Rows that are joined together: bounds the temporaries."""


def join_zero_rows(indices: np.ndarray, distances: np.ndarray, zero_rows: np.ndarray) -> None:
    """Gives each zero row other zero rows as neighbours, in place; it has no others.

    `indices` int32 (N, k), `distances` float32 (N, k), `zero_rows` int32 row numbers.
    """
    for at in range(0, len(zero_rows), TOGETHER):
        rows = zero_rows[at : at + TOGETHER]
        found = next_zero_rows(zero_rows, rows, indices.shape[1] - 1)
        indices[rows, 0], distances[rows, 0] = rows, 0.0
        indices[rows, 1:], distances[rows, 1:] = found, np.where(found >= 0, 0.0, np.inf)


def close_gaps(indices: np.ndarray, distances: np.ndarray) -> None:
    """Moves the neighbours that are missing, -1 and inf, behind those that are there, in place: of rows from which zero rows were taken."""
    those = np.flatnonzero(((indices[:, :-1] < 0) & (indices[:, 1:] >= 0)).any(1))
    for at in range(0, len(those), TOGETHER):
        rows = those[at : at + TOGETHER]
        order = np.argsort(indices[rows] < 0, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(indices[rows], order, 1)
        distances[rows] = np.take_along_axis(distances[rows], order, 1)


def next_zero_rows(zero_rows: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """int32 (len(rows), n): the neighbours of these zero rows, each once, -1 where there are no more of them. As many
    rows name a row as it names."""
    found = np.full((len(rows), n), -1, np.int32)
    steps = offsets(len(zero_rows), n)
    place = np.searchsorted(zero_rows, rows)[:, None] + steps
    found[:, : len(steps)] = zero_rows[place % max(len(zero_rows), 1)]
    return found


@lru_cache
def offsets(n_rows: int, n: int) -> np.ndarray:
    """int64 (min(n, n_rows - 1),): different steps around a ring of `n_rows`, each from 1 to n_rows - 1. A step and the
    one back name the same pairs of rows, so both are taken only where there are too few others."""
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
    """Numbers below 2^32 -> int64 below 2^32: `lowbias32` (Ellis 2018)."""
    x = numbers.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return (x ^ (x >> np.uint32(16))).astype(np.int64)
