"""The rows as all backends compare them: where float32 would lose what tells them apart, less what they have in common.

Squared distances come from |a|^2 + |b|^2 - 2ab in many places, and rows are rounded to float32 everywhere. Far from the
origin, and for cosine near one direction, the norms then swallow the digits. A view takes a centre from the rows first,
in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import frexp

import numpy as np

from streamumap.source.base import CsrBlock, RowSource, SparseSource, index_dtype, stored_dtype, widen
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of
from streamumap.source.views.scaled import LARGEST_EXPONENT, scale_distances, scale_rows

FAR = 2.0**10
"""A centre matters where its squared length is this many times the median of the rows' squared distances from it: 32 times their
spread. Nearer ones cost a few of float32's 24 bits, and what a product cannot tell apart is measured from differences."""

AROUND, AROUND_SHARE = 0.25, 0.99
"""So near the centre, in its lengths, must this share of the rows lie: a row near the origin has digits that a far centre would
take from it."""

SMALLEST_EXPONENT = -24
"""Centred rows whose largest norm is below 2 to this are brought to length 1: what tells them apart may be 2^30 times smaller still,
and its squares must be float32 numbers."""

SAMPLE_ROWS = 2048
SAMPLE_VALUES = 1 << 18
LEAST_SAMPLE_ROWS = 16
"""Rows of which the centre is the median: that many, less where they have many features, but that many at least."""

PIECE_VALUES = 1 << 16
"""Values that are float64 at a time."""

READ_VALUES = 1 << 19
"""Values of rows that are filled in at a time, where they come as pairs."""

ZERO_ROWS_AT = 4.0
"""Where rows without a direction lie among rows of length 1, in lengths of their centre, which is nearly 1: at least 2.8 from all
others, which are at most 2 apart."""

BEYOND = 2.5
"""Distance of rows of length 1 from which on one has a direction and the other has none."""


@dataclass(frozen=True, eq=False)
class ComparedView:
    """Rows less `centre` float64 (D,), if there is one, times 2^-exponent; with `unit` (and a centre, and no exponent) each was divided
    by its norm before, and squared Euclidean distances are those of rows of length 1."""

    exponent: int = 0
    centre: np.ndarray | None = None
    unit: bool = False

    def of(self, source: RowSource) -> RowSource:
        """The rows as they are compared."""
        if self.centre is not None:
            return SparseCentredRows(source, self) if isinstance(source, SparseSource) else CentredRows(source, self)
        return scale_rows(source, self.exponent) if self.exponent else source

    @property
    def key(self) -> tuple[int, bool, bool]:
        """Which view of the same rows this is: the centre follows from them."""
        return self.exponent, self.centre is not None, self.unit

    def to_asked_metric(
        self,
        indices: np.ndarray,
        distances: np.ndarray,
        from_squares: Callable[[np.ndarray], np.ndarray],
        apart: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours int32 (Q, k) and distances float32 as they were found among these rows -> as the user's metric has them, in place,
        where rows of length 1 were compared. `from_squares`: the metric's distances of squared ones. `apart` bool (Q, k): of a zero row
        and one that is none, which are no neighbours; None: those further than BEYOND."""
        if self.unit:
            apart = distances > BEYOND if apart is None else apart
            distances *= distances
            distances[:] = from_squares(distances)
            indices[apart], distances[apart] = -1, np.inf
        return indices, distances

    def unscale(self, distances: np.ndarray, *, unit: bool) -> np.ndarray:
        """Distances as `found` gives them -> of the rows as they came."""
        return scale_distances(distances, self.exponent, unit=unit)

    def scale(self, distances: np.ndarray, *, unit: bool) -> np.ndarray:
        """The way back."""
        return scale_distances(distances, -self.exponent, unit=unit)


class CentredRows:
    """The rows of a `RowSource` as a `ComparedView` with a centre has them, float32: subtracted in float64, then rounded."""

    dtype = "float32"

    def __init__(self, source: RowSource, view: ComparedView):
        self.source, self._view = source, view
        self.name, self.n_rows, self.n_features = source.name, source.n_rows, source.n_features
        self.row_bytes, self.fingerprint = source.row_bytes, source.fingerprint

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows start..stop, (stop - start, n_features); `out` as in `RowSource.read`."""
        if out is None:
            out = np.empty((stop - start, self.n_features), np.float32)
        return self._centred(self.source.read(start, stop), out[: stop - start])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers (int64, ascending), (len(rows), n_features)."""
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
    """`CentredRows` of a `SparseSource`, as a `SparseSource`. Where rows are mostly zeros so is their centre, a median."""

    def __init__(self, source: SparseSource, view: ComparedView):
        super().__init__(source, view)
        self.sparse = source
        assert view.centre is not None
        self.max_nonzero = source.max_nonzero + source.n_rows * int(np.count_nonzero(view.centre))

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Rows start..stop without their zeros."""
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
    """The rows that a view with a centre was made of."""
    return rows.source if isinstance(rows, CentredRows) else rows


def find_view(source: RowSource, largest: np.ndarray, *, unit: bool) -> ComparedView | None:
    """The view of rows (finite ones) that lie far from the origin or, with `unit`, near one direction; None where they do not.
    `largest` float64 (2, D): the lowest and the highest value of each feature."""
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
    """The view that a run had of these rows, from what it has kept of it: the centre is made anew from the same sample."""
    if not is_centred:
        return ComparedView(exponent)
    return ComparedView(exponent, _median(_sample(source, unit), source.dtype, unit), unit)


def sample_bytes(n_rows: int, n_features: int) -> int:
    """Bytes of memory that `centred` and `like` take."""
    return 3 * 8 * _sample_size(n_rows, n_features) * n_features


def _sample_size(n_rows: int, n_features: int) -> int:
    return min(n_rows, SAMPLE_ROWS, max(LEAST_SAMPLE_ROWS, SAMPLE_VALUES // n_features))


def _sample(source: RowSource, unit: bool) -> np.ndarray:
    """float64: of evenly spaced rows those that are not zero, with `unit` at length 1."""
    size = _sample_size(source.n_rows, source.n_features)
    rows = _wide(source.take(np.unique(np.linspace(0, source.n_rows - 1, size).astype(np.int64))), source.dtype)
    return rows[~_to_unit(rows)] if unit else rows[rows.any(1)]


def _median(sample: np.ndarray, dtype: str, unit: bool) -> np.ndarray:
    """The median of each feature. Where float32 holds the values it is a multiple of the last place of the largest: less it they are float32
    numbers still, wherever they lie."""
    parts = range(0, sample.shape[1], 256)
    centre = np.concatenate([np.median(sample[:, start : start + 256], axis=0) for start in parts])
    if unit or stored_dtype(dtype).itemsize == 8:
        return centre
    last_place = np.frexp(np.abs(sample).max(0))[1] - 24
    return np.ldexp(np.rint(np.ldexp(centre, -last_place)), last_place)


def _wide(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Rows as stored -> float64, a new array."""
    return (widen(stored, dtype) if dtype == "bfloat16" else stored).astype(np.float64)


def _to_unit(rows: np.ndarray) -> np.ndarray:
    """Divides float64 rows by their norms, in place; which have none, bool (n,)."""
    largest = np.abs(rows).max(1, initial=0, keepdims=True)
    zero = largest[:, 0] == 0
    rows /= np.where(largest > 0, largest, 1)  # squares of extreme values are no float64 numbers
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= np.where(zero, 1, norms)[:, None]
    return zero


def _pieces(n_rows: int, n_features: int) -> Iterator[slice]:
    step = max(1, PIECE_VALUES // n_features)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
