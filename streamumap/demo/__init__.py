"""A small real data set: 9,600 Debian packages as codes of a TopK sparse autoencoder (see NOTICE)."""

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

import numpy as np

from streamumap.errors import InputError
from streamumap.source import open_rows
from streamumap.store.atomic import write_file, writing
from streamumap.writer.activation_writer import ActivationWriter


@dataclass(frozen=True)
class Demo:
    """Row i of every field is package i."""

    indices: np.ndarray  # (N, 32) uint16: the active features of a row, each below n_features
    values: np.ndarray  # (N, 32) float16: their activations, >= 0
    n_features: int
    labels: list[str]  # the section of the archive a package is in
    names: list[str]  # the package's name


def load() -> Demo:
    """Reads the data set from the installed package."""
    folder = files(__name__)
    with (folder / "codes.npz").open("rb") as f, np.load(f, allow_pickle=False) as codes:
        indices, values, n_features = codes["indices"], codes["values"], int(codes["n_features"])
    labels, names = ((folder / name).read_text(encoding="utf-8").splitlines() for name in ("labels.txt", "names.txt"))
    return Demo(indices, values, n_features, labels, names)


def dense(demo: Demo) -> np.ndarray:
    """The codes as rows of activations, (N, n_features) float16, 59 MB; 1% of the values are not zero."""
    rows = np.zeros((len(demo.indices), demo.n_features), np.float16)
    active_rows, active_columns = np.nonzero(demo.values)
    rows[active_rows, demo.indices[active_rows, active_columns]] = demo.values[active_rows, active_columns]
    return rows


@dataclass(frozen=True)
class DemoFiles:
    activations: Path
    labels: Path
    names: Path


def write_files(run: Path) -> DemoFiles:
    """Writes the demo's files beside the folder `run`: rows in a .npy file, sections and names one a line.

    Rows that are there already are left alone. Raises InputError where that file holds other rows, OutputError.
    """
    demo, stem = load(), run.with_name(run.name.removesuffix(".umap"))
    paths = DemoFiles(*(stem.with_name(stem.name + ending) for ending in (".npy", "-labels.txt", "-names.txt")))
    with writing(stem.parent, "choose another folder with -o"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        if not _same_rows(paths.activations, demo):
            with ActivationWriter(paths.activations, n_features=demo.n_features) as writer:
                writer.append(dense(demo))
        for path, lines in ((paths.labels, demo.labels), (paths.names, demo.names)):
            write_file(path, partial(_write_lines, lines))
    return paths


def _write_lines(lines: list[str], file: BinaryIO) -> None:
    file.write(("\n".join(lines) + "\n").encode())


def _same_rows(path: Path, demo: Demo) -> bool:
    if not path.exists():
        return False
    source = open_rows(path)
    same = (source.n_rows, source.n_features) == (len(demo.indices), demo.n_features) and np.array_equal(
        source.read(0, source.n_rows), dense(demo)
    )
    source.close()
    if not same:
        raise InputError(f"{path}: expected the demo's rows, found another file; move it away or choose another -o.")
    return True
