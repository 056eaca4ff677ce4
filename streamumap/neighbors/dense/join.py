"""Neighbors of neighbors by the rows themselves, where sketches do not tell near from far.

The neighbors of a row, and the rows that have it as a neighbor, are compared with each other: one small matrix product a row.
"""

from collections.abc import Iterator

import numpy as np
from numba import njit

from streamumap.neighbors.dense.sizes import GROUP, REVERSE, join_step
from streamumap.neighbors.dense.workspace import SLACK, Work, slices, squared_norms
from streamumap.neighbors.table import difference, insert, members_of


def join_rows(work: Work) -> int:
    """Merge the distances between the neighbors of each row, in both directions, into the table; return how many of its places changed.
    Advances by N rows.

    Products say which pairs may be nearer than the last neighbors, and differences of the rows say how far they are: the table holds
    measured distances only, and a neighbor never gives way to one that is further. Pairs are merged in the order of the rows, whichever
    thread made their products.
    """
    changes = 0
    members = members_of(work.indices, work.squares, np.ones(work.indices.shape, np.uint8), work.k - 1, REVERSE)
    for pivots, needed, block in work.batches(members):
        norms = np.ones(len(needed), np.float32) if work.unit else squared_norms(block).astype(np.float32)
        for found, local, dots in _products(work, members, pivots, needed, block):
            changes += _merge_pairs(found, local, norms, dots, block, work.is_zero, work.indices, work.squares)
    work.advance(work.n)
    return changes


def _products(work: Work, members, pivots, needed, block) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for runs of pivots, GROUP of them in memory at a time: members (p, m), their places in `block` (p, m), their products
    (p, m, m)."""

    def products(piece):
        found = members[pivots[piece]]
        local = np.where(found >= 0, np.searchsorted(needed, found), 0)
        gathered = block[local]
        return found, local, gathered @ gathered.transpose(0, 2, 1)

    pieces = slices(len(pivots), join_step(work.rows.n_features, members.shape[1]))
    for first in range(0, len(pieces), GROUP):
        yield from work.pool.map(products, pieces[first : first + GROUP])


@njit(cache=True)
def _merge_pairs(members, local, norms, dots, rows, is_zero, indices, squares):
    """Merge pairs of members that may be nearer than the last neighbors; return the number of changes."""
    width, changes = members.shape[1], 0
    for pivot in range(len(members)):
        for a in range(width):
            i = members[pivot, a]
            if i < 0:
                continue
            for b in range(a):
                j = members[pivot, b]
                if j < 0 or i == j:
                    continue
                both = norms[local[pivot, a]] + norms[local[pivot, b]]
                least = both - np.float32(2) * dots[pivot, a, b] - np.float32(SLACK) * both
                for_i = least <= squares[i, -1] and not _is_in(indices[i], j)
                for_j = least <= squares[j, -1] and not _is_in(indices[j], i)
                if (for_i or for_j) and is_zero[i] == is_zero[j]:
                    square = np.float32(difference(rows[local[pivot, a]], rows[local[pivot, b]]))
                    changes += for_i and insert(indices[i], squares[i], square, j) >= 0
                    changes += for_j and insert(indices[j], squares[j], square, i) >= 0
    return changes


@njit(inline="always")
def _is_in(numbers, number):
    there = np.int32(0)  # without a branch, for vectors
    for c in range(len(numbers)):
        there |= np.int32(numbers[c] == number)
    return there != 0
