"""Inverted lists: the rows that have a feature, with their values. Products with many rows are sums over the lists (term-at-a-time scoring:
Turtle & Flood 1995)."""

import numpy as np
from numba import njit

from streamumap.neighbors.sparse.sizes import CORPUS_ROWS

CHUNK = 64
"""Sums checked together: most groups are skipped."""

NORM_ROWS = 256
"""Rows whose squares, 16 bytes a value, are in memory at a time."""


def invert(
    indptr: np.ndarray, features: np.ndarray, values: np.ndarray, n_features: int, scale: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn CSR rows into inverted lists: bounds int64 (D + 1,), rows uint16 or int32, ascending in each list, and values float32. `scale`
    float32 (n,): factors of the rows' values."""
    n = len(indptr) - 1
    bounds = np.empty(n_features + 2, np.int64)
    list_rows = np.empty(len(features), np.uint16 if n <= CORPUS_ROWS else np.int32)
    list_values = np.empty(len(features), np.float32)
    scale = np.ones(n, np.float32) if scale is None else scale
    put_in_lists(indptr, features, values, scale, 0, n, bounds, list_rows, list_values)
    return bounds[:-1], list_rows, list_values


@njit(cache=True)
def put_in_lists(indptr, features, values, scale, a, b, bounds, list_rows, list_values):
    """Make the lists of rows a..b: `list_rows` gets the rows, counted from row a, and `list_values` their values; the list of feature f is at
    bounds[f]..bounds[f + 1], bounds (D + 2,)."""
    bounds[:] = 0
    for at in range(indptr[a], indptr[b]):
        bounds[features[at] + 2] += 1
    for f in range(2, len(bounds)):
        bounds[f] += bounds[f - 1]
    for j in range(a, b):
        for at in range(indptr[j], indptr[j + 1]):
            place = bounds[features[at] + 1]
            list_rows[place], list_values[place] = j - a, values[at] * scale[j]
            bounds[features[at] + 1] = place + 1


def squared_norms(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum the squares of each row: float64 (n,)."""
    out = np.zeros(len(indptr) - 1)
    for start in range(0, len(out), NORM_ROWS):
        bounds = indptr[start : start + NORM_ROWS + 1]
        filled = np.diff(bounds) > 0
        if filled.any():
            squares = values[bounds[0] : bounds[-1]].astype(np.float64) ** 2
            out[start : start + NORM_ROWS][filled] = np.add.reduceat(squares, bounds[:-1][filled] - bounds[0])
    return out


def inverse_norms(squares: np.ndarray) -> np.ndarray:
    """Compute what makes the length of a row 1: float32 (n,), 1 for a zero row."""
    return (1.0 / np.sqrt(np.where(squares > 0, squares, 1.0))).astype(np.float32)


@njit(inline="always")
def add_products(sums, features, values, start, stop, factor, bounds, list_rows, list_values):
    """Add the product of factor times the row of pairs start..stop with row j of the lists to sums[j], for all j."""
    for at in range(start, stop):
        feature, value = features[at], values[at] * factor
        for p in range(bounds[feature], bounds[feature + 1]):
            sums[list_rows[p]] += value * list_values[p]


@njit(cache=True)
def highest(scores, out):
    """Find the columns of the highest scores, highest first, the first of equal ones before the others."""
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
