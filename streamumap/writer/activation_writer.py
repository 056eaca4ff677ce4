"""ActivationWriter: writes batches of rows to a `.npy` file or as TopK pairs; the length is not known before."""

import contextlib
import json
import operator
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import OutputError
from streamumap.source.base import index_dtype
from streamumap.source.checks import resolve_dtype, wrong
from streamumap.source.formats.array import as_array
from streamumap.store.atomic import publish, rename, writing
from streamumap.writer.npy_writer import NpyWriter, written_dtype

DTYPES = ("float16", "float32", "bfloat16")
LARGEST = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127, "float32": (2 - 2**-23) * 2.0**127}


class ActivationWriter:
    """Writes rows to `path` as they come: (n_rows, n_features) of "float16", "float32" or "bfloat16".

    With `active`, rows of at most so many non-zero values, it writes TopK pairs instead: for "codes.npy" the files
    codes_indices.npy and codes_values.npy, (n_rows, active) both, and codes.json with the width.

    Rows are gathered in chunks of 8 MB and written to the name + ".partial", whose header counts the rows written so
    far; `close` gives the final name. A crash or an exception leaves the `.partial` file, and the same call continues it
    behind the rows that its header counts: `n_rows` is then the number of the next row. Values are rounded to the
    nearest, ties to even. A bfloat16 file is read with dtype="bfloat16".

    Raises InputError where a file exists or the `.partial` file is another matrix, OutputError where nothing can be
    written.
    """

    def __init__(
        self, path: str | bytes | os.PathLike, *, n_features: int, dtype: str = "float16", active: int | None = None
    ):
        self.path = os.fsdecode(path)
        if dtype not in DTYPES:
            raise wrong("dtype", "value", ", ".join(DTYPES), repr(dtype), "choose one of these")
        self.dtype, self.n_features = dtype, _count("n_features", n_features, "give the width of the rows")
        self.active = None if active is None else _count("active", active, "give the most non-zero values of a row")
        if self.active is None:
            self._writers = [NpyWriter(self.path, self.n_features, dtype)]
        else:
            if self.active > self.n_features:
                expected = f"at most the {self.n_features} features"
                raise wrong("active", "value", expected, self.active, "give the most non-zero values of a row")
            self._writers = self._pair_writers()
        self._values = self._writers[0]

    @property
    def partial_path(self) -> str:
        """The file that holds the values until `close`."""
        return self._values.partial_path

    @property
    def n_rows(self) -> int:
        """Rows taken so far, with those of the `.partial` file that this writer continues."""
        return self._values.n_rows

    def append(self, batch: Any) -> None:
        """Takes rows, (any number, n_features): an array, a list of rows, or a torch tensor on any device. With `active`
        also the pair (indices, values), (any number, up to `active`) both.

        Raises InputError, and takes no row, where the width differs, a finite value is too large for the dtype or a row
        has more than `active` values; OutputError where a chunk cannot be written: `n_rows` tells which rows were taken.
        """
        if self._values.file.closed:
            raise wrong(self.path, "writer", "an open one", "a closed one", "make a new ActivationWriter")
        rows, indices = self._batch(batch)
        step = min(writer.chunk_rows for writer in self._writers)
        for start in range(0, len(rows), step):
            self._check_range(rows[start : start + step], start)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            if indices is None:
                self._values.append(self._stored(rows[part]))
            else:
                self._append_pairs(self._stored(rows[part]), indices[part])

    def hook(self, module: Any, inputs: Any, output: Any) -> None:
        """Takes the output of a module, or the first of several outputs, (..., n_features), as rows.

        Use it as `module.register_forward_hook(writer.hook)`.
        """
        rows = output[0] if isinstance(output, (tuple, list)) else output
        self.append(rows.detach().reshape(-1, rows.shape[-1]))

    def close(self) -> None:
        """Writes the waiting rows, syncs and gives the files their final names.

        Raises OutputError, and InputError where a final name is taken.
        """
        if self._values.file.closed:
            return
        for writer in self._writers:
            writer.sync()
        if self.active is not None:
            self._write_width()
        for writer in self._writers:
            writer.rename()

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self.close()
            elif not self._values.file.closed:
                with contextlib.suppress(OutputError):  # the user is to see the first error
                    for writer in self._writers:
                        writer.flush()
        finally:
            for writer in self._writers:
                writer.file.close()

    def _pair_writers(self) -> list[NpyWriter]:
        """Writers of values and of indices, cut to the same number of rows if a crash left more of one."""
        assert self.active is not None
        stem = self.path.removesuffix(".npy")
        values, indices = f"{stem}_values.npy", f"{stem}_indices.npy"
        if os.path.exists(values) and os.path.exists(indices + ".partial") and not os.path.lexists(values + ".partial"):
            with writing(values):
                rename(values, values + ".partial")  # a crash came between the two renames
        writers = [NpyWriter(values, self.active, self.dtype)]
        try:
            writers.append(NpyWriter(indices, self.active, index_dtype(self.n_features).name))
            n_rows = min(writer.n_rows for writer in writers)
            for writer in writers:
                writer.keep(n_rows)
        except BaseException:
            for writer in writers:
                writer.file.close()
            raise
        return writers

    def _append_pairs(self, values: np.ndarray, indices: np.ndarray) -> None:
        """Appends to both writers or, on a full disk, to neither."""
        if any(writer.n_waiting + len(values) > writer.chunk_rows for writer in self._writers):
            for writer in self._writers:
                writer.flush()
        for writer, rows in zip(self._writers, (values, indices), strict=True):
            writer.append(rows)

    def _write_width(self) -> None:
        text = json.dumps({"n_features": self.n_features, "active": self.active})
        publish(Path(self.path.removesuffix(".npy") + ".json"), lambda file: file.write(text.encode()))

    def _batch(self, batch: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """(rows, None), or (values, indices) of pairs, (R, active) both."""
        if self.active is None:
            return self._of_width(self._as_rows(batch), self.n_features), None
        if isinstance(batch, tuple) and len(batch) == 2:
            return self._checked_pairs(*batch)
        return self._pairs_of(self._of_width(self._as_rows(batch), self.n_features))

    def _checked_pairs(self, indices: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values and indices, (R, active) both. Raises InputError for other shapes, indices beyond and repeated ones."""
        assert self.active is not None
        numbers = as_array(f"{self.path}: indices", indices.detach().cpu() if hasattr(indices, "detach") else indices)
        rows = self._as_rows(values)
        if (
            rows.ndim != 2
            or numbers.shape != rows.shape
            or rows.shape[1] > self.active
            or numbers.dtype.kind not in "iu"
        ):
            expected = f"integers and values, (any, up to {self.active}) both"
            remedy = "give the indices and values of the same rows"
            raise wrong(
                self.path, "batch of pairs", expected, f"{numbers.dtype} {numbers.shape} and {rows.shape}", remedy
            )
        zero = rows == 0
        outside = ((numbers < 0) | (numbers >= self.n_features)) & ~zero
        ordered = np.sort(np.where(zero, -1 - np.arange(rows.shape[1]), numbers.astype(np.int64)), axis=1)
        for bad, what in ((outside.any(axis=1), "an index beyond"), ((np.diff(ordered) == 0).any(axis=1), "one twice")):
            if bad.any():
                where = f"row {self.n_rows + int(np.argmax(bad))} (row {int(np.argmax(bad))} of the batch)"
                raise wrong(
                    self.path, where, f"each of the features 0 to {self.n_features - 1} at most once", what, "mend it"
                )
        return self._padded(rows), self._padded(np.where(zero, 0, numbers).astype(index_dtype(self.n_features)))

    def _pairs_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and indices of the non-zeros of rows, (R, active) both. Raises InputError where a row has more."""
        assert self.active is not None
        nonzero = rows != (0 if rows.dtype != np.uint16 else np.uint16(0))
        if rows.dtype == np.uint16 and self.dtype == "bfloat16":
            nonzero &= rows != 0x8000
        counts = nonzero.sum(axis=1)
        if (counts > self.active).any():
            row = int(np.argmax(counts > self.active))
            where = f"row {self.n_rows + row} (row {row} of the batch)"
            remedy = "give a larger `active`, or choose the largest values first"
            raise wrong(self.path, where, f"at most {self.active} values that are not zero", int(counts[row]), remedy)
        row_ids, columns = np.nonzero(nonzero)
        slots = np.arange(len(row_ids)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, 2, ... in each row
        values = np.zeros((len(rows), self.active), rows.dtype)
        indices = np.zeros(values.shape, index_dtype(self.n_features))
        values[row_ids, slots], indices[row_ids, slots] = rows[row_ids, columns], columns
        return values, indices

    def _padded(self, pairs: np.ndarray) -> np.ndarray:
        assert self.active is not None
        return np.pad(pairs, ((0, 0), (0, self.active - pairs.shape[1])))

    def _as_rows(self, batch: Any) -> np.ndarray:
        """The batch as an array of numbers; bfloat16 for a bfloat16 file as uint16 bit patterns. Raises InputError."""
        if hasattr(batch, "detach"):
            batch = batch.detach().cpu()
            if str(batch.dtype) == "torch.bfloat16":
                if self.dtype == "bfloat16":
                    return batch.view(sys.modules["torch"].int16).numpy().view(np.uint16)
                batch = batch.float()
        rows = as_array(f"{self.path}: batch", batch)
        if rows.dtype.name == "bfloat16":
            return rows.view(np.uint16) if self.dtype == "bfloat16" else rows.astype(np.float32)
        if self.dtype == "bfloat16" and rows.dtype == np.uint16:
            remedy = "give float32, or a torch or ml_dtypes bfloat16 array"
            raise wrong(self.path, "batch dtype", "numbers", "uint16, which may be numbers or bits of bfloat16", remedy)
        resolve_dtype(f"{self.path}: batch", rows.dtype, None)
        return rows

    def _of_width(self, rows: np.ndarray, width: int) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != width:
            remedy = "give rows of that width"
            raise wrong(self.path, "batch shape", f"(any, {width})", rows.shape, remedy)
        return rows

    def _stored(self, rows: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return rows if rows.dtype == np.uint16 else _to_bfloat16(rows)
        with np.errstate(all="ignore"):
            return rows.astype(written_dtype(self.dtype), copy=False)

    def _check_range(self, rows: np.ndarray, start: int) -> None:
        """Raises InputError for the first finite value that becomes infinite in the dtype. `start`: first row's number."""
        if rows.dtype.kind == "b" or (rows.dtype == np.uint16 and self.dtype == "bfloat16"):
            return
        with np.errstate(all="ignore"):
            if max(float(rows.max()), -float(rows.min())) <= LARGEST[self.dtype]:  # False where there is a NaN
                return
        stored = self._stored(rows)
        infinite = (stored & 0x7F80) == 0x7F80 if self.dtype == "bfloat16" else np.isinf(stored)
        lost = np.argwhere(np.isfinite(rows) & infinite)
        if len(lost):
            row, feature = lost[0].tolist()
            where = f"row {self.n_rows + start + row} (row {start + row} of the batch), feature {feature}"
            expected = f"at most {LARGEST[self.dtype]:g} in {self.dtype}"
            raise wrong(self.path, where, expected, f"{rows[row, feature]:g}", "scale the values or write float32")


def _count(name: str, value: Any, remedy: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise wrong(name, "value", "a whole number from 1", repr(value), remedy)
    return operator.index(value)


def _to_bfloat16(rows: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16 (ties to even) as uint16; NaN stays NaN."""
    with np.errstate(all="ignore"):
        bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.where(np.isnan(rows), bits | np.uint32(0x400000), bits + half)  # the sum may turn a NaN into infinity
    return (rounded >> np.uint32(16)).astype(np.uint16)
