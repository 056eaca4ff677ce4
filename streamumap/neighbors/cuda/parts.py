"""Parts: the cells of a region, or some of them where it is large, whose rows are read together."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.cells import Cells
from streamumap.neighbors.cuda.regions import in_line
from streamumap.neighbors.cuda.sizes import MOVED_CENTRES as TOGETHER


@dataclass(frozen=True)
class Parts:
    """Cells in a new order, part by part. Part p of P has the cells cells[p]..cells[p + 1], `cells` int64 (P + 1,), and the rows
    bounds[p]..bounds[p + 1] by place, `bounds` int64 (P + 1,). `centres` int8 (C, w) are those of cells, `middles` float32 (P, w) of parts."""

    cells: np.ndarray
    bounds: np.ndarray
    centres: Tensor
    middles: Tensor

    def __len__(self) -> int:
        return len(self.middles)

    def part_of(self) -> np.ndarray:
        """Get the part of each cell: int32 (C,)."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.cells))


def make_parts(cells: Cells, cell: np.ndarray, most_rows: int) -> Parts:
    """Make parts of at most `most_rows` rows. `cell` int32 (N,) is the cell of each row, and becomes its number in the new order. A cell with
    more than half as many rows is cut: they may all be the same."""
    ends, device = cells.of_region()[1:], cells.centres.device
    region = torch.bucketize(torch.arange(len(cells), device=device), ends, right=True).cpu().numpy()
    cut_from = np.concatenate([np.arange(len(cells)), _cut(cell, len(cells), max(1, most_rows // 2))])
    rows = np.bincount(cell, minlength=len(cut_from))
    order = _order(cells, region[cut_from], rows, cut_from, most_rows)
    rows, region, cut_from = rows[order], region[cut_from[order]], cut_from[order]
    new = np.zeros(int(order.max()) + 1, np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    for at in range(0, len(cell), TOGETHER):
        cell[at : at + TOGETHER] = new[cell[at : at + TOGETHER]]
    part = _part(region, rows, max(1, most_rows // 2))
    first = np.flatnonzero(np.diff(part, prepend=-1))
    bounds = np.concatenate([[0], np.cumsum(np.add.reduceat(rows, first))])
    centres = cells.centres[torch.from_numpy(cut_from).to(device)]
    return Parts(np.append(first, len(order)), bounds, centres, _middles(centres, part, rows))


def _cut(cell: np.ndarray, n_cells: int, most_rows: int) -> np.ndarray:
    """Cut cells of more than `most_rows` rows: their further rows get cells from number `n_cells` on, in place. Returns the cells that these
    were cut from."""
    cut_from: list[int] = []
    counts = np.bincount(cell, minlength=n_cells)
    for large in np.flatnonzero(counts > most_rows):
        members = np.flatnonzero(cell == large)
        for start in range(most_rows, len(members), most_rows):
            cell[members[start : start + most_rows]] = n_cells + len(cut_from)
            cut_from.append(int(large))
    return np.array(cut_from, np.int64)


def _order(cells: Cells, region: np.ndarray, rows: np.ndarray, cut_from: np.ndarray, most_rows: int) -> np.ndarray:
    """Order cells by region, without empty ones; in a region that is too large for one part, so that near cells stand near each other."""
    order = np.flatnonzero(rows)
    order = order[np.argsort(region[order], kind="stable")]
    in_region = np.bincount(region[order], weights=rows[order])
    ends = np.cumsum(np.bincount(region[order], minlength=len(in_region)))
    for large in np.flatnonzero(in_region > most_rows):
        here = slice(ends[large - 1] if large else 0, ends[large])
        centres = cells.centres[torch.from_numpy(cut_from[order[here]]).to(cells.centres.device)]
        order[here] = order[here][in_line(centres).numpy()]
    return order


def _part(region: np.ndarray, rows: np.ndarray, most_rows: int) -> np.ndarray:
    """Number the part of each cell: int64 (C,), ascending. A region is cut into as many parts as it has times `most_rows` rows."""
    starts = np.cumsum(rows) - rows
    in_region = np.bincount(region, weights=rows).astype(np.int64)
    first = np.full(len(in_region), len(starts))
    np.minimum.at(first, region, np.arange(len(region)))
    before = starts - starts[first[region]]
    number = before * -(-in_region // most_rows)[region] // in_region[region]
    return np.cumsum((np.diff(region, prepend=-1) != 0) | (np.diff(number, prepend=-1) != 0)) - 1


def _middles(centres: Tensor, part: np.ndarray, rows: np.ndarray) -> Tensor:
    """Compute the mean of the rows of each part from the centres of its cells: float32 (P, w)."""
    number, weight = torch.from_numpy(part).to(centres.device), torch.from_numpy(rows).to(centres.device)
    sums = torch.zeros((int(part[-1]) + 1, centres.shape[1]), dtype=torch.int64, device=centres.device)
    for at in range(0, len(centres), TOGETHER):
        here = slice(at, at + TOGETHER)
        sums.index_add_(0, number[here], centres[here].long() * weight[here, None])
    return (sums / torch.bincount(number, weights=weight.double())[:, None]).float()
