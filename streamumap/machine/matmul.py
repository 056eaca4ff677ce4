"""Matrix products with the same bits for any number of threads.

BLAS splits a large product among its threads, and on some processors the split changes the last bits. Here each thread
computes parts of a fixed size, with BLAS on one thread. Do not call it from several threads at once: BLAS has one setting
for the whole process.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from streamumap.machine.memory import n_cores

TILE = 512
"""Rows or columns of one part."""


def gram(rows: np.ndarray) -> np.ndarray:
    """rows.T @ rows, float32 (D, D), for rows float32 (M, D). Parts off the diagonal are computed once, for both sides."""
    columns = _parts(rows.shape[1])
    out = np.empty((rows.shape[1], rows.shape[1]), rows.dtype)

    def compute(pair: tuple[slice, slice]) -> None:
        one, other = pair
        np.matmul(rows[:, one].T, rows[:, other], out=out[one, other])
        if one != other:
            out[other, one] = out[one, other].T

    _in_threads(compute, [(columns[i], other) for i in range(len(columns)) for other in columns[i:]])
    return out


def product(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """rows @ others, float32 (M, C), for float32 (M, D) and (D, C)."""
    out = np.empty((len(rows), others.shape[1]), rows.dtype)
    _in_threads(lambda part: np.matmul(rows[part], others, out=out[part]), _parts(len(rows)))
    return out


def _parts(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _in_threads(compute: Callable, parts: list) -> None:
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(n_cores()) as pool:
        list(pool.map(compute, parts))


@cache
def _libraries() -> ThreadpoolController:
    """Finds NumPy's BLAS among the loaded libraries, once: a search takes time and memory."""
    return ThreadpoolController()
