"""The nearest of some packed rows for each of others, on a CPU: exact.

Sums over inverted lists propose, in float32: every row that may be among the nearest, within what such sums are off by,
is measured from the two rows themselves. The result depends on nothing but the two rows.
"""

import numpy as np
from numba import njit, prange

from streamumap.events import Advance, no_advance
from streamumap.neighbors.sparse.lists import CHUNK, add_products, inverse_norms, invert, squared_norms
from streamumap.neighbors.sparse.measure import pair
from streamumap.neighbors.sparse.settle import SLACK
from streamumap.neighbors.table import insert

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]


def nearest(
    queries: Csr, others, k: int, metric: str, *, other_rows: int, non_negative: bool, advance: Advance = no_advance
) -> tuple[np.ndarray, np.ndarray]:
    """As `reference.nearest` of `queries` (indptr int64 (Q + 1,), features, values float32) among `others`, a PackedRows,
    `other_rows` at a time. Ticks Q rows."""
    n, n_queries, cosine = others.n_rows, len(queries[0]) - 1, metric == "cosine"
    indices, distances = np.full((n_queries, k), -1, np.int32), np.full((n_queries, k), np.inf, np.float32)
    own = squared_norms(queries[0], queries[2])
    scale = inverse_norms(own) if cosine else np.ones(n_queries, np.float32)
    for start in range(0, n, other_rows):
        stop = min(start + other_rows, n)
        block = others.block(start, stop)
        squares = squared_norms(block[0], block[2])
        bias = np.zeros(stop - start) if cosine else np.maximum(-0.5 * squares, np.finfo(np.float32).min)
        scales = inverse_norms(squares) if cosine else None
        lists = invert(block[0], block[1], block[2], others.n_features, scales)
        _merge(
            *queries, own, scale, *block, squares, bias.astype(np.float32), *lists, start, cosine, non_negative, indices, distances
        )  # fmt: skip
        advance(n_queries * stop // n - n_queries * start // n)
        del block, lists  # before the next is read
    return indices, distances


@njit(parallel=True, cache=True)
def _merge(
    indptr, features, values, own, scale, their_indptr, their_features, their_values, squares, bias, bounds, owner, amount,
    first_other, cosine, non_negative, indices, distances,
):  # fmt: skip
    largest = squares.max()
    for row in prange(len(own)):
        sums = bias.copy()
        add_products(sums, features, values, indptr[row], indptr[row + 1], scale[row], bounds, owner, amount)
        mine = slice(indptr[row], indptr[row + 1])
        slack = SLACK * (2.0 if cosine else own[row] + largest)
        floor = _floor(distances[row, -1], own[row], slack, cosine)
        for start in range(0, len(sums), CHUNK):
            stop = min(start + CHUNK, len(sums))
            highest = np.float32(-np.inf)
            for j in range(start, stop):
                highest = np.float32(max(highest, sums[j]))
            if highest < floor:
                continue
            for j in range(start, stop):
                if sums[j] < floor or not _may_meet(sums[j], own[row], squares[j], cosine, non_negative):
                    continue
                theirs = slice(their_indptr[j], their_indptr[j + 1])
                d = pair(features[mine], values[mine], their_features[theirs], their_values[theirs], cosine)
                if insert(indices[row], distances[row], np.float32(d), np.int32(first_other + j)) >= 0:
                    floor = _floor(distances[row, -1], own[row], slack, cosine)


@njit(inline="always")
def _floor(worst, own, slack, cosine):
    """The least sum of a row that may be as near as `worst`."""
    if cosine:
        return 1.0 - worst - slack
    return 0.5 * (own - np.float64(worst) * worst - slack)


@njit(inline="always")
def _may_meet(score, own, square, cosine, non_negative):
    """Whether there may be an edge between the two at all."""
    if not cosine or (own == 0 and square == 0):
        return True
    if own == 0 or square == 0:
        return False
    return score > 0 or not non_negative
