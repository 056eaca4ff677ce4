"""Heads of rows: the strongest features of each. Products with them tell which of many rows are worth a product with all features: of 600
rows of codes with 32 features, the nearest 64 by heads of 8 have 99.5% of the neighbors that are among them. Where many features are about as
strong, heads do not tell (of pixels with 165 features a row, heads of 42 find 0.68 of the neighbors that all features find 0.97 of)."""

import numpy as np
from numba import njit, prange

from streamumap.neighbors.sparse.lists import dot
from streamumap.neighbors.table import insert_fresh

LEAST_SHARE = 2 / 3
"""Share of the rows' squares that heads must have; it is 0.75 to 0.78 in codes, and 0.51 in pixels."""

BINS = 256
"""Intervals into which keys are counted to find the lowest."""

ROUNDS = 4
FINE = 4
"""At most so often the interval in which the last of them lies is divided again, until it holds at most one in FINE of them."""

FAR = np.float32(1e37)
"""Keys end here, so that their range is finite."""

PARTS = 64
"""Pieces that one call is cut into, each done by one thread."""


def heads(
    indptr: np.ndarray, features: np.ndarray, values: np.ndarray, scale: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the `width` strongest features of each row, and their values times the row's scale float32: both (n * width,), with zeros where
    a row has fewer."""
    out = np.zeros((len(scale), width), features.dtype), np.zeros((len(scale), width), np.float32)
    _strongest(indptr, features, values, scale, *out)
    return out[0].ravel(), out[1].ravel()


@njit(cache=True)
def tell(indptr, values, scale, head_values):
    """Say whether heads hold enough of the rows to tell which may be near."""
    all_squares, head_squares = 0.0, 0.0
    for i in range(len(scale)):
        squares = 0.0
        for at in range(indptr[i], indptr[i + 1]):
            squares += np.float64(values[at]) * np.float64(values[at])
        all_squares += squares * scale[i] * scale[i]
    for value in head_values:
        head_squares += np.float64(value) * np.float64(value)
    return head_squares >= LEAST_SHARE * all_squares


@njit(parallel=True, cache=True)
def _strongest(indptr, features, values, scale, out_features, out_values):
    n, width = out_values.shape
    for part in prange(PARTS):
        for i in range(n * part // PARTS, n * (part + 1) // PARTS):
            n_there = 0
            for at in range(indptr[i], indptr[i + 1]):
                value = np.float32(values[at] * scale[i])
                if n_there < width:
                    n_there += 1
                elif abs(value) <= abs(out_values[i, width - 1]):
                    continue
                place = n_there - 1
                while place > 0 and abs(out_values[i, place - 1]) < abs(value):
                    out_values[i, place] = out_values[i, place - 1]
                    out_features[i, place] = out_features[i, place - 1]
                    place -= 1
                out_values[i, place], out_features[i, place] = value, features[at]


@njit(fastmath={"contract"}, cache=True)
def compare(
    i, numbers, n_kept, strip, rough, counts, indptr, features, values, scale, half, head_features, head_values,
    indices, keys, fresh,
):  # fmt: skip
    """Merge the rows `numbers` into the list of row i, which is in the strip: of more than n_kept those whose heads are nearest. `numbers`
    changes; `rough` float32 (at least as many) and `counts` int32 (BINS,) are scratch."""
    n = len(numbers)
    if n > n_kept:
        width, low, high = len(head_values) // len(half), FAR, -FAR
        for c in range(n):
            j = numbers[c]
            start = np.int64(j) * width
            key = half[j] - dot(strip, head_features, head_values, start, start + width)
            key = max(-FAR, key) if key < FAR else FAR
            rough[c] = key
            low, high = min(low, key), max(high, key)
        n = _lowest(rough, numbers, n_kept, low, high, counts)
    for c in range(n):
        j = numbers[c]
        key = half[i] + half[j] - dot(strip, features, values, indptr[j], indptr[j + 1]) * scale[j]
        if key < keys[i, -1] and j != i:
            insert_fresh(indices[i], keys[i], fresh[i], key, j)


@njit(cache=True)
def _lowest(rough, numbers, n_kept, low, high, counts):
    """Move the n_kept of `numbers` with the lowest keys, which reach from `low` to `high`, to the front, and return how many there are. Of
    those in the last interval it takes the first."""
    n, left = len(numbers), n_kept
    for _ in range(ROUNDS):
        if not high > low:
            break
        factor = np.float32(BINS) / (high - low)
        counts[:] = 0
        for c in range(n):
            if low <= rough[c] <= high:
                counts[min(np.int32(BINS - 1), np.int32((rough[c] - low) * factor))] += 1
        at = 0
        while at < BINS - 1 and counts[at] <= left:
            left -= counts[at]
            at += 1
        low, high = low + at / factor, low + (at + 1) / factor
        if counts[at] * FINE <= n_kept:
            break
    kept = 0
    for c in range(n):
        if rough[c] < low or (rough[c] <= high and left > 0):
            left -= rough[c] >= low
            numbers[kept] = numbers[c]
            kept += 1
            if kept == n_kept:
                break
    return kept
