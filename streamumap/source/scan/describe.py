"""Describes a piece of rows: a key for each row, counts, extremes; from the non-zeros alone if they are few."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from streamumap.source.base import CsrBlock, stored_dtype, widen
from streamumap.source.pieces import Piece
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of

SPARSE_FROM = 16
"""A piece with at most one non-zero in this many values is described from its non-zeros alone. Measured."""

DENSE_VALUES = 1 << 16
"""Values of a dense piece that are widened at a time: their float64 form is 512 kB and stays in the cache."""

ROUNDED = ("float64", "int64", "uint64")
"""Dtypes of 8 bytes, which float32 does not hold exactly: their rows get a second key, of their float32 values."""

HASH_KEY = 0x5EED_0F_0A11_2012
"""Key of the counter generator (Philox) that gives the multipliers: the same in every run."""


@dataclass(frozen=True)
class Hashing:
    """Multipliers of the hashes, uint64. A lane is 32 bits of a row; the last is padded with zeros."""

    n_features: int
    offset: np.ndarray  # (2,)
    by_lane: np.ndarray  # (2, lanes)
    by_value: np.ndarray  # (2, D): of the value's first lane, shifted to the position of the value in it
    rounded: "Hashing | None" = None  # of the rows as float32, for dtypes in ROUNDED

    @staticmethod
    def of(n_features: int, dtype: str) -> "Hashing":
        itemsize = stored_dtype(dtype).itemsize
        lanes = -(-n_features * itemsize // 4)
        random = np.random.Philox(key=HASH_KEY).random_raw(2 * (lanes + 1)).reshape(2, lanes + 1)
        place = np.arange(n_features) * itemsize
        by_value = random[:, 1 + place // 4] << (8 * (place % 4)).astype(np.uint64)
        rounded = Hashing.of(n_features, "float32") if dtype in ROUNDED else None
        return Hashing(n_features, random[:, 0], random[:, 1:].copy(), by_value, rounded)

    def products(self, column: np.ndarray, stored: np.ndarray) -> Iterator[np.ndarray]:
        """Yields, for each of the two sums of a row, what every value adds to it: uint64."""
        bits = np.ascontiguousarray(stored).view(f"u{stored.itemsize}").astype(np.uint64)
        for by_value, by_lane in zip(self.by_value, self.by_lane, strict=True):
            if stored.itemsize < 8:
                yield by_value[column] * bits
            else:  # two lanes
                low = by_lane[0::2][column] * (bits & np.uint64(0xFFFFFFFF))
                yield low + by_lane[1::2][column] * (bits >> np.uint64(32))

    def key(self, sums: Iterable[np.ndarray]) -> np.ndarray:
        high, low = (total + offset for total, offset in zip(sums, self.offset, strict=True))
        return (high & np.uint64(0xFFFFFFFF_00000000)) | (low >> np.uint64(32))


@dataclass(frozen=True)
class Described:
    """The description of R rows."""

    keys: np.ndarray  # uint64 (R,), of the rows as stored; values that are zero as float32 count as zero
    active: np.ndarray  # int64 (R,)
    square: np.ndarray  # float64 (R,): squared norm; not finite if a value is not
    active_per_feature: np.ndarray  # int64 (D,)
    low: np.ndarray  # float32 (D,)
    high: np.ndarray  # float32 (D,)
    rounded_keys: np.ndarray | None = None  # uint64 (R,), of the rows as float32, for dtypes in ROUNDED


def describe(rows: Piece, dtype: str, hashing: Hashing) -> Described:
    """Describes stored rows or pairs; the result is the same for both forms."""
    with np.errstate(all="ignore"):
        if isinstance(rows, CsrBlock):
            return describe_pairs(rows, dtype, hashing)
        rows = np.ascontiguousarray(rows)
        mask = nonzero_mask(rows, dtype)
        if np.count_nonzero(mask) * SPARSE_FROM <= mask.size:
            return describe_pairs(pairs_of(rows, mask), dtype, hashing)
        return describe_dense(rows, mask, dtype, hashing)


def describe_pairs(pairs: CsrBlock, dtype: str, hashing: Hashing) -> Described:
    n_rows, n_features = pairs.n_rows, hashing.n_features
    column = pairs.indices
    values = widen(pairs.values, dtype)
    active = np.diff(pairs.indptr)
    keys = _keys_of_pairs(pairs, pairs.values, hashing)
    rounded_keys = None if hashing.rounded is None else _keys_of_pairs(pairs, values, hashing.rounded)
    row = np.repeat(np.arange(n_rows), active)
    square = np.bincount(row, weights=np.square(values, dtype=np.float64), minlength=n_rows)
    active_per_feature = np.bincount(column, minlength=n_features)
    finite = np.isfinite(values)
    if not finite.all():
        column, values = column[finite], values[finite]
    low, high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
    np.minimum.at(low, column, values)
    np.maximum.at(high, column, values)
    has_zero = active_per_feature < n_rows
    np.minimum(low, 0, out=low, where=has_zero)
    np.maximum(high, 0, out=high, where=has_zero)
    return Described(keys, active, square, active_per_feature, low, high, rounded_keys)


def _keys_of_pairs(pairs: CsrBlock, values: np.ndarray, hashing: Hashing) -> np.ndarray:
    """Computes keys from running sums: modulo 2^64 they are exact, and a row's sum is the difference of two."""
    sums = []
    for products in hashing.products(pairs.indices, values):
        running = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(products, out=running[1:])
        sums.append(running[pairs.indptr[1:]] - running[pairs.indptr[:-1]])
    return hashing.key(sums)


def describe_dense(rows: np.ndarray, mask: np.ndarray, dtype: str, hashing: Hashing) -> Described:
    n_rows, n_features = rows.shape
    step = max(1, min(n_rows, DENSE_VALUES // n_features))
    wide = np.empty((step, n_features), np.float64)
    keys, square = _Keys(hashing, n_rows, step), np.empty(n_rows)
    rounded = None if hashing.rounded is None else _Keys(hashing.rounded, n_rows, step)
    low, high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        n = part.stop - start
        keys.add(part, rows[part], mask[part])
        wide[:n] = values = widen(rows[part], dtype)
        if rounded:
            rounded.add(part, values, mask[part])
        np.einsum("ij,ij->i", wide[:n], wide[:n], out=square[part])
        finite = True if np.isfinite(square[part]).all() else np.isfinite(values)
        np.minimum(low, values.min(axis=0, where=finite, initial=np.inf), out=low)
        np.maximum(high, values.max(axis=0, where=finite, initial=-np.inf), out=high)
    active, rounded_keys = np.count_nonzero(mask, axis=1), rounded.all() if rounded else None
    return Described(keys.all(), active, square, _count_columns(mask), low, high, rounded_keys)


class _Keys:
    """Collects the keys of `n_rows` rows, which come at most `step` at a time."""

    def __init__(self, hashing: Hashing, n_rows: int, step: int):
        self._hashing, self._sums = hashing, np.empty((2, n_rows), np.uint64)
        self._lanes = np.empty((step, hashing.by_lane.shape[1]), np.uint64)

    def add(self, part: slice, rows: np.ndarray, mask: np.ndarray) -> None:
        lanes = self._lanes[: len(rows)]
        lanes[...] = _lanes(rows, mask)
        for total, multipliers in zip(self._sums, self._hashing.by_lane, strict=True):
            np.einsum("ij,j->i", lanes, multipliers, out=total[part])

    def all(self) -> np.ndarray:
        """Returns the keys, uint64 (n_rows,)."""
        return self._hashing.key(self._sums)


def _lanes(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Converts stored rows (R, D) to uint32 lanes: -0.0 becomes 0.0, rows are padded to a multiple of 4 bytes."""
    bits = rows.view(f"u{rows.itemsize}")
    if np.count_nonzero(bits) != np.count_nonzero(mask):
        bits = np.multiply(bits, mask, dtype=bits.dtype)
    n_rows, row_bytes = len(bits), bits.shape[1] * bits.itemsize
    if row_bytes % 4:
        padded = np.zeros((n_rows, row_bytes + -row_bytes % 4), np.uint8)
        padded[:, :row_bytes] = bits.view(np.uint8)
        bits = padded
    return bits.view(np.uint32)


def _count_columns(mask: np.ndarray) -> np.ndarray:
    """Counts True by column, bool (R, D) to int64 (D,), in bytes over 255 rows at a time: the fastest sum there is."""
    counts = np.zeros(mask.shape[1], np.int64)
    for start in range(0, len(mask), 255):
        counts += mask[start : start + 255].view(np.uint8).sum(axis=0, dtype=np.uint8)
    return counts
