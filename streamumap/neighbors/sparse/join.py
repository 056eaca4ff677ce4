"""Neighbors of neighbors (NN-descent: Dong, Moses, Li 2011): a row is written into a dense strip, in which the features of other rows are
looked up (the dense accumulator of Gustavson 1978)."""

import numba
import numpy as np
from numba import njit, prange

from streamumap.events import Advance
from streamumap.neighbors.sparse.cells import Cells
from streamumap.neighbors.sparse.lists import dot
from streamumap.neighbors.sparse.sizes import FORWARD, REVERSE
from streamumap.neighbors.table import insert_fresh, meet, members_of, places

RUN_ROWS = 1024
"""Rows that one thread takes together."""


def join(cells: Cells, n_features: int, table, advance: Advance) -> None:
    """Compare each row with the neighbors of its neighbors, in both directions. Advances by N rows."""
    indices, keys, fresh = table
    n = len(indices)
    members = members_of(indices, keys, fresh, FORWARD, REVERSE)
    fresh[:, :FORWARD] = 0
    step = RUN_ROWS * 16 * numba.get_num_threads()
    for start in range(0, n, step):
        stop = min(start + step, n)
        _join(start, stop, *cells.rows, cells.scale, cells.half, n_features, members, indices, keys, fresh)
        advance(stop - start)


@njit(parallel=True, fastmath={"contract"}, cache=True)
def _join(start, stop, indptr, features, values, scale, half, n_features, members, indices, keys, fresh):
    n_met = places(indices, members)
    for run in prange((stop - start + RUN_ROWS - 1) // RUN_ROWS):
        strip = np.zeros(n_features, np.float32)
        visited, met = np.empty(n_met[0], np.int32), np.empty(n_met[1], np.int32)
        low = start + run * RUN_ROWS
        for i in range(low, min(low + RUN_ROWS, stop)):
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = values[at] * scale[i]
            for j in met[: meet(np.int32(i), indices[i], members, visited, met)]:
                key = half[i] + half[j] - dot(strip, features, values, indptr[j], indptr[j + 1]) * scale[j]
                if key < keys[i, -1]:
                    insert_fresh(indices[i], keys[i], fresh[i], key, j)
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = 0
