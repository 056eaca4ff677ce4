"""NpyWriter: appends rows to a `.npy` file whose length is not known before."""

import io
import os

import numpy as np

from streamumap.source.checks import wrong
from streamumap.source.formats.npy_header import MAGIC, read_header
from streamumap.store.atomic import rename, write_at, writing
from streamumap.store.lock import try_lock

CHUNK_BYTES = 8 << 20
HEADER_BYTES = 128
DESCR = {"float16": "<f2", "float32": "<f4", "bfloat16": "<V2", "uint16": "<u2", "uint32": "<u4"}
"""The spelling of a dtype in the header. bfloat16 is two raw bytes to NumPy; ml_dtypes saves it so."""


def written_dtype(dtype: str) -> np.dtype:
    """The dtype of the rows that `NpyWriter.append` takes: bfloat16 comes as uint16."""
    return np.dtype("<u2" if dtype == "bfloat16" else DESCR[dtype])


class NpyWriter:
    """Gathers rows in chunks and writes them to `path + ".partial"`, whose header counts the rows written so far;
    `rename` gives it the name `path`.

    A crash leaves the `.partial` file, and a new writer continues it behind the rows that its header counts. Raises
    InputError where `path` exists or the `.partial` file is another matrix, OutputError where nothing can be written.
    """

    def __init__(self, path: str, n_features: int, dtype: str):
        self.path, self.partial_path = path, path + ".partial"
        self.dtype, self.n_features = dtype, n_features
        stored = written_dtype(dtype)
        self._row_bytes = n_features * stored.itemsize
        self._chunk = np.empty((max(1, CHUNK_BYTES // self._row_bytes), n_features), stored)
        self._n_chunk = 0  # rows waiting in the chunk
        self._check_free()
        self.file = _open_alone(self.partial_path)
        try:
            self._n_written = self._rows_there()
        except BaseException:
            self.file.close()
            raise

    @property
    def n_rows(self) -> int:
        """Rows taken so far, with those of the `.partial` file that this writer continues."""
        return self._n_written + self._n_chunk

    @property
    def n_waiting(self) -> int:
        """Rows taken that are not written yet."""
        return self._n_chunk

    @property
    def chunk_rows(self) -> int:
        return len(self._chunk)

    def append(self, rows: np.ndarray) -> None:
        """Takes at most `chunk_rows` rows of `written_dtype`. Raises OutputError, and takes none, where a full chunk cannot
        be written."""
        done = 0
        while done < len(rows):
            if self._n_chunk == len(self._chunk):
                self.flush()
            n = min(len(rows) - done, len(self._chunk) - self._n_chunk)
            self._chunk[self._n_chunk : self._n_chunk + n] = rows[done : done + n]
            self._n_chunk += n
            done += n

    def flush(self) -> None:
        """Writes the chunk, then the header, so that the header never counts a row that is not there."""
        if self._n_chunk:
            waiting = self._chunk[: self._n_chunk].reshape(-1).view(np.uint8)
            self._write(waiting.data, HEADER_BYTES + self._n_written * self._row_bytes)
            self._write_header(self.n_rows)
            self._n_written, self._n_chunk = self.n_rows, 0

    def keep(self, n_rows: int) -> None:
        """Cuts the written rows to the first `n_rows`; no rows may be waiting."""
        assert self._n_chunk == 0 and n_rows <= self._n_written
        if n_rows < self._n_written:
            self._write_header(n_rows)
            os.ftruncate(self.file.fileno(), HEADER_BYTES + n_rows * self._row_bytes)
            self._n_written = n_rows

    def sync(self) -> None:
        """Writes and syncs the waiting rows. Raises OutputError, InputError where the final name is taken."""
        self.flush()
        self._check_free()
        with writing(self.path):
            os.fsync(self.file.fileno())

    def rename(self) -> None:
        """Gives the synced file its final name. Raises OutputError."""
        with writing(self.path):
            rename(self.partial_path, self.path)
        self.file.close()

    def _check_free(self) -> None:
        if os.path.lexists(self.path):
            remedy = "remove it or choose another path"
            raise wrong(self.path, "output file", "a new file", "one that is there already", remedy)

    def _rows_there(self) -> int:
        """The number of rows in the `.partial` file; a new file gets its header."""
        if os.fstat(self.file.fileno()).st_size == 0:
            self._write_header(0)
            return 0
        header = read_header(self.partial_path)
        found = (*header.shape[1:], header.dtype, header.fortran, header.data_offset)
        if found != (self.n_features, np.dtype(DESCR[self.dtype]), False, HEADER_BYTES):
            expected = f"rows of {self.n_features} features of {DESCR[self.dtype]}, which ActivationWriter began"
            remedy = "remove it or choose another path"
            raise wrong(self.partial_path, "file to continue", expected, header.text.strip(), remedy)
        os.ftruncate(self.file.fileno(), HEADER_BYTES + header.body_bytes)  # a crash may leave uncounted rows
        return header.shape[0]

    def _write_header(self, n_rows: int) -> None:
        shape = f"({n_rows}, {self.n_features})"
        text = f"{{'descr': '{DESCR[self.dtype]}', 'fortran_order': False, 'shape': {shape}, }}"
        room = HEADER_BYTES - len(MAGIC) - 4
        head = MAGIC + b"\x01\x00" + room.to_bytes(2, "little") + text.encode().ljust(room - 1) + b"\n"
        assert len(head) == HEADER_BYTES
        self._write(memoryview(head), 0)

    def _write(self, data: memoryview, offset: int) -> None:
        with writing(self.partial_path):
            write_at(self.file.fileno(), data, offset)


def _open_alone(path: str) -> io.FileIO:
    """Opens or makes the file and locks it: two writers would destroy each other's rows."""
    try:
        with writing(path):
            file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
    except ValueError as error:
        raise wrong(repr(path), "file", "a path", f"one that no file can have ({error})", "check it") from error
    if not try_lock(file.fileno()):
        file.close()
        raise wrong(path, "file to continue", "no other writer", "one that has it open", "close that first")
    return file
