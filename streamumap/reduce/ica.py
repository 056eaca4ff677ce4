"""Independent components of rows whose principal components are known: FastICA (Hyvarinen & Oja, "Independent component
analysis: algorithms and applications", 2000; symmetric, logcosh) on a sample of them, one iteration at a time.

Whitened rows have variance 1 along every component; FastICA then only turns them. The distances between rows stay those of
whitened rows, however far the search for the turn has come.

scikit-learn's FastICA makes the same iterations, but all of them in one call, which nobody can stop or continue, and its
products round in another way on another number of threads. Its results are what these are held to.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap.machine import matmul

SAMPLE_ROWS = 20_000
MAX_ITERATIONS = 200
TOLERANCE = 1e-4
"""The search ends when no component turns further: 1 less the cosine of the angle. This and the line above: scikit-learn's."""

BAND = 64
"""Components of which one thread thinks at a time."""

RANK_SHARE = 1e-6
"""Of the first component's variance: what has less is rounding, and is not blown up to variance 1."""


def footprint(n_rows: int, n_components: int, n_threads: int) -> int:
    """Host bytes of the whitened sample and of `iteration` at its peak; `n_rows`: of the input."""
    sample_bytes, squares_bytes = 4 * min(n_rows, SAMPLE_ROWS) * n_components, 8 * n_components**2
    band_bytes = 4 * min(n_rows, SAMPLE_ROWS) * min(BAND, n_components)
    return sample_bytes + 5 * squares_bytes + n_threads * band_bytes


def whitening(variance: np.ndarray) -> np.ndarray:
    """What makes the variance of principal components 1, float32 (C,), C without those at the end that have none.

    `variance`: float64, in descending order.
    """
    there = variance[variance > RANK_SHARE * variance[0]]
    return (1 / np.sqrt(there)).astype(np.float32)


def first_turn(n_components: int, seed: int) -> np.ndarray:
    """A random rotation to begin with, float64 (C, C)."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1CA]))
    with threadpool_limits(1, "blas"):
        return _nearest_rotation(random.standard_normal((n_components, n_components)))


def iteration(white: np.ndarray, turn: np.ndarray, n_threads: int) -> tuple[np.ndarray, bool]:
    """The next rotation, float64 (C, C), and whether it was the last. `white`: whitened rows, float32 (S, C); `turn`: the
    rotation so far. The number of threads changes no bit."""
    new = np.empty_like(turn)

    def band(start: int) -> None:
        some = slice(start, start + BAND)
        bent = white @ turn[some].T.astype(np.float32)
        np.tanh(bent, out=bent)
        new[some] = bent.T @ white
        np.square(bent, out=bent)
        slope = len(white) - bent.sum(0, dtype=np.float64)
        new[some] -= slope[:, None] * turn[some]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(band, range(0, len(turn), BAND)))
        new = _nearest_rotation(new / len(white))
    moved = np.abs(np.abs(np.einsum("ij,ij->i", new, turn)) - 1).max(initial=0.0)
    return new, bool(moved < TOLERANCE)


def directions(components: np.ndarray, scale: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Along which rows have their independent components, float32 as `components` (C, D), those without variance 0."""
    out = np.zeros_like(components)
    out[: len(scale)] = matmul.product(turn.astype(np.float32) * scale, components[: len(scale)])
    return out


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """(M M')^(-1/2) M, float64."""
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    return (vectors / np.sqrt(np.maximum(squares, np.finfo(float).tiny))) @ (vectors.T @ matrix)
