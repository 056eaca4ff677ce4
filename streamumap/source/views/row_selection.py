"""The rows that are left when some are left out, and their way back to where they were."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.source.base import CsrBlock, RowSource, SparseSource
from streamumap.store.blockfile import BlockFile

BLOCK_VALUES = 1 << 18
"""Of results that go to their rows or come from there, at a time; numbers of rows take 8 bytes each on the way."""


class SelectedRows:
    """Some rows of a `RowSource`: `kept` int64 (R,), ascending. Everything else is that of the source."""

    def __init__(self, source: RowSource, kept: np.ndarray):
        self.source, self.selected, self.n_rows = source, kept, len(kept)
        self.name, self.n_features, self.dtype = source.name, source.n_features, source.dtype
        self.row_bytes, self.fingerprint = source.row_bytes, source.fingerprint

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows start..stop as stored, (stop - start, n_features); `out` as in `RowSource.read`."""
        assert 0 <= start <= stop <= self.n_rows
        if stop > start and self.selected[stop - 1] - self.selected[start] == stop - 1 - start:
            return self.source.read(int(self.selected[start]), int(self.selected[stop - 1]) + 1, out)
        if out is None:
            return self.source.take(self.selected[start:stop])
        out[: stop - start] = self.source.take(self.selected[start:stop])
        return out[: stop - start]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers (int64, ascending), as stored, (len(rows), n_features)."""
        return self.source.take(self.selected[rows])

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def close(self) -> None:
        self.source.close()


class SparseSelectedRows(SelectedRows):
    """The same of a `SparseSource`, as a `SparseSource`."""

    def __init__(self, source: SparseSource, kept: np.ndarray):
        super().__init__(source, kept)
        self.sparse, self.max_nonzero = source, source.max_nonzero

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Rows start..stop without their zeros."""
        kept = self.selected[start:stop]
        first = int(kept[0]) if len(kept) else 0
        found = self.sparse.pairs(first, int(kept[-1]) + 1 if len(kept) else first)
        counts, stays = np.diff(found.indptr), np.zeros(found.n_rows, bool)
        stays[kept - first] = True
        there = np.repeat(stays, counts)
        indptr = np.concatenate([[0], np.cumsum(counts[stays])]).astype(np.int64)
        return CsrBlock(indptr, found.indices[there], found.values[there])

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        for start, stop in self.sparse.spans(n_pairs):
            low, high = np.searchsorted(self.selected, [start, stop])
            if low < high:
                yield int(low), int(high)


@dataclass(frozen=True)
class RowSelection:
    """Which of the given rows are in the map: all of them where `rows` is None, else int64 numbers, ascending."""

    n_rows: int
    rows: np.ndarray | None = None

    def source(self, source: RowSource) -> RowSource:
        """The rows that are kept."""
        if self.rows is None:
            return source
        return (
            SparseSelectedRows(source, self.rows)
            if isinstance(source, SparseSource)
            else SelectedRows(source, self.rows)
        )

    def of(self, array: np.ndarray) -> np.ndarray:
        """What an array (n_rows, ...) says of the rows that are kept."""
        return array if self.rows is None else array[self.rows]

    def only(self, part: "RowSelection") -> "RowSelection":
        """Of the rows that are kept here, numbered anew, those that `part` keeps."""
        return self if part.rows is None else RowSelection(self.n_rows, self.numbers_back(part.rows))

    def back(self, array: np.ndarray, missing: Any) -> np.ndarray:
        """Results of the rows that are kept -> of all rows, with `missing` where one was left out."""
        if self.rows is None:
            return array
        out = np.full((self.n_rows, *array.shape[1:]), missing, array.dtype)
        out[self.rows] = array
        return out

    def blocks_back(
        self, array: np.ndarray, missing: Any, of_block: Callable[[np.ndarray], np.ndarray] = lambda block: block
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of what `back` gives of `of_block` of the array, without all of it at once."""
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
        """(how many came before, rows) of the rows that are kept, of a file with a row for each of all, `block_rows` of
        which are read at a time; 0: as many as have BLOCK_VALUES."""
        values, n_before = int(np.prod(file.shape[1:], dtype=np.int64)), 0
        for start, block in file.blocks(block_rows or max(1, BLOCK_VALUES // max(1, values))):
            if self.rows is not None:
                low, high = np.searchsorted(self.rows, [start, start + len(block)])
                block = block[self.rows[low:high] - start]
            yield n_before, block
            n_before += len(block)

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of given rows -> their numbers among those that are kept; -1 stays."""
        if self.rows is None:
            return rows
        return np.where(rows >= 0, np.searchsorted(self.rows, rows), -1).astype(rows.dtype)

    def numbers_back(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of `numbers_of`."""
        return rows if self.rows is None else np.where(rows >= 0, self.rows[np.maximum(rows, 0)], -1).astype(rows.dtype)


def all_but(n_rows: int, left_out: np.ndarray) -> RowSelection:
    """All rows except those of these numbers."""
    return RowSelection(n_rows, np.setdiff1d(np.arange(n_rows, dtype=np.int64), left_out, assume_unique=True))
