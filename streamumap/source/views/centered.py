"""`ComparedView`: the form in which all backends compare rows, centred where float32 would lose their differences.

Squared distances come from |a|^2 + |b|^2 - 2ab in many places, and rows are rounded to float32 everywhere. Far from the
origin, or near one direction under cosine, the norms then swallow the digits of the difference. A view first subtracts a
centre from the rows, in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import frexp

import numpy as np

from streamumap.source.base import CsrBlock, RowSource, SparseSource, index_dtype, stored_dtype, widen
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of
from streamumap.source.views.scaled import LARGEST_EXPONENT, scale_distances, scale_rows

FAR = 2.0**10
"""A centre is subtracted if its squared length is over this many times the median squared distance of the rows from it, which is
32 times their spread. Nearer ones cost a few of float32's 24 bits, and near ties are measured from differences of rows."""

AROUND, AROUND_SHARE = 0.25, 0.99
"""Share of the rows that must lie within AROUND times the centre's length of it: a row near the origin has digits that
subtracting a far centre would lose."""

SMALLEST_EXPONENT = -24
"""Centred rows whose largest norm is below 2 to this power are scaled to norms below 1: their differences may be 2^30 times
smaller still, and the squares of these must be float32 numbers."""

SAMPLE_ROWS = 2048
SAMPLE_VALUES = 1 << 18
LEAST_SAMPLE_ROWS = 16
"""Rows sampled for the centre, their median: at most SAMPLE_ROWS, fewer if SAMPLE_VALUES are exceeded, but at least this many."""

PIECE_VALUES = 1 << 16
"""Values that are converted to float64 at a time."""

READ_VALUES = 1 << 19
"""Values of rows from pairs that are filled in at a time."""

ZERO_ROWS_AT = 4.0
"""Position of zero rows among centred rows of length 1, in lengths of the centre, which is nearly 1: at least 2.8 from all other
rows, which are at most 2 apart."""

BEYOND = 2.5
"""Distance between rows of length 1 above which one of the two is a zero row."""


@dataclass(frozen=True, eq=False)
class ComparedView:
    """Rows minus `centre` float64 (D,), if there is one, times 2^-exponent. With `unit` (which has a centre and no exponent) each
    row is divided by its norm first, so that squared Euclidean distances are those of rows of length 1."""

    exponent: int = 0
    centre: np.ndarray | None = None
    unit: bool = False

    def of(self, source: RowSource) -> RowSource:
        """Returns the rows as they are compared."""
        if self.centre is not None:
            return SparseCentredRows(source, self) if isinstance(source, SparseSource) else CentredRows(source, self)
        return scale_rows(source, self.exponent) if self.exponent else source

    @property
    def key(self) -> tuple[int, bool, bool]:
        """Identifies this view among those of the same rows, from which the centre follows."""
        return self.exponent, self.centre is not None, self.unit

    def to_asked_metric(
        self,
        indices: np.ndarray,
        distances: np.ndarray,
        from_squares: Callable[[np.ndarray], np.ndarray],
        apart: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Converts neighbors int32 (Q, k) and float32 distances, found among these rows, to the user's metric, in place: only rows
        of length 1 need it. `from_squares`: the metric's distances from squared ones. `apart` bool (Q, k): one row of the two is zero
        and the other is not, which are no neighbors; None: where the distance is over BEYOND."""
        if self.unit:
            apart = distances > BEYOND if apart is None else apart
            distances *= distances
            distances[:] = from_squares(distances)
            indices[apart], distances[apart] = -1, np.inf
        return indices, distances

    def unscale(self, distances: np.ndarray, *, unit: bool) -> np.ndarray:
        """Converts distances, as `to_asked_metric` returns them, to distances of the original rows."""
        return scale_distances(distances, self.exponent, unit=unit)

    def scale(self, distances: np.ndarray, *, unit: bool) -> np.ndarray:
        """Converts distances of the original rows to distances of these rows: the inverse of `unscale`."""
        return scale_distances(distances, -self.exponent, unit=unit)


class CentredRows:
    """Rows of a `RowSource` in a `ComparedView` with a centre, float32: subtracted in float64, then rounded."""

    dtype = "float32"

    def __init__(self, source: RowSource, view: ComparedView):
        self.source, self._view = source, view
        self.name, self.n_rows, self.n_features = source.name, source.n_rows, source.n_features
        self.row_bytes, self.fingerprint = source.row_bytes, source.fingerprint

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop, (stop - start, n_features); `out` as in `RowSource.read`."""
        if out is None:
            out = np.empty((stop - start, self.n_features), np.float32)
        return self._centred(self.source.read(start, stop), out[: stop - start])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), (len(rows), n_features)."""
        return self._centred(self.source.take(rows), np.empty((len(rows), self.n_features), np.float32))

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def close(self) -> None:
        self.source.close()

    def _centred(self, stored: np.ndarray, out: np.ndarray) -> np.ndarray:
        centre = self._view.centre
        assert centre is not None
        for piece in _pieces(len(stored), self.n_features):
            rows = _wide(stored[piece], self.source.dtype)
            zero = _to_unit(rows) if self._view.unit else None
            rows -= centre
            if zero is not None and zero.any():
                rows[zero] = (ZERO_ROWS_AT - 1) * centre
            if self._view.exponent:
                np.ldexp(rows, -self._view.exponent, out=rows)
            out[piece] = rows
        return out


class SparseCentredRows(CentredRows):
    """`CentredRows` as a `SparseSource`. The centre is a median: mostly zeros if the rows are."""

    def __init__(self, source: SparseSource, view: ComparedView):
        super().__init__(source, view)
        self.sparse = source
        assert view.centre is not None
        self.max_nonzero = source.max_nonzero + source.n_rows * int(np.count_nonzero(view.centre))

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        step = max(1, READ_VALUES // self.n_features)
        parts = [self._pairs(first, min(first + step, stop)) for first in range(start, stop, step)]
        indptr = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).cumsum().astype(np.int64)
        indices = [np.empty(0, index_dtype(self.n_features)), *(part.indices for part in parts)]
        return CsrBlock(
            indptr, np.concatenate(indices), np.concatenate([np.empty(0, np.float32), *(p.values for p in parts)])
        )

    def _pairs(self, start: int, stop: int) -> CsrBlock:
        rows = self.read(start, stop)
        return pairs_of(rows, nonzero_mask(rows, self.dtype))

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        wider = max(1, self.max_nonzero) / max(1, self.sparse.max_nonzero)
        return self.sparse.spans(max(1, int(n_pairs / wider)))


def original_rows(rows: RowSource) -> RowSource:
    """Returns the rows before centring."""
    return rows.source if isinstance(rows, CentredRows) else rows


def find_view(source: RowSource, largest: np.ndarray, *, unit: bool) -> ComparedView | None:
    """Returns the centred view of finite rows that lie far from the origin or, with `unit`, near one direction; None if they do
    not. `largest` float64 (2, D): the lowest and the highest value of each feature."""
    sample = _sample(source, unit)
    if len(sample) < 2:
        return None
    centre = _median(sample, source.dtype, unit)
    sample -= centre
    squares, length = np.einsum("ij,ij->i", sample, sample), float(centre @ centre)
    if length <= FAR * np.median(squares) or length * AROUND**2 <= np.quantile(squares, AROUND_SHARE):
        return None
    if unit:
        return ComparedView(centre=centre, unit=True)
    norm = float(np.linalg.norm(np.abs(largest - centre).max(0)))
    exponent = frexp(norm)[1]
    return ComparedView(0 if SMALLEST_EXPONENT <= exponent <= LARGEST_EXPONENT or norm == 0 else exponent, centre)


def rebuild_view(source: RowSource, exponent: int, is_centred: bool, *, unit: bool) -> ComparedView:
    """Returns the view that a finished run had of these rows: the centre is computed again from the same sample."""
    if not is_centred:
        return ComparedView(exponent)
    return ComparedView(exponent, _median(_sample(source, unit), source.dtype, unit), unit)


def sample_bytes(n_rows: int, n_features: int) -> int:
    """Returns the bytes of memory that `find_view` and `rebuild_view` take."""
    return 3 * 8 * _sample_size(n_rows, n_features) * n_features


def _sample_size(n_rows: int, n_features: int) -> int:
    return min(n_rows, SAMPLE_ROWS, max(LEAST_SAMPLE_ROWS, SAMPLE_VALUES // n_features))


def _sample(source: RowSource, unit: bool) -> np.ndarray:
    """Reads evenly spaced rows as float64 without zero rows; with `unit` scaled to length 1."""
    size = _sample_size(source.n_rows, source.n_features)
    rows = _wide(source.take(np.unique(np.linspace(0, source.n_rows - 1, size).astype(np.int64))), source.dtype)
    return rows[~_to_unit(rows)] if unit else rows[rows.any(1)]


def _median(sample: np.ndarray, dtype: str, unit: bool) -> np.ndarray:
    """Returns the median of each feature. If float32 holds the values, the median is a multiple of the largest value's last place:
    the values minus it are then float32 numbers too."""
    parts = range(0, sample.shape[1], 256)
    centre = np.concatenate([np.median(sample[:, start : start + 256], axis=0) for start in parts])
    if unit or stored_dtype(dtype).itemsize == 8:
        return centre
    last_place = np.frexp(np.abs(sample).max(0))[1] - 24
    return np.ldexp(np.rint(np.ldexp(centre, -last_place)), last_place)


def _wide(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Converts stored rows to float64, a new array."""
    return (widen(stored, dtype) if dtype == "bfloat16" else stored).astype(np.float64)


def _to_unit(rows: np.ndarray) -> np.ndarray:
    """Divides float64 rows by their norms, in place; returns which rows are zero, bool (n,)."""
    largest = np.abs(rows).max(1, initial=0, keepdims=True)
    zero = largest[:, 0] == 0
    rows /= np.where(largest > 0, largest, 1)  # squares of extreme values overflow float64
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= np.where(zero, 1, norms)[:, None]
    return zero


def _pieces(n_rows: int, n_features: int) -> Iterator[slice]:
    step = max(1, PIECE_VALUES // n_features)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
