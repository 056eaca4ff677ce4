"""Rows in a column of lists of a Parquet or Arrow (Feather) file. They are converted: a row has no fixed offset."""

from collections.abc import Iterator

import numpy as np

from streamumap.source.base import as_stored
from streamumap.source.checks import resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.columns import choose_column
from streamumap.source.formats.convert import Part, ToConvert
from streamumap.source.reading import Reading

BUFFER_BYTES = 1 << 20


def is_parquet(file: OpenFile) -> bool:
    """Tells whether the file begins like Parquet."""
    return file.head(4) == b"PAR1"


def is_arrow(file: OpenFile) -> bool:
    """Tells whether the file begins like an Arrow file."""
    return file.head(6) == b"ARROW1"


def parquet_rows(file: OpenFile, reading: Reading) -> ToConvert:
    """Opens a column of lists of one length; `reading.key` names it if there are several. Raises InputError."""
    return _rows(file, "parquet", reading)


def arrow_rows(file: OpenFile, reading: Reading) -> ToConvert:
    """Opens a column of lists of one length; `reading.key` names it if there are several. Raises InputError."""
    return _rows(file, "arrow", reading)


def _rows(file: OpenFile, kind: str, reading: Reading) -> ToConvert:
    path = file.name
    schema, n_rows = _guarded(path, lambda: _schema(path, kind))
    column = choose_column(path, schema, kind, reading.key)
    values = schema.field(column).type.value_type
    called = f"{path}[{column}]"
    dtype = resolve_dtype(called, np.dtype(values.to_pandas_dtype()), reading.dtype)
    first = next(_matrices(path, kind, column, called, None, 1), None)
    width = 0 if first is None else first.shape[1]

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        for block in _matrices(path, kind, column, called, width, block_rows):
            yield np.ascontiguousarray(as_stored(block, dtype))

    fingerprint = {
        "format": kind,
        "column": column,
        "blake2b": file.sampled_hash(0, 0, file.n_bytes),
    } | file.identity
    rows = ToConvert(path, {"rows": Part(called, n_rows, width, dtype, blocks)}, width, fingerprint, [file])
    return with_choice(rows, path, {"rows": column})


def _schema(path: str, kind: str):
    import pyarrow as pa
    import pyarrow.parquet

    if kind == "parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    with pa.OSFile(path) as raw:
        reader = pa.ipc.open_file(raw)
        return reader.schema, sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def _matrices(
    path: str, kind: str, column: str, called: str, width: int | None, block_rows: int
) -> Iterator[np.ndarray]:
    row = 0
    batches = _batches(path, kind, column, block_rows)
    while (batch := _guarded(path, lambda: next(batches, None))) is not None:
        for start in range(0, len(batch), block_rows):
            lists = batch.slice(start, block_rows)
            matrix = _matrix(called, lists, width, row)
            width, row = matrix.shape[1], row + len(matrix)
            yield matrix


def _batches(path: str, kind: str, column: str, block_rows: int):
    import pyarrow as pa
    import pyarrow.parquet

    if kind == "parquet":
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(block_rows, columns=[column], use_threads=False):
                yield batch.column(0)
        return
    with pa.OSFile(path) as raw:
        reader = pa.ipc.open_file(raw)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i).column(column)


def _matrix(called: str, lists, width: int | None, first_row: int) -> np.ndarray:
    """Converts an array of lists to a matrix (rows, width). Raises InputError."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    expected = int(lengths[0]) if width is None and len(lengths) else width
    other = np.flatnonzero((lengths != expected) | (lengths < 0))
    if len(other):
        at = int(other[0])
        found = "none" if lengths[at] < 0 else lengths[at]
        raise wrong(
            called,
            f"row {first_row + at}",
            f"{max(0, expected or 0)} values, as in the first row",
            found,
            "mend that row",
        )
    values = lists.flatten()
    if values.null_count:
        at = int(np.argmax(pc.is_null(values).to_numpy(zero_copy_only=False))) // max(1, expected or 1)
        raise wrong(called, f"row {first_row + at}", "values", "null", "fill it in or remove that row")
    return values.to_numpy(zero_copy_only=False).reshape(len(lists), expected or 0)


def _guarded(path, action):
    import pyarrow as pa

    try:
        return action()
    except (pa.ArrowException, OSError) as error:
        raise wrong(
            path, "content", "a whole file", short(" ".join(str(error).split())), "write the file again"
        ) from error
