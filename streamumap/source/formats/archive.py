"""Reads members of a zip file and checks everything that the archive says of them."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, TypeVar

from streamumap.errors import InputChanged, InputError
from streamumap.source.checks import short, wrong
from streamumap.source.file import OpenFile

T = TypeVar("T")

LARGEST_DIRECTORY = 8 << 20
LOCAL_HEADER_BYTES = 30
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)
RESAVE = "write it again"


def is_zip(file: OpenFile) -> bool:
    """Tells whether the file begins like a zip file."""
    return file.head(2) == b"PK"


class Archive:
    """A zip file. Raises InputError if its directory is damaged or the name of a member leads out of the archive."""

    def __init__(self, file: OpenFile):
        self.file = file
        try:
            self._zip = zipfile.ZipFile(io.BufferedReader(_Reader(file)))
        except BROKEN as error:
            raise wrong(file.name, "zip directory", "a whole one", short(str(error)), RESAVE) from error
        before = min((info.header_offset for info in self._zip.infolist()), default=0)
        if before:
            found = f"another {before} bytes before it, as a second save into the same file leaves"
            raise wrong(file.name, "archive", "one archive", found, "save each to a file of its own")
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/") or name in self.members:
                raise wrong(file.name, "member", "plain names, each once", short(name), RESAVE)
            self.members[name] = info

    def names(self) -> dict[str, str]:
        """Maps the names of arrays to their members. Raises InputError where two members have one name."""
        names = {name.removesuffix(".npy"): name for name in self.members}
        if len(names) < len(self.members):
            twice = next(name for name in self.members if names[name.removesuffix(".npy")] != name)
            raise wrong(self.file.name, "member", "plain names, each once", f"{short(twice)} twice", RESAVE)
        return names

    def check_stored(self, largest_pickle: int) -> None:
        """Raises InputError if a member is compressed or a `.pkl` is larger than `largest_pickle` bytes."""
        for name, info in self.members.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise wrong(self.called(name), "member", "one that is not compressed", "a compressed one", RESAVE)
            if name.endswith(".pkl") and info.file_size > largest_pickle:
                raise wrong(self.called(name), "size", f"at most {largest_pickle} bytes", info.file_size, RESAVE)

    def is_torch(self) -> bool:
        """Tells whether `torch.save` wrote it."""
        return any(name.endswith("/data.pkl") for name in self.members)

    def is_stored(self, name: str) -> bool:
        return self.members[name].compress_type == zipfile.ZIP_STORED

    def head(self, name: str, n_bytes: int) -> bytes:
        """Reads up to `n_bytes` bytes of a member."""
        with self.open(name) as stream:
            return self.guarded(name, lambda: stream.read(n_bytes))

    def open(self, name: str) -> IO[bytes]:
        """Opens a member, inflated as it is read. Wrap reads in `guarded`."""
        return self.guarded(name, lambda: self._zip.open(self.members[name]))

    def body(self, name: str) -> int:
        """Returns the offset of the bytes of a stored member."""
        info = self.members[name]
        local = self.file.head(LOCAL_HEADER_BYTES, info.header_offset)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        start = info.header_offset + LOCAL_HEADER_BYTES + names
        encrypted = info.flag_bits & 1
        if local[:4] != b"PK\x03\x04" or encrypted or start + info.file_size > self.file.n_bytes:
            found = "an encrypted one" if encrypted else "one that is cut off"
            raise wrong(self.called(name), "member", "a whole one", found, RESAVE)
        return start

    def guarded(self, name: str, action: Callable[[], T]) -> T:
        """Returns `action()`; the exceptions of a damaged member become InputError."""
        try:
            return action()
        except (InputError, InputChanged):
            raise
        except BROKEN as error:
            raise wrong(self.called(name), "member", "a whole one", short(str(error)), RESAVE) from error

    def called(self, name: str) -> str:
        """Returns the name of a member for messages."""
        name = name.removesuffix(".npy")
        return f"{self.file.name}[{name if name.isprintable() else short(name)}]"


class _Reader(io.RawIOBase):
    """An OpenFile as a file object for zipfile. Refuses reads larger than LARGEST_DIRECTORY."""

    def __init__(self, file: OpenFile):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._file.n_bytes)[whence]
        if at < 0:
            raise ValueError("a place before the beginning")
        self._at = at
        return at

    def readinto(self, buffer) -> int:
        if len(buffer) > LARGEST_DIRECTORY:
            raise ValueError(f"a directory of {len(buffer)} bytes")
        data = self._file.head(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
