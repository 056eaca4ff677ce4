"""Rows in: one `RowSource` whatever they are kept in."""

from streamumap.source.base import Pairs, RowSource, SparseSource, blocks, check_shape, stored_dtype, widen
from streamumap.source.opening import Reading, open_source

__all__ = [
    "Pairs",
    "Reading",
    "RowSource",
    "SparseSource",
    "blocks",
    "check_shape",
    "open_source",
    "stored_dtype",
    "widen",
]
