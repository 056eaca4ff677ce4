"""The nearest of some rows for each of others, on a GPU.

A float32 product proposes, the differences of the rows decide: as of `chunk.py`, exact.
"""

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.neighbors.cuda.chunk import Rule, as_chunk, merge_chunk, precision
from streamumap.neighbors.cuda.dense_rows import row_squares

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
    advance: Advance = no_advance,
) -> tuple[np.ndarray, np.ndarray]:
    """As `reference.nearest` of `queries` (Q, D) with their `scale` (Q,), a chunk of StreamedRows, among `others`, rows on
    the same device that pass by `other_rows` at a time. `rounding`: as of `neighbors.nearest`. Ticks Q rows."""
    n, n_queries, cosine = others.n_rows, len(queries), others.metric == "cosine"
    found = torch.full((n_queries, k), -1, dtype=torch.int32, device=queries.device)
    squares = torch.full((n_queries, k), torch.inf, device=queries.device)
    rule, asking = Rule(cosine, non_negative, zero_apart=True), as_chunk(-n_queries, queries, scale, cosine)
    with torch.inference_mode(), precision("highest"):
        for first, chunk, chunk_scale in others.stream(other_rows):
            merge_chunk(asking, as_chunk(first, chunk, chunk_scale, cosine), first, found, squares, rule)
            stop = first + len(chunk)
            advance(n_queries * stop // n - n_queries * first // n)
        norms = row_squares(queries) * scale**2
    rounding = max(rounding, SCALING) if cosine else rounding
    squares[squares <= rounding**2 * norms[:, None]] = 0
    distances = squares / 2 if cosine else squares.sqrt()
    return found.cpu().numpy(), distances.cpu().numpy()
