"""Workdir: the folder of a run, and the names of its files.

A file in the folder that has its final name is whole, see `atomic`. A file in scratch may be unfinished: it counts only by the checksums
in the manifest or in a checkpoint. The manifest records each stage's output with checksums and a key, a
hash of all that the output depends on: the same command finds the output again, another command makes it anew.
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
"""The output files of the stages, without .npy."""

OF_THE_MAP = (
    *("run.json", "embedding.parquet", "labels.parquet"),
    *(f"map.{ending}" for ending in ("png", "gif", "html", "csv", "geojson", "h5ad")),
)
"""Files that describe a map and are removed with it: tables, and pictures, page and exports under their default names. A file of
the user's beside them stays."""


def key_of(*parts) -> str:
    """A short hash of JSON-able values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def used_bytes(path: Path) -> int:
    """Bytes on disk of the files in a run's folder and in its scratch folder."""
    files = [f for folder in (path, path / SCRATCH) if folder.is_dir() for f in os.scandir(folder)]
    return sum(f.stat(follow_symlinks=False).st_blocks * 512 for f in files if f.is_file(follow_symlinks=False))


def check_space(path: Path, n_bytes: int) -> None:
    """Raises OutputError where the file system that `path` is on, or will be, has fewer than `n_bytes` bytes free."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    file_system = os.statvfs(existing)
    free_bytes = file_system.f_bavail * file_system.f_frsize
    if file_system.f_blocks and free_bytes < n_bytes:  # /proc and its like have no blocks
        raise OutputError(
            f"--out: {path}: expected {format_bytes(n_bytes)} of free space for the files of the run, found "
            f"{format_bytes(free_bytes)}, {format_bytes(n_bytes - free_bytes)} too little; free as much or choose another --out."
        )


class Workdir:
    """The folder of a run of the input `name` with this fingerprint, locked until `close`.

    With `fresh`, the files of an earlier run are removed first. Raises InputError where the folder holds something else
    or another run is writing there, InputChanged where the input has changed since the run began, OutputError where
    nothing can be written.
    """

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
            manifest = read_manifest(self.path, {UNFINISHED_MANIFEST, lock.NOTE, LOG_NAME})
            self.damaged = manifest is not None and not fresh and not is_whole(manifest)
            if manifest is not None and not fresh and not self.damaged:
                check_input(manifest, fingerprint, name, self.path)
            with self._writing():
                lock.leave_note(self.path)
            if manifest is not None and fresh:
                self._remove_all()
            if manifest is None or fresh or self.damaged:
                manifest = new_manifest(fingerprint, name)
            self._manifest = manifest
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
        """Reserves disk space, so that the run's files have `n_bytes` together; files made later take their part of it.

        Raises OutputError where less is free.
        """
        self._reserve(0)
        n_bytes = max(0, n_bytes - used_bytes(self.path))
        check_space(self.path, n_bytes)
        self._reserve(n_bytes)

    def take(self, n_bytes: int) -> None:
        """Frees reserved space for a file of `n_bytes` that is about to be made. Raises OutputError."""
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
        """Whether the stage's output is there and whole, and was made under `key`. Warns of damaged files."""
        kept = self._manifest["stages"].get(stage, {})
        if kept.get("key") != key:
            return False
        damaged = [name for name in FILES[stage] if not self._is_whole(name, kept.get("checksums", {}).get(name))]
        for name in damaged:
            self.warn(f"{name}.npy is missing, or not what the run wrote there; {stage} is done again.")
        return not damaged

    def done(self, stage: str, key: str, **facts) -> None:
        """Records that the stage's output is whole. `facts`: JSON-able values that go with it. Raises OutputError."""
        checksums = {name: self._checksum_of(name) for name in FILES[stage]}
        self._manifest["stages"][stage] = {"key": key, "facts": facts, "checksums": checksums}
        self._save_manifest()

    def facts(self, stage: str) -> dict:
        return self._manifest["stages"][stage]["facts"]

    def forget(self, *stages: str) -> None:
        """Removes stages from the manifest before their files are replaced or removed. Raises OutputError."""
        if [stage for stage in stages if self._manifest["stages"].pop(stage, None)]:
            self._save_manifest()

    def retract(self) -> None:
        """Removes the files that describe the map that is about to be replaced. Raises OutputError."""
        self.forget("embedding")
        self._remove_files_of_the_map()

    def remove(self, *paths: Path) -> None:
        with self._writing():
            for path in paths:
                path.unlink(missing_ok=True)

    def create(self, name: str, shape: tuple[int, ...], dtype) -> BlockFile:
        """Makes a BlockFile in scratch. Raises OutputError."""
        self.take(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        file = BlockFile.create(self.scratch / f"{name}.npy", shape, dtype)
        self._written[name] = file.written
        return file

    def reopen(self, name: str, shape: tuple[int, ...], dtype, written: Checksum) -> BlockFile:
        """Opens a BlockFile in scratch to write the rows behind those that `written` counts. Raises OutputError."""
        self._written[name] = written
        return BlockFile.reopen(self.scratch / f"{name}.npy", shape, dtype, written)

    def open(self, name: str) -> BlockFile:
        """Opens a BlockFile in scratch, else in the run's folder, by its name without .npy. Raises OSError, ValueError."""
        scratch = self.scratch / f"{name}.npy"
        return BlockFile.open(scratch if scratch.exists() else self.path / f"{name}.npy")

    def read(self, name: str) -> np.ndarray:
        """Reads a whole BlockFile, as `open` finds it."""
        file = self.open(name)
        array = file.read(0, len(file))
        file.close()
        return array

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes an array as a BlockFile in scratch. Raises OutputError."""
        file = self.create(name, array.shape, array.dtype)
        file.write(0, array)
        file.sync()
        file.close()

    def publish_saved(self, name: str) -> None:
        """Moves a BlockFile from scratch to the run's folder. Raises OutputError."""
        with self._writing():
            rename(self.scratch / f"{name}.npy", self.path / f"{name}.npy")

    def publish_snapshot(self, epoch: int, positions: np.ndarray) -> None:
        """Writes RUN/snapshots/epoch_000123.npy. Raises OutputError."""
        name = f"epoch_{epoch:06d}.npy"
        self.save(name.removesuffix(".npy"), positions)
        with self._writing():
            (self.path / SNAPSHOTS).mkdir(exist_ok=True)
            rename(self.scratch / name, self.path / SNAPSHOTS / name)

    def publish(self, name: str, write: Write) -> None:
        """Makes a file in the run's folder, with all space that is still reserved. Raises OutputError."""
        self._reserve(0)
        self.replace(self.path / name, write)

    def publish_json(self, name: str, value: dict) -> None:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
        self.publish(name, lambda file: file.write(text.encode()))

    def replace(self, path: Path, write: Write) -> None:
        """Makes or replaces any file of the run as a whole. Raises OutputError."""
        with self._writing():
            write_file(path, write, self.scratch / f".{path.name}")

    @contextmanager
    def writing(self, path: Path) -> Iterator[int]:
        """The descriptor of a file of the run, which is made if it is missing. Raises OutputError, in the `with` too."""
        with self._writing():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Removes what nobody needs after the run; reduced rows stay for the next run."""
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
        """Whether a file has its recorded checksum; each file is read once."""
        if name not in self._whole:
            try:
                file = self.open(name)
                self._whole[name] = file.checksum() == expected
                file.close()
            except (OSError, ValueError):  # somebody removed or cut it
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
        """Removes the files that a run makes, and no others."""
        self.remove(self.path / MANIFEST)
        files = [f"{name}.npy" for names in FILES.values() for name in names]
        self.remove(*(self.path / name for name in (*files, LOG_NAME)))
        self._remove_files_of_the_map()
        for folder in (self.scratch, self.path / SNAPSHOTS):
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_files_of_the_map(self) -> None:
        paths = (self.path / name for name in OF_THE_MAP)
        self.remove(*(path for path in paths if path.is_file()))

    def _save_manifest(self):
        text = as_text(self._manifest).encode()
        with self._writing():
            write_file(self.path / MANIFEST, lambda file: file.write(text), self.path / UNFINISHED_MANIFEST)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"--out: {self.path}", OUT_REMEDY)
