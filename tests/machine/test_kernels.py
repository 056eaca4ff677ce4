"""Modules with cached kernels."""

import os
import sys

from streamumap.machine import kernels

TAG = f"py{sys.version_info.major}{sys.version_info.minor}"


def test_kernels_made_from_the_source_as_it_is_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    folder = tmp_path / "graph" / "__pycache__"
    folder.mkdir(parents=True)
    names = {"cpu": f"cpu.build-3.{TAG}.nbi", "stale": f"stale.build-3.{TAG}.nbi", "other": "other.build-3.py26.nbi"}
    for name, index in names.items():
        (tmp_path / "graph" / f"{name}.py").touch()
        (folder / index).touch()
    os.utime(folder / names["stale"], (0, 0))
    (folder / f"gone.build-3.{TAG}.nbi").touch()
    assert kernels.compiled_modules(tmp_path) == {"graph.cpu"}
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert kernels.compiled_modules(tmp_path) == frozenset()
