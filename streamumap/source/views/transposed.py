"""`TransposedRows`: the transposed matrix, with a row for each feature. It is made from pairs in several passes of bounded
memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.source.base import CsrBlock, RowSource, index_dtype, stored_dtype
from streamumap.source.formats.convert import BLOCK_BYTES, AppendFile, ToConvert
from streamumap.source.formats.csr import CsrSource
from streamumap.source.pieces import Piece, over_rows
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of

PASS_PAIRS = 1 << 23
"""Pairs that are sorted at a time."""


class TransposedRows(ToConvert):
    """The features of the rows `original` as rows, to be converted. A feature that is never active is a row of zeros."""

    drop_zero_rows = True

    def __init__(self, original: RowSource | ToConvert):
        self.original = original
        self.name, self.dtype = original.name, original.dtype
        self.n_rows, self.n_features = original.n_features, original.n_rows
        self.max_nonzero = getattr(original, "max_nonzero", None) or original.n_rows * original.n_features
        self.row_bytes = -(-original.n_rows * original.row_bytes // max(1, self.n_rows))
        self.n_bytes = getattr(original, "n_bytes", 0)
        self.warnings, self.notes = getattr(original, "warnings", ()), getattr(original, "notes", ())
        self.fingerprint = {"format": "transposed", "rows": original.fingerprint}

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        """Writes the rows of features into `folder`. Advances by features. Raises InputError, InputChanged, OutputError."""
        original, folder = self.original, Path(folder)
        if isinstance(original, ToConvert):
            original.device, original.listener = self.device, self.listener
        source = original.convert(folder, no_advance) if isinstance(original, ToConvert) else original
        rows = self._write(source, folder, advance)
        source.check_unchanged()
        if source is not original:
            source.close()
        rows.name, rows.fingerprint = self.name, self.fingerprint
        return rows

    def check_unchanged(self) -> None:
        self.original.check_unchanged()

    def close(self) -> None:
        self.original.close()

    def _write(self, source: RowSource, folder: Path, advance: Advance) -> CsrSource:
        indptr = np.zeros(self.n_rows + 1, np.int64)
        for _, pairs in _pieces(source):
            indptr[1:] += np.bincount(pairs.indices, minlength=self.n_rows)
        np.cumsum(indptr, out=indptr)
        with (
            AppendFile(folder / "features_indices.bin", 1, index_dtype(self.n_features).name) as indices,
            AppendFile(folder / "features_data.bin", 1, self.dtype) as data,
            AppendFile(folder / "features_indptr.bin", 1, "int64") as bounds,
        ):
            bounds.append(indptr[:, None])
            for first, last in _spans(indptr):
                rows, values = _transposed(source, indptr, first, last, self.dtype)
                indices.append(rows.astype(index_dtype(self.n_features))[:, None])
                data.append(values[:, None])
                advance(last - first)
        shape = (self.n_rows, self.n_features)
        return CsrSource(self.name, bounds.rows(), indices.rows(), data.rows(), shape)


def _pieces(source: RowSource) -> Iterator[tuple[int, CsrBlock]]:
    """Yields (first row, pairs) over all rows in order."""

    def work(rows: Piece) -> CsrBlock:
        return rows if isinstance(rows, CsrBlock) else pairs_of(rows, nonzero_mask(rows, source.dtype))

    block_rows = max(1, BLOCK_BYTES // (source.n_features * stored_dtype(source.dtype).itemsize))
    first = 0
    for pairs in over_rows(source, block_rows, work, no_advance):
        yield first, pairs
        first += pairs.n_rows


def _spans(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cuts the features into spans (first, last) with at most PASS_PAIRS pairs each, or of one feature."""
    first, n_features = 0, len(indptr) - 1
    while first < n_features:
        last = int(np.searchsorted(indptr, indptr[first] + PASS_PAIRS, side="right")) - 1
        last = min(max(last, first + 1), n_features)
        yield first, last
        first = last


def _transposed(source, indptr, first, last, dtype):
    """Returns the rows, ascending within a feature, and values of features first..last, feature after feature."""
    n_pairs = int(indptr[last] - indptr[first])
    rows, values = np.empty(n_pairs, np.uint32), np.empty(n_pairs, stored_dtype(dtype))
    ends = indptr[first:last] - indptr[first]
    for first_row, pairs in _pieces(source):
        chosen = np.flatnonzero((pairs.indices >= first) & (pairs.indices < last))
        feature = pairs.indices[chosen].astype(np.int64) - first
        order = np.argsort(feature, kind="stable")
        feature, chosen = feature[order], chosen[order]
        counts = np.bincount(feature, minlength=last - first)
        position = np.arange(len(feature)) + np.repeat(ends - (np.cumsum(counts) - counts), counts)
        row_of_pair = np.repeat(np.arange(pairs.n_rows), np.diff(pairs.indptr))
        rows[position], values[position] = first_row + row_of_pair[chosen], pairs.values[chosen]
        ends = ends + counts
    return rows, values
