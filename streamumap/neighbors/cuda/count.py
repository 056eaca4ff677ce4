"""Exact ranks of the neighbors of sampled rows, by a pass over all rows, chunk by chunk.

For nearly all pairs of dense rows, products of rows less their centre tell which of two distances is the smaller. The other pairs, and the
distances that they are compared with, are measured from differences in float64.
"""

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.machine import gpu
from streamumap.neighbors.cuda.chunk import precision, slack
from streamumap.neighbors.cuda.count_kernels import count_exact, count_sure
from streamumap.neighbors.cuda.distances import centred, exact
from streamumap.neighbors.cuda.sizes import LOOKED_PAIRS, TILE_ROWS

PART, WHOLE = 1e-6, 1e-14
"""Differences up to which two squared distances (without zeros, at length 1: half of them) count as equal: PART of them, since neighbor lists
hold them in float32, and WHOLE of the squared norms, from which they come in float64."""

CENTRE_ROWS = 1024
"""Sampled rows whose median is the centre, at most."""


def count_streamed(rows, sample: np.ndarray, others: np.ndarray, chunk_rows: int, advance: Advance) -> np.ndarray:
    """Count ranks in dense rows, a DeviceRows. Distances that differ by less than a few float32 roundings count as equal."""
    counts = torch.zeros(others.shape, dtype=torch.int64, device=rows.device)
    with torch.inference_mode(), precision("highest"):
        asking = _Asking(rows, sample, others)
        for first, stored, _ in rows.stream(chunk_rows):

            def compare(start: int, stop: int, first=first, stored=stored) -> None:
                counts.add_(asking.closer(stored[start - first : stop - first], start))

            gpu.in_halves(compare, first, first + len(stored))
            advance(len(stored))
    return counts.cpu().numpy()


class _Asking:
    """The sampled rows less their centre, and the squared distances below which a row is closer: `limits` float64 (S, m)."""

    def __init__(self, rows, sample: np.ndarray, others: np.ndarray):
        self.unit = rows.metric.unit
        self.numbers, self.stored = torch.from_numpy(sample).to(rows.device), rows.take(sample)
        self.centre = _centre(self.stored, self.unit)
        self.plain = not bool(self.centre.any())
        self.rows, self.squares, self.scale, self.whole = centred(self.stored, self.centre, self.unit)
        self.limits = self._limits(rows, others)

    def closer(self, stored: Tensor, first: int) -> Tensor:
        """Count how many of the stored rows, which are those from number `first` on, are closer: int64 (S, m)."""
        block, squares, scale, whole = centred(stored, self.centre, self.unit)
        ours, theirs = (self.squares, self.scale, self.whole), (squares, scale, whole)
        sharp = self.plain and self.unit
        counts, doubtful = count_sure(
            self.rows @ block.T, ours, theirs, self.numbers - first, self.limits, slack(block.shape[1]), sharp
        )
        step = max(1, LOOKED_PAIRS // len(block))
        for at in range(0, len(doubtful), step):
            i, j = doubtful[at : at + step].nonzero(as_tuple=True)
            i += at
            measured = exact(self.stored, self.scale, stored, scale, i, j)
            counts[at : at + step] += count_exact(measured, i, self.limits, at, min(at + step, len(doubtful)))
        return counts

    def _limits(self, rows, others):
        needed = np.unique(others[others >= 0]).astype(np.int64)
        out = torch.full(others.shape, 2.0 if self.unit else torch.inf, dtype=torch.float64, device=rows.device)
        local = torch.from_numpy(np.where(others >= 0, np.searchsorted(needed, others), -1)).to(rows.device)
        for first in range(0, len(needed), TILE_ROWS):
            theirs = rows.take(needed[first : first + TILE_ROWS])
            scale = centred(theirs, self.centre, self.unit)[2]
            i, j = ((local >= first) & (local < first + TILE_ROWS)).nonzero(as_tuple=True)
            out[i, j] = exact(self.stored, self.scale, theirs, scale, i, local[i, j] - first)
        return out * (1 - PART) - (2 * WHOLE if self.unit else 0)


def _centre(stored: Tensor, unit: bool) -> Tensor:
    """Compute the median of some of the rows, at length 1 with `unit`: float32 (D,). It is 0 where rows are not much nearer to the median than
    to the origin, so that rows of mostly zeros stay so."""
    some = stored[:: -(-len(stored) // CENTRE_ROWS)]
    origin = torch.zeros(stored.shape[1], device=stored.device)
    rows, from_origin, *_ = centred(some, origin, unit)
    centre = rows.median(0).values
    from_centre = ((rows - centre) ** 2).sum(1)
    return centre if from_centre.median() < 0.5 * from_origin.median() else origin


def count_resident(rows, sample: np.ndarray, others: np.ndarray, chunk_rows: int, advance: Advance) -> np.ndarray:
    """Count ranks in rows that stay on the device without their zeros, a SparseOnDevice, which measures any two of them."""
    queries = torch.from_numpy(sample.astype(np.int32)).to(rows.device)
    counts = torch.zeros(others.shape, dtype=torch.int64, device=rows.device)
    with torch.inference_mode():
        theirs = torch.from_numpy(others.astype(np.int32)).to(rows.device)
        none = 1.0 if rows.metric.unit else torch.inf
        thresholds = torch.where(theirs >= 0, rows.measure(queries, theirs), none)
        own = 1.0 if rows.metric.unit else rows.squares[queries.long(), None].float()
        thresholds = thresholds * (1 - PART) - WHOLE * own

        def compare(start: int, stop: int) -> None:
            counts.add_(rows.count_below(queries, thresholds, start, stop))

        for start in range(0, rows.n_rows, chunk_rows):
            stop = min(start + chunk_rows, rows.n_rows)
            gpu.in_halves(compare, start, stop)
            advance(stop - start)
    return counts.cpu().numpy()
