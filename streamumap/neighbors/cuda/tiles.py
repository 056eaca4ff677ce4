"""All rows in tiles of 64 that lie close together, and for each tile a list of other tiles to compare it with.

Rows lie in small cells (`cells.py`). The rows of a cell, nearest to its centre first, fill tiles, so all tiles have
the same size whatever the cells. `reach.py` says how far a tile looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.neighbors.cuda.probe import TILE
from streamumap.neighbors.cuda.sizes import LIST_BYTES
from streamumap.neighbors.cuda.sizes import TILES_TOGETHER as TOGETHER
from streamumap.neighbors.cuda.sketch import NEVER, NORM_SHIFT, squared_norms

ROOM = 1.5
"""Places of a list for each tile that is wanted in it."""

ASKING, ASKED = 32, 64
"""Tiles whose lists a program makes, and tiles that it looks at together."""


@dataclass(frozen=True)
class Tiles:
    """All rows in tiles. `order` int32 (T * TILE,): row numbers, -1 where a cell's last tile has free places. `codes` int8 (T * TILE, w) and
    `norms` int32 (T * TILE,): in that order, 0 and NEVER for rows that are nobody's neighbors. `centres` int8 (T, w), rounded. `spread` float32
    (T,): relative to the median."""

    order: Tensor
    codes: Tensor
    norms: Tensor
    centres: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.spread)


def make_tiles(codes: Tensor, is_zero: Tensor, cell: Tensor, distance: Tensor) -> Tiles:
    """Make tiles of all rows, those of a cell after those of the cell before. `codes` int8 (N, w): their sketches. `is_zero` bool (N,): rows
    that are nobody's neighbors. `cell` int64 (N,), and `distance` (N,), a number that ascends with the distance to its centre."""
    order = _order(cell, distance)
    n_tiles, width = len(order) // TILE, codes.shape[1]
    there = order >= 0
    sorted_codes = torch.zeros((len(order), width), dtype=torch.int8, device=codes.device)
    centres = torch.empty((n_tiles, width), dtype=torch.int8, device=codes.device)
    spread = torch.empty(n_tiles, device=codes.device)
    for at in range(0, n_tiles, TOGETHER):
        rows = slice(at * TILE, (at + TOGETHER) * TILE)
        part = codes[order[rows].clamp_min(0).long()] * there[rows, None]
        sorted_codes[rows] = part
        part, count = part.view(-1, TILE, width).float(), there[rows].view(-1, TILE).sum(1).float()
        centre = part.sum(1) / count[:, None]
        centres[at : at + TOGETHER] = centre.round().to(torch.int8)
        spread[at : at + TOGETHER] = (part**2).sum((1, 2)) / count - (centre**2).sum(1)
    nobody = ~there | is_zero[order.clamp_min(0).long()]
    sorted_codes.masked_fill_(nobody[:, None], 0)
    norms = squared_norms(sorted_codes).masked_fill_(nobody, NEVER)
    return Tiles(order, sorted_codes, norms, centres, spread / spread.median().clamp_min(1.0))


def lists(
    tiles: Tiles, wanted: Tensor, limits: Tensor, chunk_tiles: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for chunks of tiles: their numbers int64 (t,), the tiles from number `first` on that each looks at, int32 (t, l), ascending, and the
    number of these int32 (t,). `wanted` and `limits` int32 (t,) as `reach.Reach` has them."""
    lengths, by_length = wanted.sort(stable=True)
    norms = squared_norms(tiles.centres) >> NORM_SHIFT
    at = 0
    while at < len(lengths):
        step = chunk_tiles
        while step > 1 and step * 4 * _room(lengths[at : at + step], len(tiles)) > LIST_BYTES:
            step //= 2
        here, room = by_length[at : at + step], _room(lengths[at : at + step], len(tiles))
        yield here, *_within(tiles.centres, norms, here, limits[here], room, first)
        at += step


def _room(lengths: Tensor, n_tiles: int) -> int:
    """Return the places of a list where these lengths, ascending, are wanted."""
    return min(n_tiles, int(int(lengths[-1]) * ROOM) + TILE)


def _within(
    centres: Tensor, norms: Tensor, here: Tensor, limits: Tensor, room: int, first: int
) -> tuple[Tensor, Tensor]:
    """List the tiles from number `first` on whose score is at most the limit of each tile of `here`: int32 (t, room), the first `room` of them,
    ascending, and their number int32 (t,)."""
    listed = torch.zeros((len(here), room), dtype=torch.int32, device=centres.device)
    lengths = torch.empty(len(here), dtype=torch.int32, device=centres.device)
    _list[(triton.cdiv(len(here), ASKING),)](
        centres, norms, here, limits, listed, lengths, len(here), first, len(centres), room,
        WIDTH=centres.shape[1], ASKING=ASKING, ASKED=ASKED,
    )  # fmt: skip
    return listed, lengths


@triton.jit(do_not_specialize=["n_asking", "first_tile", "n_tiles", "room"])
def _list(
    centres, norms, here, limits, listed, lengths, n_asking, first_tile, n_tiles, room, WIDTH: tl.constexpr, ASKING: tl.constexpr,
    ASKED: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * ASKING + tl.arange(0, ASKING)
    live = place < n_asking
    number = tl.arange(0, WIDTH)
    own = tl.load(here + place, mask=live, other=0)
    ours = tl.load(centres + own[:, None] * WIDTH + number[None, :])
    limit = tl.load(limits + place, mask=live, other=-0x80000000)
    count = tl.zeros([ASKING], tl.int32)
    for first in range(first_tile, n_tiles, ASKED):
        other = first + tl.arange(0, ASKED)
        there = other < n_tiles
        theirs = tl.load(centres + other.to(tl.int64)[None, :] * WIDTH + number[:, None], mask=there[None, :], other=0)
        score = tl.load(norms + other, mask=there, other=0)[None, :] - 2 * tl.dot(ours, theirs, out_dtype=tl.int32)
        near = ((score <= limit[:, None]) & there[None, :]).to(tl.int32)
        at = count[:, None] + tl.cumsum(near, 1) - 1
        tl.store(
            listed + place[:, None] * room + at, tl.zeros([ASKING, ASKED], tl.int32) + other[None, :],
            mask=(near > 0) & (at < room) & live[:, None],
        )  # fmt: skip
        count += tl.sum(near, 1)
    tl.store(lengths + place, tl.minimum(count, room), mask=live)


def _order(cell: Tensor, distance: Tensor) -> Tensor:
    """Order rows by cell, and in a cell by the distance to its centre: int32 (T * TILE,), -1 where a cell's last tile has free places."""
    n, device = len(cell), cell.device
    by_distance = distance.sort(stable=True).indices
    by_cell = by_distance[cell[by_distance].sort(stable=True).indices]
    count = torch.bincount(cell)
    room = (count + TILE - 1) // TILE * TILE
    shift = (torch.cumsum(room, 0) - room) - (torch.cumsum(count, 0) - count)
    order = torch.full((int(room.sum()),), -1, dtype=torch.int32, device=device)
    order[torch.arange(n, device=device) + shift[cell[by_cell]]] = by_cell.int()
    return order
