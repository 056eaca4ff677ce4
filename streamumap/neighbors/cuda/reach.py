"""How far a tile looks for others: the number of tiles within reach of a row grows with a power of the radius of its neighborhood, so tiles that
are spread out look at more."""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamumap.neighbors.cuda.probe import SPLITS, TILE, nearest_columns, padded
from streamumap.neighbors.cuda.sizes import ASSIGN_ROWS, LIST_BYTES
from streamumap.neighbors.cuda.sketch import NORM_SHIFT, squared_norms
from streamumap.neighbors.cuda.tiles import Tiles

POWER = 4
"""Exponent of a tile's spread, a squared radius, in the length of its list: as for rows in about 8 dimensions."""

LEAST_SAMPLED, SAMPLED_NEAR = 4096, 64
"""Centres by which the reach is estimated, at least, and how many of these lie within: with 64 the number of tiles is off by an eighth."""

BY_COLUMNS = 2.0
"""Most centres within reach, for each column of `nearest_columns`, for which the minima of the columns tell the reach."""


@dataclass(frozen=True)
class Reach:
    """Each tile looks at those whose score, their squared norm less twice the product of centres, is at most its `limits` int32 (t,): about
    `wanted` int32 (t,) tiles."""

    wanted: Tensor
    limits: Tensor


def reach(
    tiles: Tiles, share: float, most: int, n_asking: int | None = None, among: tuple[Tensor, int] | None = None
) -> Reach:
    """Decide how far tiles look, or the first `n_asking` of them.

    A tile of median spread looks at `share` of all tiles; 1: every tile at all. That is shortened in proportion where it is more than `most`
    tiles on average. `among`: centres int8 (c, w) that lie like all tiles, and the number of these, where `tiles` are some of them. Where there
    are many, the reach is an estimate.
    """
    centres, n = among or (tiles.centres, len(tiles))
    wanted = _wanted(tiles.spread[:n_asking], share, most, n).ceil().int()
    limits = torch.full_like(wanted, torch.iinfo(torch.int32).max)
    lengths, by_length = wanted.sort(stable=True)
    within = lengths.double() * len(centres) / n
    few = int((within <= BY_COLUMNS * SPLITS * TILE).sum()) if len(centres) > LEAST_SAMPLED else 0
    limited = int((lengths < n).sum())
    few = min(few, limited)
    for at in range(0, few, ASSIGN_ROWS):
        here = by_length[at : min(at + ASSIGN_ROWS, few)]
        limits[here] = _by_columns(tiles.centres[here], centres, within[at : at + len(here)])
    at = few
    while at < limited:
        size = min(len(centres), max(LEAST_SAMPLED, SAMPLED_NEAR * n // int(lengths[at])))
        stop = min(at + max(1, LIST_BYTES // (4 * size)), limited)
        limits[by_length[at:stop]] = _by_sample(
            tiles.centres[by_length[at:stop]], centres, size, lengths[at:stop].double() / n
        )
        at = stop
    return Reach(wanted, limits)


def _by_columns(asking: Tensor, centres: Tensor, within: Tensor) -> Tensor:
    """Estimate the score within which `within` float64 (t,) of the centres lie, from the least in each column: int32 (t,). Of m columns, a share
    of 1 - exp(-within / m) is expected to have one of so many."""
    rows, others = padded(asking), padded(centres)
    norms = squared_norms(others)
    norms[len(centres) :] = torch.iinfo(torch.int32).max >> 1
    lengths = torch.full((len(rows) // TILE,), len(others) // TILE, dtype=torch.int32, device=rows.device)
    minima = nearest_columns(rows, others, norms, None, lengths)[0][: len(asking)].sort(1).values
    share = -torch.special.expm1(-within / minima.shape[1])
    number = (share * minima.shape[1]).ceil().long().clamp(1, minima.shape[1]) - 1
    return minima.gather(1, number[:, None])[:, 0] >> NORM_SHIFT


def _by_sample(asking: Tensor, centres: Tensor, size: int, share: Tensor) -> Tensor:
    """Estimate the score within which `share` float64 (t,), ascending, of the centres lie, from `size` of these: int32 (t,)."""
    sample = centres[torch.arange(size, device=centres.device) * len(centres) // size]
    scores = (squared_norms(sample) >> NORM_SHIFT).float() - 2 * (asking.float() @ sample.float().T)
    number = (share * size).ceil().long().clamp(1, size)
    return scores.topk(int(number[-1]), dim=1, largest=False).values.gather(1, number[:, None] - 1).int()[:, 0]


def _wanted(spread: Tensor, share: float, most: int, n_tiles: int) -> Tensor:
    """Compute the number of the `n_tiles` tiles that each looks at: float32 (T,)."""
    if share >= 1:
        return torch.full_like(spread, n_tiles)
    wanted = (n_tiles * share * spread**POWER).clamp_max(n_tiles)
    wanted *= (most / wanted.mean()).clamp_max(1.0)
    return wanted.clamp(min(n_tiles, SPLITS * 4), n_tiles)
