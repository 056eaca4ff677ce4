"""Sketches of all rows: 256 numbers of one byte a row that nearly keep distances, few enough to stay in memory.

Some of the numbers are the strongest components of a sample (subspace iteration: Halko, Martinsson, Tropp 2011), for rows near a
low-dimensional subspace; the others are a random projection of the rest (Johnson & Lindenstrauss 1984), for all other rows. Sums of
products of sketches are integers, the same in any order.
"""

import numpy as np
from numba import njit

from streamumap.neighbors.dense.sizes import PIECE_BYTES, SKETCH
from streamumap.neighbors.dense.workspace import Work, slices

SAMPLE_ROWS = 2048
COMPONENTS = 64
"""Components among the SKETCH numbers. Among 30 candidates, 192 components alone keep 0.57 of the neighbors of codes; 192 random numbers
keep 0.86 of those of codes and of embeddings; 64 components and 128 random numbers keep 0.87 and 0.96."""

Sketch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Codes int8 (N, s), the value of one unit of each row's code float32 (N,), squared norms float32 (N,)."""


def make_sketch(work: Work) -> Sketch:
    """Make sketches of all rows less the median of a sample.

    A few far rows would move a mean away from all other rows, whose differences would then be too small for one byte.
    """
    n, n_features = work.n, work.rows.n_features
    random = np.random.Generator(np.random.Philox(key=[work.seed, 2**32]))
    numbers = np.sort(random.choice(n, min(SAMPLE_ROWS, work.cell_rows), replace=False))
    sample = work.gather(numbers, work.buffer)
    centre = np.concatenate([np.median(sample[:, piece], axis=0) for piece in slices(n_features, 256)])
    sample -= centre
    unit = max(float(sample.max()), -float(sample.min()), np.finfo(np.float32).tiny)
    sample /= unit
    projection = _projection(sample, random) if n_features > SKETCH else None
    codes = np.empty((n, min(SKETCH, n_features)), np.int8)
    scale, norm = np.empty(n, np.float32), np.empty(n, np.float32)

    def fill(piece):
        block = work.rows.block(piece.start, piece.stop)
        block -= centre
        block /= unit
        codes[piece], scale[piece], norm[piece] = _codes(block, projection)

    for _ in work.pool.map(fill, slices(n, PIECE_BYTES // (4 * n_features))):
        pass
    norm[work.is_zero] = np.inf
    return codes, scale, norm


def _codes(block, projection):
    """Make codes of rows, such that the length of a code times its scale is the length of its row."""
    norm = np.minimum(np.einsum("ij,ij->i", block, block), np.float32(1e37))
    values = np.nan_to_num(block @ projection if projection is not None else block, copy=False)
    lengths = np.einsum("ij,ij->i", values, values)
    largest = np.maximum(np.abs(values).max(1), np.float32(1e-36))  # 127 over less is no float32
    codes = np.rint(values * (127 / largest)[:, None])
    return codes, np.sqrt(norm / np.where(lengths > 0, lengths, 1)) * largest / 127, norm


def _projection(sample, random):
    """Make float32 (D, SKETCH): the sample's COMPONENTS, then random directions at right angles to them."""
    gauss = random.standard_normal((sample.shape[1], SKETCH), dtype=np.float32)
    basis = np.linalg.qr(gauss[:, :COMPONENTS])[0]
    for _ in range(2):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    rest = gauss[:, COMPONENTS:]
    rest -= basis @ (basis.T @ rest)
    gauss[:, :COMPONENTS] = basis
    rest /= np.float32(np.sqrt(SKETCH - COMPONENTS))
    return gauss


@njit(inline="always")
def code_product(codes, i, j):
    """Sum the products of two codes in int32: numba would use int64, at half the speed."""
    a, b = codes[i], codes[j]
    total = np.int32(0)
    for d in range(len(a)):
        total = np.int32(total + np.int32(np.int16(a[d]) * np.int16(b[d])))
    return total
