"""Each row compared with rows of the cells whose centres are nearest to it: its products with all centres come from inverted lists, those
with the rows of these cells from a dense strip (`heads.py`)."""

from collections.abc import Callable

import numba
import numpy as np
from numba import njit, prange

from streamumap.events import Advance
from streamumap.neighbors.sparse.cells import Cells
from streamumap.neighbors.sparse.heads import BINS, compare
from streamumap.neighbors.sparse.lists import add_products, highest, invert

RUN_ROWS = 512
"""Rows that one thread takes together."""


def probe(
    cells: Cells,
    n_features: int,
    n_choices: int,
    n_kept: int,
    batch_rows: int,
    table,
    advance: Advance,
    start_row: int = 0,
    after: Callable = lambda row: None,
) -> None:
    """Merge rows of each row's `n_choices` nearest cells into the table, from row `start_row` on: the `n_kept` nearest by their heads.
    Advances by N rows, and calls after(row=rows done) after every step.

    `table`: indices int32, keys float32, fresh uint8 (N, w), by rows in the order of the cells.
    """
    n, n_choices = len(cells.row_ids), min(n_choices, len(cells.centre_half))
    lists = invert(*cells.centres, n_features)
    n_met = n_choices * int(np.diff(cells.starts).max())
    step = batch_rows * 4 * numba.get_num_threads()
    for start in range(start_row, n, step):
        stop = min(start + step, n)
        _probe(
            start, stop, n_choices, n_met, n_kept, *cells.rows, cells.scale, cells.half, *cells.heads,
            cells.starts, *lists, cells.centre_half, n_features, *table,
        )  # fmt: skip
        advance(stop - start)
        after(row=stop)


@njit(parallel=True, fastmath={"contract"}, cache=True)
def _probe(
    start, stop, n_choices, n_met, n_kept, indptr, features, values, scale, half, head_features, head_values,
    starts, bounds, list_rows, list_values, centre_half, n_features,
    indices, keys, fresh,
):  # fmt: skip
    for run in prange((stop - start + RUN_ROWS - 1) // RUN_ROWS):
        strip, scores = np.zeros(n_features, np.float32), np.empty(len(centre_half), np.float32)
        chosen, counts = np.empty(n_choices, np.int32), np.empty(BINS, np.int32)
        met, rough = np.empty(n_met, np.int32), np.empty(n_met, np.float32)
        low = start + run * RUN_ROWS
        for i in range(low, min(low + RUN_ROWS, stop)):
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = values[at] * scale[i]
            for c in range(len(scores)):
                scores[c] = -centre_half[c]
            add_products(scores, features, values, indptr[i], indptr[i + 1], scale[i], bounds, list_rows, list_values)
            highest(scores, chosen)
            n_there = 0
            for c in chosen:
                for j in range(starts[c], starts[c + 1]):
                    met[n_there] = j
                    n_there += 1
            compare(
                i, met[:n_there], n_kept, strip, rough, counts, indptr, features, values, scale, half, head_features,
                head_values, indices, keys, fresh,
            )  # fmt: skip
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = 0
