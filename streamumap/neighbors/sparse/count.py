"""Exact ranks of a few rows' neighbours among all packed rows."""

import numpy as np
from numba import njit, prange

from streamumap.events import Advance, no_advance
from streamumap.neighbors.sparse.lists import invert, squared_norms
from streamumap.neighbors.sparse.measure import measure_pairs, pair
from streamumap.neighbors.sparse.settle import WIDE_SLACK

SAME = 2.4e-7
"""Distances that differ by less than this part are the same: lists hold them as float32."""

PARALLEL = 1.4e-14
"""Cosine distances that differ by less are the same too: a multiple of a row is so far from it once its values are float32."""


def count_closer(
    rows, sample: np.ndarray, others: np.ndarray, metric: str, block_rows: int, advance: Advance = no_advance
) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (1 for cosine, else
    inf). Ticks N rows.

    Distances come from float64 sums of products; what these leave open is measured from the two rows.
    """
    ours = rows.take(sample)
    own = squared_norms(ours[0], ours[2])
    thresholds = _thresholds(rows, ours, others, metric)
    order = np.argsort(-thresholds, axis=1)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, rows.n_rows, block_rows):
        stop = min(start + block_rows, rows.n_rows)
        block = rows.block(start, stop)
        lists, squares = invert(block[0], block[1], block[2], rows.n_features), squared_norms(block[0], block[2])
        _count(
            *ours, own, sample - start, *block, *lists, squares, metric == "cosine", thresholds, order, counts
        )  # fmt: skip
        del block, lists  # before the next are made
        advance(stop - start)
    return counts


def _thresholds(rows, ours, others, metric):
    """The distances to `others`, less what may be the same."""
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1)
    out = np.full(others.shape, 1.0 if metric == "cosine" else np.inf)
    measure_pairs(*ours, *theirs, local, metric == "cosine", out)
    return out * (1 - SAME) - (PARALLEL if metric == "cosine" else 0.0)


@njit(parallel=True, cache=True)
def _count(
    indptr, features, values, own, itself, their_indptr, their_features, their_values, bounds, owner, amount, squares,
    cosine, thresholds, order, counts,
):  # fmt: skip
    for row in prange(len(counts)):
        dots = np.zeros(len(squares))
        for at in range(indptr[row], indptr[row + 1]):
            feature, value = features[at], np.float64(values[at])
            for p in range(bounds[feature], bounds[feature + 1]):
                dots[owner[p]] += value * amount[p]
        for j in range(len(squares)):
            if j == itself[row]:
                continue
            if cosine:
                product = own[row] * squares[j]
                distance = 1.0 - dots[j] / np.sqrt(product) if product > 0 else np.float64(own[row] != squares[j])
                slack = WIDE_SLACK if product > 0 else 0.0
            else:
                both = own[row] + squares[j]
                distance = np.sqrt(max(0.0, both - 2.0 * dots[j]))
                slack = min(WIDE_SLACK * both / max(distance, 1e-300), np.sqrt(WIDE_SLACK * both))
            for c in order[row]:
                if slack > 0 and abs(distance - thresholds[row, c]) <= slack:
                    mine, theirs = slice(indptr[row], indptr[row + 1]), slice(their_indptr[j], their_indptr[j + 1])
                    distance = pair(features[mine], values[mine], their_features[theirs], their_values[theirs], cosine)
                    slack = 0.0
                if distance >= thresholds[row, c]:
                    break
                counts[row, c] += 1
