"""Rows in a file without a header; the user gives shape and dtype."""

from streamumap.source.base import stored_dtype
from streamumap.source.checks import DTYPES, check_2d, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.npy_header import checked_shape
from streamumap.source.reading import Reading


def raw_rows(file: OpenFile, reading: Reading) -> FileRows:
    """Opens rows stored row after row, little-endian. Raises InputError unless they fill the file exactly."""
    path, dtype = file.name, reading.dtype
    if dtype not in DTYPES:
        found = "none" if dtype is None else short(dtype)
        raise wrong(path, "--dtype", f"one of {', '.join(DTYPES)}", found, "say which: the file does not")
    stored = stored_dtype(dtype).newbyteorder("<")
    sizes = check_2d(path, checked_shape(reading.shape, stored.itemsize, path, "give the right --shape"))
    expected = sizes[0] * sizes[1] * stored.itemsize
    if file.n_bytes != expected:
        remedy = "give the --shape and --dtype with which it was written"
        raise wrong(path, "size", f"{expected} bytes for {sizes[0]} x {sizes[1]} of {dtype}", file.n_bytes, remedy)
    return FileRows(file, path, 0, sizes, stored, dtype)
