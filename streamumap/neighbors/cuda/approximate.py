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
from streamumap.neighbors.cuda.cells import learn_cells
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.device_rows import DeviceRows, Measures
from streamumap.neighbors.cuda.join import JOINS, candidates, merge, no_neighbors, reverse_neighbors
from streamumap.neighbors.cuda.look import SHARES, Looking, look, reach_of_round
from streamumap.neighbors.cuda.sizes import PROPOSED, SAMPLE_RUN, list_width
from streamumap.neighbors.cuda.sketch import make_sketches
from streamumap.neighbors.cuda.tiles import Tiles, make_tiles
from streamumap.neighbors.protocol import SearchRequest

Reached = Callable[[Tensor], bool]

Lists = dict[str, Tensor]
""""found" int32 and "distances" float32 (N, w)."""

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
            how = Looking(near, reach_of_round(tiles, number), blocks["chunk_rows"], PROPOSED * list_width(request.k))
            look(how, tiles, ahead["found"], ahead["distances"], advance)
        elif step < end - 1:
            old, joined = (ahead["found"], ahead["distances"]), torch.empty_like(ahead["found"])
            join(near, old[0], blocks["chunk_rows"], old, (joined, old[1]), advance)
            ahead["found"] = joined
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
    size = -(-len(codes) // SAMPLE_RUN)
    picked = torch.randint(len(codes), (size,), generator=torch.Generator().manual_seed(seed)).unique()
    cells = learn_cells(codes[picked.to(codes.device)], len(codes), seed)
    nobody = torch.from_numpy(request.is_zero & rows.metric.unit).to(rows.device)
    return rows.proposer(codes), make_tiles(codes, nobody, *cells.find(codes))


def _begin(near: Measures, best: Lists, ahead: Lists) -> None:
    """Start the lists of this round with the best so far, measured by its sketches."""
    ahead["found"].fill_(-1)
    ahead["distances"].fill_(torch.inf)
    everyone = torch.arange(len(best["found"]), dtype=torch.int32, device=best["found"].device)
    merge(everyone, best["found"], near.measure(everyone, best["found"]), *ahead.values(), *ahead.values())


def join(
    near: Measures,
    lists: Tensor,
    chunk_rows: int,
    old: tuple[Tensor, Tensor],
    new: tuple[Tensor, Tensor],
    advance: Advance,
    places: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Merge neighbors of neighbors into the lists and distances `old` of the first rows, to `new`, which may be the same. `lists` int32 (N, w):
    the rows in the lists of all rows. Where `old` and `new` name rows otherwise, `places` gives these names. Advances by the rows of `old`."""
    reverse = reverse_neighbors(lists, len(old[0]))
    step = max(1, chunk_rows // 4)
    for first in range(0, len(old[0]), step):
        stop = min(first + step, len(old[0]))
        queries = torch.arange(first, stop, dtype=torch.int32, device=lists.device)
        met = candidates(lists, reverse, first, stop)
        measured = near.measure(queries, met)
        merge(queries, met if places is None else places(met), measured, *old, *new)
        advance(stop - first)
