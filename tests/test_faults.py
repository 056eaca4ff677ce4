"""Faults of the disk: a run whose disk fails at some call ends with exit code 4 or succeeds, and the next run makes the same
files as without the fault.

Every fifth call is tried; with STREAMUMAP_EVERY_FAULT=1 every call.
"""

import errno
import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from streamumap import engine
from streamumap.errors import OutputError
from streamumap.machine import memory
from streamumap.params import Params
from streamumap.request import Request
from streamumap.store import saved_checkpoint

FILES = ["embedding.npy", "embedding.parquet", "knn_indices.npy", "knn_distances.npy", "map.png", "run.json"]
CALLS = ["write", "pwrite", "fsync", "replace", "posix_fallocate", "ftruncate", "truncate", "mkdir", "open", "unlink"]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS]
STEP = 1 if os.environ.get("STREAMUMAP_EVERY_FAULT") == "1" else 5
PARAMS = {
    "packed": Params(n_neighbors=5, n_epochs=3),
    "reduced": Params(n_neighbors=5, n_epochs=3, reduce="pca", reduce_dims=3),
}


class Disk:
    """Counts the calls that write below `folder` and fails at call `at`, and if it `lasts`, at all later ones that take space."""

    def __init__(self, folder, at=0, lasts=False):
        self.folder, self.at, self.lasts, self.n = str(folder), at, lasts, 0
        self.number = ERRORS[at % len(ERRORS)]

    def wrap(self, name, call):
        def counted(first, *args, **kwargs):
            if self.is_ours(name, first, args):
                self.n += 1
                if self.n == self.at or (self.lasts and self.at and self.n > self.at and name != "unlink"):
                    raise OSError(self.number, os.strerror(self.number))
            return call(first, *args, **kwargs)

        return counted

    def is_ours(self, name, first, args):
        if name == "open" and not args[0] & (os.O_WRONLY | os.O_RDWR):
            return False
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        return path.startswith(self.folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Runs without the process that measures memory and without a picture, and saves every unit."""
    monkeypatch.setattr(memory.Watch, "__init__", lambda self, device: None)
    monkeypatch.setattr(memory.Watch, "lap", lambda self: (1, 0))
    monkeypatch.setattr(memory.Watch, "close", lambda self: None)
    monkeypatch.setattr("streamumap.show.png.draw", lambda embedding, file, picture: file.write(embedding.tobytes()))
    monkeypatch.setattr(saved_checkpoint, "SAVE_SECONDS", 0)


@pytest.fixture(params=PARAMS)
def embed(request):
    """embed(out): a run of 60 rows that are mostly zeros."""
    random = np.random.default_rng(0)
    rows = (random.random((60, 40)) * (random.random((60, 40)) < 0.06)).astype(np.float32)

    def embed(out):
        engine.embed(Request(rows, PARAMS[request.param], device="cpu", budget="2GB"), out)
        return contents(out)

    return embed


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES if name != "run.json"}


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
def test_every_call_that_writes_fails_once(lasts, embed, tmp_path):
    expected = embed(tmp_path / "expected")
    for at in itertools.count(1, STEP):
        out = tmp_path / str(at)
        disk = Disk(out, at, lasts)
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, disk.wrap(name, getattr(os, name)))
            try:
                found = embed(out)
            except OutputError as e:
                assert os.strerror(disk.number) in str(e)
                found = None
        if found is not None:
            assert found == expected, at
        elif out.exists():
            there = {name: (out / name) for name in FILES if (out / name).exists()}
            assert "run.json" not in there or len(there) == len(FILES)
            assert all(path.read_bytes() == expected[name] for name, path in there.items() if name != "run.json"), at
            assert embed(out) == expected, at
        if disk.n < at:
            break
    assert at > 100


def test_a_disk_of_64_mb_that_is_full_at_every_stage(embed, tmp_path):
    """The disk is a real one, filled when a stage begins and emptied again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk]).returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        fill_up(embed, disk, tmp_path)
    finally:
        subprocess.run(["umount", disk], check=True)


def fill_up(embed, disk, tmp_path):
    expected = embed(tmp_path / "expected")
    n_failed = 0
    for number, stage in enumerate(("read", "neighbors", "graph", "start", "layout", "quality", "write")):
        out = disk / str(number)
        with pytest.MonkeyPatch.context() as patch:
            begin = engine.Run.stage

            def full(self, name, *args, begin=begin, stage=stage, **kwargs):
                if name == stage:
                    fill(disk)
                return begin(self, name, *args, **kwargs)

            patch.setattr(engine.Run, "stage", full)
            try:
                assert embed(out) == expected  # what it needs was set aside
            except OutputError as e:
                assert "No space left on device" in str(e) or "of free space" in str(e)
                n_failed += 1
                assert not (out / "run.json").exists()
        (disk / "filler").unlink(missing_ok=True)
        assert embed(out) == expected
    assert n_failed


def fill(disk: Path):
    with open(disk / "filler", "wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
