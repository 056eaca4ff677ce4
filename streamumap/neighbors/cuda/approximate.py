"""The search without comparing all pairs: sketches propose, the rows decide, and the recall is measured until it is enough.

A round makes its own sketches and tiles, compares each tile with some of the others (`tiles.py`, `probe.py`), measures the nearest by
sketches with the rows themselves, and adds neighbors of neighbors (`join.py`). While sampled rows miss too many of their true neighbors,
another round compares with four times as many tiles. Its sketches are new, since they err for other pairs: where many rows are about as
near as the 15th neighbor, more tiles alone find no more.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.device_rows import DeviceRows, Measures
from streamumap.neighbors.cuda.join import candidates, merge, no_neighbors, reverse_neighbors
from streamumap.neighbors.cuda.probe import TILE, nearest_columns, unpack
from streamumap.neighbors.cuda.sizes import PROPOSED, list_width
from streamumap.neighbors.cuda.sketch import make_sketches
from streamumap.neighbors.cuda.tiles import Tiles, lists, make_tiles
from streamumap.neighbors.protocol import SearchRequest

Reached = Callable[[Tensor], bool]

Lists = dict[str, Tensor]
""""found" int32 and "distances" float32 (N, w)."""

SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Share of all tiles that a tile of median spread is compared with in each round; 1: every tile with all."""

LOOKED = 4096
"""Tiles that a tile is compared with in the first round, on average, at most; four times as many in each later round. With more rows the
tiles around a row shrink like its neighborhood, so the number of tiles needed does not grow. Measured on rows like real codes, recall after
two joins by mean number of tiles: for 3,000,000 rows 1,520, 3,030, 5,770 and 10,050 give 0.982, 0.989, 0.991 and 0.992; for 10,000,000 rows
9,930, 17,990 and 30,410 give 0.991, 0.992 and 0.992 (1,000 rows)."""

JOINS = 2

STEPS = 1 + JOINS + 1
"""Steps of a round: comparing tiles, joins, and deciding by dense rows."""


def approximate(rows: DeviceRows, request: SearchRequest, reached: Reached) -> tuple[Tensor, Tensor] | None:
    """Find lists int32 (N, w) and what is measured of them float32 (N, w), nearest first, w >= k - 1; None where even all tiles are not enough.

    `reached(lists)` says whether a graph is good enough. A round advances by N rows for its sketches, for comparing tiles, for each join,
    and for dense rows at its end.
    """
    width = list_width(request.k)
    best = _no_neighbors(rows, width)
    ahead = best if rows.resident else _no_neighbors(rows, 2 * width)

    def whole() -> Lists:
        return best if rows.resident else best | {f"{name} ahead": array for name, array in ahead.items()}

    def done(step: int) -> None:
        request.checkpoint.done(lambda: (whole(), {}), step=step)

    begin = request.checkpoint.resume(whole()).get("step", 0)
    for number in range(len(SHARES)):
        if begin > (number + 1) * STEPS:
            continue
        _round(rows, request, number, begin, best, ahead, done)
        if reached(best["found"]):
            return best["found"], best["distances"]
    return None


def _round(
    rows: DeviceRows,
    request: SearchRequest,
    number: int,
    begin: int,
    best: Lists,
    ahead: Lists,
    done: Callable[[int], None],
) -> None:
    """Do the steps of a round, from step `begin` of the whole search on."""
    blocks, advance, end = request.blocks, request.advance, (number + 1) * STEPS
    steps = range(max(begin, end - STEPS), end)
    if not steps:
        return
    near, tiles = _propose(rows, request, request.seed + (number << 32))
    for step in steps:
        if step == end - STEPS:
            if not rows.resident:
                _begin(near, best, ahead)
            listed = lists(tiles, SHARES[number], LOOKED << 2 * number, max(1, blocks["chunk_rows"] // TILE))
            _compare_tiles(near, tiles, listed, PROPOSED * list_width(request.k), **ahead, advance=advance)
        elif step < end - 1:
            ahead["found"] = _join(near, blocks["chunk_rows"], **ahead, advance=advance)
        elif not rows.resident:
            decide(
                rows,
                ahead["found"],
                best["found"],
                best["distances"],
                blocks["query_rows"],
                blocks["other_rows"],
                advance,
            )
        done(step + 1)


def _no_neighbors(rows: DeviceRows, width: int) -> Lists:
    return dict(zip(("found", "distances"), no_neighbors(rows.n_rows, rows.device, width), strict=True))


def _propose(rows: DeviceRows, request: SearchRequest, seed: int) -> tuple[Measures, Tiles]:
    """Make sketches and tiles of all rows; return what measures any two rows, dense ones by their sketches, and the tiles."""
    codes = make_sketches(rows, seed, request.blocks["other_rows"], request.advance)
    nobody = torch.from_numpy(request.is_zero & rows.metric.unit).to(rows.device)
    return rows.proposer(codes), make_tiles(codes, nobody, seed)


def _begin(near: Measures, best: Lists, ahead: Lists) -> None:
    """Start the lists of this round with the best so far, measured by its sketches."""
    ahead["found"].fill_(-1)
    ahead["distances"].fill_(torch.inf)
    everyone = torch.arange(len(best["found"]), dtype=torch.int32, device=best["found"].device)
    merge(everyone, best["found"], near.measure(everyone, best["found"]), *ahead.values(), *ahead.values())


def _compare_tiles(near, tiles: Tiles, listed_by_chunks, n_proposed, found, distances, advance):
    """Merge the nearest by sketches among the listed tiles into the lists."""
    by_tile = tiles.order.view(-1, TILE)
    codes = tiles.codes.view(len(tiles), TILE, -1)
    for here, listed, lengths in listed_by_chunks:
        minima, bits = nearest_columns(codes[here].flatten(0, 1), tiles.codes, tiles.norms, listed, lengths)
        least, column = minima.topk(min(n_proposed, minima.shape[1]), dim=1, largest=False)
        place, row, there = unpack(least, column, bits)
        tile = listed.gather(1, place.clamp_max(listed.shape[1] - 1).view(len(here), -1)).view(place.shape)
        proposed = torch.where(there, by_tile[tile.long(), row], -1)
        queries = by_tile[here].flatten()
        real = queries >= 0
        queries, proposed = queries[real], proposed[real]
        merge(queries, proposed, near.measure(queries, proposed), found, distances, found, distances)
        advance(len(queries))


def _join(near: Measures, chunk_rows: int, found: Tensor, distances: Tensor, advance: Advance) -> Tensor:
    """Merge the neighbors of neighbors into new lists, which are returned; `distances` are changed in place."""
    reverse = reverse_neighbors(found)
    joined = torch.empty_like(found)
    step = max(1, chunk_rows // 4)
    for first in range(0, len(found), step):
        stop = min(first + step, len(found))
        queries = torch.arange(first, stop, dtype=torch.int32, device=found.device)
        met = candidates(found, reverse, first, stop)
        merge(queries, met, near.measure(queries, met), found, distances, joined, distances)
        advance(stop - first)
    return joined
