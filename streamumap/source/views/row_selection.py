"""`RowSelection`: which rows of the input are on the map, and the conversion between the two numberings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.source.base import CsrBlock, RowSource, SparseSource
from streamumap.store.blockfile import BlockFile

BLOCK_VALUES = 1 << 18
"""Values of results that are renumbered at a time; row numbers among them take 8 bytes each meanwhile."""


class SelectedRows:
    """Some rows of a `RowSource`: `selected` int64 (R,), ascending. All else is as in the source."""

    def __init__(self, source: RowSource, selected: np.ndarray):
        self.source, self.selected, self.n_rows = source, selected, len(selected)
        self.name, self.n_features, self.dtype = source.name, source.n_features, source.dtype
        self.row_bytes, self.fingerprint = source.row_bytes, source.fingerprint

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop as stored, (stop - start, n_features); `out` as in `RowSource.read`."""
        assert 0 <= start <= stop <= self.n_rows
        if stop > start and self.selected[stop - 1] - self.selected[start] == stop - 1 - start:
            return self.source.read(int(self.selected[start]), int(self.selected[stop - 1]) + 1, out)
        if out is None:
            return self.source.take(self.selected[start:stop])
        out[: stop - start] = self.source.take(self.selected[start:stop])
        return out[: stop - start]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), as stored, (len(rows), n_features)."""
        return self.source.take(self.selected[rows])

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def close(self) -> None:
        self.source.close()


class SparseSelectedRows(SelectedRows):
    """`SelectedRows` as a `SparseSource`."""

    def __init__(self, source: SparseSource, selected: np.ndarray):
        super().__init__(source, selected)
        self.sparse, self.max_nonzero = source, source.max_nonzero

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        rows = self.selected[start:stop]
        first = int(rows[0]) if len(rows) else 0
        pairs = self.sparse.pairs(first, int(rows[-1]) + 1 if len(rows) else first)
        counts, is_selected = np.diff(pairs.indptr), np.zeros(pairs.n_rows, bool)
        is_selected[rows - first] = True
        of_selected = np.repeat(is_selected, counts)
        indptr = np.concatenate([[0], np.cumsum(counts[is_selected])]).astype(np.int64)
        return CsrBlock(indptr, pairs.indices[of_selected], pairs.values[of_selected])

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        for start, stop in self.sparse.spans(n_pairs):
            low, high = np.searchsorted(self.selected, [start, stop])
            if low < high:
                yield int(low), int(high)


@dataclass(frozen=True)
class RowSelection:
    """The rows of an input of `n_rows` rows that are selected: all if `rows` is None, else int64 numbers, ascending."""

    n_rows: int
    rows: np.ndarray | None = None

    def source(self, source: RowSource) -> RowSource:
        """Returns the selected rows of a source."""
        if self.rows is None:
            return source
        return (
            SparseSelectedRows(source, self.rows)
            if isinstance(source, SparseSource)
            else SelectedRows(source, self.rows)
        )

    def of(self, array: np.ndarray) -> np.ndarray:
        """Returns the entries of an array (n_rows, ...) for the selected rows."""
        return array if self.rows is None else array[self.rows]

    def only(self, part: "RowSelection") -> "RowSelection":
        """Narrows the selection to `part`, a selection among the rows selected here."""
        return self if part.rows is None else RowSelection(self.n_rows, self.numbers_back(part.rows))

    def back(self, array: np.ndarray, missing: Any) -> np.ndarray:
        """Expands results of the selected rows to all rows, with `missing` for the others."""
        if self.rows is None:
            return array
        out = np.full((self.n_rows, *array.shape[1:]), missing, array.dtype)
        out[self.rows] = array
        return out

    def blocks_back(
        self, array: np.ndarray, missing: Any, of_block: Callable[[np.ndarray], np.ndarray] = lambda block: block
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, block) of `back(of_block(array))`, block by block."""
        block_rows = max(1, BLOCK_VALUES * len(array) // max(1, array.size))
        for start in range(0, self.n_rows, block_rows):
            stop = min(start + block_rows, self.n_rows)
            if self.rows is None:
                yield start, of_block(array[start:stop])
                continue
            low, high = np.searchsorted(self.rows, [start, stop])
            yield (
                start,
                RowSelection(stop - start, self.rows[low:high] - start).back(of_block(array[low:high]), missing),
            )

    def blocks_of(self, file: BlockFile, block_rows: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of entries before, entries) for the selected rows, from a file with an entry for every row. Reads
        `block_rows` rows at a time; 0: as many as have BLOCK_VALUES values."""
        values, n_before = int(np.prod(file.shape[1:], dtype=np.int64)), 0
        for start, block in file.blocks(block_rows or max(1, BLOCK_VALUES // max(1, values))):
            if self.rows is not None:
                low, high = np.searchsorted(self.rows, [start, start + len(block)])
                block = block[self.rows[low:high] - start]
            yield n_before, block
            n_before += len(block)

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        """Converts row numbers of the input to numbers among the selected rows; -1 stays."""
        if self.rows is None:
            return rows
        return np.where(rows >= 0, np.searchsorted(self.rows, rows), -1).astype(rows.dtype)

    def numbers_back(self, rows: np.ndarray) -> np.ndarray:
        """Converts numbers among the selected rows to row numbers of the input; -1 stays."""
        return rows if self.rows is None else np.where(rows >= 0, self.rows[np.maximum(rows, 0)], -1).astype(rows.dtype)


def all_but(n_rows: int, left_out: np.ndarray) -> RowSelection:
    """Selects all rows except those with the numbers `left_out`."""
    return RowSelection(n_rows, np.setdiff1d(np.arange(n_rows, dtype=np.int64), left_out, assume_unique=True))
