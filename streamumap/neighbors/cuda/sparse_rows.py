"""Rows that are mostly zeros, which stay on the device without them, since that takes a hundredth of the dense matrix: a
`device_rows.DeviceRows`.

The distance of any two rows is a sum over their non-zeros: a program writes one row into a dense strip of its own and looks up the
features of other rows in it (the dense accumulator of Gustavson 1978).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.events import Advance
from streamumap.machine.ahead import read_ahead
from streamumap.neighbors.cuda.count import count_resident
from streamumap.neighbors.cuda.dense_rows import KEPT
from streamumap.neighbors.cuda.sizes import PROGRAMS, UPLOAD_ROWS
from streamumap.neighbors.metric import Metric
from streamumap.source.base import widen
from streamumap.source.sparse.csr_rows import CsrRows

SPREAD_ROWS = 16_384
"""Rows whose zeros are filled in together: bounds the temporaries, 36 bytes for each non-zero."""

PAIRS = 32
"""Non-zeros of a row that are read together."""

TOGETHER = 16
"""Candidates that are measured together."""

COUNTED_TOGETHER = 64
"""Candidates that are measured together where they are successive rows, whose non-zeros lie side by side."""

PROJECTED_TOGETHER = 8
"""Non-zeros of a row whose projections are summed together."""

PARTS = 4
"""Parts that the rows are cut into for each program, where there are fewer queries than programs."""


class SparseOnDevice:
    """All rows of a CsrRows, or its `runs` (start, stop), one after the other: `indptr` int64 (N + 1,), `features` int16 (its bits unsigned) or
    int32 and `values` (float16 or bfloat16 as stored, else float32) (nnz,), `squares` float64 (N,), the squared norms."""

    resident = True

    def __init__(self, rows: CsrRows, metric: Metric, device: str, runs: Sequence[tuple[int, int]] | None = None):
        self.metric, self.device = metric, device
        n = rows.n_nonzero if runs is None else sum(rows.n_pairs(start, stop) for start, stop in runs)
        runs = [(0, rows.n_rows)] if runs is None else runs
        self.n_rows, self.n_features = sum(stop - start for start, stop in runs), rows.n_features
        self.kept = KEPT.get(rows.dtype, torch.float32)
        narrow = rows.n_features <= 1 << 16
        self.feature_mask = 0xFFFF if narrow else 0x7FFFFFFF
        self.indptr = torch.zeros(self.n_rows + 1, dtype=torch.int64, device=device)
        self.features = torch.empty(n, dtype=torch.int16 if narrow else torch.int32, device=device)
        self.values = torch.empty(n, dtype=self.kept, device=device)
        self.squares = torch.empty(self.n_rows, dtype=torch.float64, device=device)
        self.strips = torch.zeros((min(PROGRAMS, self.n_rows), self.n_features), dtype=self.kept, device=device)
        row = at = 0
        parts = [(at, min(at + UPLOAD_ROWS, stop)) for start, stop in runs for at in range(start, stop, UPLOAD_ROWS)]
        for stored in read_ahead(rows.stored, parts):
            at = self._upload(stored, rows.dtype, row, at)
            row += len(stored[0]) - 1

    def close(self) -> None:
        pass

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._spread(self.indptr[start:stop], self.indptr[start + 1 : stop + 1]), self._scale(start, stop)

    def stream(self, chunk_rows: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        for first in range(start, self.n_rows, chunk_rows):
            yield first, *self.chunk(first, min(first + chunk_rows, self.n_rows))

    def projected(self, centre: Tensor, along: Tensor, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Project without the zeros: in float64, since centre and rows are multiplied separately."""
        along = along.contiguous()
        offset = centre.double() @ along.double()
        for first in range(0, self.n_rows, chunk_rows):
            stop = min(first + chunk_rows, self.n_rows)
            out = torch.empty((stop - first, along.shape[1]), device=self.device)
            _project[(stop - first,)](
                self.indptr, self.features, self.values, self._scale(first, stop), along, offset, out, first,
                WIDTH=along.shape[1], MASK=self.feature_mask, PAIRS=PROJECTED_TOGETHER,
            )  # fmt: skip
            yield first, out

    def take(self, numbers: np.ndarray) -> Tensor:
        at = torch.from_numpy(numbers).to(self.device)
        return self._spread(self.indptr[at], self.indptr[at + 1])

    def proposer(self, codes: Tensor) -> "SparseOnDevice":
        return self

    def measure(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Measure as `device_rows.Measures` has it: squared distances, or half of those at length 1. `candidates` int32 (m,) are those of all
        queries. Sums are in float64, so that any two calls agree on a pair."""
        queries, candidates = queries.contiguous(), candidates.contiguous()
        out = torch.empty((len(queries), candidates.shape[-1]), dtype=torch.float32, device=self.device)
        grid = (min(len(queries), len(self.strips)),)
        _measure[grid](
            self.indptr, self.features, self.values, self.squares, queries, candidates, out, self.strips, len(queries),
            candidates.shape[-1], candidates.shape[1] if candidates.ndim == 2 else 0, self.n_features,
            UNIT=self.metric.unit, MASK=self.feature_mask, PAIRS=PAIRS, TOGETHER=TOGETHER,
        )  # fmt: skip
        return out

    def measure_candidates(self, candidates: Tensor, query_rows: int, other_rows: int, advance: Advance) -> Tensor:
        measured = self.measure(torch.arange(self.n_rows, dtype=torch.int32, device=self.device), candidates)
        advance(self.n_rows)
        return measured

    def count_closer(self, sample: np.ndarray, others: np.ndarray, chunk_rows: int, advance: Advance) -> np.ndarray:
        return count_resident(self, sample, others, chunk_rows, advance)

    def count_below(self, queries: Tensor, limits: Tensor, start: int, stop: int) -> Tensor:
        """Count how many of rows start..stop are closer to row queries[i] than limits[i, j], float32, as `measure` measures: int64 (n, m)."""
        n, m = limits.shape
        n_parts = max(1, min(PARTS * len(self.strips) // n, (stop - start) // COUNTED_TOGETHER))
        counts = torch.empty((n, n_parts, m), dtype=torch.int32, device=self.device)
        grid = (min(n * n_parts, len(self.strips)),)
        _count_closer[grid](
            self.indptr, self.features, self.values, self.squares, queries.contiguous(), limits.contiguous(), counts,
            self.strips, n, n_parts, start, stop, m, self.n_features, triton.next_power_of_2(m),
            UNIT=self.metric.unit, MASK=self.feature_mask, PAIRS=PAIRS, TOGETHER=COUNTED_TOGETHER,
        )  # fmt: skip
        return counts.sum(1)

    def _upload(self, stored, dtype, row, at):
        """Bring rows as `CsrRows.stored` reads them, which become those from `row` on, to their place from pair `at` on; return its end."""
        indptr, features, values = stored
        end, last = at + len(values), row + len(indptr) - 1
        self.indptr[row + 1 : last + 1] = torch.from_numpy(indptr[1:] + at).to(self.device)
        if self.features.dtype == torch.int16:
            features = features.astype(np.uint16, copy=False).view(np.int16)
        self.features[at:end] = torch.from_numpy(features.view(f"i{features.itemsize}")).to(self.device)
        if dtype not in KEPT:
            values = widen(values, dtype)
        sent = torch.from_numpy(values).to(self.device)
        self.values[at:end] = sent.view(self.kept)
        doubles = self.values[at:end].double() ** 2
        self.squares[row:last] = torch.segment_reduce(
            doubles, "sum", offsets=self.indptr[row : last + 1] - at, initial=0.0
        )
        return end

    def _scale(self, start, stop):
        if not self.metric.unit:
            return torch.ones(stop - start, device=self.device)
        squares = self.squares[start:stop]
        return torch.where(squares > 0, squares.rsqrt(), 0.0).float()

    def _spread(self, low, high):
        out = torch.zeros((len(low), self.n_features), dtype=self.kept, device=self.device)
        for first in range(0, len(low), SPREAD_ROWS):
            here = slice(first, first + SPREAD_ROWS)
            lengths = high[here] - low[here]
            row = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)
            before = torch.cumsum(lengths, 0) - lengths
            at = torch.arange(len(row), device=self.device) + (low[here] - before)[row]
            out[here][row, self.features[at].to(torch.int64) & self.feature_mask] = self.values[at]
        return out


@triton.jit(do_not_specialize=["start"])
def _project(
    indptr, features, values, scale, along, offset, out, start, WIDTH: tl.constexpr, MASK: tl.constexpr, PAIRS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, WIDTH)
    low = tl.load(indptr + start + row)
    high = tl.load(indptr + start + row + 1)
    total = tl.zeros([WIDTH], tl.float64)
    for first in range(low, high, PAIRS):
        at = first + tl.arange(0, PAIRS)
        feature = tl.load(features + at, mask=at < high, other=0).to(tl.int32) & MASK
        value = tl.load(values + at, mask=at < high, other=0.0).to(tl.float64)
        total += tl.sum(value[:, None] * tl.load(along + feature.to(tl.int64)[:, None] * WIDTH + number[None, :]), 0)
    total = total * tl.load(scale + row) - tl.load(offset + number)
    tl.store(out + row * WIDTH + number, total.to(tl.float32))


@triton.jit
def _put(strip, features, values, low, high, MASK: tl.constexpr, PAIRS: tl.constexpr):
    """Write the row's values into the strip."""
    pairs = tl.arange(0, PAIRS)
    for start in range(low, high, PAIRS):
        live = start + pairs < high
        feature = tl.load(features + start + pairs, mask=live, other=0).to(tl.int32) & MASK
        tl.store(strip + feature, tl.load(values + start + pairs, mask=live, other=0.0), mask=live)


@triton.jit
def _clear(strip, features, low, high, MASK: tl.constexpr, PAIRS: tl.constexpr):
    pairs = tl.arange(0, PAIRS)
    for start in range(low, high, PAIRS):
        live = start + pairs < high
        feature = tl.load(features + start + pairs, mask=live, other=0).to(tl.int32) & MASK
        tl.store(strip + feature, tl.zeros([PAIRS], tl.float32).to(strip.dtype.element_ty), mask=live)


@triton.jit
def _distances(
    strip, indptr, features, values, squares, i, aa, j, there, UNIT: tl.constexpr, MASK: tl.constexpr,
    PAIRS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Measure row i, which is in the strip, against rows j: float32, inf where there is none, and against itself."""
    pairs = tl.arange(0, PAIRS)
    from_ = tl.load(indptr + j, mask=there, other=0)
    to = tl.load(indptr + j + 1, mask=there, other=0)
    bb = tl.load(squares + j, mask=there, other=0.0)
    dot = tl.zeros([TOGETHER], tl.float64)
    for step in range(0, tl.max(to - from_, 0), PAIRS):
        at = from_[:, None] + step + pairs[None, :]
        inside = at < to[:, None]
        other = tl.load(features + at, mask=inside, other=0).to(tl.int32) & MASK
        theirs = tl.load(values + at, mask=inside, other=0.0).to(tl.float64)
        ours = tl.load(strip + other, mask=inside, other=0.0).to(tl.float64)
        dot += tl.sum(ours * theirs, 1)
    if UNIT:
        product = aa * bb
        near = 1.0 - dot / tl.sqrt(tl.where(product > 0.0, product, 1.0))
        d = tl.where(product > 0.0, near, tl.where(aa == bb, 0.0, 1.0))
    else:
        d = aa + bb - 2.0 * dot
    return tl.where(there & (j != i), tl.maximum(d, 0.0), float("inf")).to(tl.float32)


@triton.jit(do_not_specialize=["n_queries", "stride"])
def _measure(
    indptr, features, values, squares, queries, candidates, out, strips, n_queries, n_candidates, stride, n_features,
    UNIT: tl.constexpr, MASK: tl.constexpr, PAIRS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    strip = strips + tl.program_id(0).to(tl.int64) * n_features
    for q in range(tl.program_id(0), n_queries, tl.num_programs(0)):
        i = tl.load(queries + q)
        low = tl.load(indptr + i)
        high = tl.load(indptr + i + 1)
        aa = tl.load(squares + i)
        _put(strip, features, values, low, high, MASK, PAIRS)
        tl.debug_barrier()
        for first in range(0, n_candidates, TOGETHER):
            column = first + tl.arange(0, TOGETHER)
            j = tl.load(candidates + q * stride + column, mask=column < n_candidates, other=-1)
            d = _distances(strip, indptr, features, values, squares, i, aa, j, j >= 0, UNIT, MASK, PAIRS, TOGETHER)
            tl.store(out + q * n_candidates + column, d, mask=column < n_candidates)
        tl.debug_barrier()
        _clear(strip, features, low, high, MASK, PAIRS)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["n_queries", "n_parts", "start", "stop"])
def _count_closer(
    indptr, features, values, squares, queries, limits, counts, strips, n_queries, n_parts, start, stop, n_limits, n_features,
    LIMITS: tl.constexpr, UNIT: tl.constexpr, MASK: tl.constexpr, PAIRS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Count for one query and one part of the rows at a time."""
    strip = strips + tl.program_id(0).to(tl.int64) * n_features
    limit = tl.arange(0, LIMITS)
    part_rows = (stop - start + n_parts - 1) // n_parts
    for item in range(tl.program_id(0), n_queries * n_parts, tl.num_programs(0)):
        q = item // n_parts
        first = start + item % n_parts * part_rows
        last = tl.minimum(first + part_rows, stop)
        i = tl.load(queries + q)
        low = tl.load(indptr + i)
        high = tl.load(indptr + i + 1)
        aa = tl.load(squares + i)
        below = tl.load(limits + q * n_limits + limit, mask=limit < n_limits, other=0.0)
        closer = tl.zeros([LIMITS, TOGETHER], tl.int32)
        _put(strip, features, values, low, high, MASK, PAIRS)
        tl.debug_barrier()
        for at in range(first, last, TOGETHER):
            j = at + tl.arange(0, TOGETHER)
            d = _distances(strip, indptr, features, values, squares, i, aa, j, j < last, UNIT, MASK, PAIRS, TOGETHER)
            closer += (d[None, :] < below[:, None]).to(tl.int32)
        tl.store(counts + item * n_limits + limit, tl.sum(closer, 1), mask=limit < n_limits)
        tl.debug_barrier()
        _clear(strip, features, low, high, MASK, PAIRS)
        tl.debug_barrier()
