"""All rows in tiles of 64 that lie close together, and for each tile a list of other tiles to compare it with.

k-means on the sketches (Lloyd 1982) makes small cells. The rows of a cell, nearest to its centre first, fill tiles, so all tiles have the same
size whatever the cells. The number of tiles within reach of a row grows with a power of the radius of its neighborhood, so tiles that are
spread out have longer lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from streamumap.neighbors.cuda.probe import SPLITS, TILE, nearest_columns
from streamumap.neighbors.cuda.sizes import LIST_BYTES
from streamumap.neighbors.cuda.sizes import TILES_TOGETHER as TOGETHER
from streamumap.neighbors.cuda.sketch import NEVER, squared_norms

CELL_ROWS = 128
"""Mean rows of a cell. Comparing tiles of such cells with 1/128 of 3,000,000 rows found 0.945 of the neighbors, of twice as large cells 0.909,
of a balanced 2-means tree 0.678 (2,000 rows)."""

SAMPLE_CELLS = 16
"""Sampled rows for each cell, on which centres are learnt."""

LLOYD = 8
POWER = 4
"""Exponent of a tile's spread, a squared radius, in the length of its list: as for rows in about 8 dimensions."""

ASSIGN_ROWS = 1 << 17


@dataclass(frozen=True)
class Tiles:
    """All rows in tiles. `order` int32 (T * TILE,): row numbers, -1 where a cell's last tile has free places. `codes` int8 (T * TILE, w) and
    `norms` int32 (T * TILE,): in that order, 0 and NEVER for rows that are nobody's neighbors. `centres` float32 (T, w). `spread` float32 (T,):
    relative to the median."""

    order: Tensor
    codes: Tensor
    norms: Tensor
    centres: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.spread)


def make_tiles(codes: Tensor, is_zero: Tensor, seed: int) -> Tiles:
    """Make tiles of all rows. `codes` int8 (N, w): their sketches. `is_zero` bool (N,): rows that are nobody's neighbors. Sums are of whole
    numbers, so the result is the same every time."""
    order = _order(codes, seed)
    n_tiles, width = len(order) // TILE, codes.shape[1]
    there = order >= 0
    sorted_codes = torch.zeros((len(order), width), dtype=torch.int8, device=codes.device)
    centres = torch.empty((n_tiles, width), device=codes.device)
    spread = torch.empty(n_tiles, device=codes.device)
    for at in range(0, n_tiles, TOGETHER):
        rows = slice(at * TILE, (at + TOGETHER) * TILE)
        part = codes[order[rows].clamp_min(0).long()] * there[rows, None]
        sorted_codes[rows] = part
        part, count = part.view(-1, TILE, width).float(), there[rows].view(-1, TILE).sum(1).float()
        centre = part.sum(1) / count[:, None]
        centres[at : at + TOGETHER] = centre
        spread[at : at + TOGETHER] = (part**2).sum((1, 2)) / count - (centre**2).sum(1)
    nobody = ~there | is_zero[order.clamp_min(0).long()]
    sorted_codes.masked_fill_(nobody[:, None], 0)
    norms = squared_norms(sorted_codes).masked_fill_(nobody, NEVER)
    return Tiles(order, sorted_codes, norms, centres, spread / spread.median().clamp_min(1.0))


def lists(tiles: Tiles, share: float, most: int, chunk_tiles: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for chunks of tiles: their numbers int64 (t,), the tiles to compare each with int32 (t, l), nearest first, and the number of these
    int32 (t,).

    `share` of all tiles is listed for a tile of median spread; 1: all tiles for every tile. Lists are shortened in proportion where that is more
    than `most` tiles on average.
    """
    n = len(tiles)
    lengths, by_length = _wanted(tiles.spread, share, most).ceil().int().sort(stable=True)
    squares = (tiles.centres**2).sum(1)
    step = max(1, min(chunk_tiles, LIST_BYTES // (4 * n)))
    for at in range(0, n, step):
        here = by_length[at : at + step]
        apart = squares - 2 * (tiles.centres[here] @ tiles.centres.T)
        longest = int(lengths[at : at + step].max())
        yield here, apart.topk(longest, dim=1, largest=False).indices.int(), lengths[at : at + step]


def _wanted(spread: Tensor, share: float, most: int) -> Tensor:
    """Compute the length of each tile's list: float32 (T,)."""
    n = len(spread)
    if share >= 1:
        return torch.full_like(spread, n)
    wanted = (n * share * spread**POWER).clamp_max(n)
    wanted *= (most / wanted.mean()).clamp_max(1.0)
    return wanted.clamp(min(n, SPLITS * 4), n)


def _order(codes, seed):
    """Order rows by cell, and in a cell by the distance to its centre: int32 (T * TILE,), -1 where a cell's last tile has free places."""
    n, device = len(codes), codes.device
    n_cells = max(1, n // CELL_ROWS)
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(n, generator=generator)[: min(n, n_cells * SAMPLE_CELLS)].to(device)
    sample = codes[picked.sort().values]
    centres = sample[torch.randperm(len(sample), generator=generator)[:n_cells].to(device)]
    for _ in range(LLOYD):
        cell, _ = _assign(sample, centres)
        sums = torch.zeros(centres.shape, dtype=torch.int32, device=device).index_add_(0, cell, sample.int())
        count = torch.bincount(cell, minlength=n_cells)[:, None]
        centres = torch.where(count > 0, (sums / count.clamp_min(1)).round_(), centres.float()).to(torch.int8)
    cell, distance = _assign(codes, centres)
    by_distance = distance.sort(stable=True).indices
    by_cell = by_distance[cell[by_distance].sort(stable=True).indices]
    count = torch.bincount(cell, minlength=n_cells)
    room = (count + TILE - 1) // TILE * TILE
    shift = (torch.cumsum(room, 0) - room) - (torch.cumsum(count, 0) - count)
    order = torch.full((int(room.sum()),), -1, dtype=torch.int32, device=device)
    order[torch.arange(n, device=device) + shift[cell[by_cell]]] = by_cell.int()
    return order


def _assign(codes, centres):
    """Find the nearest centre of each row, int64 (n,), and a number that ascends with its distance, int32 (n,)."""
    n, device = len(codes), codes.device
    others = _padded(centres)
    norms = squared_norms(others)
    norms[len(centres) :] = NEVER
    cell, distance = torch.empty(n, dtype=torch.int64, device=device), torch.empty(n, dtype=torch.int32, device=device)
    for at in range(0, n, ASSIGN_ROWS):
        rows = _padded(codes[at : at + ASSIGN_ROWS])
        lengths = torch.full((len(rows) // TILE,), len(others) // TILE, dtype=torch.int32, device=device)
        minima, bits = nearest_columns(rows, others, norms, None, lengths)
        least, column = minima[: min(ASSIGN_ROWS, n - at)].min(1)
        cell[at : at + ASSIGN_ROWS] = (least & ((1 << bits) - 1)).long() * TILE + column % TILE
        own = squared_norms(codes[at : at + ASSIGN_ROWS])
        distance[at : at + ASSIGN_ROWS] = (least >> bits << bits) + own
    return cell, distance


def _padded(codes):
    """Append zeros, up to whole tiles."""
    room = -len(codes) % TILE
    return codes if room == 0 else torch.cat([codes, codes.new_zeros(room, codes.shape[1])])
