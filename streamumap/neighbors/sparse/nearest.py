"""The exact search for the neighbors of new rows among rows that are mostly zeros, on a CPU: a `protocol.NearestBackend`.

Float32 sums over inverted lists propose: every row that may be among the nearest, within the error of such sums, is measured from the two
rows themselves. A distance depends on the two rows alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numba import njit, prange

from streamumap.neighbors.protocol import KnnGraph, Nearest, NearestRequest
from streamumap.neighbors.sparse.lists import CHUNK, add_products, inverse_norms, invert, squared_norms
from streamumap.neighbors.sparse.measure import pair, to_distances
from streamumap.neighbors.sparse.settle import SLACK
from streamumap.neighbors.table import insert
from streamumap.source.base import CsrBlock, RowSource, SparseSource, widen
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr int64 (n + 1,) from 0, features, values float32."""

READ_BYTES = 8 << 20
"""Bytes of new rows read at a time while their zeros are left out."""


@contextmanager
def open_search(request: NearestRequest) -> Iterator[Nearest]:
    """Open a search, which reads new rows when they are asked for and holds nothing."""
    request.rows.metric.check("packed")
    yield lambda start, stop: _nearest(_without_zeros(request.new, start, stop), request)


def _nearest(queries: Csr, request: NearestRequest) -> KnnGraph:
    others, metric = request.rows.csr, request.rows.metric
    assert others is not None
    n, n_queries, k, unit = others.n_rows, len(queries[0]) - 1, request.k, metric.unit
    indices, distances = np.full((n_queries, k), -1, np.int32), np.full((n_queries, k), np.inf, np.float32)
    own = squared_norms(queries[0], queries[2])
    scale = inverse_norms(own) if unit else np.ones(n_queries, np.float32)
    for start in range(0, n, request.other_rows):
        stop = min(start + request.other_rows, n)
        block = others.block(start, stop)
        squares = squared_norms(block[0], block[2])
        bias = np.zeros(stop - start) if unit else np.maximum(-0.5 * squares, np.finfo(np.float32).min)
        scales = inverse_norms(squares) if unit else None
        lists = invert(block[0], block[1], block[2], others.n_features, scales)
        _merge(
            *queries, own, scale, *block, squares, bias.astype(np.float32), *lists, start, unit, request.rows.non_negative,
            indices, distances,
        )  # fmt: skip
        request.advance(n_queries * stop // n - n_queries * start // n)
        del block, lists  # before the next is read
    to_distances(distances, metric)
    return KnnGraph(indices, distances)


def _without_zeros(source: RowSource, start: int, stop: int) -> Csr:
    if isinstance(source, SparseSource):
        parts = [source.pairs(start, stop)]
    else:
        step = max(1, READ_BYTES // source.row_bytes)
        parts = [_pairs(source, first, min(first + step, stop)) for first in range(start, stop, step)]
    counts = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    values = np.concatenate([widen(part.values, source.dtype) for part in parts])
    return np.cumsum(counts), np.concatenate([part.indices for part in parts]), values


def _pairs(source: RowSource, start: int, stop: int) -> CsrBlock:
    rows = source.read(start, stop)
    return pairs_of(rows, nonzero_mask(rows, source.dtype))


@njit(parallel=True, cache=True)
def _merge(
    indptr, features, values, own, scale, their_indptr, their_features, their_values, squares, bias, bounds, list_rows, list_values,
    first_other, unit, non_negative, indices, distances,
):  # fmt: skip
    largest = squares.max()
    for row in prange(len(own)):
        sums = bias.copy()
        add_products(sums, features, values, indptr[row], indptr[row + 1], scale[row], bounds, list_rows, list_values)
        mine = slice(indptr[row], indptr[row + 1])
        slack = SLACK * (2.0 if unit else own[row] + largest)
        floor = _floor(distances[row, -1], own[row], slack, unit)
        for start in range(0, len(sums), CHUNK):
            stop = min(start + CHUNK, len(sums))
            highest = np.float32(-np.inf)
            for j in range(start, stop):
                highest = np.float32(max(highest, sums[j]))
            if highest < floor:
                continue
            for j in range(start, stop):
                if sums[j] < floor or not _may_meet(sums[j], own[row], squares[j], unit, non_negative):
                    continue
                theirs = slice(their_indptr[j], their_indptr[j + 1])
                d = pair(features[mine], values[mine], their_features[theirs], their_values[theirs], unit)
                if insert(indices[row], distances[row], np.float32(d), np.int32(first_other + j)) >= 0:
                    floor = _floor(distances[row, -1], own[row], slack, unit)


@njit(inline="always")
def _floor(worst, own, slack, unit):
    """Return the least sum that a row as near as `worst` may have."""
    if unit:
        return 1.0 - worst - slack
    return 0.5 * (own - np.float64(worst) * worst - slack)


@njit(inline="always")
def _may_meet(score, own, square, unit, non_negative):
    """Return whether two rows may be neighbors at all."""
    if not unit or (own == 0 and square == 0):
        return True
    if own == 0 or square == 0:
        return False
    return score > 0 or not non_negative
