"""Compressed sparse rows in SciPy's form: `data`, `indices`, `indptr`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamumap.source.base import CsrBlock, RowSource
from streamumap.source.checks import wrong
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.topk import checked_width
from streamumap.source.sparse.csr_block import fill_in, ordered_pairs

SPAN_ROWS = 1 << 16
"""Rows whose bounds `spans` reads together."""


class CsrSource:
    """A `SparseSource` of three sources of one column: `indptr` (n_rows + 1 bounds), `indices` and `data`.

    Features of a row may be in any order, without repetition. Raises InputError on opening, and on reading a row that is
    not valid.
    """

    def __init__(self, name: str, indptr: RowSource, indices: RowSource, data: RowSource, shape: tuple[Any, Any]):
        self.name, self.dtype = name, data.dtype
        self._indptr, self._indices, self._data = indptr, indices, data
        self.n_rows, self.n_features = indptr.n_rows - 1, checked_width(name, shape[1])
        self._parts = {"indptr": indptr, "indices": indices, "data": data}
        self._check_parts(shape[0])
        self.max_nonzero = data.n_rows
        n_bytes = sum(part.n_rows * part.row_bytes for part in self._parts.values())
        self.row_bytes = -(-n_bytes // max(1, self.n_rows))
        self.warnings: tuple[str, ...] = ()
        self.fingerprint: dict = {"format": "csr", "shape": [self.n_rows, self.n_features]}
        self.fingerprint |= {part: source.fingerprint for part, source in self._parts.items()}

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        bounds = self._bounds(start, stop)
        low, high = int(bounds[0]), int(bounds[-1])
        indices, data = self._indices.read(low, high), self._data.read(low, high)
        return self._ordered(np.arange(start, stop), np.diff(bounds), indices, data)

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        """Cuts all rows, in order, into spans (start, stop) with at most `n_pairs` pairs each, or of one row."""
        for first in range(0, self.n_rows, SPAN_ROWS):
            bounds = self._bounds(first, min(first + SPAN_ROWS, self.n_rows))
            start, n_rows = 0, len(bounds) - 1
            while start < n_rows:
                stop = int(np.searchsorted(bounds, bounds[start] + n_pairs, side="right")) - 1
                stop = min(max(stop, start + 1), n_rows)
                yield first + start, first + stop
                start = stop

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop with their zeros, as stored, (stop - start, n_features)."""
        return fill_in(self.pairs(start, stop), self.n_features, self.dtype, out)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending) with their zeros, (len(rows), n_features)."""
        starts, ends = self._column(self._indptr.take(rows)), self._column(self._indptr.take(rows + 1))
        for row, low, high in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
            self._check_bounds(np.array([low, high]), row)
        counts = ends - starts
        at = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        pairs = self._ordered(rows, counts, self._indices.take(at), self._data.take(at))
        return fill_in(pairs, self.n_features, self.dtype)

    def check_unchanged(self) -> None:
        """Raises InputChanged if a part has changed since it was opened."""
        for part in self._parts.values():
            part.check_unchanged()

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    def _check_parts(self, n_rows: Any) -> None:
        if n_rows != self.n_rows:
            remedy = "write the matrix again"
            raise wrong(self.name, "indptr", f"{n_rows} + 1 bounds, as the shape says", self.n_rows + 1, remedy)
        for part in ("indptr", "indices"):
            dtype = self._parts[part].dtype
            if dtype not in ("int32", "int64", "uint16", "uint32", "uint64", "int16", "uint8", "int8"):
                raise wrong(self.name, part, "integers", dtype, "write the matrix again")
        if self._indices.n_rows != self._data.n_rows:
            found = f"{self._indices.n_rows} and {self._data.n_rows}"
            raise wrong(
                self.name, "indices and data", "as many of one as of the other", found, "write the matrix again"
            )
        first, last = (int(self._indptr.read(row, row + 1)[0, 0]) for row in (0, self.n_rows))
        if (first, last) != (0, self._data.n_rows):
            expected = f"bounds from 0 to {self._data.n_rows}, the number of values"
            raise wrong(self.name, "indptr", expected, f"{first} to {last}", "write the matrix again")

    def _bounds(self, start: int, stop: int) -> np.ndarray:
        bounds = self._column(self._indptr.read(start, stop + 1))
        self._check_bounds(bounds, start)
        return bounds

    def _check_bounds(self, bounds: np.ndarray, first_row: int) -> None:
        """Raises InputError if a row has a negative number of values or more values than features; called before they are read."""
        low, high = bounds[:-1], bounds[1:]
        broken = (low < 0) | (high < low) | (high > self._data.n_rows) | (high - low > self.n_features)
        if broken.any():
            at = int(np.argmax(broken))
            field, found = f"indptr of row {first_row + at}", f"those from {low[at]} to {high[at]}"
            expected = f"at most {self.n_features} values, of {self._data.n_rows} in all"
            raise wrong(self.name, field, expected, found, "write the matrix again, with sum_duplicates() before")

    def _ordered(self, rows, counts, indices, data) -> CsrBlock:
        flat = indices.reshape(-1), data.reshape(-1)
        return ordered_pairs(self.name, rows, counts, *flat, self.n_features, self.dtype)

    @staticmethod
    def _column(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1).astype(np.int64)


def csr_of(matrix: Any, dtype: str | None = None) -> CsrSource:
    """Opens the rows of a `scipy.sparse` matrix or array in CSR form without copying it. `dtype`: as in `ArraySource`.
    Raises InputError."""
    name = f"the {type(matrix).__name__}"
    if getattr(matrix, "format", "") != "csr":
        raise wrong(name, "format", "csr", getattr(matrix, "format", "none"), "call .tocsr() first")
    indptr, indices, data = (
        ArraySource(np.asarray(part).reshape(-1, 1), said)
        for part, said in ((matrix.indptr, None), (matrix.indices, None), (matrix.data, dtype))
    )
    return CsrSource(name, indptr, indices, data, matrix.shape)
