"""Rows of a source along components that are known: what the stages after `--reduce` read."""

import numpy as np

from streamumap.machine import matmul
from streamumap.reduce.pca import PIECE_ROWS, subtract
from streamumap.source.base import RowSource
from streamumap.source.views.normalized import DenseRows


class ReducedRows:
    """A RowSource of float32 rows: those of `source`, normalised as DenseRows does with `unit`, along the given components.
    `mean` float64 (D,), `components` float32 (n, D)."""

    dtype = "float32"

    def __init__(self, source: RowSource, mean: np.ndarray, components: np.ndarray, *, unit: bool):
        self._rows, self._mean, self._components = DenseRows(source, unit=unit), mean, components
        self.source, self.name, self.fingerprint = source, source.name, source.fingerprint
        self.n_rows, self.n_features = source.n_rows, len(components)
        self.row_bytes = self.n_features * 4

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop, (stop - start, n_features); `out` as in `RowSource.read`."""
        if out is None:
            out = np.empty((stop - start, self.n_features), np.float32)
        for first in range(start, stop, PIECE_ROWS):
            last = min(first + PIECE_ROWS, stop)
            out[first - start : last - start] = self._reduced(self._rows.block(first, last))
        return out[: stop - start]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), (len(rows), n_features)."""
        return self._reduced(self._rows.take(rows))

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def close(self) -> None:
        self.source.close()

    def _reduced(self, rows: np.ndarray) -> np.ndarray:
        return matmul.product(subtract(np, np.array(rows), self._mean), self._components.T)
