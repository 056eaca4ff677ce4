"""`.npy` files as rows: those in C order are read in place, those in Fortran order converted."""

import os
from typing import Any

from streamumap.source.base import RowSource
from streamumap.source.checks import resolve_dtype
from streamumap.source.file import OpenFile
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.convert import Part, Parts, ToConvert, assemble, column_part
from streamumap.source.formats.npy import npy_in_place, npy_shape, tail_warning
from streamumap.source.formats.npy_header import header_at
from streamumap.source.reading import Reading


def npy_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens the rows of a 2-D `.npy` file. Raises InputError."""
    rows = assemble(file.name, {"rows": npy_part(file, reading.dtype)}, None, {"format": "npy"}, [file])
    if isinstance(rows, ToConvert):
        rows.warnings = tail_warning(file, file.name, header_at(file, file.name))
        rows.fingerprint |= {"blake2b": file.sampled_hash(0, 0, file.n_bytes)} | file.identity
    return rows


def npy_part(file: OpenFile, dtype: str | None = None) -> Part | RowSource:
    """Opens a 2-D `.npy` file as a part of rows. Raises InputError."""
    header = header_at(file, file.name)
    if not header.by_column:
        return npy_in_place(file, file.name, header, dtype)
    tail_warning(file, file.name, header)
    shape = npy_shape(file.name, header, dtype)
    resolved = resolve_dtype(file.name, header.dtype, dtype)
    return column_part(file, file.name, header.data_offset, shape, header.dtype, resolved)


def open_pairs(name: str, indices: Any, values: Any, n_features: Any, dtype: str | None) -> RowSource | ToConvert:
    """Opens TopK pairs in two matrices, each the path of a `.npy` file or an array. Raises InputError."""
    parts: Parts = {}
    files: list[OpenFile] = []
    try:
        for part, given, said in (("indices", indices, None), ("values", values, dtype)):
            if isinstance(given, (str, bytes, os.PathLike)):
                files.append(OpenFile(given, "a .npy file"))
                parts[part] = npy_part(files[-1], said)
            else:
                parts[part] = ArraySource(given, said)
        rows = assemble(name, parts, n_features, {"format": "topk"}, files)
        if isinstance(rows, ToConvert):
            hashes = [file.sampled_hash(0, 0, file.n_bytes) for file in files]
            rows.fingerprint |= {"files": [file.identity for file in files], "blake2b": hashes}
        return rows
    except BaseException:
        for file in files:
            file.close()
        raise
