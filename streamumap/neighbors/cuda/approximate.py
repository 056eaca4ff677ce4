"""Neighbours without looking at all pairs: sketches propose, rows decide, and the recall is measured until it is enough.

A round makes sketches and tiles of its own, looks through a share of all tiles for each tile (`tiles.py`, `probe.py`), measures the
nearest by sketches with the rows themselves, and lets neighbours of neighbours join (`join.py`). While sampled rows miss too many
of their true neighbours, the next round looks through four times as many tiles. Its sketches are new ones since they err elsewhere:
where many rows are about as near as the 15th, more tiles alone find no more.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Tick
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.join import candidates, merge, no_neighbors, reverse_neighbors
from streamumap.neighbors.cuda.packed import PackedOnDevice
from streamumap.neighbors.cuda.probe import TILE, nearest_columns, unpack
from streamumap.neighbors.cuda.sketch import Sketches, make_sketches
from streamumap.neighbors.cuda.tiles import Tiles, lists, make_tiles
from streamumap.neighbors.footprint import CUDA_PROPOSED as PROPOSED
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
    good enough. A round ticks N rows for its sketches, for what it looks through, for each join, and for dense rows at its end.
    """
    zero = torch.from_numpy(is_zero).to(rows.device)
    width = cuda_width(k)
    n_proposed = PROPOSED * width
    lists, distances = no_neighbors(rows.n_rows, rows.device, width)
    begun = units.resume(dict(lists=lists, distances=distances)).get("rounds", 0)
    for number, share in list(enumerate(SHARES))[begun:]:
        passes = units.of(f"round-{number + 1}")
        tiles, near = _propose(rows, zero, seed + (number << 32), other_rows, tick)
        if isinstance(rows, PackedOnDevice):
            lists = _round(rows, tiles, share, n_proposed, chunk_rows, lists, distances, tick, passes)
        else:
            found, apart = no_neighbors(rows.n_rows, rows.device, 2 * width)
            everyone = torch.arange(rows.n_rows, dtype=torch.int32, device=rows.device)
            merge(everyone, lists, near.measure(everyone, lists), found, apart, found, apart)
            found = _round(near, tiles, share, n_proposed, chunk_rows, found, apart, tick, passes)
            decide(rows, found, lists, distances, query_rows, other_rows, tick)
            del found, apart
        del tiles, near
        if reached(lists):
            return lists, distances
        units.done(lambda: (dict(lists=lists, distances=distances), {}), rounds=number + 1)  # noqa: B023, it is called at once
    return None


def _propose(rows, is_zero, seed, other_rows, tick):
    """Tiles, and the sketches where they are all that can measure two rows."""
    codes = make_sketches(rows, seed, other_rows, tick)
    return make_tiles(codes, is_zero, seed), None if isinstance(rows, PackedOnDevice) else Sketches(codes)


def _round(near, tiles, share, n_proposed, chunk_rows, found, distances, tick, passes: Units):
    """The new lists; distances are put in place."""
    for number in range(passes.resume(dict(found=found, distances=distances)).get("passes", 0), 1 + JOINS):
        if number == 0:
            _look_through(near, tiles, share, n_proposed, chunk_rows, found, distances, tick)
        else:
            found = _join(near, chunk_rows, found, distances, tick)
        passes.done(lambda: (dict(found=found, distances=distances), {}), passes=number + 1)  # noqa: B023, it is called at once
    return found


def _look_through(near, tiles: Tiles, share, n_proposed, chunk_rows, found, distances, tick):
    """Merges the nearest by sketches among the listed tiles into the lists."""
    by_tile = tiles.order.view(-1, TILE)
    codes = tiles.codes.view(len(tiles), TILE, -1)
    for here, listed, lengths in lists(tiles, share, max(1, chunk_rows // TILE)):
        minima, bits = nearest_columns(codes[here].flatten(0, 1), tiles.codes, tiles.norms, listed, lengths)
        least, column = minima.topk(min(n_proposed, minima.shape[1]), dim=1, largest=False)
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
