"""Writing files: a file that is published is whole, and an OSError becomes an OutputError.

This is the one place that words errors of writing. Every byte goes through `os`, so that no library hides an error.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from streamumap.errors import OutputError

OUT_REMEDY = "free space or choose another --out"
"""The remedy where a file of a run, whose folder --out names, cannot be written."""

Write = Callable[[BinaryIO], object]
"""A function that writes the content of a file into the open file that it gets."""


@contextmanager
def writing(what: object, remedy: str = "free space or choose another place") -> Iterator[None]:
    """Turns an OSError of the block into an OutputError that says `what` cannot be written, why, and the remedy."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{what}: cannot be written ({error.strerror or error}); {remedy}.") from error


def write_file(path: Path, write: Write, unfinished: Path | None = None) -> None:
    """Makes the file `path`, or replaces it as a whole.

    The content is written to `unfinished`, which is beside `path` unless it is given, then synced and renamed. Raises
    OSError, and whatever `write` raises; then `path` is as it was and the unfinished file is gone.
    """
    unfinished = unfinished or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_through(unfinished, write)
        rename(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def publish(path: Path, write: Write) -> None:
    """Makes a file that the user asked for: `write_file` with an OutputError."""
    with writing(path):
        write_file(path, write)


def write_through(path: Path, write: Write) -> None:
    """Writes a file under this very name and syncs it. Where writing fails, the cut file stays. Raises OSError."""
    with DiskFile(path) as raw:
        buffered = io.BufferedRandom(raw, 1 << 20)
        try:
            write(buffered)
            buffered.flush()
            raw.sync()
        finally:
            _detach(buffered)


def rename(source: Path | str, target: Path | str) -> None:
    """Gives a synced file its final name, and syncs the folder so that the name lasts. Raises OSError."""
    os.replace(source, target)
    descriptor = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Writes all bytes of `data` from `offset` on; the system may take them in parts. Raises OSError."""
    while len(data):
        n_bytes = os.pwrite(descriptor, data, offset)
        data, offset = data[n_bytes:], offset + n_bytes


class DiskFile(io.RawIOBase):
    """A new file for writing. It has no `fileno`: libraries that find one write past it."""

    def __init__(self, path: Path):
        self.name = os.fspath(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data) -> int:
        return os.write(self._descriptor, data)

    def readinto(self, buffer) -> int:
        return os.readv(self._descriptor, [buffer])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self._descriptor, size)
        return size

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _detach(buffered: io.BufferedRandom) -> None:
    """Detaches the buffer from its file; else its bytes would be written on closing, and fail once more."""
    with suppress(OSError, ValueError):
        buffered.detach()
