"""`DenseRows`: rows as the neighbor search reads them, float32, of length 1 where the metric wants it."""

import numpy as np

from streamumap.source.base import RowSource, widen


class DenseRows:
    """A RowSource read as float32 rows; with `unit` each row is divided by its norm, zero rows stay zero."""

    def __init__(self, source: RowSource, *, unit: bool):
        self.source, self.unit = source, unit
        self.n_rows, self.n_features = source.n_rows, source.n_features

    def block(self, start: int, stop: int) -> np.ndarray:
        """Reads rows start..stop, float32 (stop - start, n_features), a new array."""
        return self._ready(self.source.read(start, stop))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), float32 (len(rows), n_features), a new array."""
        return self._ready(self.source.take(rows))

    def _ready(self, stored):
        rows = widen(stored, self.source.dtype)
        if self.unit:
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
            rows = rows / np.where(norms > 0, norms, 1.0).astype(np.float32)
        return rows
