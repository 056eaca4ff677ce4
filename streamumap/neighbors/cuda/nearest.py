"""The nearest of some rows for each of others, on a GPU.

A matrix product proposes, with float32 sums and the margin of `exhaustive.py`; distances in float32 from the rows themselves
decide.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Tick, no_tick
from streamumap.neighbors.cuda.exhaustive import MARGIN, _largest, _scores, precision
from streamumap.neighbors.cuda.streamed import row_squares
from streamumap.neighbors.nearest_footprint import CUDA_TILE_ROWS as TILE_ROWS
from streamumap.neighbors.nearest_footprint import MEASURED_VALUES

SCALING = 1e-6
"""What a row may be apart from itself, as a part of its length, once both sides have made that 1: they add up its squares in other
orders."""


def nearest(
    queries: Tensor,
    scale: Tensor,
    others,
    k: int,
    *,
    other_rows: int,
    non_negative: bool,
    rounding: float = 0.0,
    tick: Tick = no_tick,
) -> tuple[np.ndarray, np.ndarray]:
    """As `reference.nearest` of `queries` (Q, D) with their `scale` (Q,), a chunk of StreamedRows, among `others`, rows on
    the same device that pass by `other_rows` at a time. `rounding`: as of `neighbors.nearest`. Ticks Q rows."""
    n, n_queries, cosine = others.n_rows, len(queries), others.metric == "cosine"
    found = torch.full((n_queries, k), -1, dtype=torch.int32, device=queries.device)
    squares = torch.full((n_queries, k), torch.inf, device=queries.device)
    with torch.inference_mode(), precision("highest"):
        for first, chunk, chunk_scale in others.stream(other_rows):
            bias = None if cosine else 0.5 * row_squares(chunk)
            for at in range(0, n_queries, TILE_ROWS):
                tile = slice(at, min(at + TILE_ROWS, n_queries))
                _merge(
                    queries[tile], scale[tile], chunk, chunk_scale, bias, first, non_negative, found[tile], squares[tile]
                )  # fmt: skip
            stop = first + len(chunk)
            tick(n_queries * stop // n - n_queries * first // n)
        norms = row_squares(queries) * scale**2
    rounding = max(rounding, SCALING) if cosine else rounding
    squares[squares <= rounding**2 * norms[:, None]] = 0
    distances = squares / 2 if cosine else squares.sqrt()
    return found.cpu().numpy(), distances.cpu().numpy()


def _merge(queries, scale, others, other_scale, bias, first, non_negative, found, squares):
    """The best of one chunk into the tile's lists, in place. `bias` None: cosine."""
    width = found.shape[1]
    alike = queries.dtype == others.dtype
    scores = _scores(queries, others) if alike else _scores(queries.float(), others.float())
    if bias is None:
        scores *= other_scale[None, :]
        zero, other_zero = scale == 0, other_scale == 0
        apart = zero[:, None] ^ other_zero[None, :]
        if non_negative:
            apart |= (scores <= 0) & ~zero[:, None]
        scores.masked_fill_(apart, -torch.inf)
    else:
        scores -= bias[None, :]
    best, candidates = _largest(scores, min(width + MARGIN, len(others)))
    new = torch.full(best.shape, torch.inf, device=best.device)
    for rows in _pieces(len(queries), best.shape[1] * queries.shape[1]):
        mine = queries[rows].float() * scale[rows, None]
        theirs = others[candidates[rows]].float() * other_scale[candidates[rows], None]
        new[rows] = ((mine[:, None, :] - theirs) ** 2).sum(2)
    hopeless = best == -torch.inf
    new.masked_fill_(hopeless, torch.inf)
    numbers = torch.where(hopeless, -1, candidates.int() + first)
    merged, order = torch.sort(torch.cat([squares, new], 1), dim=1, stable=True)
    squares.copy_(merged[:, :width])
    found.copy_(torch.cat([found, numbers], 1).gather(1, order[:, :width]))


def _pieces(n_rows: int, row_values: int) -> Iterator[slice]:
    """Rows of `row_values` values each, in pieces of at most MEASURED_VALUES values, or of one row."""
    step = max(1, MEASURED_VALUES // row_values)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
