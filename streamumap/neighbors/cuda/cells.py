"""Cells: the lower of two levels of centres, about CELL_ROWS rows each. A row's cell is the nearest one in its nearest regions, or of all where
these are few. k-means on the sketches (Lloyd 1982)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamumap.neighbors.cuda import regions
from streamumap.neighbors.cuda.probe import TILE, nearest_columns
from streamumap.neighbors.cuda.sizes import ASSIGN_ROWS, CELL_ROWS, LLOYD
from streamumap.neighbors.cuda.sketch import NEVER, squared_norms

ALL_REGIONS = 32
"""Most regions of which all cells are compared with a row."""

NEAREST = 16
"""Nearest regions of a row whose cells are compared with it, where there are more. On 250,000 rows like real codes, cells of all regions, of
the 16 and of the 4 nearest of 120, and of one of 30 put 0.78, 0.77, 0.72 and 0.66 of the neighbors of 800 rows into the nearest 1/128 of all
tiles."""


@dataclass(frozen=True)
class Places:
    """Things of each region one after the other, in whole tiles. `first` int64 (R,): the first tile of each region; `tiles` int64 (R,): its
    number of tiles; `region` int64 (T,): the region of each tile; `at` int64 (n,): the place of each thing, in the order of regions."""

    first: Tensor
    tiles: Tensor
    region: Tensor
    at: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> "Places":
        """Make room for so many things of each region, int64 (R,)."""
        tiles = (counts + TILE - 1) // TILE
        first, before = tiles.cumsum(0) - tiles, counts.cumsum(0) - counts
        region = torch.arange(len(counts), device=counts.device)
        at = torch.arange(int(counts.sum()), device=counts.device)
        at += (first * TILE - before).repeat_interleave(counts)
        return cls(first, tiles, region.repeat_interleave(tiles), at)


@dataclass(frozen=True)
class Cells:
    """`regions` int8 (R, w): the centres of regions. `centres` int8 (C, w): those of cells, by region, at `places`; other rows are free."""

    regions: Tensor
    centres: Tensor
    places: Places

    def __len__(self) -> int:
        return len(self.centres)

    def find(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Find the cell of each row, int64 (n,), and a number that ascends with the distance to its centre, int32 (n,). `codes` int8 (n, w)."""
        if len(self.regions) <= ALL_REGIONS:
            return regions.assign(codes, self.centres, self._live())
        return self._nearest(codes, self.nearest_regions(codes))

    def nearest_regions(self, codes: Tensor) -> Tensor:
        """Find the nearest regions of each row that have cells, nearest first: int32 (n, r). Where many rows are the same, so are the centres of
        many regions, and but one of them has cells."""
        full = self.places.tiles.nonzero()[:, 0].int()
        near = regions.nearest_regions(codes, self.regions[full.long()], min(NEAREST, len(full)))
        for column in near.T:
            column.copy_(full[column.long()])
        return near

    def of_region(self) -> Tensor:
        """Get the first cell of each region, and the number of all: int64 (R + 1,)."""
        return torch.cat([self.places.first, self.places.first.new_tensor([len(self.places.region)])]) * TILE

    def _live(self) -> Tensor:
        live = torch.zeros(len(self.centres), dtype=torch.bool, device=self.centres.device)
        live[self.places.at] = True
        return live

    def _nearest(self, codes: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Find as `find` among the cells of the regions `near` int32 (n, r)."""
        norms = squared_norms(self.centres).masked_fill_(~self._live(), NEVER)
        cell = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        distance = torch.full((len(codes),), torch.iinfo(torch.int32).max, dtype=torch.int32, device=codes.device)
        for column in near.T:
            region, order = column.long().sort(stable=True)
            rows = Places.of(torch.bincount(region, minlength=len(self.regions)))
            slots = torch.full((len(rows.region) * TILE,), -1, dtype=torch.int64, device=codes.device)
            slots[rows.at] = order
            for at in range(0, len(rows.region), ASSIGN_ROWS // TILE):
                part = slice(at, at + ASSIGN_ROWS // TILE)
                self._compare(codes, norms, rows.region[part], slots.view(-1, TILE)[part].flatten(), cell, distance)
        return cell, distance

    def _compare(self, codes, norms, region, slot, cell, distance) -> None:
        """Compare tiles of rows, `slot` int64 (t * TILE,), -1 for none, with the cells of their regions, int64 (t,); keep what is nearer."""
        lengths = self.places.tiles[region]
        listed = self.places.first[region][:, None] + torch.arange(max(1, int(lengths.max())), device=codes.device)
        listed = listed.clamp_max_(len(self.centres) // TILE - 1).int()
        rows = codes[slot.clamp_min(0)]
        minima, bits = nearest_columns(rows, self.centres, norms, listed, lengths.int())
        least, column = minima.min(1)
        place = (least & ((1 << bits) - 1)).long().clamp_max_(listed.shape[1] - 1)
        found = listed.gather(1, place.view(len(region), -1)).flatten().long() * TILE + column % TILE
        far = (least >> bits << bits) + squared_norms(rows)
        row, real = slot.clamp_min(0), (slot >= 0) & (least < NEVER // 2)
        better = real & (far < distance[row])
        cell[row[better]], distance[row[better]] = found[better], far[better]


def apart(codes: Tensor, cell: Tensor, centres: Tensor) -> Tensor:
    """Compute the squared distance of each row to the centre of its cell, int64 (n,): int32 (n,). `codes` int8 (n, w), `centres` int8 (C, w)."""
    out = torch.empty(len(codes), dtype=torch.int32, device=codes.device)
    for at in range(0, len(codes), ASSIGN_ROWS):
        part = slice(at, at + ASSIGN_ROWS)
        difference = codes[part].to(torch.int16) - centres[cell[part]]
        out[part] = difference.int().square_().sum(1, dtype=torch.int32)
    return out


def learn_cells(sample: Tensor, n_rows: int, seed: int) -> Cells:
    """Learn the cells of `n_rows` rows from sketches of some, int8 (n, w)."""
    generator = torch.Generator().manual_seed(seed)
    n_cells = min(len(sample), max(1, n_rows // CELL_ROWS))
    picked = torch.randperm(len(sample), generator=generator)[:n_cells].to(sample.device)
    cells = _by_region(regions.find_regions(sample, n_rows, seed), sample[picked])
    near = None
    if len(cells.regions) > ALL_REGIONS:
        near = cells.nearest_regions(sample)
    for _ in range(LLOYD):
        nearest, _ = cells.find(sample) if near is None else cells._nearest(sample, near)
        regions.move(cells.centres, sample, nearest)
        cells = _by_region(cells.regions, cells.centres[cells.places.at])
    return cells


def _by_region(region_centres: Tensor, centres: Tensor) -> Cells:
    """Put the centres of cells int8 (c, w) in the order of their regions."""
    region, order = regions.assign(centres, region_centres)[0].sort(stable=True)
    places = Places.of(torch.bincount(region, minlength=len(region_centres)))
    room = torch.zeros((len(places.region) * TILE, centres.shape[1]), dtype=torch.int8, device=centres.device)
    room[places.at] = centres[order]
    return Cells(region_centres, room, places)
