"""Exact ranks among rows without their zeros that pass by, block after block, where they do not all fit the device.

The sampled rows lie in front of every block, so the kernels of `sparse_rows.py` measure what they measure where all rows stay, and the counts
are the same.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.machine import gpu
from streamumap.neighbors.cuda.count import PART, WHOLE
from streamumap.neighbors.cuda.sizes import KEPT, UPLOAD_ROWS
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.metric import Metric
from streamumap.neighbors.protocol import ComparedRows
from streamumap.source.base import widen
from streamumap.source.sparse.csr_rows import CsrRows

Stored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows without their zeros: bounds int64 from 0, features, and values as they are kept."""


class Rows:
    """Rows `front` and behind them rows start..stop of a CsrRows, as `SparseOnDevice` uploads them."""

    def __init__(self, rows: CsrRows, front: Stored, start: int = 0, stop: int = 0):
        self.rows, self.front, self.start = rows, front, start
        self.n_front = len(front[0]) - 1
        self.n_rows, self.n_features = self.n_front + stop - start, rows.n_features
        self.n_nonzero = len(front[1]) + rows.n_pairs(start, stop)
        self.dtype = kept_dtype(rows)

    def stored(self, start: int, stop: int) -> Stored:
        parts = []
        if start < self.n_front:
            parts.append(_some(self.front, start, min(stop, self.n_front)))
        if stop > self.n_front:
            first, last = (self.start + max(at - self.n_front, 0) for at in (start, stop))
            bounds, features, values = self.rows.stored(first, last)
            parts.append((bounds, features, values if self.rows.dtype in KEPT else widen(values, self.rows.dtype)))
        return _joined(parts)


def count_closer(
    rows: ComparedRows, sample: np.ndarray, others: np.ndarray, block_rows: int, pass_rows: int, advance: Advance = no_advance
) -> np.ndarray:  # fmt: skip
    """Count ranks as `search.count_closer` does, with at most `pass_rows` rows on the device beside the sampled ones."""
    rows.metric.check("cuda")
    order = np.argsort(sample)
    counts = np.empty(others.shape, np.int64)
    with torch.inference_mode():
        counting = _Counting(rows, sample[order], others[order])
        for start in range(0, counting.rows.n_rows, pass_rows):
            counting.add(start, min(start + pass_rows, counting.rows.n_rows), block_rows, advance)
        counts[order] = counting.counts.cpu().numpy()
    return counts


class _Counting:
    """The sampled rows, ascending, the distances below which a row is closer, and how many were found so far."""

    def __init__(self, rows: ComparedRows, sample: np.ndarray, others: np.ndarray):
        assert rows.csr is not None and rows.device
        self.rows, self.metric, self.device, self.sample = rows.csr, rows.metric, rows.device, sample
        self.front = _kept(self.rows, sample)
        self.queries = torch.arange(len(sample), dtype=torch.int32, device=self.device)
        self.limits = self._limits(others)
        self.counts = torch.zeros(others.shape, dtype=torch.int64, device=self.device)

    def add(self, start: int, stop: int, block_rows: int, advance: Advance) -> None:
        """Count the rows start..stop that are closer."""
        brought = self._bring(self.front, start, stop)
        before = len(self.sample) - start  # a row's place on the device, less its number

        def compare(first: int, last: int) -> None:
            self.counts.add_(brought.count_below(self.queries, self.limits, first + before, last + before))

        for first in range(start, stop, block_rows):
            gpu.in_halves(compare, first, min(first + block_rows, stop))
            advance(min(first + block_rows, stop) - first)
        low, high = np.searchsorted(self.sample, [start, stop])
        if low < high:
            itself = torch.from_numpy((self.sample[low:high] + before).astype(np.int32)).to(self.device)
            measured = brought.measure(self.queries[low:high], itself[:, None])
            self.counts[low:high] -= (measured < self.limits[low:high]).long()

    def _limits(self, others: np.ndarray) -> Tensor:
        """Measure the distances to rows `others` (S, m) as `count.count_resident` does: float32."""
        limits = torch.full(others.shape, 1.0 if self.metric.unit else torch.inf, device=self.device)
        for candidates, needed in self._candidates(others):
            brought = self._bring(_joined([self.front, _kept(self.rows, needed)]))
            theirs = torch.from_numpy(candidates).to(self.device)
            limits = torch.where(theirs >= 0, brought.measure(self.queries, theirs), limits)
        brought = self._bring(self.front)
        own = 1.0 if self.metric.unit else brought.squares[:, None].float()
        return limits * (1 - PART) - WHOLE * own

    def _candidates(self, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the places of `others` behind the sampled rows, int32 (S, m), -1 where they are not there; and the rows, ascending, that
        are to lie there. A sampled row itself is at its own place."""
        n, needed = len(self.sample), np.unique(others[others >= 0]).astype(np.int64)
        for first in range(0, len(needed), UPLOAD_ROWS):
            part = needed[first : first + UPLOAD_ROWS]
            at = np.searchsorted(part, others).clip(max=len(part) - 1)
            places = np.where(part[at] == others, at + n, -1)
            places = np.where((others == self.sample[:, None]) & (places >= 0), np.arange(n)[:, None], places)
            yield places.astype(np.int32), part

    def _bring(self, front: Stored, start: int = 0, stop: int = 0) -> SparseOnDevice:
        return _bring(self.rows, self.metric, self.device, front, start, stop)


def _bring(rows: CsrRows, metric: Metric, device: str, front: Stored, start: int, stop: int) -> SparseOnDevice:
    """Upload rows `front` and start..stop."""
    together = cast(CsrRows, Rows(rows, front, start, stop))  # as far as it is uploaded
    return SparseOnDevice(together, metric, device)


def kept_dtype(rows: CsrRows) -> str:
    return rows.dtype if rows.dtype in KEPT else "float32"


def _kept(rows: CsrRows, numbers: np.ndarray) -> Stored:
    """Read rows of these numbers, ascending, with values as they are kept on the device."""
    bounds, features, values = rows.take(numbers)
    if rows.dtype == "float16":
        values = values.astype(np.float16)
    elif rows.dtype == "bfloat16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    return bounds, features, values


def _some(stored: Stored, start: int, stop: int) -> Stored:
    bounds, features, values = stored
    low, high = bounds[start], bounds[stop]
    return bounds[start : stop + 1] - low, features[low:high], values[low:high]


def _joined(parts: list[Stored]) -> Stored:
    """Put rows behind each other."""
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.diff(bounds) for bounds, _, _ in parts])
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return bounds, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])
