"""BlockFile: a .npy file of a run, written and read by blocks of rows.

There are no memory maps, so a full disk or a cut file is an error, not a signal that kills the process.
"""

import io
import os
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from streamumap.errors import OutputError
from streamumap.store.atomic import OUT_REMEDY, write_at, writing

READ_BYTES = 4 << 20
"""Bytes that `checksum` reads at a time."""

REMEDY = "free space and run the same command again"

PART_BYTES, READERS = 16 << 20, 8
"""A block of more than two parts is read part by part, by this many threads."""


class Checksum:
    """The CRC-32 of the first `rows` rows of a file, kept while they are written in order; else `rows` is None."""

    def __init__(self, rows: int = 0, crc: int = 0):
        self.rows: int | None = rows
        self.crc = crc

    def add(self, start: int, n_rows: int, data) -> None:
        if self.rows == start:
            self.rows, self.crc = start + n_rows, zlib.crc32(data, self.crc)
        elif n_rows:
            self.rows = None


class BlockFile:
    """A 1-D or 2-D array on disk, rows first. Reading and writing take no more memory than the block."""

    def __init__(self, path: Path, descriptor: int, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        self.path, self.shape, self.dtype = Path(path), shape, dtype
        self._fd, self._offset = descriptor, offset
        self.written = Checksum()
        self._close = weakref.finalize(self, os.close, descriptor)  # a deleted file takes space until it is closed
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype) -> "BlockFile":
        """Makes a file and reserves its space. Raises OutputError where it cannot be made or the disk is full."""
        return cls._made(path, shape, dtype, os.O_TRUNC)

    @classmethod
    def reopen(cls, path: Path, shape: tuple[int, ...], dtype, written: Checksum) -> "BlockFile":
        """Opens a file that `create` made, to write the rows behind those that `written` counts. Raises OutputError."""
        file = cls._made(path, shape, dtype, 0)
        file.written = written
        return file

    @classmethod
    def _made(cls, path: Path, shape: tuple[int, ...], dtype, flags: int) -> "BlockFile":
        dtype = np.dtype(dtype)
        header = _header(shape, dtype)
        with writing(path, OUT_REMEDY):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
            try:
                os.pwrite(fd, header, 0)
                os.posix_fallocate(fd, 0, len(header) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
        return cls(path, fd, shape, dtype, len(header))

    @classmethod
    def open(cls, path: Path) -> "BlockFile":
        """Opens a file that `create` made, for reading. Raises OSError or ValueError where it is not one or is cut."""
        with open(path, "rb") as f:
            if np.lib.format.read_magic(f) != (1, 0):
                raise ValueError(f"{path}: not a file of a run")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(f)
            offset = f.tell()
        if (
            fortran
            or dtype.hasobject
            or os.path.getsize(path) != offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        ):
            raise ValueError(f"{path}: cut or not a file of a run")
        return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), shape, dtype, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop - 1 as a new array. Raises OutputError where the file ends before."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        view, at = bytes_of(out), self._offset + start * self.row_bytes
        if len(view) <= 2 * PART_BYTES:
            self._fill(view, at)
            return out
        with ThreadPoolExecutor(READERS) as readers:  # a single thread copies slower than memory can
            parts = range(0, len(view), PART_BYTES)
            list(readers.map(lambda part: self._fill(view[part : part + PART_BYTES], at + part), parts))
        return out

    def _fill(self, view: memoryview, at: int) -> None:
        while len(view):
            n = os.preadv(self._fd, [view], at)
            if n == 0:
                raise OutputError(f"{self.path}: ends early; remove this folder and run again.")
            view, at = view[n:], at + n

    def write(self, start: int, block: np.ndarray) -> None:
        """Writes a block of rows from row `start` on. Raises OutputError."""
        block = np.ascontiguousarray(block, self.dtype).reshape(-1, *self.shape[1:])
        view, at = bytes_of(block), self._offset + start * self.row_bytes
        self.written.add(start, len(block), view)
        with writing(self.path, REMEDY):
            write_at(self._fd, view, at)

    def checksum(self, n_rows: int | None = None) -> int:
        """The CRC-32 of the first `n_rows` rows, by default all, as they are on disk."""
        n_rows = len(self) if n_rows is None else n_rows
        step, crc = max(1, READ_BYTES // max(1, self.row_bytes)), 0
        for start in range(0, n_rows, step):
            crc = zlib.crc32(bytes_of(self.read(start, min(start + step, n_rows))), crc)
        return crc

    def blocks(self, block_rows: int):
        """Yields (start, rows) over the whole file."""
        for start in range(0, len(self), block_rows):
            yield start, self.read(start, min(start + block_rows, len(self)))

    def shrink(self, n_rows: int) -> None:
        """Cuts the file behind the first `n_rows` rows. Raises OutputError.

        The rows stay where they are: NumPy's header has the same length for any number of rows.
        """
        shape = (n_rows, *self.shape[1:])
        header = _header(shape, self.dtype)
        assert len(header) == self._offset
        with writing(self.path, REMEDY):
            os.pwrite(self._fd, header, 0)
            os.ftruncate(self._fd, self._offset + n_rows * self.row_bytes)
        self.shape = shape

    def sync(self) -> None:
        with writing(self.path, REMEDY):
            os.fsync(self._fd)

    def close(self) -> None:
        self._close()


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array, of a copy where it is not contiguous. memoryview's own `cast` refuses arrays without rows."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _header(shape, dtype) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, dict(descr=np.lib.format.dtype_to_descr(dtype), fortran_order=False, shape=shape)
    )
    return header.getvalue()
