"""All-zero rows under cosine, which has no angle for them: at distance 0 from each other and at 1 from every other
row."""

import numpy as np


def join_zero_rows(indices: np.ndarray, distances: np.ndarray, zero_rows: np.ndarray) -> None:
    """Gives each zero row the next zero rows as neighbours, in a ring, in place; it has no others.

    `indices` int32 (N, k), `distances` float32 (N, k), `zero_rows` int32 row numbers.
    """
    width = min(indices.shape[1], len(zero_rows))
    for column in range(width):
        indices[zero_rows, column] = np.roll(zero_rows, -column)
    distances[zero_rows, :width] = 0.0
    indices[zero_rows, width:] = -1
    distances[zero_rows, width:] = np.inf
