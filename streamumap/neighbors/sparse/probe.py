"""Each row compared with all rows of the cells whose centres are nearest to it.

Rows that follow each other mostly choose the same cells, so a batch of them goes through its cells one by one: the rows of a cell become
inverted lists, with which a pair costs a fifth of a comparison of its own.
"""

from collections.abc import Callable

import numba
import numpy as np
from numba import njit, prange

from streamumap.events import Advance
from streamumap.neighbors.sparse.cells import Cells
from streamumap.neighbors.sparse.lists import CHUNK, add_products, highest, invert, put_in_lists
from streamumap.neighbors.sparse.sizes import CHOICES
from streamumap.neighbors.table import insert_fresh

LEAST_BATCH = 256


def probe(
    cells: Cells,
    n_features: int,
    first: int,
    last: int,
    batch_rows: int,
    table,
    advance: Advance,
    start_row: int = 0,
    after: Callable = lambda row: None,
) -> None:
    """Merge the rows of each row's first..last nearest cells into the table, from row `start_row` on. Advances by N rows, and calls
    after(row=rows done) after every step.

    `table`: indices int32, keys float32, fresh uint8 (N, w), by rows in the order of the cells.
    """
    n, n_cells = len(cells.row_ids), len(cells.centre_half)
    last = min(last, n_cells)
    batch_rows = max(LEAST_BATCH, batch_rows * CHOICES // last)
    lists = invert(*cells.centres, n_features)
    most = int(np.diff(cells.rows[0][cells.starts]).max())
    step = batch_rows * 4 * numba.get_num_threads()
    for start in range(start_row, n, step):
        stop = min(start + step, n)
        _probe(
            start, stop, batch_rows, first, last, most, n_features, *cells.rows, cells.scale, cells.half,
            cells.starts, *lists, cells.centre_half, *table,
        )  # fmt: skip
        advance(stop - start)
        after(row=stop)


@njit(parallel=True, fastmath={"reassoc", "nsz", "contract"}, cache=True)
def _probe(
    start, stop, batch_rows, first, last, most, n_features, indptr, features, values, scale, half,
    starts, bounds, list_rows, list_values, centre_half, indices, keys, fresh,
):  # fmt: skip
    n_cells = len(centre_half)
    largest = np.int64(0)
    for c in range(n_cells):
        largest = max(largest, starts[c + 1] - starts[c])
    for batch in prange((stop - start + batch_rows - 1) // batch_rows):
        low = start + batch * batch_rows
        high = min(low + batch_rows, stop)
        chosen = np.empty((high - low, last), np.int32)
        scores = np.empty(n_cells, np.float32)
        for i in range(low, high):
            scores[:] = -centre_half
            add_products(scores, features, values, indptr[i], indptr[i + 1], scale[i], bounds, list_rows, list_values)
            highest(scores, chosen[i - low])
        begins, guests = _guests(chosen[:, first:], low, n_cells)
        ends, place, value = np.empty(n_features + 2, np.int32), np.empty(most, np.uint16), np.empty(most, np.float32)
        sums = np.empty(largest, np.float32)
        for c in range(n_cells):
            if begins[c] < begins[c + 1]:
                a, b = starts[c], starts[c + 1]
                put_in_lists(indptr, features, values, scale, a, b, ends, place, value)
                for i in guests[begins[c] : begins[c + 1]]:
                    sums[: b - a] = 0
                    add_products(sums, features, values, indptr[i], indptr[i + 1], scale[i], ends, place, value)
                    _keep(i, a, b, sums, half, indices, keys, fresh)


@njit(cache=True)
def _guests(chosen, low, n_cells):
    """Group the rows of a batch, from row `low` on, by the cells that they chose: where each cell's begin int64 (C + 1,), and rows int32."""
    begins = np.zeros(n_cells + 2, np.int64)
    for c in chosen.flat:
        begins[c + 2] += 1
    for c in range(n_cells):
        begins[c + 2] += begins[c + 1]
    guests = np.empty(chosen.size, np.int32)
    for i in range(len(chosen)):
        for c in chosen[i]:
            guests[begins[c + 1]] = low + i
            begins[c + 1] += 1
    return begins[: n_cells + 1], guests


@njit(fastmath={"contract"}, cache=True)
def _keep(i, a, b, sums, half, indices, keys, fresh):
    """Merge rows a..b, whose products with row i are `sums`, into its list."""
    worst = keys[i, -1]
    for start in range(a, b, CHUNK):
        stop = min(start + CHUNK, b)
        nearer = np.int32(0)
        for j in range(start, stop):
            nearer |= np.int32(half[i] + half[j] - sums[j - a] < worst)
        if nearer == 0:
            continue
        for j in range(start, stop):
            key = half[i] + half[j] - sums[j - a]
            if key < worst and j != i:
                insert_fresh(indices[i], keys[i], fresh[i], key, np.int32(j))
                worst = keys[i, -1]
