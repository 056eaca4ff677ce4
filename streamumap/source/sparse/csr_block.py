"""Makes `CsrBlock`s: drops zeros, sorts the features of a row, refuses invalid rows."""

from collections.abc import Iterator

import numpy as np

from streamumap.source.base import CsrBlock, index_dtype, stored_dtype
from streamumap.source.checks import wrong


def nonzero_mask(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Returns bool of the same shape: the stored values that are not zero as float32. NaN is not zero. 16-bit floats are
    compared as integers, which is faster."""
    if dtype in ("float16", "bfloat16"):
        bits = rows.view(np.uint16)
        mask = bits != 0
        mask &= bits != np.uint16(0x8000)
        return mask
    if dtype == "float64":
        with np.errstate(all="ignore"):
            return rows.astype(np.float32) != 0
    return rows if rows.dtype == bool else rows != 0


def pairs_of(rows: np.ndarray, mask: np.ndarray) -> CsrBlock:
    """Converts stored rows (R, D), non-zero where `mask` says, to pairs."""
    n_rows, n_features = rows.shape
    at = np.flatnonzero(mask)
    row = at // n_features
    indptr = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=n_rows), out=indptr[1:])
    return CsrBlock(indptr, (at - row * n_features).astype(index_dtype(n_features)), rows.reshape(-1)[at])


def ordered_pairs(
    name: str,
    rows: np.ndarray,
    counts: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    n_features: int,
    dtype: str,
) -> CsrBlock:
    """Sorts the pairs of R rows by feature and drops zeros.

    `rows` (R,): row numbers, for messages. `counts` (R,): pairs of each row. `indices` (integers of any dtype, in any order)
    and `values` (as stored) lie row after row. A pair whose value is zero is dropped, whatever its index: encoders with a
    ReLU before their TopK fill rows up with such pairs. Raises InputError.
    """
    row_of_pair = np.repeat(np.arange(len(counts)), counts)
    nonzero = nonzero_mask(values, dtype)
    if not nonzero.all():
        row_of_pair, indices, values = row_of_pair[nonzero], indices[nonzero], values[nonzero]
        counts = np.bincount(row_of_pair, minlength=len(counts))
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    if len(indices) == 0:
        return CsrBlock(indptr, indices.astype(index_dtype(n_features)), values)
    if indices.max() >= n_features or indices.min() < 0:
        at = int(np.argmax((indices >= n_features) | (indices < 0)))
        raise _beyond(name, rows[row_of_pair[at]], indices[at], n_features)
    position = row_of_pair * n_features + indices.astype(np.int64)
    step = np.diff(position)
    if (step <= 0).any():
        order = np.argsort(position, kind="stable")
        indices, values, step = indices[order], values[order], np.diff(position[order])
        if (step == 0).any():
            at = int(np.argmin(step))
            raise _twice(name, rows[row_of_pair[at]], indices[at])
    return CsrBlock(indptr, indices.astype(index_dtype(n_features)), values)


def fill_in(pairs: CsrBlock, n_features: int, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """Fills in the zeros: returns rows as stored, (R, n_features); `out` as in `RowSource.read`."""
    if out is None:
        out = np.empty((pairs.n_rows, n_features), stored_dtype(dtype))
    out = out[: pairs.n_rows]
    out[...] = 0
    out[np.repeat(np.arange(pairs.n_rows), np.diff(pairs.indptr)), pairs.indices] = pairs.values
    return out


def even_spans(n_rows: int, row_pairs: int, n_pairs: int) -> Iterator[tuple[int, int]]:
    """Yields `SparseSource.spans` for rows with `row_pairs` pairs each."""
    step = max(1, n_pairs // max(1, row_pairs))
    return ((start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _beyond(name, row, index, n_features):
    expected = f"indices from 0 to {n_features - 1}, for {n_features} features"
    return wrong(name, f"row {row}", expected, index, "give the right width with --features or mend the row")


def _twice(name, row, index):
    return wrong(name, f"row {row}", "each feature once", f"feature {index} twice", "add the values up or remove one")
