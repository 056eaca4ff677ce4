"""Rows stored one after the other in a file, and `.npy` files."""

import os
from itertools import pairwise

import numpy as np

from streamumap.errors import InputError
from streamumap.source.base import stored_dtype
from streamumap.source.checks import check_2d, code_command, quoted, resolve_dtype
from streamumap.source.file import SAMPLE_BYTES, OpenFile
from streamumap.source.formats.npy_header import MAGIC, NpyHeader, fortran_order, header_at

PIECE_BYTES = 4 << 20
"""Bytes that one thread reads at a time."""


class FileRows:
    """A `RowSource` of values of dtype `stored`, row after row from byte `offset` of a file.

    `dtype="bfloat16"` reads V2, uint16 or int16 words as bfloat16. Raises InputError for a dtype that is not numeric,
    InputChanged from `read`, `take` and `check_unchanged`. `warnings` and `notes` are sentences for the user.
    """

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(
        self, file: OpenFile, name: str, offset: int, shape: tuple[int, int], stored: np.dtype, dtype: str | None = None
    ):
        self.file, self.name, self._offset, self._stored = file, name, offset, stored
        self.dtype = resolve_dtype(name, stored, dtype)
        self.n_rows, self.n_features = shape
        self.row_bytes = self.n_features * stored.itemsize
        self._hash = self._sampled_hash()
        self.fingerprint: dict = {"format": "file", "dtype": self.dtype, "shape": list(shape), "offset": offset}
        self.fingerprint |= {"blake2b": self._hash} | file.identity

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop as stored, (stop - start, n_features), in the machine's byte order."""
        assert 0 <= start <= stop <= self.n_rows
        rows = self._buffer(stop - start, out)
        body = bytes_of(rows)
        offset = self._offset + start * self.row_bytes
        pieces = range(0, len(body), PIECE_BYTES)
        self.file.run(lambda at: self.file.fill(body[at : at + PIECE_BYTES], offset + at), pieces)
        self.file.release(offset, offset + len(body))
        return self._native(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), (len(rows), n_features); runs of adjacent rows at once."""
        rows = np.asarray(rows, np.int64)
        assert rows.ndim == 1 and (rows.size == 0 or (rows.min() >= 0 and rows.max() < self.n_rows))
        out = self._buffer(len(rows), None)
        step = max(1, PIECE_BYTES // max(1, self.row_bytes))
        self.file.run(lambda at: self._take_runs(rows[at : at + step], out[at : at + step]), range(0, len(rows), step))
        return self._native(out)

    def check_unchanged(self) -> None:
        """Raises InputChanged if the path leads to another file, or size, modification time or sampled bytes differ."""
        self.file.check_identity()
        self.file.check_hash(self._hash, self._sampled_hash())

    def close(self) -> None:
        self.file.close()

    def _sampled_hash(self) -> str:
        head_bytes = min(self._offset, SAMPLE_BYTES)
        return self.file.sampled_hash(head_bytes, self._offset, self.n_rows * self.row_bytes)

    def _buffer(self, n_rows: int, out: np.ndarray | None) -> np.ndarray:
        dtype = stored_dtype(self.dtype)
        if out is None:
            return np.empty((n_rows, self.n_features), dtype)
        assert out.dtype == dtype and out.flags.c_contiguous
        assert out.shape[1:] == (self.n_features,) and len(out) >= n_rows
        return out[:n_rows]

    def _native(self, rows: np.ndarray) -> np.ndarray:
        if not self._stored.isnative:
            rows.byteswap(inplace=True)
        return rows

    def _take_runs(self, rows: np.ndarray, out: np.ndarray) -> None:
        body = bytes_of(out)
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        places = np.append(starts, len(rows)) * self.row_bytes
        offsets = rows[starts] * self.row_bytes + self._offset
        for (start, stop), offset in zip(pairwise(places.tolist()), offsets.tolist(), strict=True):
            self.file.fill(body[start:stop], offset)


def is_npy(file: OpenFile) -> bool:
    """Whether the file begins as a `.npy` does."""
    return file.head(len(MAGIC)) == MAGIC


def open_npy(path: str | bytes | os.PathLike, dtype: str | None = None) -> FileRows:
    """Opens the rows of a 2-D `.npy` file in C order. Raises InputError.

    `dtype="bfloat16"` reads V2, uint16 or int16 words as bfloat16. `warnings` holds sentences for the user.
    """
    file = OpenFile(path, "a .npy file")
    try:
        header = header_at(file, file.name)
        if header.by_column:
            raise fortran_order(file.name)
        return npy_in_place(file, file.name, header, dtype)
    except BaseException:
        file.close()
        raise


def npy_in_place(file: OpenFile, name: str, header: NpyHeader, dtype: str | None = None) -> FileRows:
    """Opens the rows of a 2-D `.npy` file that lie one after the other. Raises InputError."""
    warnings, shape = tail_warning(file, name, header), npy_shape(name, header, dtype)
    rows = FileRows(file, name, header.data_offset, shape, header.dtype, dtype)
    rows.fingerprint |= {"format": "npy", "header": header.text}
    rows.warnings = warnings
    return rows


def npy_shape(name: str, header: NpyHeader, dtype: str | None) -> tuple[int, int]:
    """Returns (rows, features) of a `.npy` file. Raises InputError, with the command that makes rows of other shapes."""
    return matrix_shape(name, header, dtype, load=f'a = np.load({quoted(name)}, mmap_mode="r")')


def matrix_shape(
    name: str, header: NpyHeader, dtype: str | None = None, column: bool = False, load: str = ""
) -> tuple[int, int]:
    """Returns (rows, features) of a `.npy`. With `column` a vector is a matrix of one column. `load` as in `check_2d`.
    Raises InputError."""
    resolve_dtype(name, header.dtype, dtype)
    if column and len(header.shape) == 1:
        return header.shape[0], 1
    return check_2d(name, header.shape, name, load)


def tail_warning(file: OpenFile | None, name: str, header: NpyHeader) -> tuple[str, ...]:
    """Returns a sentence about bytes behind the body, if there are any. `file`: None where they cannot be looked at. Raises
    InputError where they are another array."""
    if not header.extra_bytes:
        return ()
    if file and file.head(min(len(MAGIC), header.extra_bytes), header.data_offset + header.body_bytes) == MAGIC:
        load = f'f = open({quoted(file.name)}, "rb"); n = os.path.getsize({quoted(file.name)})'
        parts = "[np.load(f) for _ in iter(lambda: f.tell() < n, False)]"
        target = quoted(os.path.splitext(file.name)[0] + "-rows.npy")
        command = code_command(f"import os, numpy as np; {load}; np.save({target}, np.vstack({parts}))")
        found = "another one behind it, as a second numpy.save into the same file leaves"
        raise InputError(f"{name}: body: expected one array, found {found}; join their rows with: {command}")
    return (f"{name}: body: expected {header.body_bytes} bytes, found {header.extra_bytes} more; they are ignored.",)


def bytes_of(rows: np.ndarray) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data
