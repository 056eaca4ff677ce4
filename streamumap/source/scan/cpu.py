"""One pass over the rows that finds everything `embed` and `inspect` must know about them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Advance, no_advance
from streamumap.source.base import RowSource, SparseSource, pinned_bytes, stored_dtype
from streamumap.source.pieces import DEVICE_VALUES, PAIR_BYTES, PIECE_PAIRS, PIECE_VALUES, n_threads, over_rows
from streamumap.source.scan.describe import ROUNDED, Described, Hashing, describe
from streamumap.source.views.centered import sample_bytes
from streamumap.store.checkpoint import NO_CHECKPOINT, Arrays, Checkpoint

DEVICE_VALUE_BYTES = 72
"""What a GPU takes for a moment for each of the values that it looks at."""

DEVICE_ROW_BYTES = 48
"""The same for each of their rows."""

DEVICE_JOINED_BYTES = 24
"""Of a pair on the host: its piece, and the pieces joined."""

DUPLICATE_BYTES = 64
"""What a GPU takes for each row while it looks for equal ones."""

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
    duplicate_of: np.ndarray  # int64 (N,): first row with the same content as stored, -1 where there is none before
    n_rounded_away: int  # rows that differ from an earlier one only in what float32 does not hold
    nonfinite_rows: np.ndarray  # int64, ascending: rows with a value that is not
    active_per_feature: np.ndarray  # int64 (D,)
    feature_low: np.ndarray  # float32 (D,): inf where no value is finite
    feature_high: np.ndarray  # float32 (D,): -inf where no value is finite
    norm_min: float  # NaN where no row is finite
    norm_mean: float
    norm_max: float

    @property
    def n_nonfinite_rows(self) -> int:
        return len(self.nonfinite_rows)

    @property
    def first_nonfinite_row(self) -> int:
        """-1 where there is none."""
        return int(self.nonfinite_rows[0]) if len(self.nonfinite_rows) else -1

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


def scan(
    source: RowSource, block_rows: int, advance: Advance = no_advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> Scan:
    """Reads all rows once, `block_rows` at a time. One tick a row. The result does not depend on the number of threads.

    Rows are compared by a 64-bit key of two multilinear hashes (Lemire & Kaser, "Strongly universal string hashing is
    fast", 2012: 32-bit lanes, random 64-bit multipliers, the high 32 bits of the sum). Two given rows that differ share
    a key with probability 2^-64; some pair among 3 million does with 2.4e-7.
    """
    return _read(source, block_rows, advance, checkpoint).finish(source.dtype)


def _read(source: RowSource, block_rows: int, advance: Advance, checkpoint: Checkpoint) -> "Totals":
    totals = Totals(source.n_rows, source.n_features, source.dtype)
    totals.resume(checkpoint.resume(*totals.state(source.n_rows)))
    work = partial(describe, dtype=source.dtype, hashing=Hashing.of(source.n_features, source.dtype))
    sparse = isinstance(source, SparseSource)
    for piece in over_rows(source, block_rows, work, no_advance, totals.row):
        totals.add(piece)
        advance(len(piece.keys))
        if sparse or totals.row % block_rows == 0:
            checkpoint.done(totals.state, **totals.counts())
    return totals


def scan_footprint(n_rows: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Bytes of memory at the peak of `scan`, its result included; `itemsize` in bytes, of the stored dtype."""
    block_bytes = min(block_rows, n_rows) * n_features * itemsize
    thread_bytes = 16 * PIECE_VALUES + 64 * n_features
    return _scan_bytes(n_rows, n_features, itemsize, block_bytes + n_threads() * thread_bytes)


def pairs_scan_footprint(n_rows: int, n_features: int, itemsize: int) -> int:
    """The same of a `SparseSource`, which is not read in blocks."""
    waiting_bytes = 2 * (16 * n_features + 32 * PIECE_PAIRS)  # results, of which each thread may be two ahead
    reading_bytes = n_threads() * (PIECE_PAIRS * PAIR_BYTES + 64 * n_features + waiting_bytes)
    return _scan_bytes(n_rows, n_features, itemsize, reading_bytes)


def _scan_bytes(n_rows, n_features, itemsize, reading_bytes):
    looking_bytes = max(16 * n_rows + (4 << 20), sample_bytes(n_rows, n_features))
    key_bytes = 16 if itemsize == 8 else 8
    return (key_bytes + 1) * n_rows + 64 * n_features + max(reading_bytes, looking_bytes)


def device_scan_footprint(n_rows: int, n_features: int, dtype: str, block_rows: int) -> tuple[int, int]:
    """(host bytes, device bytes) at the peak of `scan_cuda.scan`, without the packed rows."""
    block_rows = min(block_rows, n_rows)
    n_values = block_rows * n_features
    blocks = n_values * (2 * stored_dtype(dtype).itemsize + 1 + (4 if dtype == "float64" else 0))
    looking_bytes = min(n_values, DEVICE_VALUES + n_features) * DEVICE_VALUE_BYTES + block_rows * DEVICE_ROW_BYTES
    host_bytes = (
        _scan_bytes(n_rows, n_features, stored_dtype(dtype).itemsize, pinned_bytes(block_rows, n_features, dtype))
        + 8 * n_rows
    )
    return host_bytes, max(blocks + looking_bytes, n_rows * DUPLICATE_BYTES)


def device_pairs_footprint(n_rows: int, n_features: int, n_nonzero: int, itemsize: int) -> tuple[int, int]:
    """The same of a `SparseSource`."""
    n_pairs = min(n_nonzero, DEVICE_VALUES + PIECE_PAIRS)
    host_bytes = pairs_scan_footprint(n_rows, n_features, itemsize) + 8 * n_rows + n_pairs * DEVICE_JOINED_BYTES
    rows = int(n_rows * n_pairs / max(1, n_nonzero))
    looking_bytes = n_pairs * DEVICE_VALUE_BYTES + rows * DEVICE_ROW_BYTES + n_features * 32
    return host_bytes, max(looking_bytes, n_rows * DUPLICATE_BYTES)


def check_finite(source_name: str, scan: Scan) -> None:
    """Raises InputError where a value is NaN, infinite, or (float64) beyond the range of float32."""
    if scan.n_nonfinite_rows:
        raise InputError(
            f"{source_name}: row {scan.first_nonfinite_row}: expected finite values, found NaN or infinite ones "
            f"(float32 holds up to 3.4e38) in {scan.n_nonfinite_rows} of {scan.n_rows} rows, this one first; "
            "mend those rows, or leave them out of the map with --drop-nonfinite."
        )


def wild_features(scan: Scan) -> np.ndarray:
    """Columns (int64, ascending) whose largest magnitude is over WILD times the lower median of columns not zero."""
    magnitude = np.maximum(np.abs(scan.feature_low), np.abs(scan.feature_high)).astype(np.float64)
    magnitude[np.isinf(magnitude)] = 0.0  # no finite value
    live = np.sort(magnitude[magnitude > 0])
    return np.flatnonzero(magnitude > WILD * live[(len(live) - 1) // 2]) if len(live) else np.empty(0, np.int64)


class Totals:
    """What the pieces so far, in order, add up to."""

    def __init__(self, n_rows: int, n_features: int, dtype: str):
        self.keys = np.empty(n_rows, np.uint64)
        self.rounded_keys = np.empty(n_rows if dtype in ROUNDED else 0, np.uint64)
        self.is_zero = np.empty(n_rows, bool)
        self.row = self.n_nonzero = self.max_active = 0
        self.min_active, self.nonfinite_rows = n_features, list[np.ndarray]()
        self.active_per_feature = np.zeros(n_features, np.int64)
        self.low, self.high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
        self.norm_min, self.norm_sum, self.norm_max = np.inf, 0.0, -np.inf

    def add(self, piece: Described) -> None:
        rows = slice(self.row, self.row + len(piece.keys))
        self.keys[rows], self.is_zero[rows] = piece.keys, piece.active == 0
        if piece.rounded_keys is not None:
            self.rounded_keys[rows] = piece.rounded_keys
        self.n_nonzero += int(piece.active.sum())
        self.min_active = min(self.min_active, int(piece.active.min()))
        self.max_active = max(self.max_active, int(piece.active.max()))
        self.active_per_feature += piece.active_per_feature
        np.minimum(self.low, piece.low, out=self.low)
        np.maximum(self.high, piece.high, out=self.high)
        finite = np.isfinite(piece.square)
        if not finite.all():
            self.nonfinite_rows.append(self.row + np.flatnonzero(~finite))
        norms = np.sqrt(piece.square[finite])
        self.norm_min = min(self.norm_min, norms.min(initial=np.inf))
        self.norm_sum += norms.sum()
        self.norm_max = max(self.norm_max, norms.max(initial=-np.inf))
        self.row = rows.stop

    def state(self, n_rows: int | None = None) -> tuple[Arrays, Arrays]:
        """What there is so far, as of `checkpoint.Checkpoint`, or room for all of it."""
        rows = slice(self.row if n_rows is None else n_rows)
        whole = dict(active=self.active_per_feature, low=self.low, high=self.high)
        if n_rows is None:
            whole["norms"] = np.array([self.norm_min, self.norm_sum, self.norm_max])
            whole["nonfinite"] = np.concatenate([np.empty(0, np.int64), *self.nonfinite_rows])
        by_row = dict(keys=self.keys[rows], is_zero=self.is_zero[rows])
        return whole, by_row | (dict(rounded_keys=self.rounded_keys[rows]) if len(self.rounded_keys) else {})

    def counts(self) -> dict[str, int]:
        return dict(row=self.row, n_nonzero=self.n_nonzero, min_active=self.min_active, max_active=self.max_active)

    def resume(self, facts: dict) -> None:
        """Goes on where `state` and `counts` were taken; the arrays are filled already."""
        if facts:
            self.norm_min, self.norm_sum, self.norm_max = facts["norms"]
            self.nonfinite_rows = [facts["nonfinite"]]
            for name in self.counts():
                setattr(self, name, facts[name])

    def finish(self, dtype: str, first_equal: Callable[[np.ndarray], np.ndarray] | None = None) -> Scan:
        """`first_equal`: as the one below, where there is a faster one."""
        nonfinite_rows = np.concatenate([np.empty(0, np.int64), *self.nonfinite_rows])
        duplicate_of, n_rounded_away = (first_equal or _first_equal)(self.keys), 0
        if len(self.rounded_keys):
            n_rounded_away = _n_equal(self.rounded_keys) - int(np.count_nonzero(duplicate_of >= 0))
        n_rows, n_finite = len(self.keys), len(self.keys) - len(nonfinite_rows)
        return Scan(
            n_rows=n_rows,
            n_features=len(self.low),
            dtype=dtype,
            n_nonzero=self.n_nonzero,
            min_active=self.min_active,
            mean_active=self.n_nonzero / n_rows,
            max_active=self.max_active,
            is_zero=self.is_zero,
            duplicate_of=duplicate_of,
            n_rounded_away=n_rounded_away,
            nonfinite_rows=nonfinite_rows,
            active_per_feature=self.active_per_feature,
            feature_low=self.low,
            feature_high=self.high,
            norm_min=float(self.norm_min) if n_finite else np.nan,
            norm_mean=float(self.norm_sum) / n_finite if n_finite else np.nan,
            norm_max=float(self.norm_max) if n_finite else np.nan,
        )


def _n_equal(keys: np.ndarray) -> int:
    """How many keys (uint64 (N,)) are those of an earlier row; sorts them in place."""
    keys.sort()
    return int(np.count_nonzero(keys[1:] == keys[:-1]))


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
