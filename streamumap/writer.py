"""ActivationWriter: batches of rows in, one `.npy` file out, of a length that nobody needs to know before."""

import contextlib
import fcntl
import io
import operator
import os
import sys
from typing import Any

import numpy as np

from streamumap.errors import OutputError
from streamumap.source.array import as_array
from streamumap.source.checks import resolve_dtype, wrong
from streamumap.source.npy_header import MAGIC, read_header

CHUNK_BYTES = 8 << 20
HEADER_BYTES = 128
DESCR = {"float16": "<f2", "float32": "<f4", "bfloat16": "<V2"}
"""How the header spells a dtype. bfloat16 is two raw bytes to NumPy; ml_dtypes saves it so."""
LARGEST = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127, "float32": (2 - 2**-23) * 2.0**127}


class ActivationWriter:
    """Writes rows to `path` as they come: (n_rows, n_features) of "float16", "float32" or "bfloat16".

    Rows are gathered in chunks of 8 MB and written under `path + ".partial"`, whose header counts the rows written so
    far; `close` renames it to `path`. A crash or an exception leaves the `.partial` file, and the same call goes on
    behind the rows that its header counts: `n_rows` is then the number of the next row. Values are rounded to nearest,
    even. A bfloat16 file is read with dtype="bfloat16".

    Raises InputError where `path` exists or the `.partial` file is another matrix, OutputError where nothing can be
    written.
    """

    def __init__(self, path: str | bytes | os.PathLike, *, n_features: int, dtype: str = "float16"):
        self.path = os.fsdecode(path)
        self.partial_path = self.path + ".partial"
        if dtype not in DESCR:
            raise wrong("dtype", "value", ", ".join(DESCR), repr(dtype), "choose one of these")
        if isinstance(n_features, bool) or not hasattr(n_features, "__index__") or n_features < 1:
            raise wrong("n_features", "value", "a whole number from 1", repr(n_features), "give the width of the rows")
        self.dtype = dtype
        self.n_features = operator.index(n_features)
        stored = np.dtype("<u2" if dtype == "bfloat16" else DESCR[dtype])
        self._row_bytes = self.n_features * stored.itemsize
        self._chunk = np.empty((max(1, CHUNK_BYTES // self._row_bytes), self.n_features), stored)
        self._n_chunk = 0  # rows waiting in the chunk
        self._check_free()
        self._file = _open_alone(self.partial_path)
        try:
            self._n_written = self._rows_there()
        except BaseException:
            self._file.close()
            raise

    @property
    def n_rows(self) -> int:
        """Rows taken so far, with those of the run that this one continues."""
        return self._n_written + self._n_chunk

    def append(self, batch: Any) -> None:
        """Takes rows, (any number, n_features): an array, a list of rows, or a torch tensor on any device.

        Raises InputError, and takes no row, where the width differs or a finite value is too large for the dtype;
        OutputError where a chunk cannot be written: `n_rows` tells which rows were taken.
        """
        if self._file.closed:
            raise wrong(self.path, "writer", "an open one", "a closed one", "make a new ActivationWriter")
        rows = self._as_rows(batch)
        for start in range(0, len(rows), len(self._chunk)):
            self._check_range(rows[start : start + len(self._chunk)], start)
        done = 0
        while done < len(rows):
            if self._n_chunk == len(self._chunk):
                self._flush()
            n = min(len(rows) - done, len(self._chunk) - self._n_chunk)
            self._chunk[self._n_chunk : self._n_chunk + n] = self._stored(rows[done : done + n])
            self._n_chunk += n
            done += n

    def close(self) -> None:
        """Writes what waits, syncs, gives the file its final name. Raises OutputError, InputError if that is taken."""
        if self._file.closed:
            return
        self._flush()
        self._check_free()
        try:
            os.fsync(self._file.fileno())
            os.rename(self.partial_path, self.path)
            folder = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._file.close()

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self.close()
            elif not self._file.closed:
                with contextlib.suppress(OutputError):  # the first error is the one to hear of
                    self._flush()
        finally:
            self._file.close()

    def _check_free(self) -> None:
        if os.path.lexists(self.path):
            remedy = "remove it or choose another path"
            raise wrong(self.path, "output file", "a new file", "one that is there already", remedy)

    def _rows_there(self) -> int:
        """Rows that the `.partial` file holds; a new one gets its header."""
        if os.fstat(self._file.fileno()).st_size == 0:
            self._write_header(0)
            return 0
        header = read_header(self.partial_path)
        found = (*header.shape[1:], header.dtype, header.fortran, header.data_offset)
        if found != (self.n_features, np.dtype(DESCR[self.dtype]), False, HEADER_BYTES):
            expected = f"rows of {self.n_features} features of {DESCR[self.dtype]}, which ActivationWriter began"
            remedy = "remove it or choose another path"
            raise wrong(self.partial_path, "file to continue", expected, header.text.strip(), remedy)
        os.ftruncate(self._file.fileno(), HEADER_BYTES + header.body_bytes)  # a crash may leave uncounted rows
        return header.shape[0]

    def _as_rows(self, batch: Any) -> np.ndarray:
        """The batch as an array of numbers, or of uint16 bit patterns where bfloat16 goes into bfloat16."""
        if hasattr(batch, "detach"):
            batch = batch.detach().cpu()
            if str(batch.dtype) == "torch.bfloat16":
                if self.dtype == "bfloat16":
                    return self._of_width(batch.view(sys.modules["torch"].int16).numpy().view(np.uint16))
                batch = batch.float()
        rows = as_array(f"{self.path}: batch", batch)
        if rows.dtype.name == "bfloat16":
            return self._of_width(rows.view(np.uint16) if self.dtype == "bfloat16" else rows.astype(np.float32))
        if self.dtype == "bfloat16" and rows.dtype == np.uint16:
            remedy = "give float32, or a torch or ml_dtypes bfloat16 array"
            raise wrong(self.path, "batch dtype", "numbers", "uint16, which may be numbers or bits of bfloat16", remedy)
        resolve_dtype(f"{self.path}: batch", rows.dtype, None)
        return self._of_width(rows)

    def _of_width(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            remedy = "give rows of that width"
            raise wrong(self.path, "batch shape", f"(any, {self.n_features})", rows.shape, remedy)
        return rows

    def _stored(self, rows: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return rows if rows.dtype == np.uint16 else _to_bfloat16(rows)
        with np.errstate(all="ignore"):
            return rows.astype(self._chunk.dtype, copy=False)

    def _check_range(self, rows: np.ndarray, start: int) -> None:
        """Raises InputError for the first finite value that the dtype makes infinite. `start`: rows before these."""
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

    def _flush(self) -> None:
        """Chunk first, header second: the header never counts a row that is not there."""
        if self._n_chunk:
            waiting = self._chunk[: self._n_chunk].reshape(-1).view(np.uint8)
            self._write(waiting, HEADER_BYTES + self._n_written * self._row_bytes)
            self._write_header(self.n_rows)
            self._n_written, self._n_chunk = self.n_rows, 0

    def _write_header(self, n_rows: int) -> None:
        shape = f"({n_rows}, {self.n_features})"
        text = f"{{'descr': '{DESCR[self.dtype]}', 'fortran_order': False, 'shape': {shape}, }}"
        room = HEADER_BYTES - len(MAGIC) - 4
        head = MAGIC + b"\x01\x00" + room.to_bytes(2, "little") + text.encode().ljust(room - 1) + b"\n"
        assert len(head) == HEADER_BYTES
        self._write(np.frombuffer(head, np.uint8), 0)

    def _write(self, data: np.ndarray, offset: int) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._file.fileno(), data.data[done:], offset + done)
            except OSError as error:
                raise _cannot_write(self.partial_path, error) from error


def _open_alone(path: str) -> io.FileIO:
    """The file, made where there is none, with a lock on it: two writers would destroy each other's rows."""
    try:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise wrong(path, "file to continue", "no other writer", "one that has it open", "close that first") from error
    except OSError:
        pass  # a file system without locks
    return file


def _to_bfloat16(rows: np.ndarray) -> np.ndarray:
    """Numbers -> the bits of the nearest bfloat16 (ties to even) as uint16; NaN stays NaN."""
    with np.errstate(all="ignore"):
        bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.where(np.isnan(rows), bits | np.uint32(0x400000), bits + half)  # the sum may turn a NaN into infinity
    return (rounded >> np.uint32(16)).astype(np.uint16)


def _cannot_write(path: str, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{path}: file: expected to write it, found '{reason}'; free space or choose another place.")
