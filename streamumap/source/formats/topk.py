"""TopK pairs: k feature numbers and k values a row, as sparse autoencoders give them."""

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamumap.source.base import CsrBlock, RowSource
from streamumap.source.checks import wrong
from streamumap.source.sparse.csr_block import even_spans, fill_in, ordered_pairs

LARGEST_WIDTH = 2**32


class TopKSource:
    """A `SparseSource` of two matrices of k columns, `indices` and `values`; rows have `n_features` features.

    The order within a row is free, indices have any integer dtype, zeros may be explicit. The dtype is that of the values.
    `notes` are facts for the user, `warnings` what may be wrong. Raises InputError on opening, and on reading a row that is
    not valid.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, name: str, indices: RowSource, values: RowSource, n_features: Any):
        if not np.issubdtype(np.dtype(indices.dtype if indices.dtype != "bfloat16" else "f2"), np.integer):
            raise wrong(
                indices.name, "dtype", "integers, the numbers of features", indices.dtype, "check which is which"
            )
        if (indices.n_rows, indices.n_features) != (values.n_rows, values.n_features):
            expected = f"{indices.n_rows} x {indices.n_features}, as the indices {indices.name} are"
            remedy = "give the indices and values of the same rows"
            raise wrong(values.name, "shape", expected, f"{values.n_rows} x {values.n_features}", remedy)
        self.name, self.n_features = name, checked_width(name, n_features)
        if indices.n_features > self.n_features:
            remedy = "give the right width with --features"
            raise wrong(name, "features", f"at least the {indices.n_features} pairs of a row", self.n_features, remedy)
        self._indices, self._values = indices, values
        self.n_rows, self._k, self.dtype = indices.n_rows, indices.n_features, values.dtype
        self.row_bytes = indices.row_bytes + values.row_bytes
        self.max_nonzero = self.n_rows * self._k
        self.warnings = (*getattr(indices, "warnings", ()), *getattr(values, "warnings", ()))
        self.fingerprint: dict = {
            "format": "topk",
            "n_features": self.n_features,
            "indices": indices.fingerprint,
            "values": values.fingerprint,
        }

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        return self._ordered(np.arange(start, stop), self._indices.read(start, stop), self._values.read(start, stop))

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        return even_spans(self.n_rows, self._k, n_pairs)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop with their zeros, as stored, (stop - start, n_features)."""
        return fill_in(self.pairs(start, stop), self.n_features, self.dtype, out)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending) with their zeros, (len(rows), n_features)."""
        pairs = self._ordered(rows, self._indices.take(rows), self._values.take(rows))
        return fill_in(pairs, self.n_features, self.dtype)

    def check_unchanged(self) -> None:
        """Raises InputChanged if either matrix has changed since it was opened."""
        self._indices.check_unchanged()
        self._values.check_unchanged()

    def close(self) -> None:
        self._indices.close()
        self._values.close()

    def _ordered(self, rows: np.ndarray, indices: np.ndarray, values: np.ndarray) -> CsrBlock:
        counts = np.full(len(rows), self._k)
        flat = indices.reshape(-1), values.reshape(-1)
        return ordered_pairs(self.name, rows, counts, *flat, self.n_features, self.dtype)


def checked_width(name: str, n_features: Any, called: str = "features") -> int:
    """Returns `n_features`, the width of rows stored as pairs, as an int. Raises InputError, which calls it `called`."""
    whole = hasattr(n_features, "__index__") and not isinstance(n_features, (bool, np.bool_))
    if not whole or not 1 <= n_features <= LARGEST_WIDTH:
        expected = f"a whole number from 1 to {LARGEST_WIDTH}"
        remedy = "give the width with --features" if called == "features" else "write the matrix again"
        raise wrong(name, called, expected, repr(n_features), remedy)
    return operator.index(n_features)
