"""One-dimensional arrays in memory or in a file of the run, with the same methods."""

import os
from pathlib import Path

import numpy as np

from streamumap.errors import OutputError
from streamumap.store.atomic import OUT_REMEDY, write_at, writing
from streamumap.store.blockfile import BlockFile


class MemoryArray:
    """An array in memory, with the methods of FileArray."""

    def __init__(self, n_values: int, dtype: np.dtype):
        self._values = np.empty(n_values, dtype)

    def __len__(self) -> int:
        return len(self._values)

    def write(self, start: int, values: np.ndarray) -> None:
        self._values[start : start + len(values)] = values

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._values[start:stop]

    def cut(self, n_values: int) -> None:
        """Shortens the array. The rest was never written: it has addresses but no memory."""
        self._values = self._values[:n_values]

    def close(self) -> None:
        self._values = self._values[:0].copy()

    discard = close


class FileArray:
    """An array in a file, which is allocated in full at first: a full disk is seen then. Raises OutputError."""

    def __init__(self, path: Path, n_values: int, dtype: np.dtype):
        self._path, self._dtype, self._n_values, n_bytes = path, dtype, n_values, n_values * dtype.itemsize
        self._fd = -1
        with writing(path, OUT_REMEDY):
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                if n_bytes and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._fd, 0, n_bytes)
            except OSError:
                self.discard()
                raise

    def __len__(self) -> int:
        return self._n_values

    def write(self, start: int, values: np.ndarray) -> None:
        with writing(self._path, OUT_REMEDY):
            write_at(self._fd, np.ascontiguousarray(values).view(np.uint8).data, start * self._dtype.itemsize)

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


ValueArray = MemoryArray | FileArray | BlockFile
