"""Independent components of rows with known principal components: FastICA (Hyvarinen & Oja, "Independent component
analysis: algorithms and applications", 2000; symmetric, logcosh) on a sample of the rows, one iteration at a time.

Whitened rows have variance 1 along every component. FastICA only rotates them, so the distances between rows are those of
whitened rows after any number of iterations.

scikit-learn's FastICA makes the same iterations, but in one call that cannot be stopped or continued, and its rounding depends
on the number of threads. Tests hold this module to its results.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap.machine import matmul

SAMPLE_ROWS = 20_000
MAX_ITERATIONS = 200  # scikit-learn's default
TOLERANCE = 1e-4
"""The search ends when 1 minus the cosine of the angle by which a component turns is below this (scikit-learn's default)."""

BAND = 64
"""Components that one thread updates at a time."""

RANK_SHARE = 1e-6
"""Share of the first component's variance below which a component is rounding, and is not scaled to variance 1."""


def footprint(n_rows: int, n_components: int, n_threads: int) -> int:
    """Host bytes of the whitened sample and of `iteration` at its peak, for an input of `n_rows` rows."""
    sample_bytes, squares_bytes = 4 * min(n_rows, SAMPLE_ROWS) * n_components, 8 * n_components**2
    band_bytes = 4 * min(n_rows, SAMPLE_ROWS) * min(BAND, n_components)
    return sample_bytes + 5 * squares_bytes + n_threads * band_bytes


def whitening(variance: np.ndarray) -> np.ndarray:
    """Returns the factors that bring principal components to variance 1, float32 (C,), without the last ones if these have no
    variance.

    `variance`: float64, in descending order.
    """
    positive = variance[variance > RANK_SHARE * variance[0]]
    return (1 / np.sqrt(positive)).astype(np.float32)


def first_turn(n_components: int, seed: int) -> np.ndarray:
    """Draws the rotation to start from, float64 (C, C)."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1CA]))
    with threadpool_limits(1, "blas"):
        return _nearest_rotation(random.standard_normal((n_components, n_components)))


def iteration(white: np.ndarray, turn: np.ndarray, n_threads: int) -> tuple[np.ndarray, bool]:
    """Returns the next rotation, float64 (C, C), and whether the search has converged. `white`: whitened rows, float32 (S, C);
    `turn`: the rotation so far. Any number of threads gives the same bytes."""
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
    """Returns the directions of the independent components, float32 (C, D) like `components`; 0 for those without variance."""
    out = np.zeros_like(components)
    out[: len(scale)] = matmul.product(turn.astype(np.float32) * scale, components[: len(scale)])
    return out


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Returns (M M')^(-1/2) M, float64."""
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    return (vectors / np.sqrt(np.maximum(squares, np.finfo(float).tiny))) @ (vectors.T @ matrix)
