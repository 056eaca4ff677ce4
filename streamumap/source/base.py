"""`RowSource`, the interface of a matrix of rows, and its helpers.

A source is opened read-only, knows its shape before it reads a row, and hands out blocks of rows in the dtype in which
they are stored. `widen` turns a block into float32; a GPU backend may take the stored block to the device and widen it
there. A source that stores its rows without their zeros is a `SparseSource` and hands out (feature, value) pairs as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from streamumap.errors import InputError

DEVICE_DTYPES = ("bool", "int8", "uint8", "int16", "int32", "float16", "bfloat16", "float32", "float64")
"""Stored dtypes that a GPU backend takes unchanged."""


@runtime_checkable
class RowSource(Protocol):
    """A matrix of rows that need not fit in memory."""

    name: str  # in messages: a path, or "the array"
    n_rows: int
    n_features: int
    dtype: str  # as stored: "float16", "bfloat16", "float32", "int8", ...
    row_bytes: int
    fingerprint: dict  # JSON; tells whether two inputs are the same

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop as stored, (stop - start, n_features), into `out` if given: a C-contiguous array with at
        least that many rows."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), as stored, (len(rows), n_features)."""

    def check_unchanged(self) -> None:
        """Raises InputChanged when the input has changed since it was opened."""

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class CsrBlock:
    """Rows without their zeros. A value is zero if it is zero as float32: 0.0, -0.0, a float64 too small for float32."""

    indptr: np.ndarray  # int64 (R + 1,), begins with 0
    indices: np.ndarray  # of index_dtype(n_features), ascending within a row, without repetition
    values: np.ndarray  # as stored, none of them zero; NaN is not zero

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1


@runtime_checkable
class SparseSource(RowSource, Protocol):
    """A RowSource that stores (feature, value) pairs. `read` and `take` fill in the zeros, `pairs` leaves them out. Several
    threads may call it."""

    max_nonzero: int  # upper bound over all rows together; explicit zeros may be among them

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop. Raises InputError where a row has a feature twice or beyond the last."""

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        """Cuts all rows, in order, into spans (start, stop) with at most `n_pairs` pairs each, or of one row."""


def index_dtype(n_features: int) -> np.dtype:
    """Returns the dtype of feature numbers in pairs."""
    return np.dtype(np.uint16 if n_features <= 1 << 16 else np.uint32)


def stored_dtype(dtype: str) -> np.dtype:
    """Returns the NumPy dtype in which blocks of rows of `dtype` are handed out."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def as_stored(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Converts an array as NumPy has it to what blocks of rows of `dtype` are: bits of bfloat16 become uint16."""
    if dtype == "bfloat16":
        rows = rows.view(np.dtype(np.uint16).newbyteorder(rows.dtype.byteorder))
    return rows.astype(stored_dtype(dtype), copy=False)


def pinned_bytes(block_rows: int, n_features: int, dtype: str) -> int:
    """Returns the bytes of host memory that a `Feed` pins: two buffers of rows, as stored or, where the dtype is not in
    DEVICE_DTYPES, as float32. torch rounds each up to a power of two."""
    itemsize = stored_dtype(dtype).itemsize if dtype in DEVICE_DTYPES else 4
    return 2 << (block_rows * n_features * itemsize - 1).bit_length()


def widen(block: np.ndarray, dtype: str) -> np.ndarray:
    """Converts a stored block to float32 of the same shape. bfloat16 is exact; float64 is rounded; integers and booleans
    are cast."""
    if dtype == "bfloat16":
        return (block.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "float16" and block.flags.c_contiguous:
        return _widen_half(block)
    return block.astype(np.float32, copy=False)


def _widen_half(block, piece_values=65_536):
    """Converts float16 to float32, bit for bit as `astype` does, two to three times faster: shifts the bits into place and
    scales by 2^112."""
    out = np.empty(block.shape, np.float32)
    half, values = block.reshape(-1), out.reshape(-1)
    bits = values.view(np.int32)
    for start in range(0, len(values), piece_values):
        piece = slice(start, start + piece_values)
        bits[piece] = half[piece].view(np.int16)  # sign-extended
        np.left_shift(bits[piece], 13, out=bits[piece])
        np.bitwise_and(bits[piece], np.int32(-1879056384), out=bits[piece])  # 0x8fffe000
        np.multiply(values[piece], np.float32(2.0**112), out=values[piece])
        if values[piece].max() >= 65536 or values[piece].min() <= -65536:  # inf and NaN
            values[piece] = half[piece]
    return out


def blocks(source: RowSource, block_rows: int, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (start, rows as stored) from row `first` to the last through one reused buffer: a block is valid until the
    next one."""
    buffer = np.empty((min(block_rows, source.n_rows), source.n_features), stored_dtype(source.dtype))
    for start in range(first, source.n_rows, block_rows):
        yield start, source.read(start, min(start + block_rows, source.n_rows), buffer)


def check_shape(name: str, n_rows: int, n_features: int, least_rows: int = 3) -> None:
    """Raises InputError if the matrix is too small for a map."""
    if n_features < 1:
        raise InputError(f"{name}: shape: expected at least 1 feature, found {n_features}; give rows with features.")
    if n_rows < least_rows:
        why = "a map of fewer rows has no meaning" if least_rows > 1 else "give some"
        raise InputError(f"{name}: shape: expected at least {least_rows} rows, found {n_rows}; {why}.")
