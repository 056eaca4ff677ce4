"""Exports of a map to the formats of other tools: AnnData, CSV, GeoJSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap.errors import InputError
from streamumap.show.columns import Labels, read_lines, read_table
from streamumap.show.saved_run import SavedRun, open_run, read_map, read_own_table
from streamumap.store.atomic import publish

ENDINGS = {"anndata": ".h5ad", "csv": ".csv", "geojson": ".geojson"}
CHUNK_ROWS = 1 << 16


def export_run(
    path: Path, to: str, out: Path | None = None, labels: Path | None = None, names: Path | None = None
) -> Path:
    """Writes the map of a run with its columns, the columns of `labels` and the names. Raises InputError, OutputError."""
    if to not in ENDINGS:
        raise InputError(f"--to: expected {', '.join(ENDINGS)}, found {to}; give one of these.")
    run = open_run(path)
    table = _table(run, labels, names)
    out = out or path / f"map{ENDINGS[to]}"
    write = {"anndata": _write_anndata, "csv": _write_csv, "geojson": _write_geojson}[to]
    write(run, table, out)
    return out


def _table(run: SavedRun, labels: Path | None, names: Path | None) -> Any:
    """row_id, the positions, then every other column, as a pyarrow table."""
    import pyarrow as pa

    table, n_rows = read_own_table(run), len(run.embedding)
    if table is None:
        path = run.path / "embedding.parquet"
        raise InputError(f"{path}: expected the table of a finished run, found none; run streamumap embed to its end.")
    if names:
        table = table.append_column("name", read_lines("--names", names, n_rows))
    for column in read_table("--labels", labels, n_rows) if labels else []:
        if isinstance(column, Labels):
            values = pa.DictionaryArray.from_arrays(
                pa.array(column.codes, mask=column.codes < 0), pa.array(column.values, pa.string())
            )
            values = values.dictionary_decode()
        else:
            values = pa.array(column.values, mask=np.isnan(column.values))
        table = table.append_column(_free(column.name, table.column_names), values)
    return table


def _free(name: str, taken: list[str]) -> str:
    """The name, with underscores behind it until it is not taken."""
    while name in taken:
        name += "_"
    return name


def _write_csv(run: SavedRun, table: Any, out: Path) -> None:
    import pyarrow.csv

    publish(out, lambda file: pyarrow.csv.write_csv(table, file))


def _write_geojson(run: SavedRun, table: Any, out: Path) -> None:
    """Writes a FeatureCollection (RFC 7946) with a point for each row; a row without a position has no geometry.

    x and y are in units of the map, not degrees.
    """

    def write(file: BinaryIO) -> None:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(_points(table)):
            file.write((",\n" if i else "\n").encode() + json.dumps(feature, allow_nan=False).encode())
        file.write(b"\n]}\n")

    publish(out, write)


def _points(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(CHUNK_ROWS):
        for row in batch.to_pylist():
            position = [row.pop("x"), row.pop("y")]
            geometry = {"type": "Point", "coordinates": [round(v, 5) for v in position]}
            known = {
                k: v for k, v in row.items() if v is not None and not (isinstance(v, float) and not np.isfinite(v))
            }
            yield {
                "type": "Feature",
                "id": known["row_id"],
                "geometry": geometry if all(np.isfinite(position)) else None,
                "properties": known,
            }


def _write_anndata(run: SavedRun, table: Any, out: Path) -> None:
    """Writes obsm["X_umap"], obs with the columns, obsp["distances"] with the k-NN graph where the run has it, and what
    scanpy expects under uns["neighbors"]. There is no X: the rows stay in the input."""
    try:
        import anndata
    except ImportError as e:
        raise InputError(
            "--to anndata: expected the package anndata, found none; install it with pip install anndata."
        ) from e
    import pandas as pd

    axes = [name for name in table.column_names if name in ("row_id", "x", "y", "z") or name.startswith("dim")]
    known = table.drop_columns(axes).to_pandas()
    obs = pd.DataFrame(known).set_index(pd.Index([str(i) for i in range(len(known))], name="row_id"))
    data = anndata.AnnData(obs=obs, obsm={"X_umap": run.embedding})
    if run.report:
        data.uns["streamumap"] = json.dumps(run.report)
    graph = _distances(run)
    if graph is not None:
        data.obsp["distances"] = graph
        params = {"n_neighbors": int(graph.getnnz(axis=1).max()) + 1, "method": "umap"}
        data.uns["neighbors"] = {"distances_key": "distances", "params": params}
    publish(out, lambda file: data.write_h5ad(Path(file.name)))


def _distances(run: SavedRun) -> Any:
    """The k-NN graph as a CSR matrix of distances, each row without itself; None where the run has none."""
    from scipy.sparse import csr_matrix

    paths = run.path / "knn_indices.npy", run.path / "knn_distances.npy"
    if not all(path.exists() for path in paths):
        return None
    indices, distances = (read_map(path)[:, 1:] for path in paths)
    n_rows, k = indices.shape
    is_neighbor = indices >= 0
    starts = np.concatenate([[0], np.cumsum(is_neighbor.sum(axis=1))])
    return csr_matrix((distances[is_neighbor], indices[is_neighbor], starts), (n_rows, n_rows))
