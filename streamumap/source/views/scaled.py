"""Scales rows of extreme norms by a power of two, exactly, so that squares and their sums are float32 numbers."""

from collections.abc import Iterator
from math import frexp, isfinite

import numpy as np

from streamumap.source.base import CsrBlock, RowSource, SparseSource, widen

LARGEST_EXPONENT = 56
"""Norms from 2^-56 to 2^56 are not scaled: sums of their squares are far from the limits of float32, 2^-126 and 2^128."""


class ScaledRows:
    """The rows of a `RowSource` times 2^-exponent, as float32."""

    dtype = "float32"

    def __init__(self, source: RowSource, exponent: int):
        self.source, self._factor = source, -exponent
        self.name, self.n_rows, self.n_features = source.name, source.n_rows, source.n_features
        self.row_bytes, self.fingerprint = source.row_bytes, source.fingerprint

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop, (stop - start, n_features); `out` as in `RowSource.read`."""
        rows = self._scaled(self.source.read(start, stop))
        if out is None:
            return rows
        out[: stop - start] = rows
        return out[: stop - start]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), (len(rows), n_features)."""
        return self._scaled(self.source.take(rows))

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def close(self) -> None:
        self.source.close()

    def _scaled(self, stored: np.ndarray) -> np.ndarray:
        return np.ldexp(widen(stored, self.source.dtype), self._factor)


class SparseScaledRows(ScaledRows):
    """`ScaledRows` as a `SparseSource`."""

    def __init__(self, source: SparseSource, exponent: int):
        super().__init__(source, exponent)
        self.sparse, self.max_nonzero = source, source.max_nonzero

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        pairs = self.sparse.pairs(start, stop)
        values = self._scaled(pairs.values)
        nonzero = values != 0
        indptr = np.concatenate([[0], np.cumsum(nonzero)])[pairs.indptr].astype(np.int64)
        return CsrBlock(indptr, pairs.indices[nonzero], values[nonzero])

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        return self.sparse.spans(n_pairs)


def extreme_exponent(largest_norm: float) -> int:
    """Returns the exponent of the power of two to divide rows of this largest norm by: 0 if it is not extreme."""
    exponent = frexp(largest_norm)[1] if isfinite(largest_norm) and largest_norm > 0 else 0
    return exponent if abs(exponent) > LARGEST_EXPONENT else 0


def scale_rows(source: RowSource, exponent: int) -> RowSource:
    """Returns the rows times 2^-exponent, as a SparseSource if `source` is one."""
    return SparseScaledRows(source, exponent) if isinstance(source, SparseSource) else ScaledRows(source, exponent)


def scale_distances(distances: np.ndarray, exponent: int, *, unit: bool) -> np.ndarray:
    """Converts distances of rows that were divided by 2^exponent to distances of the original rows, clipped to the range of
    float32. The negated exponent converts back. Distances of rows of length 1 (`unit`) do not change."""
    if not exponent or unit:
        return distances
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(np.ldexp(distances, exponent), 0, np.finfo(np.float32).max)
