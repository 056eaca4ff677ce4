"""All-zero rows under cosine, which has no angle for them: at distance 0 from each other and at 1 from every other
row."""

import numpy as np

TOGETHER = 1 << 16
"""Rows that are joined together: bounds the temporaries."""


def join_zero_rows(indices: np.ndarray, distances: np.ndarray, zero_rows: np.ndarray) -> None:
    """Gives each zero row the next zero rows as neighbours, in a ring, in place; it has no others.

    `indices` int32 (N, k), `distances` float32 (N, k), `zero_rows` int32 row numbers.
    """
    for at in range(0, len(zero_rows), TOGETHER):
        rows = zero_rows[at : at + TOGETHER]
        found = next_zero_rows(zero_rows, rows, indices.shape[1] - 1)
        indices[rows, 0], distances[rows, 0] = rows, 0.0
        indices[rows, 1:], distances[rows, 1:] = found, np.where(found >= 0, 0.0, np.inf)


def next_zero_rows(zero_rows: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """int32 (len(rows), n): the neighbours of these zero rows, -1 where there are no more of them."""
    place = np.searchsorted(zero_rows, rows)[:, None] + np.arange(1, n + 1)
    found = zero_rows[place % len(zero_rows)]
    found[:, max(len(zero_rows) - 1, 0) :] = -1
    return found
