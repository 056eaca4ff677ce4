"""Overlapping cells of bounded size, made of sketches: the rows near each of some random rows.

Cells that did not overlap would separate neighbors for good; a cell without a bound could take nearly all rows.
"""

import numpy as np
from numba import njit

from streamumap.neighbors.dense.sizes import OVERLAP, TILE_ROWS, cell_counts
from streamumap.neighbors.dense.sketch import Sketch
from streamumap.neighbors.dense.workspace import Work, slices

CHOICES = 8
"""Nearest cells that a row may be assigned to when nearer ones are full."""


def make_cells(work: Work, sketch: Sketch, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign each row to the nearest of some random rows, which depend on `number`.

    Returns the cells of each row int32 (N, OVERLAP), -1 for none; where each cell begins among the rows sorted by cell, int64
    (n_cells + 1,); and all row numbers int64 (N,) by first cell, in an order of cells in which near cells follow each other.
    """
    codes, scale, norm = sketch
    n = work.n
    n_cells, cap = cell_counts(n)
    random = np.random.Generator(np.random.Philox(key=[work.seed, number]))
    chosen = np.sort(random.choice(n, min(n_cells, n), replace=False))
    centres = codes[chosen] * scale[chosen, None]
    bias = -0.5 * np.where(np.isinf(norm[chosen]), 0, norm[chosen])
    cells = np.full((n, OVERLAP), -1, np.int32)
    room = np.full(len(chosen), cap, np.int64)
    n_choices = min(CHOICES, len(chosen))

    def nearest(piece):
        scores = (codes[piece] * scale[piece, None]) @ centres.T + bias
        return _highest(scores, n_choices)

    pieces = slices(n, TILE_ROWS)
    for batch in range(0, len(pieces), 64):
        for piece, choices in zip(
            pieces[batch : batch + 64], work.pool.map(nearest, pieces[batch : batch + 64]), strict=True
        ):
            _assign(choices, room, cells[piece])
    bounds = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(np.bincount(cells[cells >= 0], minlength=len(chosen)), out=bounds[1:])
    rank = np.argsort(_tour(centres @ centres.T + bias))
    return cells, bounds, np.argsort(rank[cells[:, 0]], kind="stable")


@njit(nogil=True, cache=True)
def _highest(scores, n_choices):
    """Find the columns of each row's highest scores, highest first."""
    out = np.zeros((len(scores), n_choices), np.int32)
    for row in range(len(scores)):
        best = np.full(n_choices, -np.inf, np.float32)
        for j in range(scores.shape[1]):
            if scores[row, j] > best[-1]:
                at = n_choices - 1
                while at > 0 and best[at - 1] < scores[row, j]:
                    best[at], out[row, at] = best[at - 1], out[row, at - 1]
                    at -= 1
                best[at], out[row, at] = scores[row, j], j
    return out


@njit(cache=True)
def _tour(scores):
    """Order the centres so that the next is always the nearest of those left."""
    n = len(scores)
    tour, left = np.zeros(n, np.int64), np.ones(n, np.bool_)
    left[0] = False
    for step in range(1, n):
        best = -1
        for j in range(n):
            if left[j] and (best < 0 or scores[tour[step - 1], j] > scores[tour[step - 1], best]):
                best = j
        tour[step] = best
        left[best] = False
    return tour


@njit(cache=True)
def _assign(choices, room, cells):
    """Assign each row to its nearest cells that have room; where all its choices are full, to the emptiest cell, which may be full too."""
    for row in range(len(choices)):
        n = 0
        for cell in choices[row]:
            if n < cells.shape[1] and room[cell] > 0:
                cells[row, n] = cell
                room[cell] -= 1
                n += 1
        if n == 0:
            cells[row, 0] = np.argmax(room)
            room[cells[row, 0]] -= 1
