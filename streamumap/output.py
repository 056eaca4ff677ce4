"""What other programs and people open: the Parquet file and the pictures of a run."""

import json
from pathlib import Path

import numpy as np

from streamumap.blockfile import BlockFile
from streamumap.errors import InputChanged, InputError
from streamumap.meta import Meta
from streamumap.render import render

AXES = ("x", "y", "z")


def write_parquet(
    path: Path, embedding: np.ndarray, is_zero: np.ndarray, duplicate_of: np.ndarray, meta: Meta | None = None
) -> None:
    """row_id, x, y, z (as many as there are; further ones are dim3, dim4, ...), is_zero, duplicate_of (null where the
    row is the first), and the columns of `meta`. Raises InputChanged where that has another number of rows by now."""
    import pyarrow as pa
    import pyarrow.parquet

    names = [AXES[i] if i < len(AXES) else f"dim{i}" for i in range(embedding.shape[1])]
    columns = {"row_id": pa.array(np.arange(len(embedding), dtype=np.int64))}
    columns |= {name: pa.array(np.ascontiguousarray(embedding[:, i])) for i, name in enumerate(names)}
    columns["is_zero"] = pa.array(is_zero)
    columns["duplicate_of"] = pa.array(duplicate_of, mask=duplicate_of < 0)
    table = pa.table(columns)
    if meta is None:
        pyarrow.parquet.write_table(table, path)
        return
    writer, row = None, 0
    for batch in meta.batches():
        part = table.slice(row, batch.num_rows)
        row += batch.num_rows
        if part.num_rows < batch.num_rows:
            break
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            part = part.append_column(name, column)
        writer = writer or pyarrow.parquet.ParquetWriter(path, part.schema)
        writer.write_table(part)
    if writer is not None:
        writer.close()
    if row != len(table):
        raise InputChanged(
            f"--meta: {meta.path}: expected {len(table)} rows as before, found {row}; run again when nothing writes to it."
        )


def describe(report: dict) -> tuple[str, str]:
    """Title and subtitle of a run's picture, from its run.json."""
    source, quality = report["input"], report["quality"]
    facts = f"{source['rows']:,} x {source['features']:,} {source['dtype']}, {report['params']['metric']}, k {report['params']['n_neighbors']}"
    measured = f"recall {quality['knn_recall']['value']:.3f}, trustworthiness {quality['trustworthiness']['value']:.3f}"
    return Path(source["name"]).name, f"{facts}; {measured}"


def render_run(run: Path, out: Path, labels: Path | None = None, size_px: int = 1600, dark: bool = False) -> Path:
    """A picture of the run in the folder `run`, of its last checkpoint where it is not finished. Raises InputError,
    OutputError."""
    found = next((p for p in (run / "embedding.npy", run / "scratch" / "layout.npy") if p.exists()), None)
    if found is None:
        raise InputError(
            f"{run}: expected a run with a map or the beginning of one, found no embedding.npy; start it with streamumap embed."
        )
    embedding = _read(found)
    if embedding.shape[1] < 2:
        raise InputError(
            f"{run}: expected a map of 2 or more dimensions, found {embedding.shape[1]}; a picture needs two."
        )
    report = run / "run.json"
    title, subtitle = _described(report) if report.exists() else (run.name, "not finished")
    render(
        embedding,
        out,
        labels=_read_labels(labels, len(embedding)),
        title=title,
        subtitle=subtitle,
        size_px=size_px,
        dark=dark,
    )
    return out


def _read(path: Path) -> np.ndarray:
    try:
        file = BlockFile.open(path)
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}: expected the map of a run, found something else or a part of it; run streamumap embed again."
        ) from e
    embedding = file.read(0, len(file))
    file.close()
    return embedding


def _described(path: Path) -> tuple[str, str]:
    try:
        return describe(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: expected the report of a run, found something else; run streamumap embed again."
        ) from e


def _read_labels(path: Path | None, n_rows: int) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise InputError(
            f"--labels: {path}: cannot be read ({e.strerror}); give a text file with one label a line."
        ) from e
    except UnicodeDecodeError as e:
        raise InputError(
            f"--labels: {path}: expected text in UTF-8, found byte {e.object[e.start]}; save it as UTF-8."
        ) from e
    if len(lines) != n_rows:
        raise InputError(
            f"--labels: {path}: expected {n_rows} lines, one a row, found {len(lines)}; give as many as there are rows."
        )
    return lines
