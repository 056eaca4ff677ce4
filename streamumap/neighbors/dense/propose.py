"""Candidates for every row, from sketches alone: the rows of its cells, then neighbors of neighbors (NN-descent: Dong, Moses, Li 2011)."""

import numpy as np
from numba import njit

from streamumap.neighbors.dense.cells import make_cells
from streamumap.neighbors.dense.sizes import FORWARD, OVERLAP, REVERSE, TILE_ROWS, list_width
from streamumap.neighbors.dense.sketch import Sketch, code_product, make_sketch
from streamumap.neighbors.dense.workspace import Work
from streamumap.neighbors.table import insert_fresh, meet, members_of, places
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

PASSES = 3
"""Rounds of making cells, around other random rows each time."""

SKETCH_JOINS = 6
SETTLED = 0.02
"""Joins of sketches stop when one changes less than this share of the lists."""


def propose(work: Work, checkpoint: Checkpoint = NO_CHECKPOINT) -> np.ndarray:
    """Propose int32 (N, width): rows that are near by their sketches, nearest first, -1 for none. Also puts `work.order` into the order of
    the cells."""
    width = min(list_width(work.k), work.n - 1)
    indices = np.full((work.n, width), -1, np.int32)
    squares = np.full((work.n, width), np.inf, np.float32)
    fresh = np.zeros((work.n, width), np.uint8)
    whole = dict(indices=indices, squares=squares, fresh=fresh, order=work.order)
    step, last = checkpoint.resume(whole).get("step", 0), PASSES + SKETCH_JOINS
    if step == last:
        return indices
    sketch = make_sketch(work)
    while step < last:
        if step < PASSES:
            _search_pass(work, sketch, step, indices, squares, fresh)
            step += 1
        else:
            settled = _join(work, sketch, indices, squares, fresh) < SETTLED * work.n * FORWARD
            step = last if settled else step + 1
        checkpoint.done(lambda: (whole, {}), step=step)
    return indices


def _search_pass(work: Work, sketch: Sketch, number, indices, squares, fresh):
    """Compare each row with the rows of its cells."""
    cells, bounds, order = make_cells(work, sketch, number)
    if number == 0:
        work.order[:] = order
    members = np.argsort(cells.ravel(), kind="stable")[np.count_nonzero(cells < 0) :] // OVERLAP
    for own in cells.T.copy():
        by_cell = np.argsort(own, kind="stable")  # so that the rows of a cell stay in the cache
        work.each(_search_cells, work.n, TILE_ROWS, by_cell, own, bounds, members, *sketch, indices, squares, fresh)


def _join(work: Work, sketch: Sketch, indices, squares, fresh) -> int:
    """Compare each row with the neighbors of its neighbors; return the number of changes."""
    members = members_of(indices, squares, fresh, FORWARD, REVERSE)
    fresh[:, :FORWARD] = 0
    return sum(work.each(_join_sketches, work.n, TILE_ROWS, work.order, members, *sketch, indices, squares, fresh))


@njit(nogil=True, cache=True)
def _search_cells(start, stop, order, own, bounds, members, codes, scale, norm, indices, squares, fresh):
    for place in range(start, stop):
        i = order[place]
        if own[i] < 0:
            continue
        for at in range(bounds[own[i]], bounds[own[i] + 1]):
            j = members[at]
            square = norm[j] - np.float32(2) * scale[i] * scale[j] * np.float32(code_product(codes, i, j))
            if square < squares[i, -1] and j != i:
                insert_fresh(indices[i], squares[i], fresh[i], square, np.int32(j))


@njit(nogil=True, cache=True)
def _join_sketches(start, stop, order, members, codes, scale, norm, indices, squares, fresh):
    """Compare rows with neighbors of neighbors, unless both steps are old; return the number of changes."""
    changes = 0
    n_visited, n_met = places(indices, members)
    visited, met = np.empty(n_visited, np.int32), np.empty(n_met, np.int32)
    for place in range(start, stop):
        i = order[place]
        for j in met[: meet(np.int32(i), indices[i], members, visited, met)]:
            square = norm[j] - np.float32(2) * scale[i] * scale[j] * np.float32(code_product(codes, i, j))
            if square < squares[i, -1] and insert_fresh(indices[i], squares[i], fresh[i], square, j):
                changes += 1
    return changes
