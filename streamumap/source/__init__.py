"""Rows in: one `RowSource` whatever they are kept in."""

import os
from typing import Any

from streamumap.source.array import ArraySource
from streamumap.source.base import RowSource, blocks, check_shape, stored_dtype, widen
from streamumap.source.npy import NpySource

__all__ = ["RowSource", "blocks", "check_shape", "open_source", "stored_dtype", "widen"]


def open_source(x: Any, dtype: str | None = None) -> RowSource:
    """The rows of `x`: the path of a `.npy` file, or a 2-D array, memmap, CPU tensor or list of rows.

    `dtype` is needed for bfloat16 only, which files and arrays keep as V2 or uint16. Raises InputError.
    """
    if isinstance(x, (str, bytes, os.PathLike)):
        return NpySource(x, dtype)
    return ArraySource(x, dtype)
