"""The passes of `levels.py` in Triton, one program a vertex, and in torch; held to `levels_reference.py` by tests.

Only integers are added atomically: it gives the same bytes every time. Without a GPU it runs in Triton's interpreter. The
functions have the signatures of `levels_cpu.py`, over torch tensors on one device; weights are int16 (uint16 bits).
"""

import numpy as np
import torch
import triton
import triton.language as tl

CELL_BITS, WEIGHT_BITS, LANES = 23, 16, 32
_CELL, _WEIGHT = (1 << CELL_BITS) - 1, (1 << WEIGHT_BITS) - 1
SCATTERED_ROWS = 1 << 22
"""Vertices that draw a cell together: bounds the temporaries."""


def join_cells(cells, new, first_row: int, indptr, targets, weights) -> None:
    _join_cells[(len(indptr) - 1,)](cells, new, indptr, targets, weights, first_row, LANES, num_warps=1)


def join_roots(roots, new, first_row: int, indptr, targets, weights) -> None:
    _join_roots[(len(indptr) - 1,)](roots, new, indptr, targets, first_row, LANES, num_warps=1)


def own_numbers(lost: torch.Tensor) -> torch.Tensor:
    return torch.where(lost, torch.arange(len(lost), dtype=torch.int32, device=lost.device), -1).to(torch.int32)


def scattered(cells: torch.Tensor, roots: torch.Tensor, n_cells: int) -> torch.Tensor:
    for start in range(0, len(cells), SCATTERED_ROWS):
        part = cells[start : start + SCATTERED_ROWS]
        drawn = ((roots[start : start + SCATTERED_ROWS].long() * 0x9E3779B9) & 0xFFFFFFFF) * n_cells >> 32
        part.copy_(torch.where(part < 0, drawn.int(), part))
    return cells


def of_cells(positions: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    return positions.index_select(0, cells)


def no_pairs(cells: torch.Tensor, n: int, n_kept: int) -> torch.Tensor:
    return torch.empty((n, n_kept), dtype=torch.int64, device=cells.device)


def heaviest(cells, pairs, first_row: int, indptr, targets, weights) -> None:
    _heaviest[(len(indptr) - 1,)](
        cells, pairs, indptr, targets, weights, first_row, pairs.shape[1], CELL_BITS, WEIGHT_BITS, LANES, num_warps=1
    )


def coarse_graph(pairs: torch.Tensor, n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`levels_cpu.coarse_graph`; returns arrays on the host."""
    keys = pairs.reshape(-1)
    pair, total = added_up(keys[keys >= 0].sort().values)
    del keys
    weight = _weights(total, *cells_of(pair), n_cells)
    keys = ((torch.cat([pair, reverse(pair)]) << WEIGHT_BITS) | weight.repeat(2)).sort().values
    cells = torch.arange(n_cells + 1, device=keys.device) << (CELL_BITS + WEIGHT_BITS)
    indptr = torch.searchsorted(keys, cells)
    return indptr.cpu().numpy(), *edges_of(keys)


def added_up(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the pairs of cells among sorted keys, each once, and the sums of their weights: int64 (pairs,)."""
    pair = keys >> WEIGHT_BITS
    last = torch.ones_like(pair, dtype=torch.bool)
    last[:-1] = pair[1:] != pair[:-1]
    at = last.nonzero()[:, 0]
    total = (keys & _WEIGHT).cumsum(0)[at]
    total[1:] -= total[:-1].clone()
    return pair[at], total


def cells_of(pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pair >> CELL_BITS, pair & _CELL


def reverse(pair: torch.Tensor) -> torch.Tensor:
    return ((pair & _CELL) << CELL_BITS) | (pair >> CELL_BITS)


def edges_of(keys: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the targets and weights in keys of (cell, target, weight), on the host."""
    targets = ((keys >> WEIGHT_BITS) & _CELL).int()
    return targets.cpu().numpy(), (keys & _WEIGHT).int().cpu().numpy().astype(np.uint16)


def _weights(total, one, other, n_cells):
    """Returns the weights of pairs of cells from their sums, int64 from 1 to 65535. It adds up integers and takes maxima, so any
    order gives the same."""
    size = torch.zeros(n_cells, dtype=torch.int64, device=total.device)
    size = size.index_add_(0, one, total).index_add_(0, other, total).double()
    share = shares(total, one, other, size)
    most = torch.zeros_like(size).scatter_reduce_(0, one, share, "amax").scatter_reduce_(0, other, share, "amax")
    return as_weights(share, one, other, most)


def shares(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Divides the sums of pairs by the geometric mean of both cells' sums `size`: float64."""
    return total / torch.sqrt(size[one] * size[other])


def as_weights(share: torch.Tensor, one: torch.Tensor, other: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Scales shares, in place, by the smaller of both cells' largest: int64 from 1 to 65535."""
    share /= torch.minimum(most[one], most[other])
    return (share * 65535).round().clamp(1, 65535).long()


def coarse_graph_in_pieces(read_blocks, cells: torch.Tensor, n_cells: int, most_pairs: int):
    from streamumap.layout.init.levels_pieces_cuda import coarse_graph

    return coarse_graph(read_blocks, cells, n_cells, most_pairs)


def smooth(positions, new, first_row: int, indptr, targets, weights) -> None:
    n_components = positions.shape[1]
    _smooth[(len(indptr) - 1,)](
        positions, new, indptr, targets, weights, first_row, n_components, triton.next_power_of_2(n_components), LANES, num_warps=1
    )  # fmt: skip


@triton.jit(do_not_specialize=["first_row"])
def _join_cells(cells, new, indptr, targets, weights, first_row, LANES: tl.constexpr):
    row = tl.program_id(0)
    lanes = tl.arange(0, LANES)
    own = tl.load(cells + first_row + row)
    best = tl.full([LANES], -1, tl.int64)
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    stop = tl.where(own < 0, stop, start)
    for at in range(start, stop, LANES):
        in_row = at + lanes < stop
        weight = tl.load(weights + at + lanes, mask=in_row, other=0).to(tl.int64) & 0xFFFF
        cell = tl.load(cells + tl.load(targets + at + lanes, mask=in_row, other=0), mask=in_row, other=-1).to(tl.int64)
        best = tl.maximum(best, tl.where(cell >= 0, (weight << 32) | cell, -1))
    best_key = tl.max(best, axis=0)
    tl.store(new + first_row + row, tl.where(best_key < 0, own, (best_key & 0x7FFFFFFF).to(tl.int32)))


@triton.jit(do_not_specialize=["first_row"])
def _join_roots(roots, new, indptr, targets, first_row, LANES: tl.constexpr):
    row = tl.program_id(0)
    lanes = tl.arange(0, LANES)
    own = tl.load(roots + first_row + row)
    best = tl.full([LANES], -1, tl.int32)
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    stop = tl.where(own < 0, start, stop)
    for at in range(start, stop, LANES):
        in_row = at + lanes < stop
        root = tl.load(roots + tl.load(targets + at + lanes, mask=in_row, other=0), mask=in_row, other=-1)
        best = tl.maximum(best, root)
    tl.store(new + first_row + row, tl.maximum(own, tl.max(best, axis=0)))


@triton.jit(do_not_specialize=["first_row"])
def _heaviest(
    cells, pairs, indptr, targets, weights, first_row, KEPT: tl.constexpr, CELL_BITS: tl.constexpr,
    WEIGHT_BITS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    i = (first_row + row).to(tl.int64)
    lanes = tl.arange(0, LANES)
    own = tl.load(cells + i).to(tl.int64)
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    before = own * 0 + (1 << 62)
    for kept in tl.static_range(KEPT):
        best = tl.full([LANES], -1, tl.int64)
        for at in range(start, stop, LANES):
            in_row = at + lanes < stop
            weight = tl.load(weights + at + lanes, mask=in_row, other=0).to(tl.int64) & 0xFFFF
            target = tl.load(targets + at + lanes, mask=in_row, other=0)
            cell = tl.load(cells + target, mask=in_row, other=0).to(tl.int64)
            key = (weight << 32) | cell
            best = tl.maximum(best, tl.where(in_row & (cell != own) & (key < before), key, -1))
        best_key = tl.max(best, axis=0)
        other = best_key & ((1 << CELL_BITS) - 1)
        pair = (tl.minimum(own, other) << CELL_BITS) | tl.maximum(own, other)
        tl.store(
            pairs + row.to(tl.int64) * KEPT + kept, tl.where(best_key < 0, -1, (pair << WEIGHT_BITS) | (best_key >> 32))
        )
        before = best_key


@triton.jit(do_not_specialize=["first_row"])
def _smooth(
    positions, new, indptr, targets, weights, first_row, C: tl.constexpr, C_PADDED: tl.constexpr, LANES: tl.constexpr
):
    row = tl.program_id(0)
    i = (first_row + row).to(tl.int64)
    lanes = tl.arange(0, LANES)
    component = tl.arange(0, C_PADDED)
    along = tl.zeros([C_PADDED], tl.float32)
    total = 0.0
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    for at in range(start, stop, LANES):
        in_row = at + lanes < stop
        weight = (tl.load(weights + at + lanes, mask=in_row, other=0).to(tl.int32) & 0xFFFF).to(tl.float32)
        j = tl.load(targets + at + lanes, mask=in_row, other=0).to(tl.int64)
        neighbor = tl.load(
            positions + j[:, None] * C + component[None, :], mask=in_row[:, None] & (component < C)[None, :], other=0.0
        )
        along += tl.sum(weight[:, None] * neighbor, axis=0)
        total += tl.sum(weight, axis=0)
    position = tl.load(positions + i * C + component, mask=component < C, other=0.0)
    tl.store(
        new + i * C + component, tl.where(total > 0, along / tl.maximum(total, 1e-30), position), mask=component < C
    )
