"""Rows of an array that is in memory already, and what any matrix of rows must be to be read.

Arrays are never copied whole: blocks are copied as they are asked for, whatever the strides and the byte order.
"""

import hashlib
import math
from typing import Any

import numpy as np

from streamumap.errors import InputChanged, InputError
from streamumap.source.base import check_shape, stored_dtype

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
SUPPORTED = "bool, int8 to int64, uint8 to uint64, float16, float32 or float64"
KINDS = {"O": "Python objects", "M": "dates", "m": "time spans", "S": "text", "U": "text", "c": "complex numbers"}
SAMPLE_BYTES = 64 << 10
N_SAMPLES = 16


def wrong(name: str, field: str, expected: object, found: object, remedy: str) -> InputError:
    """The one sentence of an InputError about an input."""
    return InputError(f"{name}: {field}: expected {expected}, found {found}; {remedy}.")


def short(value: object) -> str:
    """`value` in at most 80 characters. A number of too many digits cannot even be spelled out."""
    try:
        spelled = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return spelled if len(spelled) <= 80 else spelled[:77] + "..."


def refused_dtype(name: str, kind: str, itemsize: int, found: str) -> InputError:
    """The error for a dtype that is none of `SUPPORTED`; kind as in `numpy.dtype.kind`."""
    meaning, remedy = KINDS.get(kind, "not supported"), "convert it to float16 or float32 first"
    if kind == "V" and itemsize == 1:
        meaning, remedy = "one byte without a meaning, as float8 is saved", "convert it with .astype('float16') first"
    return wrong(name, "dtype", SUPPORTED, f"{found} ({meaning})", remedy)


def resolve_dtype(name: str, stored: np.dtype, dtype: str | None) -> str:
    """The `RowSource.dtype` of rows stored as `stored`. `dtype` may only say that two-byte words are bfloat16.

    Raises InputError where the stored dtype is not one of numbers, or `dtype` says another.
    """
    if dtype == "bfloat16" and stored.newbyteorder("=") in (np.dtype("V2"), np.dtype(np.uint16)):
        return dtype
    if stored == np.dtype("V2"):
        remedy = "say dtype='bfloat16' (--dtype bfloat16) if they are that"
        raise wrong(name, "dtype", SUPPORTED, "V2, two bytes without a meaning, as bfloat16 is saved", remedy)
    if f"{stored.kind}{stored.itemsize}" not in NUMBERS:
        raise refused_dtype(name, stored.kind, stored.itemsize, short(str(stored)))
    plain = stored.newbyteorder("=").name
    if dtype not in (None, plain):
        raise wrong(name, "dtype", f"{dtype} as the option says", plain, "leave the option out")
    return plain


def check_2d(name: str, shape: tuple[int, ...]) -> None:
    """Raises InputError unless `shape` is one of rows x features that a map can be made of."""
    if len(shape) != 2:
        remedy = "reshape it to (rows, features)"
        if len(shape) > 2:
            flat = (math.prod(shape[:-1]), shape[-1])
            remedy = f"flatten it to {short(flat)} with a.reshape(-1, a.shape[-1])"
        raise wrong(name, "shape", "2 dimensions (rows, features)", f"{len(shape)} in {short(shape)}", remedy)
    check_shape(name, *shape)


class ArraySource:
    """The rows of a 2-D array, memmap, CPU tensor or list of rows, as a `RowSource`. Nothing is ever written to it.

    `dtype="bfloat16"` reads V2 or uint16 words as bfloat16. Raises InputError on opening, InputChanged from
    `check_unchanged`.
    """

    name = "the array"
    warnings: tuple[str, ...] = ()

    def __init__(self, array: Any, dtype: str | None = None):
        rows = as_array(self.name, array)
        if rows.dtype.name == "bfloat16":  # ml_dtypes says what the bits are
            rows, dtype = rows.view(np.uint16), dtype or "bfloat16"
        self.dtype = resolve_dtype(self.name, rows.dtype, dtype)
        check_2d(self.name, rows.shape)
        self._rows = rows.view(np.uint16) if rows.dtype.kind == "V" else rows
        self.n_rows, self.n_features = rows.shape
        self.row_bytes = self.n_features * rows.dtype.itemsize
        self.fingerprint: dict = {"format": "array", "shape": [self.n_rows, self.n_features], "dtype": self.dtype}
        self.fingerprint["blake2b"] = self._sampled_hash()

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows start..stop as stored, (stop - start, n_features), copied, in the machine's byte order."""
        assert 0 <= start <= stop <= self.n_rows
        if out is None:
            out = np.empty((stop - start, self.n_features), stored_dtype(self.dtype))
        assert out.dtype == stored_dtype(self.dtype) and out.flags.c_contiguous
        out = out[: stop - start]
        np.copyto(out, self._rows[start:stop])
        return out

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers (int64, ascending), (len(rows), n_features), copied."""
        rows = np.asarray(rows, np.int64)
        assert rows.size == 0 or rows.min() >= 0
        return np.ascontiguousarray(self._rows[rows], stored_dtype(self.dtype))

    def check_unchanged(self) -> None:
        """Raises InputChanged when sampled rows are not what they were on opening."""
        if self._sampled_hash() != self.fingerprint["blake2b"]:
            raise InputChanged(
                f"{self.name}: sampled rows: expected the same as on opening, found others; "
                "start again and leave the array alone meanwhile."
            )

    def close(self) -> None:
        """Nothing to do: the array is the caller's."""

    def _sampled_hash(self) -> str:
        """Up to 16 evenly spaced blocks of about 64 KiB, whole rows each."""
        digest = hashlib.blake2b(digest_size=16)
        step = min(self.n_rows, max(1, SAMPLE_BYTES // self.row_bytes))
        count = min(N_SAMPLES, -(-self.n_rows // step))
        for i in range(count):
            start = (self.n_rows - step) * i // max(1, count - 1)
            digest.update(self.read(start, start + step).data)
        return digest.hexdigest()


def as_array(name: str, rows: Any) -> np.ndarray:
    """`rows` as a plain array: a view wherever there is one."""
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
