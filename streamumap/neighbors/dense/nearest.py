"""The nearest of some rows for each of others, on a CPU: exact.

A matrix product proposes: what it says of two rows is off by a few roundings of their squared norms, so every row that
may be among the nearest within these is measured by the differences of the two rows, which decide. The result depends
on nothing but the two rows: neither on blocks nor on threads.
"""

from collections.abc import Callable

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from streamumap.events import Advance, no_advance
from streamumap.neighbors.dense.sizes import ASKING_ROWS
from streamumap.neighbors.dense.workspace import SLACK, slices, squared_norms
from streamumap.neighbors.table import difference, insert


def nearest(
    queries: np.ndarray,
    others,
    k: int,
    *,
    other_rows: int,
    non_negative: bool,
    each: Callable,
    rounding: float = 0.0,
    advance: Advance = no_advance,
) -> tuple[np.ndarray, np.ndarray]:
    """As `reference.nearest` of `queries` float32 (Q, D), rows as a DenseRows gives them, among `others`, a DenseRows read
    `other_rows` at a time. `each(function, items)` calls it for every item, several at a time. Ticks Q rows."""
    n, cosine = others.n_rows, others.metric == "cosine"
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
                    products, queries[rows], norms[rows], block, other_norms, start, cosine, non_negative,
                    indices[rows], squares[rows],
                )  # fmt: skip

            each(merge, slices(len(queries), ASKING_ROWS))
            advance(len(queries) * stop // n - len(queries) * start // n)
            del block, merge  # before the next is read
    squares[squares <= rounding**2 * norms[:, None]] = 0
    with np.errstate(over="ignore"):
        return indices, (squares / 2 if cosine else np.sqrt(squares)).astype(np.float32)


@njit(nogil=True, cache=True)
def _merge(products, queries, norms, others, other_norms, first_other, cosine, non_negative, indices, squares):
    for row in range(len(products)):
        for j in range(len(others)):
            both = norms[row] + other_norms[j]
            if both - 2.0 * products[row, j] - SLACK * both > squares[row, -1]:
                continue
            if cosine:
                if (norms[row] == 0) != (other_norms[j] == 0):
                    continue
                if non_negative and norms[row] > 0 and products[row, j] <= 0:
                    continue
            insert(indices[row], squares[row], difference(queries[row], others[j]), np.int32(first_other + j))
