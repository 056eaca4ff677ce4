"""embedding.parquet: one row for each row of the input, with its position and what is known of it."""

from typing import Any, BinaryIO

import numpy as np

from streamumap.errors import InputChanged
from streamumap.show.meta import Meta

AXES = ("x", "y", "z")
ENCODINGS = {"row_id": "DELTA_BINARY_PACKED", "duplicate_of": "DELTA_BINARY_PACKED"}
"""Row numbers are written as differences, a byte or less each. Positions hardly repeat and get no dictionary."""


def write_parquet(
    file: BinaryIO,
    embedding: np.ndarray,
    is_zero: np.ndarray,
    duplicate_of: np.ndarray | None,
    meta: Meta | None = None,
    placed: np.ndarray | None = None,
    distortion: np.ndarray | None = None,
) -> None:
    """Writes the table of a map; an argument that is None gives no column.

    Columns: row_id; x, y, z, as many as there are, further axes are dim3, dim4, ...; is_zero; duplicate_of, null where
    the row is the first of its kind; placed, whether the row was added to the map of others; distortion, the share of
    the row's neighbours that the map lost, null where it was not measured; then the columns of `meta`.

    Raises InputChanged where `meta` has another number of rows than when it was checked.
    """
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
        pyarrow.parquet.write_table(table, file, use_dictionary=False, column_encoding=ENCODINGS)
    else:
        _write_with_meta(file, table, meta)


def _write_with_meta(file: BinaryIO, table: Any, meta: Meta) -> None:
    """Writes the table batch by batch, with the columns of `meta` at its end."""
    import pyarrow.parquet

    writer, row = None, 0
    for batch in meta.batches():
        part = table.slice(row, batch.num_rows)
        row += batch.num_rows
        if part.num_rows < batch.num_rows:
            break
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            part = part.append_column(name, column)
        writer = writer or pyarrow.parquet.ParquetWriter(
            file, part.schema, use_dictionary=batch.schema.names, column_encoding=ENCODINGS
        )
        writer.write_table(part)
    if writer is not None:
        writer.close()
    if row != len(table):
        raise InputChanged(
            f"--meta: {meta.path}: expected {len(table)} rows as before, found {row}; run again when nothing writes to it."
        )
