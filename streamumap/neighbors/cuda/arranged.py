"""All rows in files, those of a part after those of the part before, so that a window of some parts is read in long runs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.cells import learn_cells
from streamumap.neighbors.cuda.kept_rows import Keeper
from streamumap.neighbors.cuda.parts import Parts, make_parts
from streamumap.neighbors.cuda.round import Round
from streamumap.neighbors.cuda.sizes import LARGEST_PART, SAMPLE_RUN
from streamumap.neighbors.cuda.sketch import Projection, learn_projection


@dataclass(frozen=True)
class Arranged:
    """All rows by part. `numbers` int32 (N,): the row at each place, and `cell` int32 (N,): its cell. `kept`: the rows."""

    parts: Parts
    numbers: np.ndarray
    cell: np.ndarray
    projection: Projection
    kept: Keeper


def arrange(kept: Keeper, this: Round, chunk_rows: int, advance: Advance) -> Arranged:
    """Arrange all rows, with at most as many in a part as in a group. Advances by N rows."""
    rows = kept.rows
    projection = learn_projection(rows, this.seed, chunk_rows)
    run = max(SAMPLE_RUN, -(-rows.n_rows // this.window_rows))
    cells = learn_cells(_sample(kept, projection, chunk_rows, run, this.seed), rows.n_rows, this.seed)
    cell = np.empty(rows.n_rows, np.int32)
    for first, codes in kept.codes(projection, chunk_rows):
        cell[first : first + len(codes)] = cells.find(codes)[0].int().cpu().numpy()
        advance(len(codes))
    parts = make_parts(cells, cell, min(this.group_rows, LARGEST_PART))
    part = parts.part_of().astype(np.uint16 if len(parts) <= 1 << 16 else np.int32)[cell]  # NumPy sorts uint16 fast
    numbers = np.argsort(part, kind="stable").astype(np.int32)
    kept.arrange(numbers, _blocks(part, parts.bounds, chunk_rows))
    del part
    return Arranged(parts, numbers, cell[numbers], projection, kept)


def _sample(kept: Keeper, projection: Projection, chunk_rows: int, run: int, seed: int) -> Tensor:
    """Get the sketches of one of each `run` rows: int8 (n, w)."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _, codes in kept.codes(projection, chunk_rows):
        start = torch.arange(0, len(codes), run)
        length = (start + run).clamp_max(len(codes)) - start
        picked = start + (torch.rand(len(start), generator=generator) * length).long()
        out.append(codes[picked.clamp_max(len(codes) - 1).to(codes.device)])
    return torch.cat(out)


@dataclass(frozen=True)
class Block:
    """Rows start..stop by part: `order` int64 (n,), from 0; those of order[a:b] belong at places from `place` on, for each (place, a, b) of
    `runs`."""

    start: int
    stop: int
    order: np.ndarray
    runs: list[tuple[int, int, int]]


def _blocks(part: np.ndarray, bounds: np.ndarray, block_rows: int) -> Iterator[Block]:
    """Yield all rows in blocks. `part` (N,): the part of each row; `bounds` int64 (P + 1,): the places of each."""
    place = bounds[:-1].copy()
    for start in range(0, len(part), block_rows):
        here = part[start : start + block_rows]
        present, lengths = np.unique(here, return_counts=True)
        ends = np.cumsum(lengths)
        runs = list(zip(place[present].tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True))
        place[present] += lengths
        yield Block(start, start + len(here), np.argsort(here, kind="stable"), runs)
