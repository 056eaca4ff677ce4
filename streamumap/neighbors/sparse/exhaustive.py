"""All rows compared with all through inverted lists: exact.

A block of rows is turned into inverted lists. A row's products with the whole block are sums over the lists of its own features, and the
best of them are its candidates, which are then measured from the rows themselves. Where rounding of the sums leaves open whether another
row is nearer, the row's list is completed (`settle.py`). Each row is computed by one thread from the same numbers in the same order, so
the result does not depend on the number of threads.
"""

import numpy as np
from numba import njit, prange

from streamumap.neighbors.protocol import KnnGraph, SearchRequest
from streamumap.neighbors.sparse.lists import CHUNK, add_products, inverse_norms, invert, squared_norms
from streamumap.neighbors.sparse.measure import measure
from streamumap.neighbors.sparse.settle import Rule, settle, unsure
from streamumap.neighbors.sparse.sizes import CORPUS_ROWS, MARGIN
from streamumap.source.sparse.csr_rows import CsrRows

FAST = {"reassoc", "nsz", "nnan"}


def search(request: SearchRequest) -> KnnGraph:
    """Find the exact graph, with distances as `measure.pair` gives them. Advances by N rows for each block of CORPUS_ROWS, and by N more."""
    rows, unit, query_rows = request.rows.csr, request.rows.metric.unit, request.blocks["query_rows"]
    assert rows is not None
    best, least = _best(rows, request)
    indices, distances = _measure_all(rows, best, request)
    if best.shape[1] < rows.n_rows - 1:
        open_rows = np.flatnonzero(_unsure(rows, least, distances[:, -1], unit, query_rows))
        rule = Rule(unit, request.rows.non_negative)
        settle(rows, open_rows, rule, query_rows, indices, distances, request.advance)
    return KnnGraph(indices, distances)


def _unsure(rows: CsrRows, least, last, unit: bool, block_rows: int) -> np.ndarray:
    out = np.zeros(rows.n_rows, bool)
    for start in range(0, rows.n_rows, block_rows):
        part = slice(start, min(start + block_rows, rows.n_rows))
        indptr, _, values = rows.block(part.start, part.stop)
        unsure(squared_norms(indptr, values), least[part], last[part], unit, out[part])
    return out


def _best(rows: CsrRows, request: SearchRequest) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows with the largest scores, int32 (N, m), m >= k - 1, and the least of these scores, float32 (N,)."""
    n, unit, query_rows = rows.n_rows, request.rows.metric.unit, request.blocks["query_rows"]
    n_kept = min(request.k - 1 + MARGIN, n - 1)
    best = np.full((n, n_kept), -1, np.int32)
    scores = np.full((n, n_kept), -np.inf, np.float32)
    scale = _inverse_norms(rows, query_rows) if unit else np.ones(n, np.float32)
    least = np.float32(0.0 if unit and request.rows.non_negative else -np.inf)
    whole = dict(best=best, scores=scores)
    facts = request.checkpoint.resume(whole)
    corpus, query = facts.get("corpus", 0), facts.get("query", 0)
    for start in range(corpus, n, CORPUS_ROWS):
        lists = _lists(rows, start, min(start + CORPUS_ROWS, n), scale, unit)
        for first in range(query if start == corpus else 0, n, query_rows):
            part = slice(first, min(first + query_rows, n))
            _score(
                *rows.block(part.start, part.stop), scale[part], first, start, *lists, least, best[part], scores[part]
            )
            request.advance(part.stop - first)
            request.checkpoint.done(lambda: (whole, {}), corpus=start, query=part.stop)
        del lists  # before the next are made
    return best, scores[:, -1].copy()


def _inverse_norms(rows: CsrRows, block_rows: int) -> np.ndarray:
    out = np.empty(rows.n_rows, np.float32)
    for start in range(0, rows.n_rows, block_rows):
        indptr, _, values = rows.block(start, min(start + block_rows, rows.n_rows))
        out[start : start + len(indptr) - 1] = inverse_norms(squared_norms(indptr, values))
    return out


def _lists(rows: CsrRows, start: int, stop: int, scale: np.ndarray, unit: bool):
    """Make the number that each row's score starts from, so that the nearest row has the largest score (x.y - y.y / 2; x.y at length 1),
    and the inverted lists."""
    indptr, features, values = rows.block(start, stop)
    bias = np.zeros(stop - start, np.float32)
    if not unit:
        bias[:] = np.maximum(-0.5 * squared_norms(indptr, values), np.finfo(np.float32).min)
    return bias, *invert(indptr, features, values, rows.n_features, scale[start:stop])


@njit(parallel=True, fastmath=FAST, cache=True)
def _score(
    indptr, features, values, scale, first_row, first_other, bias, bounds, list_rows, list_values, least, best, scores
):
    """Merge each query row's best among the block's rows into `best` and `scores` (n, n_kept), highest first."""
    n_others = len(bias)
    for row in prange(len(indptr) - 1):
        sums = bias.copy()
        add_products(sums, features, values, indptr[row], indptr[row + 1], scale[row], bounds, list_rows, list_values)
        itself = first_row + row - first_other
        if 0 <= itself < n_others:
            sums[itself] = -np.inf
        for start in range(0, n_others, CHUNK):
            stop = min(start + CHUNK, n_others)
            floor = max(scores[row, -1], least)
            highest = np.float32(-np.inf)
            for j in range(start, stop):
                highest = np.float32(max(highest, sums[j]))
            if highest > floor:
                _keep(sums, start, stop, first_other, least, best[row], scores[row])


@njit(cache=True)
def _keep(sums, start, stop, first_other, least, best, scores):
    for j in range(start, stop):
        score = sums[j]
        if score > scores[-1] and score > least:
            at = len(scores) - 1
            while at > 0 and scores[at - 1] < score:
                scores[at], best[at] = scores[at - 1], best[at - 1]
                at -= 1
            scores[at], best[at] = score, first_other + j


def _measure_all(rows: CsrRows, best: np.ndarray, request: SearchRequest) -> tuple[np.ndarray, np.ndarray]:
    n, k, query_rows = len(best), request.k, request.blocks["query_rows"]
    indices, out = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    for start in range(0, n, query_rows):
        part = slice(start, min(start + query_rows, n))
        measure(*_with_theirs(rows, best[part], start), request.rows.metric.unit, indices[part], out[part])
        request.advance(part.stop - start)
    return indices, out


def _with_theirs(rows: CsrRows, best: np.ndarray, start: int):
    """Gather rows from `start` on and the rows that are their candidates, as `measure` takes them."""
    needed = np.unique(best)
    needed = needed[needed >= 0]
    theirs = rows.take(needed.astype(np.int64))
    row_ids = np.arange(start, start + len(best))
    local = np.searchsorted(needed, best).astype(np.int32)
    return row_ids, *rows.block(start, start + len(best)), *theirs, best, local
