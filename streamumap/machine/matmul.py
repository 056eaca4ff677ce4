"""Products of matrices, to the same bits for any number of threads.

BLAS cuts a large product among its threads, and how it does changes the last bits on some processors. Here each thread of
ours makes parts of a fixed size, with BLAS on one thread. Not for several threads at once: BLAS has one setting for all.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from streamumap.machine.memory import n_cores

TILE = 512
"""Rows or columns of a part."""


def gram(rows: np.ndarray) -> np.ndarray:
    """rows.T @ rows, float32 (D, D), of rows float32 (M, D). What lies beside the diagonal is made once, for both sides."""
    columns = _parts(rows.shape[1])
    out = np.empty((rows.shape[1], rows.shape[1]), rows.dtype)

    def make(pair: tuple[slice, slice]) -> None:
        one, other = pair
        np.matmul(rows[:, one].T, rows[:, other], out=out[one, other])
        if one != other:
            out[other, one] = out[one, other].T

    _in_threads(make, [(columns[i], other) for i in range(len(columns)) for other in columns[i:]])
    return out


def product(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """rows @ others, float32 (M, C), of float32 (M, D) and (D, C)."""
    out = np.empty((len(rows), others.shape[1]), rows.dtype)
    _in_threads(lambda part: np.matmul(rows[part], others, out=out[part]), _parts(len(rows)))
    return out


def _parts(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _in_threads(make: Callable, parts: list) -> None:
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(n_cores()) as pool:
        list(pool.map(make, parts))


@cache
def _libraries() -> ThreadpoolController:
    """Finds NumPy's BLAS among the loaded libraries, once: a search takes time and memory."""
    return ThreadpoolController()
