"""Neighbours without looking at all pairs: sketches propose, rows decide, and the recall is measured until it is enough.

A round looks through a share of all tiles for each tile (`tiles.py`, `probe.py`), measures the nearest by sketches with
the rows themselves, and lets neighbours of neighbours join (`join.py`). While sampled rows miss too many of their true
neighbours, the next round looks through four times as many tiles.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Tick
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.join import candidates, merge, reverse_neighbors
from streamumap.neighbors.cuda.packed import PackedOnDevice
from streamumap.neighbors.cuda.probe import TILE, nearest_columns, unpack
from streamumap.neighbors.cuda.sketch import Sketches, make_sketches
from streamumap.neighbors.cuda.tiles import Tiles, lists, make_tiles
from streamumap.neighbors.footprint import cuda_width
from streamumap.units import ALONE, Units

Reached = Callable[[Tensor], bool]

SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Of all tiles, looked through for a tile of median spread."""

JOINS = 2


def approximate(
    rows,
    k: int,
    *,
    is_zero: np.ndarray,
    seed: int,
    chunk_rows: int,
    query_rows: int,
    other_rows: int,
    reached: Reached,
    tick: Tick,
    units: Units = ALONE,
) -> tuple[Tensor, Tensor] | None:
    """Lists int32 (N, w) and distances (squared; for cosine the distances themselves) float32 (N, w), nearest first, w >= k - 1;
    None where even all tiles do not reach what is asked.

    `rows`: rows on the device; `is_zero` bool (N,): rows that are nobody's neighbours; `reached(lists)` says whether a graph is
    good enough. Ticks N rows for the sketches, for each round and each join, and for dense rows after each round.
    """
    packed = isinstance(rows, PackedOnDevice)
    codes = make_sketches(rows, seed, other_rows, tick)
    tiles = make_tiles(codes, torch.from_numpy(is_zero).to(rows.device), seed)
    near = rows if packed else Sketches(codes)
    del codes
    found = torch.full((rows.n_rows, cuda_width(k, packed)), -1, dtype=torch.int32, device=rows.device)
    distances = torch.full(found.shape, torch.inf, device=rows.device)
    facts = units.resume(dict(found=found, distances=distances))
    n_steps = 1 + JOINS  # of a round
    for step in range(facts.get("step", 0), n_steps * len(SHARES)):
        if step % n_steps == 0:
            _look_through(near, tiles, SHARES[step // n_steps], chunk_rows, found, distances, tick)
        else:
            found = _join(near, chunk_rows, found, distances, tick)
        units.done(lambda: (dict(found=found, distances=distances), {}), step=step + 1)  # noqa: B023, it is called at once
        if step % n_steps == JOINS:
            decided = (found, distances) if packed else decide(rows, found, query_rows, other_rows, tick)
            if reached(decided[0]):
                return decided
    return None


def _look_through(near, tiles: Tiles, share, chunk_rows, found, distances, tick):
    """Merges the nearest by sketches among the listed tiles into the lists."""
    n_kept = 2 * found.shape[1]
    by_tile = tiles.order.view(-1, TILE)
    codes = tiles.codes.view(len(tiles), TILE, -1)
    for here, listed, lengths in lists(tiles, share, max(1, chunk_rows // TILE)):
        minima, bits = nearest_columns(codes[here].flatten(0, 1), tiles.codes, tiles.norms, listed, lengths)
        least, column = minima.topk(min(n_kept, minima.shape[1]), dim=1, largest=False)
        place, row, there = unpack(least, column, bits)
        tile = listed.gather(1, place.clamp_max(listed.shape[1] - 1).view(len(here), -1)).view(place.shape)
        proposed = torch.where(there, by_tile[tile.long(), row], -1)
        queries = by_tile[here].flatten()
        real = queries >= 0
        queries, proposed = queries[real], proposed[real]
        merge(queries, proposed, near.measure(queries, proposed), found, distances, found, distances)
        tick(len(queries))


def _join(near, chunk_rows, found, distances, tick):
    reverse = reverse_neighbors(found)
    joined = torch.empty_like(found)
    step = max(1, chunk_rows // 4)
    for first in range(0, len(found), step):
        stop = min(first + step, len(found))
        queries = torch.arange(first, stop, dtype=torch.int32, device=found.device)
        met = candidates(found, reverse, first, stop)
        merge(queries, met, near.measure(queries, met), found, distances, joined, distances)
        tick(stop - first)
    return joined
