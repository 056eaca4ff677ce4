"""A file read with `pread` into reused buffers: never mapped, opened read-only, and known again when it changes.

Several threads may read. A file that is cut off meanwhile is an error (`InputChanged`), not a signal.

Where the open files are larger than the page cache can be, what streams past leaves it again, but for their first bytes:
the next pass finds these, where the system, which forgets what is oldest, would have kept nothing of use.
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
"""Of the free memory, what the page cache may hold of the files that are open; the rest is for the run."""

FOLIO_BYTES = 4 << 20
"""The page cache lets go of whole folios only, and one may lie across two reads: it goes with the second."""


class OpenFile:
    """A regular file. Close it when done, or forget it. `expected`: what a message calls the file that was hoped for.

    Raises InputError where it cannot be opened or read, InputChanged where it is no longer what was opened.
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
        """Up to `n_bytes` bytes from `offset`: fewer where the file ends."""
        try:
            return os.pread(self._fd, n_bytes, offset)
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def fill(self, buffer: memoryview, offset: int) -> None:
        """Reads exactly len(buffer) bytes; the system may hand them out in parts."""
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
        """Bytes start..stop streamed past: those that have no room in the page cache leave it."""
        start = max(start - FOLIO_BYTES, _cached_bytes(self))
        if start < stop:
            with suppress(OSError):  # it is only advice
                os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_DONTNEED)

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Exactly `n_bytes` bytes from `offset`."""
        buffer = bytearray(n_bytes)
        self.fill(memoryview(buffer), offset)
        return bytes(buffer)

    def run(self, job: Callable[[int], None], starts: range) -> None:
        """`job` of each start: a single one in the caller's thread, more in the threads that all files share."""
        for _ in _readers().map(job, starts) if len(starts) > 1 else map(job, starts):
            pass

    def sampled_hash(self, head_bytes: int, offset: int, body_bytes: int) -> str:
        """The first `head_bytes` bytes and, of the `body_bytes` from `offset`, up to 16 evenly spaced blocks of 64 KiB:
        all of a body that is no larger than these."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.read(head_bytes, 0))
        count = min(N_SAMPLES, -(-body_bytes // SAMPLE_BYTES))
        buffer = memoryview(bytearray(min(SAMPLE_BYTES, body_bytes)))
        for i in range(count):
            self.fill(buffer, offset + (body_bytes - len(buffer)) * i // max(1, count - 1))
            digest.update(buffer)
        return digest.hexdigest()

    def check_identity(self) -> None:
        """Raises InputChanged when the path leads to another file, or size or time of change differ."""
        try:
            found = [_identity(os.stat(self._path)), _identity(os.fstat(self._fd))]
        except OSError as error:
            raise self._changed("file", "the one there", error.strerror) from error
        for identity in found:
            for field, value in identity.items():
                if value != self.identity[field]:
                    raise self._changed(field, self.identity[field], value)

    def check_hash(self, expected: str, found: str) -> None:
        """Raises InputChanged where two results of `sampled_hash` differ."""
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
    """How many of its first bytes may stay in the page cache: all, while the files that came before left room."""
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
