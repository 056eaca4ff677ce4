"""`ByRow`: sparse matrices whose pairs do not lie row after row, CSC and COO, converted to CSR in bounded memory.

The pairs are read twice: to count those of each row, and to write each into the part of a file that belongs to its span of
rows. Then each span is sorted. Memory holds a piece of the pairs, or a span, and 8 bytes a row (CSC: and a column).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamumap.errors import InputChanged, InputError
from streamumap.events import Advance, no_advance
from streamumap.source.base import RowSource, blocks, index_dtype, stored_dtype
from streamumap.source.checks import code_command, quoted, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.convert import AppendFile, Part, Parts, PartsProgress, ToConvert
from streamumap.source.formats.csr import CsrSource
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.topk import checked_width
from streamumap.source.sparse.arrays import FileArray

PIECE_PAIRS = 1 << 19
"""Pairs that are read at a time."""

SPAN_PAIRS = 1 << 21
"""Pairs that are sorted at a time, unless a row has more."""

FEW_ROWS = 1 << 20
EMPTY_ROWS = 64
"""Rows, few or so many for each value, that a shape may claim: memory is taken for each, the file has no byte of it."""

AGAIN = "write the matrix again"


class ByRow(ToConvert):
    """The rows of a matrix of `form` "csc" (parts "indptr", "indices" and "data") or "coo" ("row", "col" and "data"), to be
    converted. Raises InputError."""

    def __init__(self, name: str, form: str, parts: Parts, shape: tuple[int, int], fingerprint: dict, opened: list):
        self.name, self.form, self.fingerprint = name, form, fingerprint
        self._parts, self._opened = parts, opened
        self.n_rows, self.n_features = checked_width(name, shape[0], "rows"), checked_width(name, shape[1])
        self.dtype, self._n_pairs = parts["data"].dtype, parts["data"].n_rows
        most_rows = max(FEW_ROWS, EMPTY_ROWS * self._n_pairs)
        if self.n_rows > most_rows:
            found = f"{self.n_rows}, nearly all of them empty"
            raise wrong(name, "rows", f"at most {most_rows} for {self._n_pairs} values", found, "leave out empty rows")
        pair_bytes = 4 + index_dtype(self.n_features).itemsize + stored_dtype(self.dtype).itemsize
        self.max_nonzero, self.n_bytes = self._n_pairs, self._n_pairs * pair_bytes + 8 * (self.n_rows + 1)
        self.row_bytes = -(-self.n_bytes // max(1, self.n_rows))
        for part, it in parts.items():
            if part != "data" and not np.issubdtype(np.dtype(it.dtype.replace("bfloat", "float")), np.integer):
                raise wrong(name, part, "integers", it.dtype, AGAIN)
            if part != "indptr" and it.n_rows != self._n_pairs:
                raise wrong(name, part, f"{self._n_pairs}, as many as values", it.n_rows, AGAIN)
        if form == "csc" and parts["indptr"].n_rows - 1 != self.n_features:
            expected = f"{self.n_features} + 1 bounds of columns, as the shape says"
            raise wrong(name, "indptr", expected, parts["indptr"].n_rows, AGAIN)

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        """Writes the pairs into `folder`, row after row. Advances by rows. Raises InputError, InputChanged, OutputError."""
        folder, progress = Path(folder), PartsProgress(advance, self.n_rows, 3 * self._n_pairs)
        indptr = self._count(progress)
        starts = _span_starts(indptr)
        dtypes = {"row": np.dtype(np.uint32), "indices": index_dtype(self.n_features), "data": stored_dtype(self.dtype)}
        paths = {part: folder / f"by_row_{part}.bin" for part in dtypes}
        files = {part: FileArray(paths[part], self._n_pairs, dtype) for part, dtype in dtypes.items()}
        try:
            self._spread(files, indptr, starts, progress)
            self._sort(files, indptr, starts, progress)
        finally:
            files.pop("row").discard()
            for file in files.values():
                file.close()
        self.check_unchanged()
        with AppendFile(folder / "by_row_indptr.bin", 1, "int64") as bounds:
            bounds.append(indptr[:, None])
        shape, names = (self._n_pairs, 1), {"indices": dtypes["indices"].name, "data": self.dtype}
        indices, data = (
            FileRows(OpenFile(paths[part]), os.fspath(paths[part]), 0, shape, dtypes[part], names[part])
            for part in names
        )
        rows = CsrSource(self.name, bounds.rows(), indices, data, (self.n_rows, self.n_features))
        rows.fingerprint = self.fingerprint
        return rows

    def _count(self, advance: Advance) -> np.ndarray:
        """Returns where the pairs of each row will begin, and the last end, int64 (n_rows + 1,)."""
        indptr = np.zeros(self.n_rows + 1, np.int64)
        for (rows,) in self._streams("indices" if self.form == "csc" else "row"):
            self._check("row numbers", rows, self.n_rows)
            np.add.at(indptr, rows + 1, 1)
            advance(len(rows))
        np.cumsum(indptr, out=indptr)
        return indptr

    def _spread(self, files: dict, indptr: np.ndarray, starts: np.ndarray, advance: Advance) -> None:
        """Writes the pairs of each span of rows, which begin at the rows `starts`, to where its part of the files is."""
        at = indptr[starts]
        for rows, columns, values in self._pieces():
            self._check("row numbers", rows, self.n_rows)
            self._check("column numbers", columns, self.n_features)
            span = np.searchsorted(starts, rows, side="right") - 1
            order, counts = np.argsort(span, kind="stable"), np.bincount(span, minlength=len(starts))
            ends = np.cumsum(counts)
            for i in np.flatnonzero(counts).tolist():
                chosen = order[ends[i] - counts[i] : ends[i]]
                files["row"].write(int(at[i]), (rows[chosen] - starts[i]).astype(np.uint32))
                files["indices"].write(int(at[i]), columns[chosen].astype(index_dtype(self.n_features)))
                files["data"].write(int(at[i]), values[chosen])
            at += counts
            advance(len(rows))
        if not np.array_equal(at, indptr[np.append(starts[1:], self.n_rows)]):
            raise InputChanged(f"{self.name}: rows: expected as many pairs as before, found others; start again.")

    def _sort(self, files: dict, indptr: np.ndarray, starts: np.ndarray, advance: Advance) -> None:
        """Sorts the pairs of each span by row, then column, in place. Raises InputError for two of one place."""
        for first, last in zip(starts.tolist(), np.append(starts[1:], self.n_rows).tolist(), strict=True):
            low, high = int(indptr[first]), int(indptr[last])
            columns = files["indices"].read(low, high)
            place = files["row"].read(low, high).astype(np.int64) * self.n_features + columns
            order = np.argsort(place, kind="stable")
            twice = np.flatnonzero(np.diff(place[order]) == 0)
            if len(twice):
                row, column = divmod(int(place[order[twice[0]]]), self.n_features)
                raise self._repeated(first + row, column)
            files["indices"].write(low, columns[order])
            files["data"].write(low, files["data"].read(low, high)[order])
            advance(high - low)

    def _repeated(self, row: int, column: int) -> InputError:
        found = f"two values of feature {column}"
        remedy = to_csr(self.name) if self.fingerprint.get("format") == "npz" else "call sum_duplicates() before saving"
        return InputError(f"{self.name}: row {row}: expected each feature once, found {found}; {remedy}")

    def _pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields (rows, columns, values) of some pairs, in the order of the file."""
        if self.form == "coo":
            yield from self._streams("row", "col", "data")
            return
        bounds = np.concatenate([block for (block,) in self._streams("indptr")])
        if bounds[0] != 0 or bounds[-1] != self._n_pairs or (np.diff(bounds) < 0).any():
            raise wrong(self.name, "indptr", f"bounds that ascend from 0 to {self._n_pairs}", "others", AGAIN)
        start = 0
        for rows, values in self._streams("indices", "data"):
            columns = np.searchsorted(bounds, np.arange(start, start + len(rows)), side="right") - 1
            yield rows, columns, values
            start += len(rows)

    def _streams(self, *names: str) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields pieces of some parts side by side, integers as int64."""
        parts = [self._parts[name] for name in names]
        streams = [_stream(part) for part in parts]
        for pieces in zip(*streams, strict=True):
            yield tuple(
                piece.reshape(-1) if name == "data" else piece.reshape(-1).astype(np.int64)
                for name, piece in zip(names, pieces, strict=True)
            )

    def _check(self, what: str, numbers: np.ndarray, n: int) -> None:
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < n):
            found = int(numbers[np.argmax((numbers < 0) | (numbers >= n))])
            raise wrong(self.name, what, f"those from 0 to {n - 1}, as the shape says", found, AGAIN)


def to_csr(name: str) -> str:
    """Returns the remedy for a matrix in a form that cannot be read: the command that saves it as CSR beside it."""
    target = quoted(os.path.splitext(name)[0] + "-csr.npz")
    code = f"import scipy.sparse as s; m = s.load_npz({quoted(name)}).tocsr(); m.sum_duplicates(); s.save_npz({target}, m, False)"
    return f"save it as CSR with: {code_command(code)}"


def _stream(part: Part | RowSource) -> Iterator[np.ndarray]:
    return part.blocks(PIECE_PAIRS) if isinstance(part, Part) else (block for _, block in blocks(part, PIECE_PAIRS))


def _span_starts(indptr: np.ndarray) -> np.ndarray:
    """Cuts all rows into spans with at most SPAN_PAIRS pairs each, or of one row; returns their first rows."""
    starts, n_rows = [0], len(indptr) - 1
    while True:
        stop = int(np.searchsorted(indptr, indptr[starts[-1]] + SPAN_PAIRS, side="right")) - 1
        stop = max(stop, starts[-1] + 1)
        if stop >= n_rows:
            return np.array(starts)
        starts.append(stop)
