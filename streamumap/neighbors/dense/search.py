"""Neighbours of dense rows on a CPU, in bounded memory, whatever the number of rows.

Sketches of all rows propose candidates (`propose.py`), the rows themselves decide (`work.py`): candidates are measured
in batches of rows that lie close together and so share candidates. Then the recall is measured; while it is too low,
the neighbours of each row are compared with each other by products of the rows (`join.py`), and at last all with all
(`exhaustive.py`).

Sums of sketches are integers, a row's list is written by one thread, and matrix products run on one BLAS thread each
and are merged in a fixed order: the bytes do not depend on the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from streamumap.events import Advance, no_advance
from streamumap.neighbors.dense.exhaustive import all_with_all
from streamumap.neighbors.dense.join import join_rows
from streamumap.neighbors.dense.propose import propose
from streamumap.neighbors.dense.sizes import WORKERS, least_rows
from streamumap.neighbors.dense.workspace import SLACK, Work, slices, squared_norms
from streamumap.neighbors.table import difference
from streamumap.neighbors.zero import next_zero_rows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

ROW_JOINS = 3
MOST_JOINS = 16
SETTLED = 0.02
"""Joins after the first ROW_JOINS are for rows whose sketches see nothing of what is near (clusters far apart, to whose size one
byte is relative): up to MOST_JOINS, while one changes more than this share of the lists."""

SAME = 4.8e-7
"""Squared distances that differ by less than this part are the same: lists hold them as float32."""

Reached = Callable[[np.ndarray], bool]


def search(
    rows,
    k: int,
    *,
    cell_rows: int,
    seed: int,
    n_threads: int,
    reached: Reached,
    exhaustive: bool,
    is_zero: np.ndarray | None = None,
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of `rows` (a DenseRows): indices int32 (N, k), distances float32 (N, k), nearest first, self in front, -1
    and inf where none.

    At most `cell_rows` rows are held at a time. `reached(indices)`, with indices int32 (N, k - 1) without self, says
    whether a graph is good enough; `exhaustive` compares all with all at once. `is_zero`: bool (N,), the rows without
    a direction, for cosine.
    Ticks N rows for each step: a measuring, a join, all with all.
    """
    with ThreadPoolExecutor(min(n_threads, WORKERS)) as pool, threadpool_limits(1):
        work = Work(rows, k, max(cell_rows, least_rows(k)), seed, pool, is_zero, advance)
        exact = checkpoint.of("exact")
        exhaustive = exhaustive or exact.begun or all_with_all_is_cheaper(rows.n_rows, rows.n_features)
        if exhaustive or not _approximate(work, reached, checkpoint):
            all_with_all(work, exact)
        return work.finish()


def all_with_all_is_cheaper(n_rows: int, n_features: int) -> bool:
    """By CPU seconds as measured on a core with AVX-512: products at 85 GFLOP/s and 3 ns a pair to scan, against
    proposing and measuring.
    """
    return n_rows * (n_features * 1.2e-11 + 3e-9) < 2.2e-4 + n_features * 1.8e-7


def _approximate(work, reached, checkpoint: Checkpoint) -> bool:
    measured = checkpoint.of("rows")
    facts = measured.resume(work.state()[0])
    if not facts:
        work.measure(propose(work, checkpoint))
        measured.done(work.state, joined=0, changed=1.0)
    joined, changed = facts.get("joined", 0), facts.get("changed", 1.0)
    while not _enough(work, reached):
        if joined >= (MOST_JOINS if changed > SETTLED else ROW_JOINS):
            return False
        joined, changed = joined + 1, join_rows(work) / work.indices.size
        measured.done(work.state, joined=joined, changed=changed)
    return True


def _enough(work, reached) -> bool:
    """With the neighbours that zero rows have in the end: candidates find none for them."""
    zero_rows = np.flatnonzero(work.is_zero).astype(np.int32)
    if len(zero_rows):
        found = next_zero_rows(zero_rows, zero_rows, work.indices.shape[1])
        work.indices[zero_rows], work.squares[zero_rows] = found, np.where(found >= 0, np.float32(0), np.inf)
    return reached(work.indices)


def count_closer(
    rows, sample: np.ndarray, others: np.ndarray, block_rows: int, advance: Advance = no_advance
) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (inf). Ticks N rows.
    Float32 products decide where they can: what they leave open, within SLACK of the squared norms, differences of the two rows
    decide, in float64. Of rows at the same distance none is closer.
    """
    ours = rows.take(sample)
    cosine, own = rows.metric == "cosine", squared_norms(ours)
    pieces = slices(len(sample), block_rows // max(1, others.shape[1]))
    thresholds = np.concatenate([_thresholds(rows, ours[p], own[p], others[p]) for p in pieces])
    order = np.argsort(-thresholds, axis=1)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, rows.n_rows, block_rows):
        block = rows.block(start, min(start + block_rows, rows.n_rows))
        norms = squared_norms(block)
        _count(ours @ block.T, ours, own, block, norms, sample - start, cosine, order, thresholds, counts)
        advance(len(block))
        del block  # before the next is read
    return counts


def _thresholds(rows, ours, own, others):
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1).astype(np.int32)
    out = np.full(others.shape, np.inf)
    _measure_pairs(ours, theirs, own, squared_norms(theirs), local, rows.metric == "cosine", out)
    return out * (1 - SAME)


@njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _measure_pairs(ours, theirs, own, squares, local, cosine, out):
    for i in range(len(ours)):
        for c in range(local.shape[1]):
            if local[i, c] >= 0:
                j = local[i, c]
                apart = cosine and (own[i] == 0) != (squares[j] == 0)
                out[i, c] = 2.0 if apart else difference(ours[i], theirs[j])


@njit(nogil=True, cache=True)
def _count(dots, ours, own, theirs, norms, itself, cosine, order, thresholds, counts):
    """`order`: the columns of `thresholds`, largest first."""
    for row in range(len(dots)):
        largest = thresholds[row, order[row, 0]] if thresholds.shape[1] else 0.0
        for j in range(dots.shape[1]):
            both = own[row] + norms[j]
            square, slack = both - 2.0 * dots[row, j], SLACK * both
            if square - slack >= largest or j == itself[row]:
                continue
            if cosine and (own[row] == 0) != (norms[j] == 0):
                square, slack = 2.0, 0.0
            for c in order[row]:
                if slack > 0 and square + slack >= thresholds[row, c]:
                    square, slack = difference(ours[row], theirs[j]), 0.0
                if square >= thresholds[row, c]:
                    break
                counts[row, c] += 1
