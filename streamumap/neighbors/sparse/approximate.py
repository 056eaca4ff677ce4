"""The search without comparing all pairs: each row is compared with rows of its nearest cells, then with neighbors of neighbors, until the
measured recall is enough.

Cells and lists choose candidates; distances come from the rows, in float64. A row's list is written by one thread from sums in a fixed
order, so the result does not depend on the number of threads.
"""

from functools import partial

import numpy as np

from streamumap.events import Advance
from streamumap.machine import memory
from streamumap.neighbors.protocol import KnnGraph, SearchRequest
from streamumap.neighbors.sparse.cells import Cells, make_cells
from streamumap.neighbors.sparse.heads import tell
from streamumap.neighbors.sparse.join import join
from streamumap.neighbors.sparse.measure import measure, measure_lists
from streamumap.neighbors.sparse.probe import probe
from streamumap.neighbors.sparse.sizes import BLOCK_ROWS, CHOICES, KEPT, list_width
from streamumap.source.sparse.csr_rows import CsrRows

EFFORTS = (CHOICES, 4 * CHOICES, 16 * CHOICES)
"""Cells that each row looks through in each round: the first time for rows that seem near (`heads.py`), then at all their rows."""

JOINS = 2


def search(request: SearchRequest) -> KnnGraph | None:
    """Find a graph, with distances as `measure.pair` gives them; None where even the last round is not good enough.

    Advances by N rows for the cells, for each round and each join, and at the end.
    """
    rows, unit, k, advance = request.rows.csr, request.rows.metric.unit, request.k, request.advance
    assert rows is not None
    n, sample = rows.n_rows, request.sample
    cells = make_cells(rows, unit, request.seed, advance)
    width = min(list_width(k), n - 1)
    # At length 1 a key is the negative cosine: 0 where two non-negative rows share no feature and are no neighbors.
    ceiling = np.float32(0 if unit and request.rows.non_negative else np.inf)
    table = np.full((n, width), -1, np.int32), np.full((n, width), ceiling), np.zeros((n, width), np.uint8)
    whole = dict(zip(("indices", "keys", "fresh"), table, strict=True))
    facts = request.checkpoint.resume(whole)
    telling = tell(cells.rows[0], cells.rows[2], cells.scale, cells.heads[1])
    steps = _steps(KEPT * width if telling else n, n)
    for number in range(facts.get("step", 0), len(steps)):
        memory.trim()  # what the step before has freed, in each thread's own heap, is no room for this one
        match steps[number]:
            case "probe", n_choices, n_kept:
                done = partial(request.checkpoint.done, lambda: (whole, {}), step=number)
                batch_rows, row = request.blocks["batch_rows"], facts.pop("row", 0)
                probe(cells, rows.n_features, n_choices, n_kept, batch_rows, table, advance, row, done)
            case "join":
                join(cells, rows.n_features, table, advance)
            case "look" if request.reached(_neighbors(rows, cells, table[0], sample, k, unit)):
                lists = table[:2]
                del table, whole
                return _measured(cells, rows.n_features, lists, k, unit, advance)
        request.checkpoint.done(lambda: (whole, {}), step=number + 1, row=0)
    return None


def _steps(first_kept: int, n_rows: int) -> list:
    """List the steps of a search: a probe looks through so many cells and measures at most so many of their rows, a look measures the
    recall."""
    out: list = []
    for number, n_choices in enumerate(EFFORTS):
        out += [("probe", n_choices, n_rows if number else first_kept)] + ["join"] * JOINS + ["look"]
    return out


def _neighbors(rows: CsrRows, cells: Cells, indices, sample, k: int, unit: bool) -> np.ndarray:
    """Measure the lists of the sampled rows: their neighbors int32 (S, k - 1)."""
    place = np.empty(len(indices), np.int32)
    place[cells.row_ids] = np.arange(len(indices), dtype=np.int32)
    local = indices[place[sample]]
    found, distances = np.full((len(sample), k), -1, np.int32), np.full((len(sample), k), np.inf, np.float32)
    measure(sample, *rows.take(sample), *cells.rows, _row_ids(cells, local), local, unit, found, distances)
    return found[:, 1:]


def _measured(cells: Cells, n_features: int, table, k: int, unit: bool, advance: Advance) -> KnnGraph:
    """Measure the lists and keys (N, w) of all rows, by places in the order of the cells."""
    lists, keys = table
    n = len(lists)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    for start in range(0, n, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, n))
        shape = part.stop - start, k
        found, measured = np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
        own = cells.row_ids, lists[part], keys[part]
        measure_lists(start, *cells.rows, cells.half, *own, unit, n_features, found, measured)
        indices[cells.row_ids[part]], distances[cells.row_ids[part]] = found, measured
        advance(part.stop - start)
    return KnnGraph(indices, distances)


def _row_ids(cells: Cells, local: np.ndarray) -> np.ndarray:
    """Translate places in the order of the cells into row numbers; -1 stays."""
    return np.where(local >= 0, cells.row_ids[local], np.int32(-1))
