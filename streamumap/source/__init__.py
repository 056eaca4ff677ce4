"""Reads rows of any format through one interface, `RowSource`."""

from streamumap.source.base import CsrBlock, RowSource, SparseSource, blocks, check_shape, stored_dtype, widen
from streamumap.source.formats.convert import ToConvert, in_place
from streamumap.source.formats.options import check_no_input
from streamumap.source.opening import notes_of, open_rows, open_source
from streamumap.source.reading import Reading

__all__ = [
    "CsrBlock",
    "Reading",
    "RowSource",
    "SparseSource",
    "ToConvert",
    "blocks",
    "check_no_input",
    "check_shape",
    "in_place",
    "notes_of",
    "open_rows",
    "open_source",
    "stored_dtype",
    "widen",
]
