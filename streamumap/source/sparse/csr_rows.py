"""`CsrRows`: rows that are mostly zeros, as compressed sparse rows in memory or in two files, exactly.

A value is zero, here and in `scan`, if it is zero as float32, because the rest of the program reads every row as float32:
0.0, -0.0, and a float64 too small for float32.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from streamumap.errors import InputChanged
from streamumap.events import Advance, no_advance
from streamumap.source.base import CsrBlock, RowSource, SparseSource, index_dtype, stored_dtype, widen
from streamumap.source.pieces import Piece, over_rows
from streamumap.source.sparse.arrays import FileArray, MemoryArray, ValueArray
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of
from streamumap.store.checkpoint import NO_CHECKPOINT, Arrays, Checkpoint

DENSE_STEPS_PER_ADDITION = 16
"""Multiply-adds of a dense product in the time of one addition through an inverted index, which reads an index and adds at an
address that the processor cannot predict. A core with AVX2 multiplies two vectors of 8 per cycle."""

GAP_VALUES = 4096
"""Largest gap between two requested rows, in stored values, that is read rather than skipped."""

SPAN_VALUES = 1 << 18
"""Stored values that `take` reads together: bounds its temporary arrays."""


def csr_footprint(n_rows: int, n_features: int, n_nonzero: int, itemsize: int, on_disk: bool) -> tuple[int, int]:
    """Returns (bytes in memory, bytes on disk) of CsrRows; `itemsize` in bytes, of the stored dtype."""
    pairs_bytes = n_nonzero * (index_dtype(n_features).itemsize + itemsize)
    indptr_bytes = 8 * (n_rows + 1)
    return (indptr_bytes, pairs_bytes) if on_disk else (indptr_bytes + pairs_bytes, 0)


def pays(n_rows: int, n_features: int, n_nonzero: int) -> bool:
    """Tells whether CSR is worth making: products over the non-zeros are then no slower than over all values."""
    return n_nonzero * DENSE_STEPS_PER_ADDITION <= n_rows * n_features


class CsrRows:
    """Rows without their zeros. Several threads may read. `close` frees the memory or closes the files, which stay."""

    def __init__(self, indptr: np.ndarray, indices: ValueArray, values: ValueArray, n_features: int, dtype: str):
        self.n_rows, self.n_features = len(indptr) - 1, n_features
        self.n_nonzero, self.dtype = int(indptr[-1]), dtype
        self._indptr, self._indices, self._values = indptr, indices, values
        self._on_disk = not isinstance(indices, MemoryArray)
        itemsize = stored_dtype(dtype).itemsize
        self.host_bytes, self.disk_bytes = csr_footprint(
            self.n_rows, n_features, self.n_nonzero, itemsize, self._on_disk
        )

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads rows start..stop: indptr (int64, begins with 0), indices (uint16 or uint32, ascending in a row), values (float32).

        Indices and values may be views of the stored arrays: do not write to them.
        """
        low, high = int(self._indptr[start]), int(self._indptr[stop])
        values = widen(self._values.read(low, high), self.dtype)  # frees the stored values before indices are read
        return self._indptr[start : stop + 1] - low, self._indices.read(low, high), values

    def lengths(self) -> np.ndarray:
        """Counts the values of each row: int64 (N,)."""
        return np.diff(self._indptr)

    def stored(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads rows start..stop like `block`, with the values as stored."""
        low, high = int(self._indptr[start]), int(self._indptr[stop])
        return self._indptr[start : stop + 1] - low, self._indices.read(low, high), self._values.read(low, high)

    def n_pairs(self, start: int, stop: int) -> int:
        """Counts the non-zeros of rows start..stop."""
        return int(self._indptr[stop] - self._indptr[start])

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads the rows with these numbers (int64, ascending), in the form of `block`."""
        counts = self._indptr[rows + 1] - self._indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = np.empty(indptr[-1], index_dtype(self.n_features))
        values = np.empty(indptr[-1], np.float32)
        for a, b in self._runs(rows, indptr):
            low, high = int(self._indptr[rows[a]]), int(self._indptr[rows[b - 1] + 1])
            out = slice(indptr[a], indptr[b])
            shift = self._indptr[rows[a:b]] - low - (indptr[a:b] - indptr[a])
            at = np.repeat(shift, counts[a:b]) + np.arange(indptr[b] - indptr[a])
            indices[out] = self._indices.read(low, high)[at]
            values[out] = widen(self._values.read(low, high)[at], self.dtype)
        return indptr, indices, values

    def dense(self, start: int, stop: int) -> np.ndarray:
        """Reads rows start..stop with their zeros, float32 (stop - start, n_features)."""
        indptr, indices, values = self.block(start, stop)
        rows = np.zeros((stop - start, self.n_features), np.float32)
        rows[np.repeat(np.arange(stop - start), np.diff(indptr)), indices] = values
        return rows

    def close(self) -> None:
        self._indices.close()
        self._values.close()

    def _runs(self, rows: np.ndarray, indptr: np.ndarray) -> Iterable[tuple[int, int]]:
        """Cuts `rows` into runs (a, b) that are read at once: in files, rows with small gaps between them."""
        if len(rows) == 0:
            return []
        position = self._indptr[rows] if self._on_disk else indptr[:-1]
        cut = np.diff(position // SPAN_VALUES) != 0
        if self._on_disk:
            cut |= self._indptr[rows[1:]] - self._indptr[rows[:-1] + 1] > GAP_VALUES
        edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(rows)]]).tolist()
        return zip(edges[:-1], edges[1:], strict=True)


def pack(
    source: RowSource,
    block_rows: int,
    n_nonzero: int,
    folder: str | os.PathLike | None = None,
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> CsrRows:
    """Makes CsrRows in one pass, `block_rows` rows at a time; `n_nonzero` is what `scan` counted.

    `folder`: where `packed_indices.bin` and `packed_values.bin` are written, unless `checkpoint` has files of its own; None
    keeps the arrays in memory. Advances by rows.
    Raises InputChanged if the number of non-zeros has changed, OutputError if the files cannot be written.
    """
    arrays: list[ValueArray] = []
    dtypes = {"packed_indices": index_dtype(source.n_features), "packed_values": stored_dtype(source.dtype)}
    indptr = np.zeros(source.n_rows + 1, np.int64)
    if folder is None:
        arrays = [MemoryArray(n_nonzero, dtype) for dtype in dtypes.values()]
    in_memory = {name: array.read(0, n_nonzero) for name, array in zip(dtypes, arrays, strict=False)}
    facts = checkpoint.resume({}, {"indptr": indptr} | in_memory)
    try:
        if folder is not None:
            for name, dtype in dtypes.items():
                file = None if checkpoint is NO_CHECKPOINT else checkpoint.create(name, (n_nonzero,), dtype)
                arrays.append(file or FileArray(Path(folder) / f"{name}.bin", n_nonzero, dtype))
        _fill(source, block_rows, arrays, indptr, facts.get("row", 0), advance, checkpoint)
    except BaseException:
        for array in arrays:
            array.discard() if isinstance(array, FileArray) else array.close()
        raise
    return CsrRows(indptr, arrays[0], arrays[1], source.n_features, source.dtype)


def _fill(
    source: RowSource,
    block_rows: int,
    arrays: list[ValueArray],
    indptr: np.ndarray,
    row: int,
    advance: Advance,
    checkpoint: Checkpoint,
):
    """Fills the arrays from row `row` on."""

    def work(rows: Piece) -> CsrBlock:
        return rows if isinstance(rows, CsrBlock) else pairs_of(rows, nonzero_mask(rows, source.dtype))

    def state() -> tuple[Arrays, Arrays]:
        in_memory = [array.read(0, done) for array in arrays if isinstance(array, MemoryArray)]
        names = ("packed_indices", "packed_values")
        return {}, {"indptr": indptr[: row + 1]} | dict(zip(names, in_memory, strict=False))

    n_nonzero, done, sparse = len(arrays[0]), int(indptr[row]), isinstance(source, SparseSource)
    for pairs in over_rows(source, block_rows, work, no_advance, row):
        n_pairs = len(pairs.values)
        if done + n_pairs > n_nonzero:
            raise _other_rows(source, n_nonzero, done + n_pairs)
        arrays[0].write(done, pairs.indices)
        arrays[1].write(done, pairs.values)
        indptr[row + 1 : row + 1 + pairs.n_rows] = pairs.indptr[1:] + done
        row, done = row + pairs.n_rows, done + n_pairs
        advance(pairs.n_rows)
        if sparse or row % block_rows == 0:
            checkpoint.done(state, row=row)
    if done != n_nonzero:
        raise _other_rows(source, n_nonzero, done)


def _other_rows(source: RowSource, expected: int, found: int) -> InputChanged:
    return InputChanged(
        f"{source.name}: expected {expected} non-zero values as in the first pass, found {found} so far; "
        "the input was changed meanwhile, start again when nothing writes to it."
    )
