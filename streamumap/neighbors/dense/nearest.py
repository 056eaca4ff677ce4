"""The exact search for the neighbors of new rows among dense rows of a map, on a CPU: a `protocol.NearestBackend`.

A matrix product proposes. Its error is at most a few roundings of the squared norms, so every row that may be among the nearest within
this error is measured by differences. A distance depends on the two rows alone, not on blocks or threads.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from streamumap.neighbors.dense.sizes import ASKING_ROWS
from streamumap.neighbors.dense.workspace import SLACK, slices, squared_norms
from streamumap.neighbors.protocol import KnnGraph, Nearest, NearestRequest
from streamumap.neighbors.table import difference, insert
from streamumap.source.views.normalized import DenseRows


@contextmanager
def open_search(request: NearestRequest) -> Iterator[Nearest]:
    """Open a search that holds the new rows that are asked for together, and threads to compare them."""
    request.rows.metric.check("dense")
    unit, new = request.rows.metric.unit, request.new
    others, asking = DenseRows(request.rows.source, unit=unit), DenseRows(new, unit=unit)
    queries = np.empty((min(request.query_rows, new.n_rows), new.n_features), np.float32)
    with ThreadPoolExecutor(request.n_threads) as pool:

        def nearest(start: int, stop: int) -> KnnGraph:
            for first in range(start, stop, request.other_rows):
                last = min(first + request.other_rows, stop)
                queries[first - start : last - start] = asking.block(first, last)
            return _nearest(queries[: stop - start], others, request, pool)

        yield nearest


def _nearest(queries: np.ndarray, others: DenseRows, request: NearestRequest, pool: Executor) -> KnnGraph:
    n, k, other_rows, metric = others.n_rows, request.k, request.other_rows, request.rows.metric
    indices, squares = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), np.inf)
    norms = squared_norms(queries)
    with threadpool_limits(1):
        for start in range(0, n, other_rows):
            stop = min(start + other_rows, n)
            block = others.block(start, stop)
            other_norms = squared_norms(block)

            def merge(rows: slice, start=start, block=block, other_norms=other_norms) -> None:
                products = queries[rows] @ block.T
                _merge(
                    products, queries[rows], norms[rows], block, other_norms, start, metric.unit, request.rows.non_negative,
                    indices[rows], squares[rows],
                )  # fmt: skip

            list(pool.map(merge, slices(len(queries), ASKING_ROWS)))
            request.advance(len(queries) * stop // n - len(queries) * start // n)
            del block, merge  # before the next is read
    squares[squares <= request.rounding**2 * norms[:, None]] = 0
    with np.errstate(over="ignore"):
        return KnnGraph(indices, metric.from_squares(squares, np).astype(np.float32))


@njit(nogil=True, cache=True)
def _merge(products, queries, norms, others, other_norms, first_other, unit, non_negative, indices, squares):
    for row in range(len(products)):
        for j in range(len(others)):
            both = norms[row] + other_norms[j]
            if both - 2.0 * products[row, j] - SLACK * both > squares[row, -1]:
                continue
            if unit:
                if (norms[row] == 0) != (other_norms[j] == 0):
                    continue
                if non_negative and norms[row] > 0 and products[row, j] <= 0:
                    continue
            insert(indices[row], squares[row], difference(queries[row], others[j]), np.int32(first_other + j))
