"""What the user named -> the source of its rows, by content and by what lies beside it."""

import os
from dataclasses import dataclass
from typing import Any

from streamumap.source.array import ArraySource
from streamumap.source.base import RowSource, check_shape
from streamumap.source.csr import csr_of
from streamumap.source.npy import npy_rows
from streamumap.source.sidecar import find_pair, sidecar_width
from streamumap.source.topk import TopKSource


@dataclass(frozen=True)
class Reading:
    """How an input is to be read, where it does not say so itself.

    dtype: "bfloat16" where it is kept as V2 or uint16. n_features: the width of rows that are kept as pairs.
    """

    dtype: str | None = None
    n_features: int | None = None


def open_source(x: Any, reading: Reading | None = None) -> RowSource:
    """The rows of `x`: a path; a 2-D array, memmap, CPU tensor or list of rows; a `scipy.sparse` matrix in CSR form; the
    TopK pairs (indices, values, n_features), each of the first two a path or an array; or a source that is open already.

    A path is that of a `.npy` file, or of TopK pairs: a folder with `X_indices.npy` and `X_values.npy`, or either of
    these. Their width is `reading.n_features`, or what a JSON file beside them says. Raises InputError.
    """
    source = _open(x, reading or Reading())
    try:
        check_shape(source.name, source.n_rows, source.n_features)
    except BaseException:
        source.close()
        raise
    return source


def _open(x: Any, reading: Reading) -> RowSource:
    if isinstance(x, (str, bytes, os.PathLike)):
        return _open_path(os.fsdecode(x), reading)
    if isinstance(x, tuple) and len(x) == 3:
        return _pairs("the pairs", x[0], x[1], x[2], reading.dtype)
    if hasattr(x, "tocsr"):
        return csr_of(x)
    return x if isinstance(x, RowSource) else ArraySource(x, reading.dtype)


def _open_path(path: str, reading: Reading) -> RowSource:
    pair = find_pair(path)
    if pair is None:
        return npy_rows(path, reading.dtype)
    width, notes = reading.n_features, tuple[str, ...]()
    if width is None:
        width, file = sidecar_width(pair.indices)
        notes = (f"{pair.name}: {width:,} features, as {file} says",)
    source = _pairs(pair.name, pair.indices, pair.values, width, reading.dtype)
    source.notes = notes
    return source


def _pairs(name: str, indices: Any, values: Any, n_features: Any, dtype: str | None) -> TopKSource:
    parts: list[RowSource] = []
    try:
        for part, part_dtype in ((indices, None), (values, dtype)):
            is_path = isinstance(part, (str, bytes, os.PathLike))
            parts.append(npy_rows(part, part_dtype) if is_path else ArraySource(part, part_dtype))
        return TopKSource(name, parts[0], parts[1], n_features)
    except BaseException:
        for source in parts:
            source.close()
        raise
