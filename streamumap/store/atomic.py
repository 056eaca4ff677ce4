"""Files that are written: every byte goes through `os`, so that no error is lost in a library that has its own way."""

import io
import os
from contextlib import suppress
from pathlib import Path


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


def sync_folder(path: Path) -> None:
    """So that the names in it last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write) -> None:
    """`write(file)`, with a buffered file, makes the content of `path`, which is synced."""
    with DiskFile(path) as raw:
        buffered = io.BufferedRandom(raw, 1 << 20)
        try:
            write(buffered)
            buffered.flush()
            raw.sync()
        except BaseException:
            _throw_away(buffered)
            with suppress(OSError):
                os.unlink(path)
            raise
        buffered.detach()


def _throw_away(buffered: io.BufferedRandom) -> None:
    """What waits in the buffer would be written when it is closed, and fail once more."""
    with suppress(OSError, ValueError):
        buffered.detach()
