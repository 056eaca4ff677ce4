"""Lists that float32 sums leave open, completed: by float64 sums, and by measured distances where these do not decide either."""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from streamumap.events import Advance
from streamumap.neighbors.sparse.lists import invert, squared_norms
from streamumap.neighbors.sparse.measure import pair
from streamumap.neighbors.sparse.sizes import CORPUS_ROWS
from streamumap.neighbors.table import insert
from streamumap.source.sparse.csr_rows import CsrRows

SLACK = 64 * float(np.finfo(np.float32).eps)
"""Upper bound on the error of a float32 sum, relative to the squared norms of the two rows."""

WIDE_SLACK = 1e-12
"""Upper bound on the relative error of a float64 sum of up to some thousand products."""


@njit(cache=True)
def unsure(own, scores, distances, unit, out):
    """Mark in `out` bool (n,) the rows for which an unmeasured row may be nearer than the last neighbor. `own` float64 (n,): squared norms;
    `scores` float32 (n,): the least score of the measured candidates, as `exhaustive` has it; `distances` float32 (n,): those of the last
    neighbors."""
    for i in range(len(own)):
        last = np.float64(distances[i])
        if unit:
            out[i] = own[i] > 0 and last > 0 and 1.0 - scores[i] - 2 * SLACK < last
        else:
            reach = np.sqrt(own[i]) + last
            out[i] = last > 0 and own[i] - 2.0 * scores[i] - SLACK * (own[i] + reach * reach) < last * last


@dataclass(frozen=True)
class Rule:
    """Which rows may be neighbors. `unit`: rows are compared at length 1, and zero rows are no neighbors of others; with `non_negative` nor
    are rows at a right angle."""

    unit: bool
    non_negative: bool


def settle(
    rows: CsrRows,
    numbers: np.ndarray,
    rule: Rule,
    query_rows: int,
    indices: np.ndarray,
    distances: np.ndarray,
    advance: Advance,
) -> None:
    """Complete the lists, indices int32 and distances float32 (N, k), of the rows `numbers` int64 (M,), ascending."""
    for start in range(0, rows.n_rows if len(numbers) else 0, CORPUS_ROWS):
        block = rows.block(start, min(start + CORPUS_ROWS, rows.n_rows))
        lists, squares = invert(block[0], block[1], block[2], rows.n_features), squared_norms(block[0], block[2])
        for first in range(0, len(numbers), query_rows):
            part = numbers[first : first + query_rows]
            ours = rows.take(part)
            own = squared_norms(ours[0], ours[2])
            _merge(*ours, own, part, *block, squares, *lists, start, rule.unit, rule.non_negative, indices, distances)
            advance(0)
        del block, lists  # before the next are made


@njit(parallel=True, cache=True)
def _merge(
    indptr, features, values, own, numbers, their_indptr, their_features, their_values, squares, bounds, list_rows, list_values,
    first_other, unit, non_negative, indices, distances,
):  # fmt: skip
    for row in prange(len(own)):
        dots, i = np.zeros(len(squares)), numbers[row]
        mine = slice(indptr[row], indptr[row + 1])
        for at in range(indptr[row], indptr[row + 1]):
            feature, value = features[at], np.float64(values[at])
            for p in range(bounds[feature], bounds[feature + 1]):
                dots[list_rows[p]] += value * list_values[p]
        for j in range(len(squares)):
            if first_other + j == i or (unit and (squares[j] == 0 or (non_negative and dots[j] <= 0))):
                continue
            worst = np.float64(distances[i, -1]) * (1 + 1e-6)
            if unit:
                least, most = 1.0 - dots[j] / np.sqrt(own[row] * squares[j]) - WIDE_SLACK, worst
            else:
                both = own[row] + squares[j]
                least, most = both - 2.0 * dots[j] - WIDE_SLACK * both, worst * worst
            if least <= most:
                theirs = slice(their_indptr[j], their_indptr[j + 1])
                d = pair(features[mine], values[mine], their_features[theirs], their_values[theirs], unit)
                insert(indices[i, 1:], distances[i, 1:], np.float32(d), np.int32(first_other + j))
