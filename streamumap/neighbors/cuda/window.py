"""A window of the rows on a device: some parts whose rows get their neighbors, a group, and other parts, as many as fit."""

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.arranged import Arranged
from streamumap.neighbors.cuda.cells import apart
from streamumap.neighbors.cuda.parts import Parts
from streamumap.neighbors.cuda.sizes import LIST_BYTES, MOVED_CENTRES
from streamumap.neighbors.cuda.sketch import NORM_SHIFT, squared_norms

COVERED, MOST_WINDOWS = 0.99, 6
"""Share of what a group looks at that must be in its windows, and the most windows that it gets."""

ASKING_CELLS = 2048
"""Cells of a group whose nearest cells are counted, at most."""

COUNTED_ROWS = 1 << 20
"""Rows whose lists are counted together."""


class Window:
    """Some parts on the device, the group's before the others. `place` int32 (n,): that of each row here; the group's are the first `n_own`
    rows."""

    def __init__(self, parts: Parts, group: range, others: np.ndarray):
        bounds, self._device = parts.bounds, parts.middles.device
        self.members = np.concatenate([np.asarray(group), others]).astype(np.int64)
        start, stop = bounds[self.members], bounds[self.members + 1]
        self.runs = list(zip(start.tolist(), stop.tolist(), strict=True))
        self.n_own = int(bounds[group.stop] - bounds[group.start])
        first = np.cumsum(stop - start) - (stop - start)
        lengths = self._sent(stop - start)
        self._part = torch.arange(len(self.members), device=self._device).repeat_interleave(lengths)
        self.place = (torch.arange(len(self._part), device=self._device) + self._sent(start - first)[self._part]).int()
        self._ends = self._sent(bounds[1:])
        self._shift = torch.full((len(parts),), -(1 << 40), dtype=torch.int64, device=self._device)
        self._shift[self._sent(self.members)] = self._sent(first - start)

    def cells(self, arranged: Arranged, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Get the cell of each row here, int64 (n,), those of the group first, and its squared distance to the centre, int32 (n,). `codes` int8
        (n, w): the sketches of the rows."""
        start, stop = arranged.parts.cells[self.members], arranged.parts.cells[self.members + 1]
        shift = np.cumsum(stop - start) - stop
        cell = self.sent(arranged.cell).long()
        return cell + self._sent(shift)[self._part], apart(codes, cell, arranged.parts.centres)

    def sent(self, by_place: np.ndarray) -> Tensor:
        """Send what an array (N,) has by place for the rows here: (n,)."""
        return self._sent(np.concatenate([by_place[first:last] for first, last in self.runs]))

    def _sent(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def here(self, places: Tensor) -> Tensor:
        """Find the rows here that have these places, int32, -1 for none: int32 of the same shape, -1 for those elsewhere."""
        row = places + self._shift[part_of(places, self._ends)]
        return torch.where(places >= 0, row, -1).clamp_min_(-1).int()

    def places(self, rows: Tensor) -> Tensor:
        """Find the places of rows here, int32, -1 for none: int32 of the same shape."""
        return torch.where(rows >= 0, self.place[rows.clamp_min(0).long()], -1)


def part_of(places: Tensor, ends: Tensor) -> Tensor:
    """Find the part of each place, int32; any for -1. `ends` int64 (P,)."""
    return torch.bucketize(places, ends, right=True).clamp_max_(len(ends) - 1)


def groups(bounds: np.ndarray, most_rows: int) -> list[range]:
    """Cut the parts, in order, into groups of at most `most_rows` rows, or of one part."""
    out, start = [], 0
    while start < len(bounds) - 1:
        stop = int(np.searchsorted(bounds, bounds[start] + most_rows, "right")) - 1
        out.append(range(start, max(stop, start + 1)))
        start = out[-1].stop
    return out


def nearest_parts(parts: Parts, group: range, n_rows: int) -> np.ndarray:
    """Count how many of the cells nearest to those of a group each part has: int64 (P,). So many are counted for each, or for some of them, as
    hold `n_rows` rows."""
    own = torch.arange(int(parts.cells[group.start]), int(parts.cells[group.stop]), device=parts.centres.device)
    own = own[:: -(-len(own) // ASKING_CELLS)]
    n = min(len(parts.centres), -(-n_rows * len(parts.centres) // int(parts.bounds[-1])))
    norms, part = squared_norms(parts.centres) >> NORM_SHIFT, torch.from_numpy(parts.part_of()).to(own.device)
    count = torch.zeros(len(parts), dtype=torch.int64, device=own.device)
    for some in own.split(max(1, LIST_BYTES // (4 * len(parts.centres)))):
        scores = torch.cat([
            norms[at : at + MOVED_CENTRES] - 2 * (parts.centres[some].float() @ parts.centres[at : at + MOVED_CENTRES].float().T)
            for at in range(0, len(norms), MOVED_CENTRES)
        ], 1)  # fmt: skip
        count += torch.bincount(part[scores.topk(n, dim=1, largest=False).indices].flatten(), minlength=len(parts))
    return count.cpu().numpy()


def met_parts(parts: Parts, own: Tensor) -> np.ndarray:
    """Count how many of the rows in the lists of a group, places int32 (n, width), each part has: int64 (P,)."""
    ends = torch.from_numpy(parts.bounds[1:]).to(own.device)
    count = torch.zeros(len(parts), dtype=torch.int64, device=own.device)
    for some in own.split(COUNTED_ROWS):
        count += torch.bincount(part_of(some[some >= 0], ends), minlength=len(parts))
    return count.cpu().numpy()


def windows(bounds: np.ndarray, group: range, count: np.ndarray, most_rows: int) -> list[np.ndarray]:
    """Choose the parts that a group has beside it, those with the largest counts first, in as many windows of at most `most_rows` rows as hold
    COVERED of the counts, or MOST_WINDOWS."""
    own = int(bounds[group.stop] - bounds[group.start])
    order = np.argsort(-count, kind="stable")
    order = order[((order < group.start) | (order >= group.stop)) & (count[order] > 0)]
    covered = int(count[group.start : group.stop].sum())
    out: list[np.ndarray] = []
    while len(out) < MOST_WINDOWS and (not out or (len(order) and covered < COVERED * count.sum())):
        rows = own + np.cumsum(bounds[order + 1] - bounds[order])
        n = int(np.searchsorted(rows, most_rows, "right"))
        out.append(order[:n])
        covered, order = covered + int(count[order[:n]].sum()), order[n:]
        if n == 0:
            break
    return out
