"""The k-NN search in dense rows on a CPU, in bounded memory whatever the number of rows: a `protocol.Backend`.

Sketches of all rows propose candidates (`propose.py`), and distances of the rows decide (`workspace.py`): candidates are measured in
batches of rows that lie close together and so share candidates. Then the recall is measured. While it is too low, the neighbors of each
row are compared with each other by products of the rows (`join.py`); if that does not help, all rows with all (`exhaustive.py`).

The result does not depend on the number of threads: sums of sketches are integers, a row's list is written by one thread, and matrix
products run on one BLAS thread each and are merged in a fixed order.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from streamumap.events import Advance, no_advance
from streamumap.machine import memory
from streamumap.neighbors.dense.exhaustive import all_with_all
from streamumap.neighbors.dense.join import join_rows
from streamumap.neighbors.dense.propose import propose
from streamumap.neighbors.dense.sizes import WORKERS
from streamumap.neighbors.dense.workspace import SLACK, Work, slices, squared_norms
from streamumap.neighbors.protocol import ComparedRows, KnnGraph, SearchRequest
from streamumap.neighbors.table import difference
from streamumap.neighbors.zero import next_zero_rows
from streamumap.source.views.normalized import DenseRows

ROW_JOINS = 3
MOST_JOINS = 16
SETTLED = 0.02
"""Up to MOST_JOINS joins, while one changes more than this share of the lists: for rows whose sketches do not tell neighbors apart
(clusters so far apart that one byte spans the distance between them). ROW_JOINS are made in any case."""

SAME = 4.8e-7
"""Relative difference below which two squared distances count as equal: lists hold them as float32."""


def search(request: SearchRequest) -> KnnGraph:
    """Find the graph, holding at most `cell_rows` rows at a time.

    Advances by N rows for each step: measuring candidates, a join, comparing all with all.
    """
    request.rows.metric.check("dense")
    with ThreadPoolExecutor(min(request.n_threads, WORKERS)) as pool, threadpool_limits(1):
        work = Work(request, pool)
        exact = request.checkpoint.of("exact")
        exhaustive = request.exhaustive or exact.begun or all_with_all_is_cheaper(work.n, work.rows.n_features)
        if exhaustive or not _approximate(work, request):
            all_with_all(work, exact)
        return work.finish()


def all_with_all_is_cheaper(n_rows: int, n_features: int) -> bool:
    """Compare CPU seconds as measured on a core with AVX-512: products at 85 GFLOP/s and 3 ns a pair to scan, against proposing and
    measuring.
    """
    return n_rows * (n_features * 1.2e-11 + 3e-9) < 2.2e-4 + n_features * 1.8e-7


def _approximate(work: Work, request: SearchRequest) -> bool:
    """Propose, measure and join candidates until the graph is good enough; return whether it is."""
    measured = request.checkpoint.of("rows")
    facts = measured.resume(work.state()[0])
    if not facts:
        work.measure(propose(work, request.checkpoint))
        measured.done(work.state, joined=0, changed=1.0)
    joined, changed = facts.get("joined", 0), facts.get("changed", 1.0)
    while not _enough(work, request):
        if joined >= (MOST_JOINS if changed > SETTLED else ROW_JOINS):
            return False
        joined, changed = joined + 1, join_rows(work) / work.indices.size
        measured.done(work.state, joined=joined, changed=changed)
    return True


def _enough(work: Work, request: SearchRequest) -> bool:
    """Ask whether the graph is good enough, after giving zero rows the neighbors that they have in the end."""
    zero_rows = np.flatnonzero(work.is_zero).astype(np.int32)
    if len(zero_rows):
        found = next_zero_rows(zero_rows, zero_rows, work.indices.shape[1])
        work.indices[zero_rows], work.squares[zero_rows] = found, np.where(found >= 0, np.float32(0), np.inf)
    memory.trim()  # threads that search leave as much behind as counting takes
    return request.reached(work.indices[request.sample])


def count_closer(
    rows: ComparedRows, sample: np.ndarray, others: np.ndarray, block_rows: int, advance: Advance = no_advance
) -> np.ndarray:
    """Count exact ranks.

    Float32 products decide where they can; within SLACK of the squared norms, differences of the two rows decide, in float64. Rows at
    the same distance are not closer.
    """
    rows.metric.check("dense")
    unit, dense_rows = rows.metric.unit, DenseRows(rows.source, unit=rows.metric.unit)
    ours = dense_rows.take(sample)
    own = squared_norms(ours)
    pieces = slices(len(sample), block_rows // max(1, others.shape[1]))
    thresholds = np.concatenate([_thresholds(dense_rows, ours[p], own[p], others[p]) for p in pieces])
    order = np.argsort(-thresholds, axis=1)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, dense_rows.n_rows, block_rows):
        block = dense_rows.block(start, min(start + block_rows, dense_rows.n_rows))
        norms = squared_norms(block)
        _count(ours @ block.T, ours, own, block, norms, sample - start, unit, order, thresholds, counts)
        advance(len(block))
        del block  # before the next is read
    return counts


def _thresholds(rows: DenseRows, ours, own, others):
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1).astype(np.int32)
    out = np.full(others.shape, np.inf)
    _measure_pairs(ours, theirs, own, squared_norms(theirs), local, rows.unit, out)
    return out * (1 - SAME)


@njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _measure_pairs(ours, theirs, own, squares, local, unit, out):
    for i in range(len(ours)):
        for c in range(local.shape[1]):
            if local[i, c] >= 0:
                j = local[i, c]
                apart = unit and (own[i] == 0) != (squares[j] == 0)
                out[i, c] = 2.0 if apart else difference(ours[i], theirs[j])


@njit(nogil=True, cache=True)
def _count(dots, ours, own, theirs, norms, itself, unit, order, thresholds, counts):
    """Count into `counts` int64 (S, m) the rows of a block below each of `thresholds` (S, m); `order`: their columns, largest first."""
    for row in range(len(dots)):
        largest = thresholds[row, order[row, 0]] if thresholds.shape[1] else 0.0
        for j in range(dots.shape[1]):
            both = own[row] + norms[j]
            square, slack = both - 2.0 * dots[row, j], SLACK * both
            if square - slack >= largest or j == itself[row]:
                continue
            if unit and (own[row] == 0) != (norms[j] == 0):
                square, slack = 2.0, 0.0
            for c in order[row]:
                if slack > 0 and square + slack >= thresholds[row, c]:
                    square, slack = difference(ours[row], theirs[j]), 0.0
                if square >= thresholds[row, c]:
                    break
                counts[row, c] += 1
