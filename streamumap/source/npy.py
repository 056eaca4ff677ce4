"""Rows of one `.npy` file, read with `pread` into reused buffers: never mapped, never unpickled, opened read-only.

The format: NumPy enhancement proposal 1 (magic, version, header length, a Python literal, then the raw array).
"""

import ast
import hashlib
import math
import os
import re
import shlex
import stat
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from streamumap.errors import InputChanged, InputError
from streamumap.source.array import (
    N_SAMPLES,
    NUMBERS,
    SAMPLE_BYTES,
    SUPPORTED,
    check_2d,
    refused_dtype,
    resolve_dtype,
    short,
    wrong,
)
from streamumap.source.base import stored_dtype

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
MAX_NESTING = 16
PIECE_BYTES = 4 << 20
N_THREADS = 8
RESAVE = "write it again with numpy.save from a 2-D array of numbers"


@dataclass(frozen=True)
class NpyHeader:
    """What the header of a `.npy` file says, once held against the size of the file. dtype V2 may be bfloat16."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    data_offset: int
    file_bytes: int
    text: str

    @property
    def body_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: str | bytes | os.PathLike) -> NpyHeader:
    """The header of a `.npy` file of any shape. Raises InputError where there is none or it is not whole."""
    name = os.fsdecode(path)
    fd = _open(name)
    try:
        return _read_header(fd, name)
    finally:
        os.close(fd)


class NpySource:
    """The rows of a 2-D `.npy` file in C order, as a `RowSource`. Close it when done.

    `dtype="bfloat16"` reads V2 or uint16 words as bfloat16. `warnings` holds sentences for the user.
    Raises InputError on opening, InputChanged from `read`, `take` and `check_unchanged`.
    """

    def __init__(self, path: str | bytes | os.PathLike, dtype: str | None = None):
        self.name = os.fsdecode(path)
        self._path = os.path.abspath(self.name)  # the caller may change its folder
        self._fd = _open(self.name)
        self._close_fd = weakref.finalize(self, os.close, self._fd)
        self._pool: ThreadPoolExecutor | None = None
        try:
            self._describe(dtype)
        except BaseException:
            self.close()
            raise

    def _describe(self, dtype: str | None) -> None:
        identity = _identity(os.fstat(self._fd))  # before anything is read, so that no later change escapes
        header = _read_header(self._fd, self.name)
        self.dtype = resolve_dtype(self.name, header.dtype, dtype)
        check_2d(self.name, header.shape)
        if header.fortran:
            raise _fortran_order(self.name)
        self.n_rows, self.n_features = header.shape
        self.row_bytes = self.n_features * header.dtype.itemsize
        self.header = header
        extra_bytes = header.file_bytes - header.data_offset - header.body_bytes
        warning = f"{self.name}: body: expected {header.body_bytes} bytes, found {extra_bytes} more; they are ignored."
        self.warnings: tuple[str, ...] = (warning,) if extra_bytes else ()
        content = {"format": "npy", "dtype": self.dtype, "header": header.text, "blake2b": self._sampled_hash()}
        self.fingerprint = content | identity

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows start..stop as stored, (stop - start, n_features), in the machine's byte order."""
        assert 0 <= start <= stop <= self.n_rows
        rows = self._buffer(stop - start, out)
        body = _bytes_of(rows)
        offset = self.header.data_offset + start * self.row_bytes
        pieces = range(0, len(body), PIECE_BYTES)
        self._run(lambda at: self._fill(body[at : at + PIECE_BYTES], offset + at), pieces)
        return self._native(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers (int64, ascending), (len(rows), n_features); neighbours are read at once."""
        rows = np.asarray(rows, np.int64)
        assert rows.ndim == 1 and (rows.size == 0 or (rows.min() >= 0 and rows.max() < self.n_rows))
        out = self._buffer(len(rows), None)
        step = max(1, PIECE_BYTES // self.row_bytes)
        self._run(lambda at: self._take_runs(rows[at : at + step], out[at : at + step]), range(0, len(rows), step))
        return self._native(out)

    def check_unchanged(self) -> None:
        """Raises InputChanged when the path leads to another file, or size, time of change or sampled bytes differ."""
        try:
            found = [_identity(os.stat(self._path)), _identity(os.fstat(self._fd))]
        except OSError as error:
            raise self._changed("file", "the one there", error.strerror) from error
        for identity in found:
            for field, value in identity.items():
                if value != self.fingerprint[field]:
                    raise self._changed(field, self.fingerprint[field], value)
        if self._sampled_hash() != self.fingerprint["blake2b"]:
            raise self._changed("sampled bytes", "the same", "others")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._close_fd()

    def _buffer(self, n_rows: int, out: np.ndarray | None) -> np.ndarray:
        dtype = stored_dtype(self.dtype)
        if out is None:
            return np.empty((n_rows, self.n_features), dtype)
        assert out.dtype == dtype and out.flags.c_contiguous
        assert out.shape[1:] == (self.n_features,) and len(out) >= n_rows
        return out[:n_rows]

    def _native(self, rows: np.ndarray) -> np.ndarray:
        if not self.header.dtype.isnative:
            rows.byteswap(inplace=True)
        return rows

    def _run(self, job: Callable[[int], None], starts: range) -> None:
        """A single piece is read by the caller's thread, more by a pool that is made when first needed."""
        if len(starts) > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(N_THREADS, "streamumap-read")
        for _ in self._pool.map(job, starts) if self._pool and len(starts) > 1 else map(job, starts):
            pass

    def _take_runs(self, rows: np.ndarray, out: np.ndarray) -> None:
        body = _bytes_of(out)
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        places = np.append(starts, len(rows)) * self.row_bytes
        offsets = rows[starts] * self.row_bytes + self.header.data_offset
        for (start, stop), offset in zip(pairwise(places.tolist()), offsets.tolist(), strict=True):
            self._fill(body[start:stop], offset)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Reads exactly len(buffer) bytes; the system may hand them out in parts."""
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise _unreadable(self.name, error) from error
            if got == 0:
                raise self._changed("size", self.header.file_bytes, os.fstat(self._fd).st_size)
            done += got

    def _sampled_hash(self) -> str:
        """Header and up to 16 evenly spaced blocks of 64 KiB; all of a body that is no larger than these."""
        digest = hashlib.blake2b(digest_size=16)
        head = memoryview(bytearray(self.header.data_offset))
        self._fill(head, 0)
        digest.update(head)
        body_bytes = self.header.body_bytes
        count = min(N_SAMPLES, -(-body_bytes // SAMPLE_BYTES))
        buffer = memoryview(bytearray(min(SAMPLE_BYTES, body_bytes)))
        for i in range(count):
            self._fill(buffer, self.header.data_offset + (body_bytes - len(buffer)) * i // max(1, count - 1))
            digest.update(buffer)
        return digest.hexdigest()

    def _changed(self, field: str, expected: object, found: object) -> InputChanged:
        return InputChanged(
            f"{self.name}: {field}: expected {expected} as on opening, found {found}; "
            "the file changed while it was read: start again when nothing writes to it."
        )


def _bytes_of(rows: np.ndarray) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data


def _identity(status: os.stat_result) -> dict:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _open(name: str) -> int:
    """A read-only descriptor of a regular file."""
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISREG(mode):
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        found, remedy = "nothing there", "check the path"
        if os.path.islink(name):
            found, remedy = f"a link to {os.path.realpath(name)}, which is not there", "mend the link"
        elif name == "-":
            found, remedy = "standard input", "write the data to a file first and name that"
        raise wrong(name, "file", "a .npy file", found, remedy) from error
    except OSError as error:
        raise _unreadable(name, error) from error
    except ValueError as error:
        raise wrong(repr(name), "file", "a path", f"one that no file can have ({error})", "check it") from error
    if stat.S_ISDIR(mode):
        raise wrong(name, "file", "a .npy file", "a folder", "name one file in it")
    remedy = "write the data to a file first and name that"
    raise wrong(name, "file", "a regular, seekable file", "a pipe or a device", remedy)


def _unreadable(name: str, error: OSError) -> InputError:
    remedy = "get the permission to read it" if isinstance(error, PermissionError) else "check the path and the disk"
    return wrong(name, "file", "a readable file", f"'{error.strerror}'", remedy)


def _read_header(fd: int, name: str) -> NpyHeader:
    file_bytes = os.fstat(fd).st_size
    try:
        head = os.pread(fd, 12 + MAX_HEADER_BYTES, 0)
    except OSError as error:
        raise _unreadable(name, error) from error
    text, data_offset = _header_text(head, name)
    fields = _parse(text, name)
    dtype = _parse_dtype(fields["descr"], name)
    if not isinstance(fields["fortran_order"], bool):
        raise wrong(name, "fortran_order", "True or False", short(fields["fortran_order"]), RESAVE)
    shape = _checked_shape(fields["shape"], dtype.itemsize, name)
    header = NpyHeader(shape, dtype, fields["fortran_order"], data_offset, file_bytes, text)
    if data_offset + header.body_bytes > file_bytes:
        expected = f"{header.body_bytes} bytes for shape {short(shape)} of {dtype}"
        remedy = "the file was cut off: copy or write it again"
        raise wrong(name, "body", expected, file_bytes - data_offset, remedy)
    return header


def _header_text(head: bytes, name: str) -> tuple[str, int]:
    """The header's literal, and where the array begins."""
    if head.startswith(b"PK"):
        remedy = "convert it: numpy.save('rows.npy', numpy.load('rows.npz')['name of the array'])"
        raise wrong(name, "magic", "a .npy file", "a zip (.npz), which is not read yet", remedy)
    if head[:6] != MAGIC:
        raise wrong(name, "magic", MAGIC, f"{head[:6]!r}" if head else "0 bytes", RESAVE)
    if head[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise wrong(name, "version", "1.0, 2.0 or 3.0", ".".join(map(str, head[6:8])) or "the end of the file", RESAVE)
    start = 10 if head[6] == 1 else 12
    header_bytes = int.from_bytes(head[8:start], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise wrong(name, "header length", f"at most {MAX_HEADER_BYTES} bytes", header_bytes, RESAVE)
    if len(head) < start + header_bytes:
        raise wrong(name, "header", f"{start + header_bytes} bytes", f"the end of the file after {len(head)}", RESAVE)
    try:
        return head[start : start + header_bytes].decode("utf-8" if head[6] == 3 else "latin-1"), start + header_bytes
    except UnicodeDecodeError as error:
        raise wrong(name, "header", "text in UTF-8", f"byte {error.object[error.start]}", RESAVE) from error


def _parse(text: str, name: str) -> dict:
    """The dictionary that the header spells out. Literals only; the nesting is bounded before the compiler sees it."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise wrong(name, "header", f"at most {MAX_NESTING} nested brackets", deepest, RESAVE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks on odd literals are not for the user
            tree = ast.parse(text.strip(), mode="eval").body
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):  # literal_eval would let set() through
            raise ValueError("a call")
        fields = ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise wrong(name, "header", "a Python literal", short(text.strip()), RESAVE) from error
    keys = fields.keys() if isinstance(tree, ast.Dict) else set()
    if not isinstance(tree, ast.Dict) or len(tree.keys) != 3 or keys != {"descr", "fortran_order", "shape"}:
        raise wrong(name, "header", "exactly the keys descr, fortran_order and shape", short(text.strip()), RESAVE)
    return fields


def _parse_dtype(descr: object, name: str) -> np.dtype:
    match = re.fullmatch(r"([<>|=]?)([a-zA-Z])([0-9]{0,9})(\[.*\])?", descr) if isinstance(descr, str) else None
    if match is None:
        found = "fields (a structured array)" if isinstance(descr, list) else short(descr)
        raise wrong(name, "descr", SUPPORTED, found, RESAVE)
    order, kind, size, unit = match.groups()
    if not unit and (kind + size in NUMBERS or (kind + size == "V2" and order != ">")):
        return np.dtype(order + kind + size)
    raise refused_dtype(name, kind, int(size or 0), short(descr))


def _checked_shape(shape: object, itemsize: int, name: str) -> tuple[int, ...]:
    """`shape` as sizes whose product in bytes fits 63 bits."""
    if not isinstance(shape, tuple):
        raise wrong(name, "shape", "a tuple of sizes", short(shape), RESAVE)
    total_bytes = itemsize
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**63:
            raise wrong(name, "shape", "sizes from 0 to 2**63 - 1", short(shape), RESAVE)
        total_bytes *= size
        if total_bytes >= 2**63:
            raise wrong(name, "shape", "fewer than 2**63 bytes", short(shape), RESAVE)
    return shape


def _fortran_order(name: str) -> InputError:
    code = (
        "import sys, numpy as np; a = np.load(sys.argv[1], mmap_mode='r'); "
        "b = np.lib.format.open_memmap(sys.argv[2], 'w+', a.dtype, a.shape); "
        "[b.__setitem__(slice(i, i + 4096), a[i:i + 4096]) for i in range(0, len(a), 4096)]"
    )
    target = os.path.splitext(name)[0] + "-rows.npy"
    remedy = f'convert it with: python -c "{code}" {shlex.quote(name)} {shlex.quote(target)}'
    return InputError(f"{name}: fortran_order: expected False (row after row), found True; {remedy}")
