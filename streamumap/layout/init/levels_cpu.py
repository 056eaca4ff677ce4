"""The passes of `levels.py` in numba and NumPy, held to `levels_reference.py` by tests.

A pass over a block of the graph reads values of all vertices and writes those of the rows of the block. One thread writes a
row, and sums are of integers: any number of threads and any blocks give the same bytes.
"""

import numpy as np
from numba import njit, prange

CELL_BITS, WEIGHT_BITS = 23, 16
"""Bits of a pair: two cells, the smaller first, and a weight, in one int64."""
_CELL, _WEIGHT = (1 << CELL_BITS) - 1, (1 << WEIGHT_BITS) - 1


@njit(parallel=True, cache=True)
def join_cells(cells, new, first_row, indptr, targets, weights):
    """Writes the cells of the rows of a block to `new`, int32 (N,) like `cells`; -1: no cell yet."""
    for row in prange(len(indptr) - 1):
        i, best = first_row + row, np.int64(-1)
        if cells[i] < 0:
            for e in range(indptr[row], indptr[row + 1]):
                if cells[targets[e]] >= 0:
                    best = max(best, (np.int64(weights[e]) << 32) | np.int64(cells[targets[e]]))
        new[i] = cells[i] if best < 0 else np.int32(best & 0x7FFFFFFF)


@njit(parallel=True, cache=True)
def join_roots(roots, new, first_row, indptr, targets, weights):
    """Writes the roots of the rows of a block to `new`, int32 (N,) like `roots`. A vertex is lost if no cell reached it; its root is the
    largest number of a vertex in its piece, -1 where it is not lost."""
    for row in prange(len(indptr) - 1):
        i = first_row + row
        largest = roots[i]
        if largest >= 0:
            for e in range(indptr[row], indptr[row + 1]):
                largest = max(largest, roots[targets[e]])
        new[i] = largest


def own_numbers(lost: np.ndarray) -> np.ndarray:
    """Gives each lost vertex, bool (N,), its own number, and every other -1: int32 (N,)."""
    return np.where(lost, np.arange(len(lost), dtype=np.int32), np.int32(-1))


def scattered(cells: np.ndarray, roots: np.ndarray, n_cells: int) -> np.ndarray:
    """Fills in a cell for the lost vertices (-1), which their root decides."""
    drawn = ((roots.astype(np.int64) * 0x9E3779B9) & 0xFFFFFFFF) * n_cells >> 32
    return np.where(cells < 0, drawn.astype(np.int32), cells)


def of_cells(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Gives each vertex the position of its cell: float32 (N, C)."""
    return positions[cells]


def no_pairs(cells: np.ndarray, n: int, n_kept: int) -> np.ndarray:
    """Allocates the pairs that `heaviest` fills: int64 (n, n_kept)."""
    return np.empty((n, n_kept), np.int64)


@njit(parallel=True, cache=True)
def heaviest(cells, pairs, first_row, indptr, targets, weights):
    """Fills `pairs`, whose first row is that of the block, with the rows' heaviest edges to another cell, as (smaller cell, larger
    cell, weight); -1 where there are no more."""
    for row in prange(len(indptr) - 1):
        i = first_row + row
        own, before = cells[i], np.int64(1) << 62
        for kept in range(pairs.shape[1]):
            best = np.int64(-1)
            for e in range(indptr[row], indptr[row + 1]):
                key = (np.int64(weights[e]) << 32) | np.int64(cells[targets[e]])
                if cells[targets[e]] != own and key < before:
                    best = max(best, key)
            pairs[row, kept] = -1
            if best >= 0:
                other = best & _CELL
                pair = (min(np.int64(own), other) << CELL_BITS) | max(np.int64(own), other)
                pairs[row, kept] = (pair << WEIGHT_BITS) | (best >> 32)
                before = best


def coarse_graph(pairs: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the graph of the cells from the pairs of `heaviest`, which it overwrites: indptr int64, targets int32, weights
    uint16."""
    keys = pairs.reshape(-1)
    keys.sort()
    keys = keys[np.searchsorted(keys, 0) :]
    keys = keys[: _add_up(keys, n_cells)]
    indptr = np.empty(n_cells + 2, np.int64)
    targets, weights = np.empty(2 * len(keys), np.int32), np.empty(2 * len(keys), np.uint16)
    _both_ways(keys, indptr, targets, weights)
    return indptr[:-1], targets, weights


@njit(cache=True)
def _add_up(keys, n_cells):
    """Merges equal pairs of the sorted `keys` in place, with weights from 1 to 65535, and returns how many there are.

    Each of the three loops adds up anew: kept sums would take as much memory as the keys."""
    size, most = np.zeros(n_cells), np.zeros(n_cells)
    start = 0
    while start < len(keys):
        one, other, total, start = _sum(keys, start)
        size[one] += total
        size[other] += total
    start = 0
    while start < len(keys):
        one, other, total, start = _sum(keys, start)
        share = total / np.sqrt(size[one] * size[other])
        most[one], most[other] = max(most[one], share), max(most[other], share)
    start, n_pairs = 0, 0
    while start < len(keys):
        pair = keys[start] >> WEIGHT_BITS
        one, other, total, start = _sum(keys, start)
        share = total / np.sqrt(size[one] * size[other]) / min(most[one], most[other])
        weight = np.int64(min(max(np.rint(share * 65535), 1), 65535))
        keys[n_pairs] = (pair << WEIGHT_BITS) | weight
        n_pairs += 1
    return n_pairs


@njit(inline="always")
def _sum(keys, start):
    """Adds up the pair that begins at `start`. Returns its cells, the sum of its weights, and where the next pair begins."""
    pair, total, stop = keys[start] >> WEIGHT_BITS, np.int64(0), start
    while stop < len(keys) and keys[stop] >> WEIGHT_BITS == pair:
        total += keys[stop] & _WEIGHT
        stop += 1
    return pair >> CELL_BITS, pair & _CELL, total, stop


@njit(cache=True)
def _both_ways(keys, indptr, targets, weights):
    """Writes each of the sorted pairs to the rows of both its cells. Rows come out sorted: the smaller neighbours of a cell come
    before the larger ones. indptr (M + 2,)."""
    indptr[:] = 0
    for key in keys:
        indptr[(key >> (CELL_BITS + WEIGHT_BITS)) + 2] += 1
        indptr[((key >> WEIGHT_BITS) & _CELL) + 2] += 1
    for cell in range(2, len(indptr)):
        indptr[cell] += indptr[cell - 1]
    for key in keys:
        one, other = key >> (CELL_BITS + WEIGHT_BITS), (key >> WEIGHT_BITS) & _CELL
        for cell, target in ((one, other), (other, one)):
            at = indptr[cell + 1]
            targets[at], weights[at] = target, key & _WEIGHT
            indptr[cell + 1] = at + 1


@njit(parallel=True, cache=True)
def smooth(positions, new, first_row, indptr, targets, weights):
    """Writes the rows of a block to `new`, float32 (N, C) like `positions`: the weighted means of their neighbours."""
    for row in prange(len(indptr) - 1):
        i, total = first_row + row, np.float64(0)
        for e in range(indptr[row], indptr[row + 1]):
            total += weights[e]
        for c in range(positions.shape[1]):
            along = np.float64(0)
            for e in range(indptr[row], indptr[row + 1]):
                along += np.float64(weights[e]) * positions[targets[e], c]
            new[i, c] = along / total if total > 0 else positions[i, c]
