"""Checks that two checkouts of the project make the same results.

    python tools/same_bytes.py BEFORE AFTER

Runs the demo and small maps of dense and sparse rows with each checkout, through the command line only, and compares their files.
Arrays, columns and the picture must have the same bytes. run.json and manifest.json must have the same keys, types and names;
their seconds, paths, versions and fingerprints may differ. Prints a line for each file and ends with exit code 1 if one differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import scipy.sparse

N_ROWS, N_NEW, N_FEATURES, N_CLUSTERS, K = 2000, 500, 64, 20, 8
RUNS = {
    "demo": ["demo"],
    "dense": ["embed", "rows.npy"],
    "reduced": ["embed", "rows.npy", "--reduce", "pca", "--reduce-dims", "16", "--metric", "cosine"],
    "topk": ["embed", "codes_indices.npy", "--features", "512", "--metric", "cosine"],
    "csr": ["embed", "codes.npz"],
    "new": ["transform", "dense.umap", "new.npy"],
}
"""Arguments of the command line by the name of the run and its folder."""

OWN = {"streamumap", "finished", "versions", "path", "blake2b", "key", "warnings"}
"""Fields of a report whose strings may differ: versions, times, paths, fingerprints, sentences."""


def write_inputs(folder: Path) -> None:
    """Writes clustered rows, new rows like them, and codes in both sparse formats."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(N_CLUSTERS, N_FEATURES)) * 3
    rows = centres[rng.integers(N_CLUSTERS, size=N_ROWS + N_NEW)] + rng.normal(size=(N_ROWS + N_NEW, N_FEATURES))
    np.save(folder / "rows.npy", rows[:N_ROWS].astype(np.float32))
    np.save(folder / "new.npy", rows[N_ROWS:].astype(np.float32))
    words = rng.integers(512, size=(N_CLUSTERS, 3 * K))[rng.integers(N_CLUSTERS, size=N_ROWS)]
    indices = np.array([rng.choice(np.unique(row), K, replace=False) for row in words])
    values = rng.exponential(size=(N_ROWS, K)).astype(np.float32)
    np.save(folder / "codes_indices.npy", indices.astype(np.uint16))
    np.save(folder / "codes_values.npy", values.astype(np.float16))
    parts = values.ravel(), indices.ravel(), np.arange(0, N_ROWS * K + 1, K)
    scipy.sparse.save_npz(folder / "codes.npz", scipy.sparse.csr_matrix(parts, (N_ROWS, 512)), compressed=False)


def run_all(tree: Path, folder: Path) -> None:
    """Does all runs of a checkout in `folder`, with its own compiled code."""
    write_inputs(folder)
    own = {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, arguments in RUNS.items():
        command = [sys.executable, "-m", "streamumap.cli", *arguments, "-o", f"{name}.umap", "--budget", "4GB", "-q"]
        done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{tree}: {' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def results(folder: Path) -> dict[str, set[str]]:
    """The `content_of` every file of the runs, except their logs."""
    files = (path for path in folder.glob("*.umap/*.*") if path.suffix != ".log")
    return {str(path.relative_to(folder)): content_of(path) for path in files}


def content_of(path: Path) -> set[str]:
    """The part of a file that must be the same: the schema and names of a report, or one hash of any other file."""
    if path.suffix == ".json":
        return set(_schema(json.loads(path.read_text(encoding="utf-8")), "", True))
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        content = repr((table.schema.remove_metadata(), [column.to_pylist() for column in table.columns])).encode()
    return {hashlib.sha256(content).hexdigest()}


def _schema(value: object, path: str, named: bool) -> Iterator[str]:
    """Yields the keys that lead to each value in a report, with its type, and the value if it is a name."""
    yield f"{path}: {type(value).__name__}"
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _schema(inner, f"{path}.{key}", named and key not in OWN)
    elif isinstance(value, list):
        for inner in value:
            yield from _schema(inner, f"{path}[]", named)
    elif named and isinstance(value, str) and not value.startswith("/"):
        yield f"{path} = {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE", help="a checkout: a folder with streamumap/ in it")
    trees = [tree.resolve() for tree in parser.parse_args().trees]
    for tree in trees:
        if not (tree / "streamumap" / "__init__.py").is_file():
            parser.error(f"{tree}: expected a folder with streamumap/ in it")
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as scratch:
        folders = [Path(scratch) / side for side in ("before", "after")]
        for tree, folder in zip(trees, folders, strict=True):
            folder.mkdir()
            run_all(tree, folder)
        before, after = (results(folder) for folder in folders)
    for name in sorted(before | after):
        apart = before.get(name, set()) ^ after.get(name, set())
        print(f"{name:32} {'differs' if apart else 'same'}")
        if name.endswith(".json"):
            print(*(f"    {line}\n" for line in sorted(apart)), sep="", end="")
    sys.exit(before != after)


if __name__ == "__main__":
    main()
