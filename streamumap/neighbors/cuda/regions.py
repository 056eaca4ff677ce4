"""Regions: the upper of two levels of centres, which say in which cells to look for the nearest one. k-means on the sketches (Lloyd 1982)."""

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.probe import TILE, nearest_columns, padded
from streamumap.neighbors.cuda.sizes import ASSIGN_ROWS, LLOYD, MOVED_CENTRES, REGION_ROWS, REGION_SAMPLE
from streamumap.neighbors.cuda.sketch import NEVER, squared_norms

FEW = 8
"""Centres that stand in any order."""

MOST_SUMMED = (1 << 31) // 127
"""Most sketches whose sums surely fit 32 bits; of more, sums take 64, of half of the numbers at a time."""


def n_regions(n_rows: int) -> int:
    """Return the number of regions of so many rows."""
    return max(1, n_rows // REGION_ROWS)


def find_regions(sample: Tensor, n_rows: int, seed: int) -> Tensor:
    """Learn the centres of the regions of `n_rows` rows, near ones mostly after each other: int8 (R, w), from sketches of some, int8 (n, w)."""
    n = n_regions(n_rows)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randint(len(sample), (min(len(sample), REGION_SAMPLE * n),), generator=generator).unique()
    some = sample[some.to(sample.device)]
    centres = some[torch.randperm(len(some), generator=generator)[:n].to(some.device)]
    for _ in range(LLOYD):
        move(centres, some, assign(some, centres)[0])
    return centres[in_line(centres).to(centres.device)]


def move(centres: Tensor, sample: Tensor, nearest: Tensor) -> None:
    """Move centres int8 (n, w) to the means of the sketches that they are nearest to, in place; those of none stay. Sums are of whole numbers,
    so the result is the same every time."""
    count, width = torch.bincount(nearest, minlength=len(centres))[:, None], centres.shape[1]
    wide = len(sample) > MOST_SUMMED  # they may all be the same
    step = width // 2 if wide else width
    for first in range(0, width, step):
        own = centres[:, first : first + step]
        sums = torch.zeros(own.shape, dtype=torch.int64 if wide else torch.int32, device=centres.device)
        for at in range(0, len(sample), ASSIGN_ROWS):
            part = sample[at : at + ASSIGN_ROWS, first : first + step]
            sums.index_add_(0, nearest[at : at + ASSIGN_ROWS], part.to(sums.dtype))
        for at in range(0, len(centres), MOVED_CENTRES):
            here = slice(at, at + MOVED_CENTRES)
            means = (sums[here] / count[here].clamp_min(1)).round_().to(torch.int8)
            own[here] = torch.where(count[here] > 0, means, own[here])
        del sums


def assign(codes: Tensor, centres: Tensor, live: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest centre of each row, int64 (n,), and a number that ascends with its distance, int32 (n,). `live` bool (c,): the centres
    that count; None: all."""
    n, device = len(codes), codes.device
    others = padded(centres)
    norms = squared_norms(others)
    norms[len(centres) :] = NEVER
    if live is not None:
        norms[: len(centres)].masked_fill_(~live, NEVER)
    nearest, distance = (
        torch.empty(n, dtype=torch.int64, device=device),
        torch.empty(n, dtype=torch.int32, device=device),
    )
    for at in range(0, n, ASSIGN_ROWS):
        rows = padded(codes[at : at + ASSIGN_ROWS])
        lengths = torch.full((len(rows) // TILE,), len(others) // TILE, dtype=torch.int32, device=device)
        minima, bits = nearest_columns(rows, others, norms, None, lengths)
        least, column = minima[: min(ASSIGN_ROWS, n - at)].min(1)
        nearest[at : at + ASSIGN_ROWS] = (least & ((1 << bits) - 1)).long() * TILE + column % TILE
        distance[at : at + ASSIGN_ROWS] = (least >> bits << bits) + squared_norms(codes[at : at + ASSIGN_ROWS])
    return nearest, distance


def nearest_regions(codes: Tensor, centres: Tensor, n: int) -> Tensor:
    """Find the `n` nearest centres of each row, nearest first: int32 (rows, n)."""
    out = torch.empty((len(codes), n), dtype=torch.int32, device=codes.device)
    others = centres.float()
    squares = (others**2).sum(1)
    for at in range(0, len(codes), ASSIGN_ROWS):
        scores = squares - 2 * (codes[at : at + ASSIGN_ROWS].float() @ others.T)
        out[at : at + ASSIGN_ROWS] = scores.topk(n, dim=1, largest=False).indices
    return out


def in_line(centres: Tensor) -> Tensor:
    """Order centres int8 (n, w) so that near ones mostly stand near each other: int64 (n,). They are halved along the line through two far
    ones, and so are the halves (as FastMap projects: Faloutsos & Lin 1995), down to FEW."""
    where = centres.cpu().numpy().astype(np.float32)
    line, waiting = [], [np.arange(len(where))]
    while waiting:
        some = waiting.pop()
        if len(some) <= FEW:
            line.append(some)
            continue
        here = where[some]
        one = here[((here - here.mean(0)) ** 2).sum(1).argmax()]
        other = here[((here - one) ** 2).sum(1).argmax()]
        along = some[np.argsort(here @ (other - one), kind="stable")]
        waiting += [along[len(along) // 2 :], along[: len(along) // 2]]
    return torch.from_numpy(np.concatenate(line))
