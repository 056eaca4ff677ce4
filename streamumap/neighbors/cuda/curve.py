"""The order of points along a Morton curve (Morton 1966), on a GPU (torch alone). It is sorted range by range where there are many
points, so that only their numbers stay; any ranges give the same order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.points_sizes import CHUNK_ROWS, SORTED_ROWS

BITS = 62
"""Bits of a position on the curve, shared by the axes."""

FULL = 0.75
"""Mean share of SORTED_ROWS that a range has: its ends are estimated."""

MARKS = 1 << 18
"""Random rows from which the ends of ranges are estimated: for 16 ranges, to a hundredth of them."""

Mark = tuple[int, int]
"""A place on the curve, and a row: points at one place are in the order of their rows."""

Box = tuple[Tensor, Tensor]
"""The corner (c,) of all points, and the length of their longest side, float64."""


def order(points: Tensor) -> Tensor:
    """Sort the points float32 (N, c) that are finite: int32 (P,), by place on the curve, then by row."""
    n_there = sum(int(part.isfinite().all(1).long().sum()) for part in points.split(CHUNK_ROWS))
    out = torch.empty(n_there, dtype=torch.int32, device=points.device)
    box, at = _box(points), 0
    for begin, end in _ranges(points, box, n_there):
        codes, rows = _within(points, box, begin, end)
        stop = at + len(rows)
        out[at:stop] = rows[codes.argsort(stable=True)]
        at = stop
    return out


def _box(points: Tensor) -> Box:
    """Find the box of the finite points."""
    lows, highs = [], []
    for part in points.split(CHUNK_ROWS):
        there = part[part.isfinite().all(1)]
        if len(there):
            lows.append(there.amin(0))
            highs.append(there.amax(0))
    low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    return low, (high.double() - low.double()).max().clamp(min=torch.finfo(torch.float32).tiny)


def _ranges(points: Tensor, box: Box, n_there: int) -> Iterator[tuple[Mark | None, Mark | None]]:
    """Yield (begin, end) of ranges on the curve, None for its ends, with about FULL * SORTED_ROWS points each."""
    n_ranges = 1 if n_there <= SORTED_ROWS else -int(-n_there // (FULL * SORTED_ROWS))
    marks: list[Mark | None] = [None]
    if n_ranges > 1:
        random = np.random.Generator(np.random.Philox(key=[0x0C, len(points)]))
        some = torch.from_numpy(np.unique(random.integers(0, len(points), MARKS))).to(points.device)
        some = some[points[some].isfinite().all(1)]
        codes, rows = codes_of(points[some], box).cpu().numpy(), some.cpu().numpy()
        codes, rows = (numbers[np.lexsort((rows, codes))] for numbers in (codes, rows))
        ends = np.arange(1, n_ranges) * len(rows) // n_ranges
        marks += [(int(codes[end]), int(rows[end])) for end in ends]
    return zip(marks, [*marks[1:], None], strict=True)


def _within(points: Tensor, box: Box, begin: Mark | None, end: Mark | None) -> tuple[Tensor, Tensor]:
    """Find the points from `begin` to before `end`: their places on the curve int64, and their rows int32, ascending."""
    codes, rows = [], []
    for start in range(0, len(points), CHUNK_ROWS):
        part = points[start : start + CHUNK_ROWS]
        row = part.isfinite().all(1).nonzero()[:, 0]
        code = codes_of(part[row], box)
        row += start
        if begin is not None or end is not None:
            inside = _before(code, row, end) & ~_before(code, row, begin, missing=False)
            code, row = code[inside], row[inside]
        codes.append(code)
        rows.append(row.int())
    code = torch.cat(codes)
    del codes
    return code, torch.cat(rows)


def _before(code: Tensor, row: Tensor, mark: Mark | None, missing: bool = True) -> Tensor:
    """Tell which points come before the mark: bool (P,), `missing` for all where there is none."""
    if mark is None:
        return torch.full(code.shape, missing, device=code.device)
    return (code < mark[0]) | ((code == mark[0]) & (row < mark[1]))


def codes_of(points: Tensor, box: Box) -> Tensor:
    """Compute the places of points (P, c) on the curve: int64 (P,)."""
    n_axes, (low, span) = points.shape[1], box
    bits = max(1, min(31, BITS // n_axes))
    out = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for axis in range(min(n_axes, BITS)):
        steps = ((points[:, axis].double() - low[axis].double()) / span * ((1 << bits) - 1)).long()
        for bit in range(bits):
            out |= ((steps >> bit) & 1) << (bit * min(n_axes, BITS) + axis)
    return out
