"""Rows of an array in memory.

The array is never copied whole: blocks are copied as they are read, whatever its strides and byte order.
"""

import hashlib
from typing import Any

import numpy as np

from streamumap.errors import InputChanged
from streamumap.source.base import stored_dtype
from streamumap.source.checks import check_2d, declared_dtype, resolve_dtype, wrong

SAMPLE_BYTES = 64 << 10
N_SAMPLES = 16


class ArraySource:
    """The rows of a 2-D array, memmap, CPU tensor or list of rows, as a `RowSource`. Nothing is ever written to it.

    `dtype="bfloat16"` reads V2, uint16 or int16 words as bfloat16. Raises InputError on opening, InputChanged from
    `check_unchanged`.
    """

    name = "the array"
    warnings: tuple[str, ...] = ()

    def __init__(self, array: Any, dtype: str | None = None):
        rows = as_array(self.name, array)
        if rows.dtype.name == "bfloat16":  # ml_dtypes says what the bits are
            rows, dtype = rows.view(np.uint16), declared_dtype(self.name, "bfloat16", dtype)
        self.dtype = resolve_dtype(self.name, rows.dtype, dtype)
        check_2d(self.name, rows.shape)
        if self.dtype == "bfloat16":
            rows = rows.view(np.dtype(np.uint16).newbyteorder(rows.dtype.byteorder))
        self._rows = rows
        self.n_rows, self.n_features = rows.shape
        self.row_bytes = self.n_features * rows.dtype.itemsize
        self.fingerprint: dict = {"format": "array", "shape": [self.n_rows, self.n_features], "dtype": self.dtype}
        self.fingerprint["blake2b"] = self._sampled_hash()

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Copies rows start..stop as stored, (stop - start, n_features), in the machine's byte order."""
        assert 0 <= start <= stop <= self.n_rows
        if out is None:
            out = np.empty((stop - start, self.n_features), stored_dtype(self.dtype))
        assert out.dtype == stored_dtype(self.dtype) and out.flags.c_contiguous
        out = out[: stop - start]
        np.copyto(out, self._rows[start:stop])
        return out

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies the rows with these numbers (int64, ascending), (len(rows), n_features)."""
        rows = np.asarray(rows, np.int64)
        assert rows.size == 0 or rows.min() >= 0
        return np.ascontiguousarray(self._rows[rows], stored_dtype(self.dtype))

    def check_unchanged(self) -> None:
        """Raises InputChanged if sampled rows have changed since opening."""
        if self._sampled_hash() != self.fingerprint["blake2b"]:
            raise InputChanged(
                f"{self.name}: sampled rows: expected the same as on opening, found others; "
                "start again and leave the array alone meanwhile."
            )

    def close(self) -> None:
        """Does nothing: the array is the caller's."""

    def _sampled_hash(self) -> str:
        """Hashes up to 16 evenly spaced blocks of rows of about 64 KiB each."""
        digest = hashlib.blake2b(digest_size=16)
        step = max(1, min(self.n_rows, SAMPLE_BYTES // max(1, self.row_bytes)))
        count = min(N_SAMPLES, -(-self.n_rows // step))
        for i in range(count):
            start = (self.n_rows - step) * i // max(1, count - 1)
            digest.update(self.read(start, start + step).data)
        return digest.hexdigest()


def as_array(name: str, rows: Any) -> np.ndarray:
    """Returns `rows` as a plain array, a view where NumPy can make one. Raises InputError."""
    if isinstance(rows, np.ma.MaskedArray):
        raise wrong(name, "mask", "an array without a mask", "a masked array", "call .filled() with the value you mean")
    if not isinstance(rows, (list, np.ndarray)) and not hasattr(rows, "__array__"):
        remedy = "give a path, a 2-D array, a CPU tensor or a list of rows"
        raise wrong(name, "type", "rows of numbers", f"a {type(rows).__name__}", remedy)
    if hasattr(rows, "detach"):
        rows = rows.detach()
    try:
        return np.asarray(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        found = f"a {type(rows).__name__} of {getattr(rows, 'dtype', 'mixed lengths or types')}"
        remedy = "check the rows"
        if hasattr(rows, "detach"):
            remedy = "call .float().cpu() first (.to_dense() where it is sparse)"
        raise wrong(name, "type", "what NumPy can read", found, remedy) from error
