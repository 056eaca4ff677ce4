"""What other programs and people open: the table, the picture, the moving picture and the page of a run."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap.errors import InputChanged, InputError
from streamumap.events import Listener, Note, ignore
from streamumap.show import look
from streamumap.show.look import Wanted
from streamumap.show.meta import Meta
from streamumap.show.png import Mark, render
from streamumap.show.runs import open_run

AXES = ("x", "y", "z")
NUMBERS = {"row_id": "DELTA_BINARY_PACKED", "duplicate_of": "DELTA_BINARY_PACKED"}
"""Columns of row numbers: as differences, a byte or less each. Positions hardly repeat, and go without a dictionary."""
NOTHING = Wanted()


def write_parquet(
    file: BinaryIO,
    embedding: np.ndarray,
    is_zero: np.ndarray,
    duplicate_of: np.ndarray | None,
    meta: Meta | None = None,
    placed: np.ndarray | None = None,
    distortion: np.ndarray | None = None,
) -> None:
    """row_id, x, y, z (as many as there are; further ones are dim3, dim4, ...), is_zero, duplicate_of (null where the
    row is the first), placed (whether on the map of others), distortion (share of the row's neighbours that the map lost,
    null where it has none), and the columns of `meta`; None: no such column. Raises InputChanged where `meta` has another
    number of rows by now."""
    import pyarrow as pa
    import pyarrow.parquet

    names = [AXES[i] if i < len(AXES) else f"dim{i}" for i in range(embedding.shape[1])]
    columns = {"row_id": pa.array(np.arange(len(embedding), dtype=np.int64))}
    columns |= {name: pa.array(np.ascontiguousarray(embedding[:, i])) for i, name in enumerate(names)}
    columns["is_zero"] = pa.array(is_zero)
    if duplicate_of is not None:
        columns["duplicate_of"] = pa.array(duplicate_of, mask=duplicate_of < 0)
    if placed is not None:
        columns["placed"] = pa.array(placed)
    if distortion is not None:
        columns["distortion"] = pa.array(distortion, mask=np.isnan(distortion))
    table = pa.table(columns)
    if meta is None:
        pyarrow.parquet.write_table(table, file, use_dictionary=False, column_encoding=NUMBERS)
        return
    writer, row = None, 0
    for batch in meta.batches():
        part = table.slice(row, batch.num_rows)
        row += batch.num_rows
        if part.num_rows < batch.num_rows:
            break
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            part = part.append_column(name, column)
        given = batch.schema.names
        writer = writer or pyarrow.parquet.ParquetWriter(
            file, part.schema, use_dictionary=given, column_encoding=NUMBERS
        )
        writer.write_table(part)
    if writer is not None:
        writer.close()
    if row != len(table):
        raise InputChanged(
            f"--meta: {meta.path}: expected {len(table)} rows as before, found {row}; run again when nothing writes to it."
        )


def render_run(
    path: Path,
    out: Path,
    wanted: Wanted = NOTHING,
    size_px: int = 1600,
    dark: bool = False,
    listener: Listener = ignore,
) -> Path:
    """A picture of the run in the folder `path`, of its last checkpoint where it is not finished. Raises InputError,
    OutputError."""
    run = open_run(path)
    given, names = look.labels_of(run, wanted), look.names_of(run, wanted)
    cluster, found = look.clusters_of(run, names, None, listener)
    columns = look.columns_of(run, wanted, listener, given, cluster)
    marks = [Mark(c.text, c.x, c.y) for c in found if c.level == 0]
    render(
        run.embedding,
        out,
        columns=columns,
        marks=marks,
        title=run.title,
        subtitle=run.facts,
        size_px=size_px,
        dark=dark,
    )
    return out


def animate_run(
    path: Path,
    out: Path,
    wanted: Wanted = NOTHING,
    size_px: int = 800,
    dark: bool = False,
    listener: Listener = ignore,
) -> Path:
    """The way of the rows from snapshot to snapshot to where they are, as a GIF. Raises InputError, OutputError."""
    from streamumap.show.gif import animate

    run = open_run(path)
    shots = sorted((path / "snapshots").glob("epoch_*.npy"))
    if not shots:
        raise InputError(
            f"{path}: expected snapshots to animate, found none; make the run with streamumap embed --snapshots 30."
        )
    columns = look.columns_of(run, wanted, listener, look.labels_of(run, wanted))
    animate(shots, run.embedding, out, columns=columns, title=run.title, size_px=size_px, dark=dark)
    return out


def page_of(path: Path, wanted: Wanted, with_features: bool, listener: Listener) -> Any:
    """What the page of a run carries (`show.page.content.Content`): all columns, names, the strongest features of every
    row where the input is still there, the names of clusters."""
    from streamumap.show.page.content import Label, TopFeatures, content

    run = open_run(path)
    given, names = look.labels_of(run, wanted), look.names_of(run, wanted)
    top = look.top_features_of(run, wanted, listener) if with_features else None
    cluster, found = look.clusters_of(run, names, top, listener)
    columns = look.columns_of(run, wanted, listener, given, cluster, every=True)
    nothing_else = not wanted.colors and columns[:1] and columns[0].name == look.DISTORTION
    return content(
        run.embedding,
        title=run.title,
        facts=run.facts,
        columns=columns,
        names=names,
        features=TopFeatures(*top) if top else None,
        labels=[Label(c.text, c.x, c.y, c.level) for c in found],
        first=-1 if nothing_else else 0,
    )


def view_run(
    path: Path,
    out: Path,
    wanted: Wanted = NOTHING,
    with_features: bool = True,
    listener: Listener = ignore,
) -> Path:
    """The page of the run as one file. Raises InputError, OutputError."""
    from streamumap.show.page.html import MOST_BYTES, write_page

    _, left_out = write_page(page_of(path, wanted, with_features, listener), out)
    for kind in left_out:
        listener(
            Note(
                "warning",
                f"{out}: {kind} are left out: with them it would be over {MOST_BYTES // 10**6} MB; --serve shows them.",
            )
        )
    return out
