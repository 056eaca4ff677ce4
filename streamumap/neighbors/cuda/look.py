"""The look through tiles: which tiles are compared, and what is found there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.device_rows import Measures
from streamumap.neighbors.cuda.join import merge
from streamumap.neighbors.cuda.probe import TILE, nearest_columns, unpack
from streamumap.neighbors.cuda.reach import Reach, reach
from streamumap.neighbors.cuda.tiles import Tiles, lists

SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Share of all tiles that a tile of median spread is compared with in each round; 1: every tile with all."""

LOOKED = 4096
"""Tiles that a tile is compared with in the first round, on average, at most; four times as many in each later round. With more rows the
tiles around a row shrink like its neighborhood, so the number of tiles needed does not grow. Measured on rows like real codes, recall after
two joins by mean number of tiles: for 3,000,000 rows 1,520, 3,030, 5,770 and 10,050 give 0.982, 0.989, 0.991 and 0.992; for 10,000,000 rows
9,930, 17,990 and 30,410 give 0.991, 0.992 and 0.992 (1,000 rows)."""


@dataclass(frozen=True)
class Looking:
    """A look through tiles: `chunk_rows` rows at a time, as far as `reach` says, at tiles from number `first` on, with `n_proposed` candidates
    of each row, which `near` measures. Lists name row i `names[i]`, int32; None: i."""

    near: Measures
    reach: Reach
    chunk_rows: int
    n_proposed: int
    first: int = 0
    names: Tensor | None = None


def reach_of_round(
    tiles: Tiles, number: int, n_asking: int | None = None, among: tuple[Tensor, int] | None = None
) -> Reach:
    """Decide how far tiles look in round `number`, as `tiles.reach` does."""
    return reach(tiles, SHARES[number], LOOKED << 2 * number, n_asking, among)


def look(how: Looking, tiles: Tiles, found: Tensor, distances: Tensor, advance: Advance) -> None:
    """Merge the nearest by sketches among the tiles looked at into `found` int32 and `distances` float32 (N, w): of the rows in all tiles that
    have a reach. Advances by these rows."""
    by_tile = tiles.order.view(-1, TILE)
    codes = tiles.codes.view(len(tiles), TILE, -1)
    for here, listed, lengths in lists(
        tiles, how.reach.wanted, how.reach.limits, max(1, how.chunk_rows // TILE), how.first
    ):
        minima, bits = nearest_columns(codes[here].flatten(0, 1), tiles.codes, tiles.norms, listed, lengths)
        least, column = minima.topk(min(how.n_proposed, minima.shape[1]), dim=1, largest=False)
        place, row, there = unpack(least, column, bits)
        tile = listed.gather(1, place.clamp_max(listed.shape[1] - 1).view(len(here), -1)).view(place.shape)
        proposed = torch.where(there, by_tile[tile.long(), row], -1)
        queries = by_tile[here].flatten()
        real = queries >= 0
        queries, proposed = queries[real], proposed[real]
        measured = how.near.measure(queries, proposed)
        if how.names is not None:
            proposed = torch.where(proposed >= 0, how.names[proposed.clamp_min(0).long()], -1)
        merge(queries, proposed, measured, found, distances, found, distances)
        advance(len(queries))
