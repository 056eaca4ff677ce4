"""One pass over the rows that finds everything `embed` and `inspect` must know about them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Tick, no_tick
from streamumap.source.base import RowSource, blocks, stored_dtype, widen
from streamumap.source.packed import PIECE_VALUES, index_dtype, n_threads, nonzero_mask, over_pieces

SPARSE_FROM = 16
"""A piece with at most one non-zero in so many values is described from its non-zeros alone. Measured."""

DENSE_VALUES = 1 << 16
"""Values of a dense piece that are widened at a time: their float64 form is 512 kB and stays in the cache."""

DEVICE_PIECE_VALUES = 1 << 23
"""Values that a GPU looks at together: DEVICE_VALUE_BYTES each for a moment, where none is zero."""

DEVICE_VALUE_BYTES = 72

HASH_KEY = 0x5EED_0F_0A11_2012
"""Key of the counter generator (Philox) that gives the multipliers: the same in every run."""

WILD = 1e6
"""A column this many times the median column is wild."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What `scan` found in N rows of D features. Low, high and norms leave out values and rows that are not finite."""

    n_rows: int
    n_features: int
    dtype: str
    n_nonzero: int
    min_active: int  # non-zeros of a row
    mean_active: float
    max_active: int
    is_zero: np.ndarray  # bool (N,)
    duplicate_of: np.ndarray  # int64 (N,): first row with the same content, -1 where there is none before
    n_nonfinite_rows: int
    first_nonfinite_row: int  # -1 where there is none
    active_per_feature: np.ndarray  # int64 (D,)
    feature_low: np.ndarray  # float32 (D,): inf where no value is finite
    feature_high: np.ndarray  # float32 (D,): -inf where no value is finite
    norm_min: float  # NaN where no row is finite
    norm_mean: float
    norm_max: float

    @property
    def non_negative(self) -> bool:
        return bool((self.feature_low >= 0).all())

    @property
    def n_zero_rows(self) -> int:
        return int(np.count_nonzero(self.is_zero))

    @property
    def n_duplicate_rows(self) -> int:
        return int(np.count_nonzero(self.duplicate_of >= 0))

    @property
    def n_dead_features(self) -> int:
        """Features that are never non-zero."""
        return int(np.count_nonzero(self.active_per_feature == 0))

    @property
    def n_constant_features(self) -> int:
        """Features with the same value in every row, dead ones included."""
        return int(np.count_nonzero(self.feature_low == self.feature_high))

    @property
    def density(self) -> float:
        return self.n_nonzero / (self.n_rows * self.n_features)


def scan(source: RowSource, block_rows: int, tick: Tick = no_tick) -> Scan:
    """Reads all rows once, `block_rows` at a time. One tick a row. The result does not depend on the number of threads.

    Rows are compared by a 64-bit key of two multilinear hashes (Lemire & Kaser, "Strongly universal string hashing is
    fast", 2012: 32-bit lanes, random 64-bit multipliers, the high 32 bits of the sum). Two given rows that differ share
    a key with probability 2^-64; some pair among 3 million does with 2.4e-7. Float64 rows are compared as float32.
    """
    return _read(source, block_rows, tick).finish(source.dtype)


def _read(source: RowSource, block_rows: int, tick: Tick) -> "Totals":
    totals = Totals(source.n_rows, source.n_features)
    work = partial(_describe, dtype=source.dtype, hashing=Hashing.of(source.n_features, source.dtype))
    with ThreadPoolExecutor(n_threads()) as pool:
        for _, block in blocks(source, block_rows):
            for piece in over_pieces(pool, work, block):
                totals.add(piece)
            tick(len(block))
    return totals


def scan_footprint(n_rows: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Bytes of memory at the peak of `scan`, its result included; `itemsize` in bytes, of the stored dtype."""
    block_bytes = min(block_rows, n_rows) * n_features * itemsize
    thread_bytes = 16 * PIECE_VALUES + 64 * n_features
    return 9 * n_rows + 64 * n_features + max(block_bytes + n_threads() * thread_bytes, 16 * n_rows + (4 << 20))


def device_scan_footprint(n_rows: int, n_features: int, itemsize: int, block_rows: int) -> tuple[int, int]:
    """(host bytes, device bytes) at the peak of `scan_cuda.scan`, without the packed rows."""
    block_bytes = min(block_rows, n_rows) * n_features * itemsize
    piece_values = max(n_features, min(DEVICE_PIECE_VALUES, n_rows * n_features))
    host = 9 * n_rows + 64 * n_features + max(2 * block_bytes, 16 * n_rows + (4 << 20)) + 8 * n_rows
    return host, 2 * block_bytes + piece_values * DEVICE_VALUE_BYTES


def check_finite(source_name: str, scan: Scan) -> None:
    """Raises InputError where a value is NaN, infinite, or (float64) beyond the range of float32."""
    if scan.n_nonfinite_rows:
        raise InputError(
            f"{source_name}: row {scan.first_nonfinite_row}: expected finite values, found NaN or infinite ones "
            f"(float32 holds up to 3.4e38) in {scan.n_nonfinite_rows} of {scan.n_rows} rows, this one first; "
            "fix or remove those rows."
        )


def wild_features(scan: Scan) -> np.ndarray:
    """Columns (int64, ascending) whose largest magnitude is over WILD times the lower median of columns not zero."""
    magnitude = np.maximum(np.abs(scan.feature_low), np.abs(scan.feature_high)).astype(np.float64)
    magnitude[np.isinf(magnitude)] = 0.0  # no finite value
    live = np.sort(magnitude[magnitude > 0])
    return np.flatnonzero(magnitude > WILD * live[(len(live) - 1) // 2]) if len(live) else np.empty(0, np.int64)


def inspect_report(source: RowSource, scan: Scan) -> dict:
    """The scan as JSON: numbers, lists, and None where there is nothing to tell."""
    pair_bytes = index_dtype(scan.n_features).itemsize + stored_dtype(scan.dtype).itemsize
    norms = {"min": scan.norm_min, "mean": scan.norm_mean, "max": scan.norm_max}
    return {
        "name": source.name,
        "rows": scan.n_rows,
        "features": scan.n_features,
        "dtype": scan.dtype,
        "stored_bytes": scan.n_rows * source.row_bytes,
        "pairs_bytes": scan.n_nonzero * pair_bytes,
        "nonzero": scan.n_nonzero,
        "density": scan.density,
        "active_per_row": {"min": scan.min_active, "mean": scan.mean_active, "max": scan.max_active},
        "non_negative": scan.non_negative,
        "zero_rows": scan.n_zero_rows,
        "duplicate_rows": scan.n_duplicate_rows,
        "dead_features": scan.n_dead_features,
        "constant_features": scan.n_constant_features,
        "wild_features": wild_features(scan).tolist(),
        "nonfinite_rows": scan.n_nonfinite_rows,
        "first_nonfinite_row": scan.first_nonfinite_row if scan.n_nonfinite_rows else None,
        "norm": {name: value if np.isfinite(value) else None for name, value in norms.items()},
    }


@dataclass(frozen=True)
class Hashing:
    """How a row's key is made. Multipliers, uint64. A lane is 32 bits of a row (its last one padded with zeros)."""

    offset: np.ndarray  # (2,)
    by_lane: np.ndarray  # (2, lanes)
    by_value: np.ndarray  # (2, D): the lane's, shifted to where the value lies in it; for values of up to 32 bits

    @staticmethod
    def of(n_features: int, dtype: str) -> "Hashing":
        itemsize = 4 if dtype == "float64" else stored_dtype(dtype).itemsize
        lanes = -(-n_features * itemsize // 4)
        random = np.random.Philox(key=HASH_KEY).random_raw(2 * (lanes + 1)).reshape(2, lanes + 1)
        place = np.arange(n_features) * itemsize
        by_value = random[:, 1 + place // 4] << (8 * (place % 4)).astype(np.uint64)
        return Hashing(random[:, 0], random[:, 1:].copy(), by_value)

    def key(self, sums: Iterable[np.ndarray]) -> np.ndarray:
        high, low = (total + offset for total, offset in zip(sums, self.offset, strict=True))
        return (high & np.uint64(0xFFFFFFFF_00000000)) | (low >> np.uint64(32))


@dataclass(frozen=True)
class Piece:
    """What is known of R rows, however it was found."""

    keys: np.ndarray  # uint64 (R,)
    active: np.ndarray  # int64 (R,)
    square: np.ndarray  # float64 (R,): squared norm; not finite where a value is not
    active_per_feature: np.ndarray  # int64 (D,)
    low: np.ndarray  # float32 (D,)
    high: np.ndarray  # float32 (D,)


def _describe(rows: np.ndarray, dtype: str, hashing: Hashing) -> Piece:
    """Stored rows -> what is known of them: from the non-zeros alone where these are few."""
    with np.errstate(all="ignore"):
        rows = np.ascontiguousarray(rows)
        if dtype == "float64":
            rows, dtype = rows.astype(np.float32), "float32"
        mask = nonzero_mask(rows, dtype)
        if rows.itemsize <= 4 and np.count_nonzero(mask) * SPARSE_FROM <= mask.size:
            return _describe_sparse(rows, mask, dtype, hashing)
        return _describe_dense(rows, mask, dtype, hashing)


def _describe_sparse(rows: np.ndarray, mask: np.ndarray, dtype: str, hashing: Hashing) -> Piece:
    n_rows, n_features = rows.shape
    at = np.flatnonzero(mask)
    row = at // n_features
    column = at - row * n_features
    stored = rows.reshape(-1)[at]
    values = widen(stored, dtype)
    bits = stored.view(f"u{stored.itemsize}").astype(np.uint64)
    active = np.bincount(row, minlength=n_rows)
    ends = np.cumsum(active)
    sums = []
    for multipliers in hashing.by_value:  # sums modulo 2^64 are exact, so a row's is the difference of two running ones
        running = np.zeros(len(at) + 1, np.uint64)
        np.cumsum(multipliers[column] * bits, out=running[1:])
        sums.append(running[ends] - running[ends - active])
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
    return Piece(hashing.key(sums), active, square, active_per_feature, low, high)


def _describe_dense(rows: np.ndarray, mask: np.ndarray, dtype: str, hashing: Hashing) -> Piece:
    n_rows, n_features = rows.shape
    step = max(1, min(n_rows, DENSE_VALUES // n_features))
    values_of = _Widener(step, n_features, dtype)
    wide = np.empty((step, n_features), np.float64)
    lanes = np.empty((step, hashing.by_lane.shape[1]), np.uint64)
    sums, square = np.empty((2, n_rows), np.uint64), np.empty(n_rows)
    low, high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        n = part.stop - start
        lanes[:n] = _lanes(rows[part], mask[part])
        for total, multipliers in zip(sums, hashing.by_lane, strict=True):
            np.einsum("ij,j->i", lanes[:n], multipliers, out=total[part])
        wide[:n] = values = values_of(rows[part])
        np.einsum("ij,ij->i", wide[:n], wide[:n], out=square[part])
        finite = True if np.isfinite(square[part]).all() else np.isfinite(values)
        np.minimum(low, values.min(axis=0, where=finite, initial=np.inf), out=low)
        np.maximum(high, values.max(axis=0, where=finite, initial=-np.inf), out=high)
    return Piece(hashing.key(sums), np.count_nonzero(mask, axis=1), square, _count_columns(mask), low, high)


class _Widener:
    """`widen`, faster for float16: its bits, moved to their places in a float32, mean 2^-112 times as much."""

    def __init__(self, n_rows: int, n_features: int, dtype: str):
        self._dtype = dtype
        if dtype == "float16":
            self._bits, self._sign = np.empty((2, n_rows, n_features), np.uint32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows as stored -> float32 of the same shape, valid until the next call."""
        if self._dtype != "float16":
            return widen(rows, self._dtype)
        bits, sign = self._bits[: len(rows)], self._sign[: len(rows)]
        bits[...] = rows.view(np.uint16)
        np.bitwise_and(bits, 0x8000, out=sign)
        bits ^= sign
        if bits.max() >= 0x7C00:  # infinite or NaN
            return widen(rows, self._dtype)
        bits <<= 13
        sign <<= 16
        bits |= sign
        values = bits.view(np.float32)
        values *= np.float32(2.0**112)
        return values


def _lanes(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Stored rows (R, D) -> uint32 lanes, -0.0 made 0.0, rows padded with zeros to a multiple of 4 bytes."""
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
    """bool (R, D) -> int64 (D,). 255 rows at a time, whose sums fit bytes: the fastest sum there is."""
    counts = np.zeros(mask.shape[1], np.int64)
    for start in range(0, len(mask), 255):
        counts += mask[start : start + 255].view(np.uint8).sum(axis=0, dtype=np.uint8)
    return counts


class Totals:
    """What the pieces so far, in order, add up to."""

    def __init__(self, n_rows: int, n_features: int):
        self.keys = np.empty(n_rows, np.uint64)
        self.is_zero = np.empty(n_rows, bool)
        self.row = self.n_nonzero = self.max_active = self.n_nonfinite_rows = 0
        self.min_active, self.first_nonfinite_row = n_features, -1
        self.active_per_feature = np.zeros(n_features, np.int64)
        self.low, self.high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
        self.norm_min, self.norm_sum, self.norm_max = np.inf, 0.0, -np.inf

    def add(self, piece: Piece) -> None:
        rows = slice(self.row, self.row + len(piece.keys))
        self.keys[rows], self.is_zero[rows] = piece.keys, piece.active == 0
        self.n_nonzero += int(piece.active.sum())
        self.min_active = min(self.min_active, int(piece.active.min()))
        self.max_active = max(self.max_active, int(piece.active.max()))
        self.active_per_feature += piece.active_per_feature
        np.minimum(self.low, piece.low, out=self.low)
        np.maximum(self.high, piece.high, out=self.high)
        finite = np.isfinite(piece.square)
        if not finite.all():
            if self.first_nonfinite_row < 0:
                self.first_nonfinite_row = self.row + int(np.argmin(finite))
            self.n_nonfinite_rows += int(np.count_nonzero(~finite))
        norms = np.sqrt(piece.square[finite])
        self.norm_min = min(self.norm_min, norms.min(initial=np.inf))
        self.norm_sum += norms.sum()
        self.norm_max = max(self.norm_max, norms.max(initial=-np.inf))
        self.row = rows.stop

    def finish(self, dtype: str) -> Scan:
        n_rows, n_finite = len(self.keys), len(self.keys) - self.n_nonfinite_rows
        return Scan(
            n_rows=n_rows,
            n_features=len(self.low),
            dtype=dtype,
            n_nonzero=self.n_nonzero,
            min_active=self.min_active,
            mean_active=self.n_nonzero / n_rows,
            max_active=self.max_active,
            is_zero=self.is_zero,
            duplicate_of=_first_equal(self.keys),
            n_nonfinite_rows=self.n_nonfinite_rows,
            first_nonfinite_row=self.first_nonfinite_row,
            active_per_feature=self.active_per_feature,
            feature_low=self.low,
            feature_high=self.high,
            norm_min=float(self.norm_min) if n_finite else np.nan,
            norm_mean=float(self.norm_sum) / n_finite if n_finite else np.nan,
            norm_max=float(self.norm_max) if n_finite else np.nan,
        )


def _first_equal(keys: np.ndarray) -> np.ndarray:
    """Keys (uint64 (N,)) -> int64 (N,): the first row with the same key, -1 where none comes before.

    Keys are sorted, not rows: most keys are alone, and an order of all rows would take 8 more bytes for each.
    """
    ordered = np.sort(keys)
    second = ordered[1:] == ordered[:-1]
    second[1:] &= ~second[:-1]  # of a run of equal keys the second one only
    again = ordered[1:][second]
    del ordered
    duplicate_of = np.full(len(keys), -1, np.int64)
    if len(again) == 0:
        return duplicate_of
    first = np.full(len(again), -1, np.int64)
    for start in range(0, len(keys), 1 << 16):
        part = keys[start : start + (1 << 16)]
        group = np.minimum(np.searchsorted(again, part), len(again) - 1)
        rows = np.flatnonzero(again[group] == part)
        group = group[rows]
        groups, place = np.unique(group, return_index=True)
        new = first[groups] < 0
        first[groups[new]] = start + rows[place[new]]
        earlier = first[group]
        duplicate_of[start + rows] = np.where(earlier == start + rows, -1, earlier)
    return duplicate_of
