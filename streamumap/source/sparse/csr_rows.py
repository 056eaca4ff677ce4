"""The exact sparse form of rows that are mostly zeros: compressed sparse rows, in memory or in two files.

"Zero" here and in `scan` is what float32 calls zero, because the rest of the program reads every row as float32:
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
"""An addition through an inverted index reads an index and adds at an address that the processor cannot foresee, one at
a time; meanwhile a dense product does about 16 multiply-adds: two vectors of 8 in a cycle of a core with AVX2."""

GAP_VALUES = 4096
"""Packed values between two wanted rows that are rather read than jumped over."""

SPAN_VALUES = 1 << 18
"""Packed values that `take` looks at together: bounds its temporaries."""


def csr_footprint(n_rows: int, n_features: int, n_nonzero: int, itemsize: int, on_disk: bool) -> tuple[int, int]:
    """(bytes in memory, bytes on disk) that PackedRows holds; `itemsize` in bytes, of the stored dtype."""
    pairs_bytes = n_nonzero * (index_dtype(n_features).itemsize + itemsize)
    indptr_bytes = 8 * (n_rows + 1)
    return (indptr_bytes, pairs_bytes) if on_disk else (indptr_bytes + pairs_bytes, 0)


def pays(n_rows: int, n_features: int, n_nonzero: int) -> bool:
    """Whether the rows are worth packing: products over the non-zeros are then no slower than over all values."""
    return n_nonzero * DENSE_STEPS_PER_ADDITION <= n_rows * n_features


class CsrRows:
    """Rows without their zeros. Several threads may read. `close` lets go of the memory or of the files, which stay."""

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
        """Rows start..stop: indptr (int64, from 0), indices (uint16 or uint32, ascending in a row), values (float32).

        Indices and values may be views of what is kept: they are not to be written to.
        """
        low, high = int(self._indptr[start]), int(self._indptr[stop])
        values = widen(self._values.read(low, high), self.dtype)  # what was stored goes before indices come
        return self._indptr[start : stop + 1] - low, self._indices.read(low, high), values

    def stored(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with the values as stored."""
        low, high = int(self._indptr[start]), int(self._indptr[stop])
        return self._indptr[start : stop + 1] - low, self._indices.read(low, high), self._values.read(low, high)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows with these numbers (int64, ascending), as `block` gives them."""
        counts = self._indptr[rows + 1] - self._indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = np.empty(indptr[-1], index_dtype(self.n_features))
        values = np.empty(indptr[-1], np.float32)
        for a, b in self._together(rows, indptr):
            low, high = int(self._indptr[rows[a]]), int(self._indptr[rows[b - 1] + 1])
            out = slice(indptr[a], indptr[b])
            shift = self._indptr[rows[a:b]] - low - (indptr[a:b] - indptr[a])
            at = np.repeat(shift, counts[a:b]) + np.arange(indptr[b] - indptr[a])
            indices[out] = self._indices.read(low, high)[at]
            values[out] = widen(self._values.read(low, high)[at], self.dtype)
        return indptr, indices, values

    def dense(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop with their zeros, float32 (stop - start, n_features)."""
        indptr, indices, values = self.block(start, stop)
        rows = np.zeros((stop - start, self.n_features), np.float32)
        rows[np.repeat(np.arange(stop - start), np.diff(indptr)), indices] = values
        return rows

    def close(self) -> None:
        self._indices.close()
        self._values.close()

    def _together(self, rows: np.ndarray, indptr: np.ndarray) -> Iterable[tuple[int, int]]:
        """Cuts `rows` into runs (a, b) that are fetched in one go: in files, near ones."""
        if len(rows) == 0:
            return []
        place = self._indptr[rows] if self._on_disk else indptr[:-1]
        cut = np.diff(place // SPAN_VALUES) != 0
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
    """Packs all rows in one pass of `block_rows` rows at a time; `n_nonzero` is what `scan` counted.

    `folder`: where `packed_indices.bin` and `packed_values.bin` go, or the files of `checkpoint`, if there are any; None keeps
    them in memory. One tick a row.
    Raises InputChanged where the rows have another number of non-zeros, OutputError where the files cannot be written.
    """
    stores: list[ValueArray] = []
    dtypes = {"packed_indices": index_dtype(source.n_features), "packed_values": stored_dtype(source.dtype)}
    indptr = np.zeros(source.n_rows + 1, np.int64)
    if folder is None:
        stores = [MemoryArray(n_nonzero, dtype) for dtype in dtypes.values()]
    in_memory = {name: store.read(0, n_nonzero) for name, store in zip(dtypes, stores, strict=False)}
    facts = checkpoint.resume({}, {"indptr": indptr} | in_memory)
    try:
        if folder is not None:
            for name, dtype in dtypes.items():
                kept = None if checkpoint is NO_CHECKPOINT else checkpoint.create(name, (n_nonzero,), dtype)
                stores.append(kept or FileArray(Path(folder) / f"{name}.bin", n_nonzero, dtype))
        _fill(source, block_rows, stores, indptr, facts.get("row", 0), advance, checkpoint)
    except BaseException:
        for store in stores:
            store.discard() if isinstance(store, FileArray) else store.close()
        raise
    return CsrRows(indptr, stores[0], stores[1], source.n_features, source.dtype)


def _fill(
    source: RowSource,
    block_rows: int,
    stores: list[ValueArray],
    indptr: np.ndarray,
    row: int,
    advance: Advance,
    checkpoint: Checkpoint,
):
    """From row `row` on."""

    def work(rows: Piece) -> CsrBlock:
        return rows if isinstance(rows, CsrBlock) else pairs_of(rows, nonzero_mask(rows, source.dtype))

    def state() -> tuple[Arrays, Arrays]:
        in_memory = [store.read(0, done) for store in stores if isinstance(store, MemoryArray)]
        names = ("packed_indices", "packed_values")
        return {}, {"indptr": indptr[: row + 1]} | dict(zip(names, in_memory, strict=False))

    n_nonzero, done, sparse = len(stores[0]), int(indptr[row]), isinstance(source, SparseSource)
    for pairs in over_rows(source, block_rows, work, no_advance, row):
        n_pairs = len(pairs.values)
        if done + n_pairs > n_nonzero:
            raise _other_rows(source, n_nonzero, done + n_pairs)
        stores[0].write(done, pairs.indices)
        stores[1].write(done, pairs.values)
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
