"""The run's directory: the only place that knows which file is called what.

A file under its final name is whole: it is written under a name of its own, synced and renamed, and then the directory
is synced. What a stage made is kept under a key, a hash of all that it depends on; the same command finds it again,
another one makes it anew.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.blockfile import BlockFile
from streamumap.errors import InputError, OutputError
from streamumap.memory import format_bytes

SCHEMA = 1
MANIFEST = "manifest.json"
UNFINISHED_MANIFEST = f".{MANIFEST}"
SCRATCH = "scratch"
SNAPSHOTS = "snapshots"
RESERVED = "reserved"
FILES = {
    "neighbors": ("knn_indices", "knn_distances"),
    "graph": ("indptr", "targets", "weights"),
    "layout": ("layout",),
    "embedding": ("embedding",),
}
"""What the stages leave behind, without .npy."""


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
    """RUN. Opened for one input; raises InputError where the folder holds something else, OutputError where it cannot
    be written."""

    def __init__(self, path: Path, fingerprint: dict):
        self.path = Path(path)
        self.scratch = self.path / SCRATCH
        self._writable(lambda: self.path.mkdir(parents=True, exist_ok=True))
        self._lock = self._locked()
        try:
            self._manifest = self._read_manifest(fingerprint)
            self._save_manifest()
            self._writable(lambda: self.scratch.mkdir(exist_ok=True))
        except BaseException:
            self.close()
            raise

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
            self._writable(partial(path.unlink, missing_ok=True))
        elif path.exists():
            self._writable(partial(os.truncate, path, n_bytes))
        else:
            BlockFile.create(path, (n_bytes,), np.uint8).close()

    def has(self, stage: str, key: str) -> bool:
        """Whether the stage's output is there, whole, made from what `key` stands for."""
        return self._manifest["stages"].get(stage, {}).get("key") == key and all(
            self._whole(name) for name in FILES[stage]
        )

    def done(self, stage: str, key: str, **facts) -> None:
        """The stage's output is whole. `facts`: JSON-able values that go with it."""
        self._manifest["stages"][stage] = {"key": key, "facts": facts}
        self._save_manifest()

    def facts(self, stage: str) -> dict:
        return self._manifest["stages"][stage]["facts"]

    def forget(self, *stages: str) -> None:
        """Stages whose files are about to be replaced or are gone."""
        for stage in stages:
            self._manifest["stages"].pop(stage, None)
        self._save_manifest()

    def retract(self) -> None:
        """Removes what described the map that is about to be replaced."""
        self.forget("embedding", "layout")
        for name in ("run.json", "map.png", "embedding.parquet", "labels.parquet", "map.html", "map.gif"):
            self._writable(partial((self.path / name).unlink, missing_ok=True))

    def create(self, name: str, shape: tuple[int, ...], dtype) -> BlockFile:
        """A new BlockFile in scratch."""
        self.take(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        return BlockFile.create(self.scratch / f"{name}.npy", shape, dtype)

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
        self._rename(self.scratch / f"{name}.npy", self.path / f"{name}.npy")

    def publish_snapshot(self, epoch: int, positions: np.ndarray) -> None:
        """RUN/snapshots/epoch_000123.npy."""
        name = f"epoch_{epoch:06d}.npy"
        self.save(name.removesuffix(".npy"), positions)
        self._writable(lambda: (self.path / SNAPSHOTS).mkdir(exist_ok=True))
        self._rename(self.scratch / name, self.path / SNAPSHOTS / name)

    def publish(self, name: str, write: Callable[[Path], object]) -> None:
        """`write(path)` makes the file, out of all that is still set aside; then it gets its final name."""
        self._reserve(0)
        temporary = self.scratch / name

        def write_and_sync():
            write(temporary)
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())

        self._writable(write_and_sync)
        self._rename(temporary, self.path / name)

    def publish_json(self, name: str, value: dict) -> None:
        self.publish(
            name, lambda path: path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        )

    def finish(self) -> None:
        """Removes what nobody needs after the run."""
        self.forget("graph", "layout")
        shutil.rmtree(self.scratch, ignore_errors=True)

    def close(self) -> None:
        os.close(self._lock)

    def _whole(self, name: str) -> bool:
        try:
            self.open(name).close()
            return True
        except (OSError, ValueError):  # removed or cut by somebody else
            return False

    def _read_manifest(self, fingerprint: dict) -> dict:
        try:
            names = set(os.listdir(self.path))
            if MANIFEST not in names:
                if names - {UNFINISHED_MANIFEST}:
                    raise InputError(
                        f"--out: {self.path}: expected a new or empty folder or a run of this input, found other files; "
                        "choose another --out."
                    )
                return {"schema": SCHEMA, "input": fingerprint, "stages": {}}
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except InputError:
            raise
        except (ValueError, OSError, RecursionError) as e:
            raise self._no_manifest() from e
        if (
            not isinstance(manifest, dict)
            or manifest.get("schema") != SCHEMA
            or not isinstance(manifest.get("stages"), dict)
        ):
            raise self._no_manifest()
        if manifest.get("input") != fingerprint:
            raise InputError(
                f"--out: {self.path}: holds a run of another input (or this one changed since); choose another --out or remove it."
            )
        return manifest

    def _no_manifest(self) -> InputError:
        return InputError(
            f"--out: {self.path / MANIFEST}: expected the manifest of a run, found something else; choose another --out."
        )

    def _save_manifest(self):
        temporary = self.path / UNFINISHED_MANIFEST

        def write():
            with open(temporary, "w", encoding="utf-8") as f:
                f.write(json.dumps(self._manifest, indent=2) + "\n")
                f.flush()
                os.fsync(f.fileno())

        self._writable(write)
        self._rename(temporary, self.path / MANIFEST)

    def _rename(self, source: Path, target: Path):
        def rename():
            os.replace(source, target)
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

        self._writable(rename)

    def _locked(self) -> int:
        descriptor: int = self._writable(lambda: os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(descriptor)
            raise InputError(
                f"--out: {self.path}: another run is writing here; wait for it or choose another --out."
            ) from e
        return descriptor

    def _writable(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OutputError:
            raise
        except OSError as e:
            raise OutputError(
                f"--out: {self.path}: cannot be written ({e.strerror or e}); free space or choose another --out."
            ) from e
