"""`OpenFile`: a file opened read-only and read with `pread` into reused buffers, never mapped.

Several threads may read. A file that is truncated meanwhile raises `InputChanged`; a mapped one would kill the process.

Files larger than the page cache are dropped from it as they are read, except their first bytes: the next pass starts with
these in memory. The system alone drops the oldest pages, so the next pass would find none of those it needs first.
"""

import hashlib
import os
import stat
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Lock

from streamumap.errors import InputChanged, InputError
from streamumap.machine.memory import host_free_bytes
from streamumap.source.checks import wrong

SAMPLE_BYTES = 64 << 10
N_SAMPLES = 16
N_THREADS = 8

CACHED_SHARE = 0.5
"""Share of the free memory that the page cache may use for open files; the rest is for the run."""

FOLIO_BYTES = 4 << 20
"""Bytes by which `release` starts earlier: the page cache drops whole folios only, and one may span two reads."""


class OpenFile:
    """A regular file. It is closed by `close` or with the last reference. `expected`: the kind of file, for messages.

    Raises InputError if it cannot be opened or read, InputChanged if it has changed since it was opened.
    """

    def __init__(self, path: str | bytes | os.PathLike, expected: str = "a file of rows"):
        self.name = os.fsdecode(path)
        self._path = os.path.abspath(self.name)  # the caller may change its folder
        self._fd = _open(self.name, expected)
        self._close_fd = weakref.finalize(self, os.close, self._fd)
        self.identity = _identity(os.fstat(self._fd))  # before anything is read, so that no later change escapes
        self.n_bytes: int = self.identity["size"]

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def head(self, n_bytes: int, offset: int = 0) -> bytes:
        """Reads up to `n_bytes` bytes from `offset`: fewer at the end of the file."""
        try:
            return os.pread(self._fd, n_bytes, offset)
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def fill(self, buffer: memoryview, offset: int) -> None:
        """Reads exactly len(buffer) bytes; the system may return them in parts."""
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise _unreadable(self.name, error) from error
            if got == 0:
                raise self._changed("size", self.n_bytes, os.fstat(self._fd).st_size)
            done += got

    def release(self, start: int, stop: int) -> None:
        """Drops bytes start..stop, just read, from the page cache, except those that it has room for."""
        start = max(start - FOLIO_BYTES, _cached_bytes(self))
        if start < stop:
            with suppress(OSError):  # it is only advice
                os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_DONTNEED)

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Reads exactly `n_bytes` bytes from `offset`."""
        buffer = bytearray(n_bytes)
        self.fill(memoryview(buffer), offset)
        return bytes(buffer)

    def run(self, job: Callable[[int], None], starts: range) -> None:
        """Calls `job` with each start: a single one in the caller's thread, more in a pool that all files share."""
        for _ in _readers().map(job, starts) if len(starts) > 1 else map(job, starts):
            pass

    def sampled_hash(self, head_bytes: int, offset: int, body_bytes: int) -> str:
        """Hashes the first `head_bytes` bytes and up to 16 evenly spaced blocks of 64 KiB of the `body_bytes` from `offset`:
        all of a body of up to 1 MiB."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.read(head_bytes, 0))
        count = min(N_SAMPLES, -(-body_bytes // SAMPLE_BYTES))
        buffer = memoryview(bytearray(min(SAMPLE_BYTES, body_bytes)))
        for i in range(count):
            self.fill(buffer, offset + (body_bytes - len(buffer)) * i // max(1, count - 1))
            digest.update(buffer)
        return digest.hexdigest()

    def check_identity(self) -> None:
        """Raises InputChanged if the path leads to another file, or size or modification time differ."""
        try:
            found = [_identity(os.stat(self._path)), _identity(os.fstat(self._fd))]
        except OSError as error:
            raise self._changed("file", "the one there", error.strerror) from error
        for identity in found:
            for field, value in identity.items():
                if value != self.identity[field]:
                    raise self._changed(field, self.identity[field], value)

    def check_hash(self, expected: str, found: str) -> None:
        """Raises InputChanged if two results of `sampled_hash` differ."""
        if found != expected:
            raise self._changed("sampled bytes", "the same", "others")

    def close(self) -> None:
        _cached.pop(self, None)
        self._close_fd()

    def _changed(self, field: str, expected: object, found: object) -> InputChanged:
        return InputChanged(
            f"{self.name}: {field}: expected {expected} as on opening, found {found}; "
            "the file changed while it was read: start again when nothing writes to it."
        )


_cached: weakref.WeakKeyDictionary[OpenFile, int] = weakref.WeakKeyDictionary()
_claiming = Lock()


def _cached_bytes(file: OpenFile) -> int:
    """Returns how many of its first bytes may stay in the page cache: what earlier open files leave room for."""
    with _claiming:
        if file not in _cached:
            room_bytes = int(host_free_bytes() * CACHED_SHARE) - sum(_cached.values())
            _cached[file] = max(0, min(file.n_bytes, room_bytes))
        return _cached[file]


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(N_THREADS, "streamumap-read")


def _identity(status: os.stat_result) -> dict:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _open(name: str, expected: str) -> int:
    """Opens a regular file and returns its read-only descriptor."""
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
        raise wrong(name, "file", expected, found, remedy) from error
    except OSError as error:
        raise _unreadable(name, error) from error
    except ValueError as error:
        raise wrong(repr(name), "file", "a path", f"one that no file can have ({error})", "check it") from error
    if stat.S_ISDIR(mode):
        raise wrong(name, "file", expected, "a folder", "name one file in it")
    remedy = "write the data to a file first and name that"
    raise wrong(name, "file", "a regular, seekable file", "a pipe or a device", remedy)


def _unreadable(name: str, error: OSError) -> InputError:
    remedy = "get the permission to read it" if isinstance(error, PermissionError) else "check the path and the disk"
    return wrong(name, "file", "a readable file", f"'{error.strerror}'", remedy)
