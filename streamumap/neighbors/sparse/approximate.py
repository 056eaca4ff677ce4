"""Neighbours of packed rows without looking at all pairs: each row looks through its nearest cells, neighbours of
neighbours join, and the recall is measured until it is enough.

Cells and lists only choose: the distances are those of the rows, in float64. A row's list is written by one thread, from
sums in a fixed order: the bytes do not depend on the number of threads.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from streamumap.events import Advance
from streamumap.machine import memory
from streamumap.neighbors.sparse.cells import Cells, make_cells
from streamumap.neighbors.sparse.join import join
from streamumap.neighbors.sparse.measure import measure
from streamumap.neighbors.sparse.probe import probe
from streamumap.neighbors.sparse.sizes import BLOCK_ROWS, CHOICES, list_width
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

EFFORTS = (CHOICES, 4 * CHOICES, 16 * CHOICES)
"""Cells that each row has looked through after each round."""

JOINS = 2

Reached = Callable[[np.ndarray], bool]


def search(
    rows, k: int, metric: str, *, non_negative: bool, seed: int, batch_rows: int, sample: np.ndarray, reached: Reached,
    advance: Advance, checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """indices int32, distances float32 (N, k); None where the last effort does not reach what is asked.

    `reached(neighbours int32 (S, k - 1) of the rows int64 (S,) in `sample`)` says whether a graph is good enough.
    Ticks N rows for the cells, for each round and each join, and at the end.
    """
    n, cosine = rows.n_rows, metric == "cosine"
    cells = make_cells(rows, metric, seed, advance)
    width = min(list_width(k), n - 1)
    ceiling = np.float32(0 if cosine and non_negative else np.inf)  # rows that share nothing are no neighbours
    table = np.full((n, width), -1, np.int32), np.full((n, width), ceiling), np.zeros((n, width), np.uint8)
    whole = dict(zip(("indices", "keys", "fresh"), table, strict=True))
    facts = checkpoint.resume(whole)
    steps = _steps(len(cells.centre_half))
    for number in range(facts.get("step", 0), len(steps)):
        memory.trim()  # what the step before has freed, in each thread's own heap, is no room for this one
        match steps[number]:
            case "probe", first, last:
                after = partial(checkpoint.done, lambda: (whole, {}), step=number)
                probe(cells, rows.n_features, first, last, batch_rows, table, advance, facts.pop("row", 0), after)
            case "join":
                join(cells, rows.n_features, table, advance)
            case "look" if reached(_neighbors(rows, cells, table[0], sample, k, cosine)):
                indices = table[0]
                del table, whole
                return _measured(cells, indices, k, cosine, advance)
        checkpoint.done(lambda: (whole, {}), step=number + 1, row=0)
    return None


def _steps(n_cells: int) -> list:
    """What is done to the lists, and where they are looked at. A probe goes through each row's first..last nearest cells."""
    out: list = []
    first = 0
    for last in EFFORTS:
        if first < n_cells:
            out.append(("probe", first, last))
        out += ["join"] * JOINS + ["look"]
        first = last
    return out


def _neighbors(rows, cells: Cells, indices, sample, k, cosine):
    place = np.empty(len(indices), np.int32)
    place[cells.names] = np.arange(len(indices), dtype=np.int32)
    local = indices[place[sample]]
    found, distances = np.full((len(sample), k), -1, np.int32), np.full((len(sample), k), np.inf, np.float32)
    measure(sample, *rows.take(sample), *cells.rows, _names(cells, local), local, cosine, found, distances)
    return found[:, 1:]


def _measured(cells: Cells, near, k, cosine, advance):
    n = len(near)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    indptr, features, values = cells.rows
    for start in range(0, n, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, n))
        bounds = indptr[part.start : part.stop + 1]
        own = bounds - bounds[0], features[bounds[0] : bounds[-1]], values[bounds[0] : bounds[-1]]
        shape = part.stop - start, k
        found, measured = np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
        names, best = cells.names[part], _names(cells, near[part])
        measure(names, *own, *cells.rows, best, near[part], cosine, found, measured)
        indices[names], distances[names] = found, measured
        advance(part.stop - start)
    return indices, distances


def _names(cells: Cells, local):
    return np.where(local >= 0, cells.names[local], np.int32(-1))
