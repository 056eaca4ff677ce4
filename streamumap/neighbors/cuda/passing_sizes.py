"""Bytes of `count_passing.py` as formulas, importable without torch, and the sizes by which it works."""

from streamumap.neighbors.cuda.sizes import UPLOAD_ROWS, csr_rows
from streamumap.neighbors.sparse.sizes import UNEVEN_NONZEROS

PASSES = (1 << 24, 1 << 22, 1 << 20, 1 << 18)
"""Rows that are on the device at a time where not all are."""


def pass_sizes(n_rows: int) -> list[int]:
    """Numbers of rows that may pass by together, the largest first."""
    few = min(PASSES[-1], max(1, n_rows // 4))
    return [size for size in PASSES if few < size < n_rows] + [few]


def device(n_rows: int, n_features: int, n_nonzero: int, dtype: str, n_sample: int, pass_rows: int) -> int:
    """Device bytes of the rows that are there together: a block behind the sampled rows or, before, some of the rows whose distances
    are asked for, twice."""

    def bytes_of(size: int) -> int:
        there = n_sample + min(size, n_rows)
        return csr_rows(there, n_features, _pairs(n_rows, n_nonzero, there), dtype)

    return max(bytes_of(pass_rows), 2 * bytes_of(UPLOAD_ROWS))


def host(n_rows: int, n_nonzero: int, n_sample: int, n_others: int) -> int:
    """Host bytes: sampled rows and some others, picked, as they are kept and put behind each other; and row numbers."""
    picked = min(n_rows, n_sample + min(UPLOAD_ROWS, n_sample * n_others))
    return _pairs(n_rows, n_nonzero, picked) * 24 + n_sample * n_others * 40


def _pairs(n_rows: int, n_nonzero: int, size: int) -> int:
    """Non-zeros of `size` rows, at most."""
    return min(n_nonzero, int(size / n_rows * n_nonzero * UNEVEN_NONZEROS)) if size < n_rows else 2 * n_nonzero
