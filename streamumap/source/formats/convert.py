"""Converts rows that cannot be read in place into files of the run, once, block by block."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from streamumap.errors import InputChanged
from streamumap.events import Advance, Listener, no_advance
from streamumap.source.base import RowSource, as_stored, blocks, stored_dtype
from streamumap.source.file import OpenFile
from streamumap.source.formats.csr import CsrSource
from streamumap.source.formats.npy import FileRows, bytes_of
from streamumap.source.formats.topk import TopKSource, checked_width
from streamumap.store.atomic import OUT_REMEDY, write_at, writing

R = TypeVar("R", bound=FileRows)

BLOCK_BYTES = 8 << 20
"""Bytes of a part that are read at a time."""

PANEL_BYTES = 16 << 20
"""Bytes that are read together of a matrix stored column after column: from each column a run of so many rows."""

COLUMNS = 256
"""Columns from which one thread reads at a time."""


@dataclass(frozen=True)
class Part:
    """A matrix that can only be read from first row to last. A vector is a matrix of one column."""

    name: str
    n_rows: int
    n_features: int
    dtype: str  # as in RowSource
    blocks: Callable[[int], Iterator[np.ndarray]]  # block_rows -> blocks of all rows, as stored
    by_column: bool = False  # `blocks` gives all values as rows of one, column after column; conversion turns them

    @property
    def row_bytes(self) -> int:
        return self.n_features * stored_dtype(self.dtype).itemsize


Parts = dict[str, Part | RowSource]
"""Parts of the rows by name: "rows"; "indices" and "values" of TopK pairs; "indptr", "indices" and "data" of CSR."""


class ToConvert:
    """Rows that must be converted before they can be read. `convert` returns their RowSource.

    `max_nonzero` is as in SparseSource, None for dense rows. `device`: a GPU that may be used, "cuda:N". `n_bytes`: size of
    the converted files. `listener`: is told what is found on the way.
    """

    device: str | None = None
    listener: Listener | None = None
    drop_zero_rows = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, parts: Parts, n_features: int, fingerprint: dict, opened: list):
        self.name, self.n_features, self.fingerprint = name, n_features, fingerprint
        self._parts, self._opened = parts, opened
        main = next(parts[part] for part in ("rows", "values", "data") if part in parts)
        self.dtype = main.dtype
        self.n_rows = parts["indptr"].n_rows - 1 if "indptr" in parts else main.n_rows
        self.max_nonzero = None if "rows" in parts else main.n_rows * main.n_features
        self.n_bytes = sum(part.n_rows * part.row_bytes for part in parts.values())
        self.row_bytes = -(-self.n_bytes // max(1, self.n_rows))
        turned = (part for part in parts.values() if isinstance(part, Part) and part.by_column)
        self.n_bytes += sum(part.n_rows * part.row_bytes for part in turned)

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        """Writes the parts into `folder` and returns the rows, with the name and fingerprint of the container. Advances by
        rows, about `n_rows` in all. Raises InputError, InputChanged, OutputError."""
        total = sum(part.n_rows for part in self._parts.values())
        part_advance = PartsProgress(advance, self.n_rows, total)
        files: Parts = {name: write_part(part, Path(folder), name, part_advance) for name, part in self._parts.items()}
        self.check_unchanged()
        rows = assemble(self.name, files, self.n_features)
        assert not isinstance(rows, ToConvert)
        rows.fingerprint = self.fingerprint
        return rows

    def check_unchanged(self) -> None:
        """Raises InputChanged if the container has changed since it was opened."""
        for file in self._opened:
            file.check_identity()

    def close(self) -> None:
        for file in self._opened:
            file.close()


def assemble(
    name: str, parts: Parts, n_features: int | None, fingerprint: dict | None = None, opened: list | None = None
) -> RowSource | ToConvert:
    """Joins parts into rows: a RowSource if all parts can be read in place, else a ToConvert, which holds the files
    `opened`. `n_features`: the width of rows stored as pairs. Raises InputError."""
    if any(isinstance(part, Part) for part in parts.values()):
        width = parts["rows"].n_features if "rows" in parts else checked_width(name, n_features)
        return ToConvert(name, parts, width, fingerprint or {}, opened or [])
    placed: dict[str, RowSource] = {key: part for key, part in parts.items() if not isinstance(part, Part)}
    if "rows" in placed:
        rows = placed["rows"]
        rows.name = name
        return rows
    if "indptr" in placed:
        shape = (placed["indptr"].n_rows - 1, n_features)
        return CsrSource(name, placed["indptr"], placed["indices"], placed["data"], shape)
    return TopKSource(name, placed["indices"], placed["values"], n_features)


def write_part(part: Part | RowSource, folder: Path, name: str, advance: Advance = no_advance) -> FileRows:
    """Writes all rows to `converted_NAME.bin` in `folder` and opens them there. Advances by rows."""
    if isinstance(part, Part) and part.by_column:
        return _turned(part, folder, name, advance)
    step = max(1, BLOCK_BYTES // max(1, part.row_bytes))
    stream = part.blocks(step) if isinstance(part, Part) else (block for _, block in blocks(part, step))
    with AppendFile(folder / f"converted_{name}.bin", part.n_features, part.dtype) as file:
        for block in stream:
            file.append(block)
            advance(len(block))
    if file.n_rows != part.n_rows:
        raise InputChanged(
            f"{part.name}: rows: expected {part.n_rows} as on opening, found {file.n_rows}; start again when nothing writes to it."
        )
    return file.rows()


def _turned(part: Part, folder: Path, name: str, advance: Advance) -> FileRows:
    """Writes values that come column after column to a file, then their rows as `write_part` does."""
    flat = replace(part, n_rows=part.n_rows * part.n_features, n_features=1, by_column=False)
    columns = write_part(flat, folder, f"{name}_columns")
    shape, stored = (part.n_rows, part.n_features), stored_dtype(part.dtype)
    rows = write_part(column_part(columns.file, part.name, 0, shape, stored, part.dtype), folder, name, advance)
    columns.close()
    os.unlink(columns.name)
    return rows


def column_part(file: OpenFile, name: str, offset: int, shape: tuple[int, int], stored: np.dtype, dtype: str) -> Part:
    """Returns a matrix whose values lie column after column from byte `offset` of a file. It is read in panels of rows."""
    n_rows, n_features = shape

    def panel(start: int, stop: int) -> np.ndarray:
        values = np.empty((n_features, stop - start), stored)

        def columns(first: int) -> None:
            for feature in range(first, min(first + COLUMNS, n_features)):
                file.fill(bytes_of(values[feature]), offset + (feature * n_rows + start) * stored.itemsize)

        file.run(columns, range(0, n_features, COLUMNS))
        return values

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        n_panel = max(block_rows, PANEL_BYTES // (n_features * stored.itemsize))
        for start in range(0, n_rows, n_panel):
            values = panel(start, min(start + n_panel, n_rows))
            for first in range(0, values.shape[1], block_rows):
                yield as_stored(np.ascontiguousarray(values[:, first : first + block_rows].T), dtype)

    return Part(name, n_rows, n_features, dtype, blocks)


@contextmanager
def in_place(source: RowSource | ToConvert, advance: Advance = no_advance) -> Iterator[RowSource]:
    """Gives rows that can be read, in a context: a container is converted into a temporary folder, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="streamumap-") as folder:
        yield source.convert(folder, advance) if isinstance(source, ToConvert) else source


class AppendFile:
    """A file of rows of one width and dtype that grows. Raises OutputError."""

    def __init__(self, path: Path, n_features: int, dtype: str):
        self.path, self.n_features, self.dtype, self.n_rows = path, n_features, dtype, 0
        self._n_bytes = 0
        with writing(path, OUT_REMEDY):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> "AppendFile":
        return self

    def __exit__(self, *_) -> None:
        os.close(self._fd)

    def append(self, rows: np.ndarray) -> None:
        """Writes rows as stored, (any number, n_features)."""
        assert rows.dtype == stored_dtype(self.dtype) and rows.shape[1:] == (self.n_features,)
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        with writing(self.path, OUT_REMEDY):
            write_at(self._fd, data, self._n_bytes)
        self._n_bytes += len(data)
        self.n_rows += len(rows)

    def rows(self, kind: type[R] = FileRows) -> R:  # type: ignore[assignment]
        """Opens the rows that were written."""
        file = OpenFile(self.path)
        shape = (self.n_rows, self.n_features)
        return kind(file, os.fspath(self.path), 0, shape, stored_dtype(self.dtype), self.dtype)


class PartsProgress:
    """Progress over several parts of `total` rows together, reported as `n_rows` in all."""

    def __init__(self, advance: Advance, n_rows: int, total: int):
        self._advance, self._n_rows, self._total = advance, n_rows, max(1, total)
        self._done = self._reported = 0

    def __call__(self, n: int) -> None:
        self._done += n
        reported = self._done * self._n_rows // self._total
        self._advance(reported - self._reported)
        self._reported = reported
