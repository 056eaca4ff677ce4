"""The passes of `levels.py` in numba and NumPy, held to `levels_reference.py` by tests.

Each pass over a block of the graph's rows reads values of all vertices and writes those of the block's rows, one thread
a row: the same bytes for any number of threads and any blocks. Sums are of integers.
"""

import numpy as np
from numba import njit, prange

CELL_BITS, WEIGHT_BITS = 23, 16
"""A pair of cells, the smaller first, and a weight in one int64."""
_CELL, _WEIGHT = (1 << CELL_BITS) - 1, (1 << WEIGHT_BITS) - 1


@njit(parallel=True, cache=True)
def join_cells(cells, new, first_row, indptr, targets, weights):
    """int32 (N,) -> the block's rows of `new`; -1: no cell yet."""
    for row in prange(len(indptr) - 1):
        i, best = first_row + row, np.int64(-1)
        if cells[i] < 0:
            for e in range(indptr[row], indptr[row + 1]):
                if cells[targets[e]] >= 0:
                    best = max(best, (np.int64(weights[e]) << 32) | np.int64(cells[targets[e]]))
        new[i] = cells[i] if best < 0 else np.int32(best & 0x7FFFFFFF)


@njit(parallel=True, cache=True)
def join_roots(roots, new, first_row, indptr, targets, weights):
    """int32 (N,) -> the block's rows of `new`; -1: not lost."""
    for row in prange(len(indptr) - 1):
        i = first_row + row
        largest = roots[i]
        if largest >= 0:
            for e in range(indptr[row], indptr[row + 1]):
                largest = max(largest, roots[targets[e]])
        new[i] = largest


def own_numbers(lost: np.ndarray) -> np.ndarray:
    """bool (N,) -> int32 (N,): the vertex's number, or -1."""
    return np.where(lost, np.arange(len(lost), dtype=np.int32), np.int32(-1))


def scattered(cells: np.ndarray, roots: np.ndarray, n_cells: int) -> np.ndarray:
    """`cells`, and for the lost (-1) a cell that their root decides."""
    drawn = ((roots.astype(np.int64) * 0x9E3779B9) & 0xFFFFFFFF) * n_cells >> 32
    return np.where(cells < 0, drawn.astype(np.int32), cells)


def no_pairs(cells: np.ndarray, n: int, n_kept: int) -> np.ndarray:
    """int64 (n, n_kept) for `heaviest` to fill."""
    return np.empty((n, n_kept), np.int64)


@njit(parallel=True, cache=True)
def heaviest(cells, pairs, first_row, indptr, targets, weights):
    """Fills the block's rows of `pairs`: the heaviest edges to another cell as (the smaller cell, the larger, weight),
    -1 where there are no more."""
    for row in prange(len(indptr) - 1):
        i = first_row + row
        own, before = cells[i], np.int64(1) << 62
        for kept in range(pairs.shape[1]):
            best = np.int64(-1)
            for e in range(indptr[row], indptr[row + 1]):
                key = (np.int64(weights[e]) << 32) | np.int64(cells[targets[e]])
                if cells[targets[e]] != own and key < before:
                    best = max(best, key)
            pairs[i, kept] = -1
            if best >= 0:
                other = best & _CELL
                pair = (min(np.int64(own), other) << CELL_BITS) | max(np.int64(own), other)
                pairs[i, kept] = (pair << WEIGHT_BITS) | (best >> 32)
                before = best


def coarse_graph(pairs: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr int64, targets int32, weights uint16 of the graph of cells from what `heaviest` filled."""
    keys = pairs.reshape(-1)
    keys = keys[keys >= 0]
    keys.sort()
    pair = keys >> WEIGHT_BITS
    keys &= _WEIGHT
    at = np.flatnonzero(np.diff(pair, prepend=-1))
    total, pair = np.add.reduceat(keys, at) if len(at) else keys, pair[at]
    del keys, at
    weight = _weights(total, pair >> CELL_BITS, pair & _CELL, n_cells)
    back = ((pair & _CELL) << CELL_BITS) | (pair >> CELL_BITS)
    keys = np.concatenate([pair, back])
    keys <<= WEIGHT_BITS
    keys |= np.tile(weight, 2)
    del total, pair, back, weight
    keys.sort()
    indptr = np.searchsorted(keys, np.arange(n_cells + 1, dtype=np.int64) << (CELL_BITS + WEIGHT_BITS))
    targets = ((keys >> WEIGHT_BITS) & _CELL).astype(np.int32)
    return indptr.astype(np.int64), targets, (keys & _WEIGHT).astype(np.uint16)


def _weights(total, one, other, n_cells):
    """int64 (pairs,), 1 to 65535, from the sums of pairs (one, other) of cells."""
    size = np.bincount(one, total, n_cells) + np.bincount(other, total, n_cells)
    share = total / np.sqrt(size[one] * size[other])
    most = np.zeros(n_cells)
    np.maximum.at(most, one, share)
    np.maximum.at(most, other, share)
    share /= np.minimum(most[one], most[other])
    return np.clip(np.rint(share * 65535), 1, 65535).astype(np.int64)


@njit(parallel=True, cache=True)
def smooth(positions, new, first_row, indptr, targets, weights):
    """float32 (N, C) -> the block's rows of `new`."""
    for row in prange(len(indptr) - 1):
        i, total = first_row + row, np.float64(0)
        for e in range(indptr[row], indptr[row + 1]):
            total += weights[e]
        for c in range(positions.shape[1]):
            along = np.float64(0)
            for e in range(indptr[row], indptr[row + 1]):
                along += np.float64(weights[e]) * positions[targets[e], c]
            new[i, c] = along / total if total > 0 else positions[i, c]
