"""Columns: what is known of the rows of a map beside their positions, as labels, numbers or activations of features.

They are read from text files (a value a line), CSV and Parquet files with one row for each row of the map, in order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Advance, no_advance
from streamumap.source import RowSource, blocks, widen

BLOCK_BYTES = 32 << 20
FEW_INTEGERS = 20
"""Integers with at most this many distinct values are labels, such as the numbers of classes."""
POSITIONS = ("row_id", "x", "y", "z", "duplicate_of")
"""Columns of embedding.parquet that are no annotation of a row."""


@dataclass(frozen=True)
class Labels:
    """A column of text: the most frequent value first."""

    name: str
    codes: np.ndarray  # (N,) int32: the index of the row's label in `values`, or -1 without a label
    values: tuple[str, ...]
    counts: np.ndarray  # (values,) int64


@dataclass(frozen=True)
class Numbers:
    """A column of numbers. With `zero_is_none` a zero means that nothing is there, as in the activations of a feature."""

    name: str
    values: np.ndarray  # (N,) float32, NaN without a value
    zero_is_none: bool = False


Column = Labels | Numbers


@dataclass(frozen=True)
class TopFeatures:
    """The strongest features of each row, and their activations."""

    ids: np.ndarray  # (N, top) uint16 or uint32
    values: np.ndarray  # (N, top) float32, descending, 0 where fewer features are above zero

    @cached_property
    def largest(self) -> float:
        return float(self.values.max(initial=0)) or 1.0


def label_column(name: str, values: Sequence[str | None]) -> Labels:
    """A column of labels from one value a row; None stands for no label."""
    import pyarrow as pa

    return _labels(name, pa.array(values, pa.string()))


def read_lines(option: str, path: Path, n_rows: int | None = None) -> Any:
    """Reads the lines of a text file as a pyarrow array of N strings. Raises InputError where they are not `n_rows`."""
    import pyarrow.compute as pc

    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(
            f"{option}: {path}: cannot be read ({e.strerror}); give a text file with one row a line."
        ) from e
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    whole = _as_text(option, path, data.removesuffix(b"\n"))
    lines = pc.split_pattern(whole, "\n").values if data else whole[:0]
    if n_rows is not None and len(lines) != n_rows:
        raise InputError(
            f"{option}: {path}: expected {n_rows} lines, one a row, found {len(lines)}; give as many as there are rows."
        )
    return lines


def _as_text(option: str, path: Path, data: bytes) -> Any:
    """Bytes in UTF-8 as a pyarrow array of one string, without a copy. Raises InputError where they are not UTF-8."""
    import pyarrow as pa

    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(data))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid as e:
        try:
            data.decode()
            raise
        except UnicodeDecodeError as where:
            raise InputError(
                f"{option}: {path}: expected text in UTF-8, found byte {data[where.start]}; save it as UTF-8."
            ) from e
    return text


def read_table(option: str, path: Path, n_rows: int) -> list[Column]:
    """Reads the columns of a text, CSV or Parquet file, told apart by the ending. Raises InputError.

    A text file is one column with the name of the file. Columns that are neither text nor numbers are left out.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        return [_text_column(path.stem, read_lines(option, path, n_rows))]
    table = _read_arrow(option, path, ending)
    if table.num_rows != n_rows:
        raise InputError(
            f"{option}: {path}: expected {n_rows} rows, one for each of the map, found {table.num_rows}; give as many."
        )
    columns = [column_of(name, table[name].combine_chunks()) for name in table.column_names if name not in POSITIONS]
    return [column for column in columns if column is not None]


def _read_arrow(option: str, path: Path, ending: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if ending == ".parquet":
            return pyarrow.parquet.read_table(path)
        return pyarrow.csv.read_csv(
            path, parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",")
        )
    except (OSError, pa.ArrowException) as e:
        raise InputError(
            f"{option}: {path}: cannot be read ({str(e).splitlines()[0].rstrip('.')}); give a text, CSV or Parquet file."
        ) from e


def _text_column(name: str, lines: Any) -> Column:
    """A column of numbers where every line is a number or empty, else of labels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = lines.dictionary_encode()
    present = pc.if_else(pc.equal(encoded.dictionary, ""), None, encoded.dictionary)
    for kind in (pa.int64(), pa.float64()):
        try:
            column = column_of(name, present.cast(kind).take(encoded.indices))
        except pa.ArrowInvalid:
            continue
        assert column is not None
        return column
    return _labels(name, encoded)


def column_of(name: str, array: Any) -> Column | None:
    """A pyarrow array as a column, None for types that are neither text nor numbers.

    Text, booleans and integers with few distinct values become labels, other numbers stay numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_integer(kind) and pc.count_distinct(array).as_py() <= FEW_INTEGERS:
        return _labels(name, array.cast(pa.string()))
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        values = np.from_dlpack(array.cast(pa.float32(), safe=False).fill_null(float("nan")))
        return Numbers(name, np.where(np.isfinite(values), values, np.float32(np.nan)))
    if pa.types.is_boolean(kind):
        return _labels(name, pc.if_else(array, "yes", "no"))
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _labels(name, array) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _labels(name: str, array: Any) -> Labels:
    """A column of labels from an array of text; empty text is no label."""
    import pyarrow as pa

    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    codes = np.from_dlpack(encoded.indices.fill_null(-1))
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    ranked = sorted((i for i, text in enumerate(texts) if text), key=lambda i: (-counts[i], texts[i]))
    rank = np.full(len(texts) + 1, -1, np.int32)  # the last entry is for -1
    rank[ranked] = np.arange(len(ranked), dtype=np.int32)
    return Labels(name, rank[codes], tuple(texts[i] for i in ranked), counts[ranked])


def pick(columns: Sequence[Column], name: str, option: str = "--color") -> Column:
    """The column with this name. Raises InputError where there is none."""
    for column in columns:
        if column.name == name:
            return column
    known = ", ".join(column.name for column in columns) or "none"
    raise InputError(
        f"{option}: expected feature:NUMBER or one of the columns there are ({known}), found {name}; give one of these."
    )


def feature_number(color: str, n_features: int) -> int | None:
    """The number in "feature:12", None for the name of a column. Raises InputError where there is no such feature."""
    if not color.startswith("feature:"):
        return None
    text = color.removeprefix("feature:")
    if not (text.isascii() and text.isdigit() and int(text) < n_features):
        raise InputError(
            f"--color: expected feature:0 to feature:{n_features - 1}, found {color}; give a feature of the input."
        )
    return int(text)


def read_features(source: RowSource, features: Sequence[int], advance: Advance = no_advance) -> list[Numbers]:
    """The activations of some features, read from the input in one pass."""
    values = np.empty((len(features), source.n_rows), np.float32)
    for start, rows in _wide_blocks(source, advance):
        values[:, start : start + len(rows)] = rows[:, features].T
    values[~np.isfinite(values)] = np.nan
    return [Numbers(f"feature {feature}", values[i], zero_is_none=True) for i, feature in enumerate(features)]


def top_features(source: RowSource, n_top: int, advance: Advance = no_advance) -> TopFeatures:
    """The `n_top` strongest features of each row, read in one pass."""
    n_top = min(n_top, source.n_features)
    ids = np.empty((source.n_rows, n_top), np.uint16 if source.n_features <= 1 << 16 else np.uint32)
    values = np.empty((source.n_rows, n_top), np.float32)
    for start, rows in _wide_blocks(source, advance):
        every = np.arange(len(rows))
        rows = np.where(np.isfinite(rows), rows, 0)
        for i in range(n_top):
            best = rows.argmax(axis=1)
            ids[start : start + len(rows), i] = best
            values[start : start + len(rows), i] = np.maximum(rows[every, best], 0)
            rows[every, best] = -np.inf
    return TopFeatures(ids, values)


def _wide_blocks(source: RowSource, advance: Callable[[int], None]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, rows as float32). Raises InputChanged where the input changes meanwhile."""
    for start, block in blocks(source, max(1, BLOCK_BYTES // (4 * source.n_features))):
        yield start, widen(block, source.dtype)
        advance(len(block))
    source.check_unchanged()
