"""Inverted lists: the rows that have a feature, with their values. Products with many rows are sums over the lists (term-at-a-time scoring:
Turtle & Flood 1995)."""

import numpy as np
from numba import njit

from streamumap.neighbors.sparse.sizes import CORPUS_ROWS

CHUNK = 64
"""Sums checked together, and scores of which the highest is known: most groups are skipped."""

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


@njit(inline="always")
def dot(strip, features, values, start, stop):
    """Sum the product of a row in a dense strip and of the row of pairs start..stop. Four sums let additions overlap; one sum, which a
    compiler may reorder, it turns into gathers from the strip, which take twice the time. Unsigned places need no test for below 0."""
    a = b = c = d = np.float32(0)
    at, stop, one, two, three = np.uint64(start), np.uint64(stop), np.uint64(1), np.uint64(2), np.uint64(3)
    while at + three < stop:
        a += strip[features[at]] * values[at]
        b += strip[features[at + one]] * values[at + one]
        c += strip[features[at + two]] * values[at + two]
        d += strip[features[at + three]] * values[at + three]
        at += np.uint64(4)
    while at < stop:
        a += strip[features[at]] * values[at]
        at += one
    return (a + b) + (c + d)


@njit(cache=True)
def highest(scores, out):
    """Find the columns of the highest scores, highest first, the first of equal ones before the others.

    Every n_peaks-th score is in one peak, so that peaks are found without a branch; only scores of the highest peaks are then looked at.
    """
    n, last, n_peaks = len(scores), len(out) - 1, (len(scores) + CHUNK - 1) // CHUNK
    peaks, best = np.full(n_peaks, -np.inf, np.float32), np.full(len(out), -np.inf, np.float32)
    for start in range(0, n, n_peaks):
        part = scores[start : start + n_peaks]
        for j in range(len(part)):
            peaks[j] = part[j] if part[j] > peaks[j] else peaks[j]
    least = _nth(peaks, len(out))
    out[:] = 0
    for peak in range(n_peaks):
        if peaks[peak] < least:
            continue
        for j in range(peak, n, n_peaks):
            score, at = scores[j], last
            if score < least or not (score > best[at] or (score == best[at] and j < out[at])):
                continue
            while at > 0 and (best[at - 1] < score or (best[at - 1] == score and out[at - 1] > j)):
                best[at], out[at] = best[at - 1], out[at - 1]
                at -= 1
            best[at], out[at] = score, j


@njit(cache=True)
def _nth(values, n):
    """Return the n-th highest of the values, -inf where there are fewer."""
    best = np.full(n, -np.inf, np.float32)
    for value in values:
        if value > best[-1]:
            at = n - 1
            while at > 0 and best[at - 1] < value:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
    return best[-1]
