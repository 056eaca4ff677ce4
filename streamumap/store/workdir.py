"""The run's directory: the only place that knows which file is called what.

A file under its final name is whole: it is written under a name of its own, synced and renamed, and then the directory
is synced. What a stage made is kept under a key, a hash of all that it depends on, with checksums; the same command finds
it again, another one makes it anew.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import OutputError
from streamumap.machine.memory import format_bytes
from streamumap.store import lock
from streamumap.store.atomic import OUT_REMEDY, Write, rename, write_file, writing
from streamumap.store.blockfile import BlockFile, Checksum
from streamumap.store.manifest import NAME as MANIFEST
from streamumap.store.manifest import as_text, check_input, is_whole, new_manifest, read_manifest
from streamumap.store.runlog import NAME as LOG_NAME
from streamumap.store.runlog import RunLog

UNFINISHED_MANIFEST = f".{MANIFEST}"
SCRATCH = "scratch"
SNAPSHOTS = "snapshots"
RESERVED = "reserved"
FILES = {
    "reduced": ("reduced", "components"),
    "neighbors": ("knn_indices", "knn_distances"),
    "graph": ("indptr", "targets", "weights"),
    "embedding": ("embedding",),
}
"""What the stages leave behind, without .npy."""

OF_THE_MAP = ("run.json", "embedding.parquet", "labels.parquet", "map.*")
"""What describes a map and goes with it. map.* are its pictures, its page and its exports under their default names."""


def key_of(*parts) -> str:
    """A short hash of JSON-able values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def used_bytes(path: Path) -> int:
    """On disk, of a run's folder and of its scratch."""
    files = [f for folder in (path, path / SCRATCH) if folder.is_dir() for f in os.scandir(folder)]
    return sum(f.stat(follow_symlinks=False).st_blocks * 512 for f in files if f.is_file(follow_symlinks=False))


def check_space(path: Path, n_bytes: int) -> None:
    """Of the file system that `path` is on, or will be. Raises OutputError where fewer bytes are free."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    found = os.statvfs(there)
    free_bytes = found.f_bavail * found.f_frsize
    if found.f_blocks and free_bytes < n_bytes:  # /proc and its like have no blocks
        raise OutputError(
            f"--out: {path}: expected {format_bytes(n_bytes)} of free space for the files of the run, found "
            f"{format_bytes(free_bytes)}, {format_bytes(n_bytes - free_bytes)} too little; free as much or choose another --out."
        )


class Workdir:
    """RUN. Opened for the input `name` with a fingerprint; `fresh`: what an earlier run left is removed first. Raises
    InputError where the folder holds something else, InputChanged where the input is not what it was, OutputError where
    nothing can be written."""

    def __init__(self, path: Path, fingerprint: dict, name: str = "", fresh: bool = False):
        self.path = Path(path)
        self.scratch = self.path / SCRATCH
        self.warn: Callable[[str], None] = lambda text: None
        self._written: dict[str, Checksum] = {}
        self._whole: dict[str, bool] = {}
        self._log = RunLog()
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock.lock(self.path)
        try:
            found = read_manifest(self.path, {UNFINISHED_MANIFEST, lock.NOTE, LOG_NAME})
            self.damaged = found is not None and not fresh and not is_whole(found)
            if found is not None and not fresh and not self.damaged:
                check_input(found, fingerprint, name, self.path)
            with self._writing():
                lock.leave_note(self.path)
            if found is not None and fresh:
                self._remove_all()
            if found is None or fresh or self.damaged:
                found = new_manifest(fingerprint, name)
            self._manifest = found
            self._save_manifest()
            with self._writing():
                self.scratch.mkdir(exist_ok=True)
            self._log.open(self.path)
        except BaseException:
            self.close()
            raise

    def log(self, event: str, **facts: Any) -> None:
        """Appends a line to run.log."""
        self._log.write(event, **facts)

    def reserve(self, n_bytes: int) -> None:
        """Sets aside what is missing to `n_bytes` in all, of which files made later take their part. Raises OutputError where
        there is less."""
        self._reserve(0)
        n_bytes = max(0, n_bytes - used_bytes(self.path))
        check_space(self.path, n_bytes)
        self._reserve(n_bytes)

    def take(self, n_bytes: int) -> None:
        """A file of so many bytes is about to be made out of what was set aside."""
        path = self.scratch / RESERVED
        self._reserve(max(0, (path.stat().st_size if path.exists() else 0) - n_bytes))

    def _reserve(self, n_bytes: int) -> None:
        path = self.scratch / RESERVED
        if not n_bytes:
            self.remove(path)
        elif path.exists():
            with self._writing():
                os.truncate(path, n_bytes)
        else:
            BlockFile.create(path, (n_bytes,), np.uint8).close()

    def has(self, stage: str, key: str) -> bool:
        """Whether the stage's output is there, whole, made from what `key` stands for."""
        kept = self._manifest["stages"].get(stage, {})
        if kept.get("key") != key:
            return False
        damaged = [name for name in FILES[stage] if not self._is_whole(name, kept.get("checksums", {}).get(name))]
        for name in damaged:
            self.warn(f"{name}.npy is missing, or not what the run wrote there; {stage} is done again.")
        return not damaged

    def done(self, stage: str, key: str, **facts) -> None:
        """The stage's output is whole. `facts`: JSON-able values that go with it."""
        checksums = {name: self._checksum_of(name) for name in FILES[stage]}
        self._manifest["stages"][stage] = {"key": key, "facts": facts, "checksums": checksums}
        self._save_manifest()

    def facts(self, stage: str) -> dict:
        return self._manifest["stages"][stage]["facts"]

    def forget(self, *stages: str) -> None:
        """Stages whose files are about to be replaced or are gone."""
        there = [stage for stage in stages if self._manifest["stages"].pop(stage, None)]
        if there:
            self._save_manifest()

    def retract(self) -> None:
        """Removes what described the map that is about to be replaced."""
        self.forget("embedding")
        self._remove_files_of_the_map()

    def remove(self, *paths: Path) -> None:
        with self._writing():
            for path in paths:
                path.unlink(missing_ok=True)

    def create(self, name: str, shape: tuple[int, ...], dtype) -> BlockFile:
        """A new BlockFile in scratch."""
        self.take(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        file = BlockFile.create(self.scratch / f"{name}.npy", shape, dtype)
        self._written[name] = file.written
        return file

    def go_on(self, name: str, shape: tuple[int, ...], dtype, written: Checksum) -> BlockFile:
        """Such a file that is there already in part."""
        self._written[name] = written
        return BlockFile.go_on(self.scratch / f"{name}.npy", shape, dtype, written)

    def open(self, name: str) -> BlockFile:
        """A BlockFile of scratch or of the run, by its name without .npy."""
        scratch = self.scratch / f"{name}.npy"
        return BlockFile.open(scratch if scratch.exists() else self.path / f"{name}.npy")

    def read(self, name: str) -> np.ndarray:
        """The whole of such a file."""
        file = self.open(name)
        array = file.read(0, len(file))
        file.close()
        return array

    def save(self, name: str, array: np.ndarray) -> None:
        """An array as a file in scratch."""
        file = self.create(name, array.shape, array.dtype)
        file.write(0, array)
        file.sync()
        file.close()

    def publish_saved(self, name: str) -> None:
        """Moves a file from scratch to the run, under its own name."""
        with self._writing():
            rename(self.scratch / f"{name}.npy", self.path / f"{name}.npy")

    def publish_snapshot(self, epoch: int, positions: np.ndarray) -> None:
        """RUN/snapshots/epoch_000123.npy."""
        name = f"epoch_{epoch:06d}.npy"
        self.save(name.removesuffix(".npy"), positions)
        with self._writing():
            (self.path / SNAPSHOTS).mkdir(exist_ok=True)
            rename(self.scratch / name, self.path / SNAPSHOTS / name)

    def publish(self, name: str, write: Write) -> None:
        """`write(file)` makes the file, out of all that is still set aside; then it gets its final name."""
        self._reserve(0)
        self.replace(self.path / name, write)

    def publish_json(self, name: str, value: dict) -> None:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
        self.publish(name, lambda file: file.write(text.encode()))

    def replace(self, path: Path, write: Write) -> None:
        """The same with any file of the run."""
        with self._writing():
            write_file(path, write, self.scratch / f".{path.name}")

    @contextmanager
    def writing(self, path: Path) -> Iterator[int]:
        """The descriptor of a file of the run that is made where it is missing."""
        with self._writing():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Removes what nobody needs after the run; reduced rows stay for the next one."""
        self.forget("graph")
        if "reduced" not in self._manifest["stages"]:
            shutil.rmtree(self.scratch, ignore_errors=True)
            return
        kept = {f"{name}.npy" for name in FILES["reduced"]}
        self.remove(*(self.scratch / name for name in os.listdir(self.scratch) if name not in kept))

    def close(self) -> None:
        if self._lock >= 0:
            with suppress(OSError):
                (self.path / lock.NOTE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
        self._log.close()

    def _is_whole(self, name: str, expected: int | None) -> bool:
        """As it was when it was done; looked at once."""
        if name not in self._whole:
            try:
                file = self.open(name)
                self._whole[name] = file.checksum() == expected
                file.close()
            except (OSError, ValueError):  # removed or cut by somebody else
                self._whole[name] = False
        return self._whole[name]

    def _checksum_of(self, name: str) -> int:
        self._whole[name] = True
        file = self.open(name)
        written = self._written.get(name)
        crc = written.crc if written and written.rows == len(file) else file.checksum()
        file.close()
        return crc

    def _remove_all(self) -> None:
        """What a run makes, and nothing else."""
        self.remove(self.path / MANIFEST)
        files = [f"{name}.npy" for names in FILES.values() for name in names]
        self.remove(*(self.path / name for name in (*files, LOG_NAME)))
        self._remove_files_of_the_map()
        for folder in (self.scratch, self.path / SNAPSHOTS):
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_files_of_the_map(self) -> None:
        paths = (path for pattern in OF_THE_MAP for path in self.path.glob(pattern))
        self.remove(*(path for path in paths if not path.is_dir()))

    def _save_manifest(self):
        text = as_text(self._manifest).encode()
        with self._writing():
            write_file(self.path / MANIFEST, lambda file: file.write(text), self.path / UNFINISHED_MANIFEST)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"--out: {self.path}", OUT_REMEDY)
