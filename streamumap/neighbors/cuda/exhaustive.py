"""All rows with all, chunk against chunk: exact.

Scores come from one matrix product with float32 sums (float16 and bfloat16 rows are multiplied as stored, float32 rows
as TF32). The best of a row are found by group maxima: the largest n scores lie in the n groups of 32 with the largest
maxima. What may enter a row's list is measured again in float32 from the differences of the two rows, so the scores
only propose. A chunk of `query_rows` stays on the device while all others pass by in chunks of `other_rows`; nothing
else depends on N but the graph itself. The same bytes every time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.events import Tick
from streamumap.neighbors.cuda.streamed import row_squares
from streamumap.neighbors.footprint import CUDA_GROUP as GROUP
from streamumap.neighbors.footprint import CUDA_MARGIN as MARGIN
from streamumap.neighbors.footprint import CUDA_TILE_ROWS as TILE_ROWS


def exhaustive(
    rows, k: int, *, query_rows: int, other_rows: int, non_negative: bool, tick: Tick, start_row: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first row, neighbours int32, squared distances float32 (n, k - 1)) of each chunk of queries; for cosine squares of
    rows of length 1, from row `start_row` on. `other_rows` is a multiple of GROUP. Ticks N rows."""
    n = rows.n_rows
    for start in range(start_row, n, query_rows):
        stop = min(start + query_rows, n)
        queries, scale = rows.chunk(start, stop)
        found = torch.full((stop - start, k - 1), -1, dtype=torch.int32, device=rows.device)
        squares = torch.full((stop - start, k - 1), torch.inf, device=rows.device)
        for first, others, other_scale in _others(rows, queries, scale, other_rows):
            bias = None if rows.metric == "cosine" else 0.5 * row_squares(others)
            for at in range(0, stop - start, TILE_ROWS):
                tile = slice(at, min(at + TILE_ROWS, stop - start))
                _search_tile(
                    queries[tile], scale[tile], start + at, others, other_scale, bias, first, found[tile], squares[tile], non_negative
                )  # fmt: skip
            tick((stop - start) * (first + len(others)) // n - (stop - start) * first // n)
        yield start, found, squares
        del queries, found, squares


@contextmanager
def precision(name: str) -> Iterator[None]:
    """How float32 matrices are multiplied meanwhile: "high" is TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _others(rows, queries: Tensor, scale: Tensor, other_rows: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first, rows, scale) of every chunk of rows; of the queries themselves where these are all rows."""
    if len(queries) < rows.n_rows:
        yield from rows.stream(other_rows)
        return
    for first in range(0, len(queries), other_rows):
        yield first, queries[first : first + other_rows], scale[first : first + other_rows]


def _search_tile(queries, scale, first_query, others, other_scale, bias, first_other, found, squares, non_negative):
    """Merges the best of one chunk of others into the tile's lists, in place. `bias` None: cosine."""
    width = found.shape[1]
    scores = _scores(queries, others)
    scores = scores.mul_(other_scale[None, :]) if bias is None else scores.sub_(bias[None, :])
    overlap = range(max(first_query, first_other), min(first_query + len(queries), first_other + len(others)))
    if len(overlap):
        numbers = torch.arange(overlap.start, overlap.stop, device=scores.device)
        scores[numbers - first_query, numbers - first_other] = -torch.inf
    best, candidates = _largest(scores, min(width + MARGIN, len(others)))
    hopeless = best == -torch.inf
    if bias is None and non_negative:
        hopeless |= best <= 0
    candidates = torch.where(hopeless, -1, candidates.int())
    new = torch.empty(candidates.shape, device=scores.device)
    _pair_squares[(len(queries), candidates.shape[1])](
        queries, others, scale, other_scale, candidates, new, candidates.shape[1], queries.shape[1], BLOCK=1024
    )
    candidates = torch.where(candidates >= 0, candidates + first_other, -1)
    merged, order = torch.sort(torch.cat([squares, new], 1), dim=1, stable=True)
    squares.copy_(merged[:, :width])
    found.copy_(torch.cat([found, candidates], 1).gather(1, order[:, :width]))


def _scores(queries, others):
    """float32 (n, m) products. Half precision goes in as stored; the sums are float32."""
    if queries.dtype != torch.float32 and queries.is_cuda:
        return torch.mm(queries, others.T, out_dtype=torch.float32)
    return queries.float() @ others.float().T


def _largest(scores, n):
    """(values, columns) of the n largest of each row."""
    n_groups = scores.shape[1] // GROUP
    if scores.shape[1] % GROUP or n_groups <= n:
        return scores.topk(n, dim=1)
    groups = scores.view(len(scores), n_groups, GROUP).amax(2).topk(n, dim=1, sorted=False).indices
    columns = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    values, at = scores.gather(1, columns).topk(n, dim=1)
    return values, columns.gather(1, at)


@triton.jit
def _pair_squares(queries, others, scale, other_scale, candidates, out, n_candidates, n_features, BLOCK: tl.constexpr):
    """Squared distance of a query and one of its candidates, both scaled; inf where the candidate is -1.

    A scale of 0 is a zero row's under cosine: at 2 (a right angle) from a row that is none, not at 1.
    """
    row = tl.program_id(0).to(tl.int64)
    at = row * n_candidates + tl.program_id(1)
    candidate = tl.load(candidates + at).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    if candidate >= 0:
        a_scale = tl.load(scale + row)
        b_scale = tl.load(other_scale + candidate)
        for start in range(0, n_features, BLOCK):
            feature = start + tl.arange(0, BLOCK)
            live = feature < n_features
            a = tl.load(queries + row * n_features + feature, mask=live, other=0.0).to(tl.float32) * a_scale
            b = tl.load(others + candidate * n_features + feature, mask=live, other=0.0).to(tl.float32) * b_scale
            total += (a - b) * (a - b)
        total *= tl.where((a_scale == 0) != (b_scale == 0), 2.0, 1.0)
    square = tl.sum(total, axis=0)
    tl.store(out + at, tl.where(candidate >= 0, square, float("inf")))
