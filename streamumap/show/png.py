"""A map as a PNG."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from streamumap.events import Listener, ignore
from streamumap.show import annotations
from streamumap.show.annotations import NO_OPTIONS, ShowOptions
from streamumap.show.figure import Mark, Picture, drawn
from streamumap.show.saved_run import open_run
from streamumap.store.atomic import publish


def render_run(
    path: Path,
    out: Path,
    options: ShowOptions = NO_OPTIONS,
    size_px: int = 1600,
    dark: bool = False,
    listener: Listener = ignore,
) -> Path:
    """Draws the run in the folder `path`, its last checkpoint where it is not finished. Raises InputError, OutputError."""
    run = open_run(path)
    labels, names = annotations.labels_of(run, options), annotations.names_of(run, options)
    cluster_column, clusters = annotations.clusters_of(run, names, None, listener)
    columns = annotations.columns_of(run, options, listener, labels, cluster_column)
    marks = [Mark(c.text, c.x, c.y) for c in clusters if c.level == 0]
    render(run.embedding, out, Picture(columns, marks, run.title, run.facts, size_px, dark))
    return out


def render(embedding: np.ndarray, out_path: str | os.PathLike, picture: Picture) -> None:
    """Draws the first two axes of a map into a PNG, which appears at `out_path` only when it is whole.

    embedding: (N, 2) or more columns, float32. Rows that are not finite are left out and a few far ones do not stretch
    the view. The same arguments give the same bytes, as long as matplotlib is the same.

    Raises InputError for another shape, number of labels or size, OutputError where the file cannot be written.
    """
    publish(Path(out_path), lambda file: draw(embedding, file, picture))


def draw(embedding: np.ndarray, file: BinaryIO, picture: Picture) -> None:
    """`render` into an open file."""
    with drawn(embedding, picture) as sheet:
        sheet.save_png(file, picture.title)
