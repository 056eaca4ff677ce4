"""The exact sparse form of rows that are mostly zeros: compressed sparse rows, in memory or in two files.

"Zero" here and in `scan` is what float32 calls zero, because the rest of the program reads every row as float32:
0.0, -0.0, and a float64 too small for float32.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from streamumap.errors import InputChanged, OutputError
from streamumap.events import Tick, no_tick
from streamumap.source.base import RowSource, blocks, stored_dtype, widen

T = TypeVar("T")

DENSE_STEPS_PER_ADDITION = 16
"""An addition through an inverted index reads an index and adds at an address that the processor cannot foresee, one at
a time; meanwhile a dense product does about 16 multiply-adds: two vectors of 8 in a cycle of a core with AVX2."""

PIECE_VALUES = 1 << 19
"""Values that one thread looks at in one go: large enough to hide Python, small enough for the cache. Measured."""

LEAST_WIDTH = 64
"""Narrower rows are cut into pieces as if they had so many features: a piece also keeps some bytes for each row."""

MAX_THREADS = 8
"""More only wait for memory, and each has buffers of its own."""

GAP_VALUES = 4096
"""Packed values between two wanted rows that are rather read than jumped over."""

SPAN_VALUES = 1 << 20
"""Packed values that `take` looks at together: bounds its temporaries."""


def n_threads() -> int:
    """Threads for a pass over the rows: the cores this process may use, at most MAX_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MAX_THREADS)


def over_pieces(pool: ThreadPoolExecutor, work: Callable[[np.ndarray], T], block: np.ndarray) -> Iterator[T]:
    """`work` of each piece of the block, in order whichever thread is first, with few results waiting at a time."""
    rows = max(1, PIECE_VALUES // max(block.shape[1], LEAST_WIDTH))
    ahead = 2 * n_threads()
    waiting: deque = deque()
    for start in range(0, len(block), rows):
        waiting.append(pool.submit(work, block[start : start + rows]))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def nonzero_mask(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Stored rows -> bool of the same shape. NaN is not zero. 16-bit floats are tested as integers, which is faster."""
    if dtype in ("float16", "bfloat16"):
        bits = rows.view(np.uint16)
        mask = bits != 0
        mask &= bits != np.uint16(0x8000)
        return mask
    if dtype == "float64":
        with np.errstate(all="ignore"):
            return rows.astype(np.float32) != 0
    return rows if rows.dtype == bool else rows != 0


def index_dtype(n_features: int) -> np.dtype:
    return np.dtype(np.uint16 if n_features <= 1 << 16 else np.uint32)


def packed_footprint(n_rows: int, n_features: int, n_nonzero: int, itemsize: int, on_disk: bool) -> tuple[int, int]:
    """(bytes in memory, bytes on disk) that PackedRows holds; `itemsize` in bytes, of the stored dtype."""
    pairs_bytes = n_nonzero * (index_dtype(n_features).itemsize + itemsize)
    indptr_bytes = 8 * (n_rows + 1)
    return (indptr_bytes, pairs_bytes) if on_disk else (indptr_bytes + pairs_bytes, 0)


def pays(n_rows: int, n_features: int, n_nonzero: int) -> bool:
    """Whether the rows are worth packing: products over the non-zeros are then no slower than over all values."""
    return n_nonzero * DENSE_STEPS_PER_ADDITION <= n_rows * n_features


class _Memory:
    """Values of one dtype in RAM, with _File's methods."""

    def __init__(self, n_values: int, dtype: np.dtype):
        self._values = np.empty(n_values, dtype)

    def write(self, start: int, values: np.ndarray) -> None:
        self._values[start : start + len(values)] = values

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._values[start:stop]

    def cut(self, n_values: int) -> None:
        """What is behind was never written, and so is no memory but only addresses."""
        self._values = self._values[:n_values]

    def close(self) -> None:
        self._values = self._values[:0].copy()

    discard = close


class _File:
    """Values of one dtype in a file that has its full size from the first moment. Raises OutputError."""

    def __init__(self, path: Path, n_values: int, dtype: np.dtype):
        self._path, self._dtype, n_bytes = path, dtype, n_values * dtype.itemsize
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            if n_bytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, n_bytes)
        except OSError as error:
            self.discard()
            raise _cannot_write(path, n_bytes, error) from error

    def write(self, start: int, values: np.ndarray) -> None:
        left, offset = np.ascontiguousarray(values).view(np.uint8).data, start * self._dtype.itemsize
        while left:
            try:
                written = os.pwrite(self._fd, left, offset)
            except OSError as error:
                raise _cannot_write(self._path, len(left), error) from error
            left, offset = left[written:], offset + written

    def read(self, start: int, stop: int) -> np.ndarray:
        values = np.empty(stop - start, self._dtype)
        left, offset = values.view(np.uint8).data, start * self._dtype.itemsize
        while left:
            n_read = os.preadv(self._fd, [left], offset)
            if n_read == 0:
                raise OutputError(
                    f"{self._path}: expected {len(left)} more bytes at {offset}, found the end of the file; "
                    "something else changed this file of the run, start the run again."
                )
            left, offset = left[n_read:], offset + n_read
        return values

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
        self.close()


def _cannot_write(path: Path, n_bytes: int, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: expected to write {n_bytes} bytes, found: {error.strerror or error}; "
        "free space there or choose another output folder."
    )


Store = _Memory | _File


class PackedRows:
    """Rows without their zeros. Several threads may read. `close` lets go of the memory or of the files, which stay."""

    def __init__(self, indptr: np.ndarray, indices: Store, values: Store, n_features: int, dtype: str):
        self.n_rows, self.n_features = len(indptr) - 1, n_features
        self.n_nonzero, self.dtype = int(indptr[-1]), dtype
        self._indptr, self._indices, self._values = indptr, indices, values
        self._on_disk = isinstance(indices, _File)
        itemsize = stored_dtype(dtype).itemsize
        self.host_bytes, self.disk_bytes = packed_footprint(
            self.n_rows, n_features, self.n_nonzero, itemsize, self._on_disk
        )

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows start..stop: indptr (int64, from 0), indices (uint16 or uint32, ascending in a row), values (float32).

        Indices and values may be views of what is kept: they are not to be written to.
        """
        indptr, indices, values = self.stored(start, stop)
        return indptr, indices, widen(values, self.dtype)

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


class Filling:
    """Packed rows in the making, in memory, while their number of non-zeros is not known: room for as many as the first rows
    let expect and some more. Given up where that is more than `room_bytes`, or was not enough."""

    MORE = 1.25

    def __init__(self, n_rows: int, n_features: int, dtype: str, room_bytes: int):
        self._n_features, self._dtype, self._room_bytes = n_features, dtype, room_bytes
        self._indptr = np.zeros(n_rows + 1, np.int64)
        self._stores: list[_Memory] = []
        self._row = self._done = self._most = 0
        self.open = True

    def add(self, counts: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """The next rows: non-zeros of each, and of all of them in order the columns and the values as stored."""
        if self.open and not self._stores:
            self._start(counts)
        self.open = self.open and self._done + len(values) <= self._most
        if not self.open:
            self._stores.clear()
            return
        self._stores[0].write(self._done, columns)
        self._stores[1].write(self._done, values)
        rows = self._indptr[self._row + 1 : self._row + 1 + len(counts)]
        np.cumsum(counts, out=rows)
        rows += self._done
        self._row, self._done = self._row + len(counts), self._done + len(values)

    def finish(self) -> "PackedRows | None":
        if not self.open:
            return None
        for store in self._stores:
            store.cut(self._done)
        return PackedRows(self._indptr, self._stores[0], self._stores[1], self._n_features, self._dtype)

    def _start(self, counts):
        n_rows = len(self._indptr) - 1
        self._most = int(counts.mean() * n_rows * self.MORE) + 2 * int(counts.sum())
        kinds = index_dtype(self._n_features), stored_dtype(self._dtype)
        self.open = (
            pays(n_rows, self._n_features, self._most)
            and self._most * sum(k.itemsize for k in kinds) <= self._room_bytes
        )
        if self.open:
            self._stores = [_Memory(self._most, kind) for kind in kinds]


def pack(
    source: RowSource, block_rows: int, n_nonzero: int, folder: str | os.PathLike | None = None, tick: Tick = no_tick
) -> PackedRows:
    """Packs all rows in one pass of `block_rows` rows at a time; `n_nonzero` is what `scan` counted.

    `folder`: where `packed_indices.bin` and `packed_values.bin` go; None keeps them in memory. One tick a row.
    Raises InputChanged where the rows have another number of non-zeros, OutputError where the files cannot be written.
    """
    stores: list[Store] = []
    dtypes = {"packed_indices.bin": index_dtype(source.n_features), "packed_values.bin": stored_dtype(source.dtype)}
    try:
        for name, dtype in dtypes.items():
            stores.append(_Memory(n_nonzero, dtype) if folder is None else _File(Path(folder) / name, n_nonzero, dtype))
        indptr = _fill(source, block_rows, n_nonzero, stores, tick)
    except BaseException:
        for store in stores:
            store.discard()
        raise
    return PackedRows(indptr, stores[0], stores[1], source.n_features, source.dtype)


def _fill(source: RowSource, block_rows: int, n_nonzero: int, stores: list[Store], tick: Tick) -> np.ndarray:
    indptr = np.zeros(source.n_rows + 1, np.int64)

    def work(rows):
        return _pack_piece(rows, source.dtype)

    row = done = 0
    with ThreadPoolExecutor(n_threads()) as pool:
        for _, block in blocks(source, block_rows):
            for counts, indices, values in over_pieces(pool, work, block):
                if done + len(values) > n_nonzero:
                    raise _other_rows(source, n_nonzero, done + len(values))
                stores[0].write(done, indices)
                stores[1].write(done, values)
                np.cumsum(counts, out=indptr[row + 1 : row + 1 + len(counts)])
                indptr[row + 1 : row + 1 + len(counts)] += done
                row, done = row + len(counts), done + len(values)
            tick(len(block))
    if done != n_nonzero:
        raise _other_rows(source, n_nonzero, done)
    return indptr


def _pack_piece(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(non-zeros of each row, their columns, their values as stored)."""
    n_rows, n_features = rows.shape
    at = np.flatnonzero(nonzero_mask(rows, dtype))
    row = at // n_features
    columns = (at - row * n_features).astype(index_dtype(n_features))
    return np.bincount(row, minlength=n_rows), columns, rows.reshape(-1)[at]


def _other_rows(source: RowSource, expected: int, found: int) -> InputChanged:
    return InputChanged(
        f"{source.name}: expected {expected} non-zero values as in the first pass, found {found} so far; "
        "the input was changed meanwhile, start again when nothing writes to it."
    )
