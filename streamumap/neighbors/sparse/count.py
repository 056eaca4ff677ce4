"""Exact ranks of the neighbors of a few rows."""

import numpy as np
from numba import njit, prange

from streamumap.events import Advance, no_advance
from streamumap.neighbors.protocol import ComparedRows
from streamumap.neighbors.sparse.lists import invert, squared_norms
from streamumap.neighbors.sparse.measure import measure_pairs, pair
from streamumap.neighbors.sparse.settle import WIDE_SLACK
from streamumap.source.sparse.csr_rows import CsrRows

SAME = 2.4e-7
"""Relative difference below which two distances count as equal: lists hold them as float32."""

PARALLEL = 1.4e-14
"""Difference below which two distances at length 1 count as equal: a row and its multiple, in float32, may be this far apart."""


def count_closer(
    rows: ComparedRows, sample: np.ndarray, others: np.ndarray, block_rows: int, advance: Advance = no_advance
) -> np.ndarray:
    """Count exact ranks. Distances come from float64 sums of products; where these do not decide, from the two rows themselves."""
    rows.metric.check("packed")
    csr, unit = rows.csr, rows.metric.unit
    assert csr is not None
    ours = csr.take(sample)
    own = squared_norms(ours[0], ours[2])
    thresholds = _thresholds(csr, ours, others, unit)
    order = np.argsort(-thresholds, axis=1)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, csr.n_rows, block_rows):
        stop = min(start + block_rows, csr.n_rows)
        block = csr.block(start, stop)
        lists, squares = invert(block[0], block[1], block[2], csr.n_features), squared_norms(block[0], block[2])
        _count(
            *ours, own, sample - start, *block, *lists, squares, unit, thresholds, order, counts
        )  # fmt: skip
        del block, lists  # before the next are made
        advance(stop - start)
    return counts


def _thresholds(rows: CsrRows, ours, others, unit: bool):
    """Measure the distances below which a row is closer than each of `others`, float64 (S, m)."""
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1)
    out = np.full(others.shape, 1.0 if unit else np.inf)
    measure_pairs(*ours, *theirs, local, unit, out)
    return out * (1 - SAME) - (PARALLEL if unit else 0.0)


@njit(parallel=True, cache=True)
def _count(
    indptr, features, values, own, itself, their_indptr, their_features, their_values, bounds, list_rows, list_values, squares,
    unit, thresholds, order, counts,
):  # fmt: skip
    for row in prange(len(counts)):
        dots, own_square = np.zeros(len(squares)), own[row]
        limit = _limit(own_square, thresholds[row, order[row, 0]], unit)
        for at in range(indptr[row], indptr[row + 1]):
            feature, value = features[at], np.float64(values[at])
            for p in range(bounds[feature], bounds[feature + 1]):
                dots[list_rows[p]] += value * list_values[p]
        for j in range(len(squares)):
            if j == itself[row] or _is_farther(dots[j], own_square, squares[j], limit, unit):
                continue
            if unit:
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
                    distance = pair(features[mine], values[mine], their_features[theirs], their_values[theirs], unit)
                    slack = 0.0
                if distance >= thresholds[row, c]:
                    break
                counts[row, c] += 1


@njit(inline="always")
def _limit(own, threshold, unit):
    """Compute what `_is_farther` compares products with, for the largest threshold; -inf where it cannot tell."""
    if not unit:
        return threshold * threshold
    reach = 1.0 - threshold - 10 * WIDE_SLACK
    return reach * reach * own if own > 0.0 and reach > 0.0 else -np.inf


@njit(inline="always")
def _is_farther(dot, own, square, limit, unit):
    """Tell without a root or a division that a row is farther than all thresholds, by more than what sums of products may be off: nearly
    all rows are. False where it is not sure."""
    if unit:
        return dot * abs(dot) < limit * square
    both = own + square
    return both - 2.0 * dot - 4 * WIDE_SLACK * both > limit
