"""Inverted lists: for each feature the rows that have it and how much, by which products with many rows are sums over
lists (Turtle & Flood 1995 call it term-at-a-time scoring)."""

import numpy as np
from numba import njit

from streamumap.neighbors.packed_footprint import CORPUS_ROWS

CHUNK = 64
"""Sums looked at together: most are passed over."""


def invert(
    indptr: np.ndarray, features: np.ndarray, values: np.ndarray, n_features: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR -> for each feature the rows that have it, ascending: (bounds int64 (D + 1,), row uint16 or int32, value
    float32)."""
    order = np.argsort(features, kind="stable")
    bounds = np.zeros(n_features + 1, np.int64)
    np.cumsum(np.bincount(features, minlength=n_features), out=bounds[1:])
    n = len(indptr) - 1
    owner = np.repeat(np.arange(n, dtype=np.uint16 if n <= CORPUS_ROWS else np.int32), np.diff(indptr))
    return bounds, owner[order], values[order]


def squared_norms(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 (n,)."""
    out = np.zeros(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        out[filled] = np.add.reduceat(values.astype(np.float64) ** 2, indptr[:-1][filled])
    return out


def inverse_norms(squares: np.ndarray) -> np.ndarray:
    """float32 (n,): what makes the length of a row 1; 1 for a zero row."""
    return (1.0 / np.sqrt(np.where(squares > 0, squares, 1.0))).astype(np.float32)


@njit(inline="always")
def add_products(sums, features, values, start, stop, factor, bounds, owner, amount):
    """Adds factor * (the row of pairs start..stop) . (row j of the lists) to sums[j]."""
    for at in range(start, stop):
        feature, value = features[at], values[at] * factor
        for p in range(bounds[feature], bounds[feature + 1]):
            sums[owner[p]] += value * amount[p]


@njit(cache=True)
def highest(scores, out):
    """Columns of the highest scores, highest first, the first of equal ones before the others."""
    n = len(out)
    best = np.full(n, -np.inf, np.float32)
    out[:] = 0
    for start in range(0, len(scores), CHUNK):
        stop = min(start + CHUNK, len(scores))
        higher = np.int32(0)
        for j in range(start, stop):
            higher |= np.int32(scores[j] > best[-1])
        if higher == 0:
            continue
        for j in range(start, stop):
            if scores[j] > best[-1]:
                at = n - 1
                while at > 0 and best[at - 1] < scores[j]:
                    best[at], out[at] = best[at - 1], out[at - 1]
                    at -= 1
                best[at], out[at] = scores[j], j
