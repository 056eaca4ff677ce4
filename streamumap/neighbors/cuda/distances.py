"""Distances of two rows from their differences, which decide wherever products of rows cannot.

|a|^2 + |b|^2 - 2ab loses what is small beside the norms (cancellation: Goldberg 1991); a difference of two stored numbers is off by one
rounding of itself.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.neighbors.cuda.sizes import TILE_ROWS
from streamumap.neighbors.metric import Metric

VALUES = 4096
TOGETHER = 16
"""Pairs that a program measures together, and the most values of them that it reads together."""

SPREAD = 64
"""Rows on either side of a square of pairs that a program measures."""


def measure(queries: Tensor, scale: Tensor, others: Tensor, other_scale: Tensor, candidates: Tensor, unit: bool):
    """Measure rows queries[i] (n, D) against rows others[candidates[i, j]], each times its scale float32: squared distances float32 (n, m), inf
    where the candidate, int32 (n, m), is -1. With `unit` as `pair_squares` does it."""
    out = torch.empty(candidates.shape, device=queries.device)
    n, m = candidates.shape
    _measure[(n, triton.cdiv(m, TOGETHER))](
        queries, scale, others, other_scale, candidates.contiguous(), out, m, queries.shape[1],
        UNIT=unit, **sizes(queries.shape[1], TOGETHER),
    )  # fmt: skip
    return out


def exact(queries: Tensor, scale: Tensor, others: Tensor, other_scale: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Measure rows queries[i] against rows others[j], each times its scale float64: squared distances float64 (n,), summed in float64. A scale
    of 0 is that of a zero row, which is at 2 from other rows. The result for a pair does not depend on the other pairs."""
    out = torch.empty(len(i), dtype=torch.float64, device=queries.device)
    if len(i):
        _exact[(triton.cdiv(len(i), TOGETHER),)](
            queries, scale, others, other_scale, i.contiguous(), j.contiguous(), out, len(i), queries.shape[1],
            **sizes(queries.shape[1], TOGETHER),
        )  # fmt: skip
    return out


def all_pairs(queries: Tensor, scale: Tensor, others: Tensor, other_scale: Tensor) -> Tensor:
    """Measure all queries against all others, each times its scale float32: squared distances float32 (n, m). A scale of 0: as in `exact`."""
    out = torch.empty((len(queries), len(others)), device=queries.device)
    ours, theirs = queries.T.contiguous(), others.T.contiguous()  # so that adjacent programs read adjacent numbers
    grid = (triton.cdiv(len(queries), SPREAD), triton.cdiv(len(others), SPREAD))
    _all_pairs[grid](
        ours, scale, theirs, other_scale, out, len(queries), len(others), queries.shape[1], ROWS=SPREAD
    )  # fmt: skip
    return out


def centred(rows: Tensor, centre: Tensor, unit: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Subtract `centre` float32 (D,) from rows (n, D), at length 1 with `unit`, each number rounded once.

    Returns these float32 (n, D); their squared norms float32 (n,); what makes the rows' length 1 float64 (n,) (1 without `unit`, 0 for a zero
    row); and bool (n,): whether their products with other such rows are exact in float32, since they hold small whole numbers.
    """
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    squares = torch.empty(len(rows), device=rows.device)
    scale = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    whole = torch.empty(len(rows), dtype=torch.bool, device=rows.device)
    _centred[(triton.cdiv(len(rows), TOGETHER),)](
        rows, centre, out, squares, scale, whole, len(rows), rows.shape[1],
        UNIT=unit, **sizes(rows.shape[1], TOGETHER),
    )  # fmt: skip
    return out, squares, scale, whole


def row_squares(rows: Tensor) -> Tensor:
    """Sum the squares of each row: float32 (n,)."""
    out = torch.empty(len(rows), device=rows.device)
    for at in range(0, len(rows), TILE_ROWS):
        out[at : at + TILE_ROWS] = (rows[at : at + TILE_ROWS].float() ** 2).sum(1)
    return out


def from_measured(measured: Tensor, metric: Metric) -> Tensor:
    """Turn what is measured, squared distances or half of those at length 1, into distances of the metric: a new tensor."""
    return metric.from_squares(2 * measured if metric.unit else measured, torch)


def sizes(n_features: int, together: int) -> dict[str, int]:
    """Choose the block of a program that goes through `together` rows: the order of a row's sums depends on it."""
    block = min(1024, VALUES // together, triton.next_power_of_2(n_features))
    return {"TOGETHER": together, "BLOCK": block, "num_warps": max(1, min(4, together * block // 256))}


@triton.jit
def pair_squares(
    ours, a_scale, theirs, b_scale, n_features, UNIT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Measure rows that begin at `ours` and `theirs`, pointers [TOGETHER], each times its scale: squared distances float32.

    With UNIT, a scale of 0 is that of a zero row, which is at 2 (a right angle) from other rows, not at 1; rows that share no feature are
    at exactly 2; and the rounding error of the product with the scale is added back, since for rows near one direction it is a large part
    of the difference.
    """
    total = tl.zeros([TOGETHER, BLOCK], tl.float32)
    shared = tl.zeros([TOGETHER, BLOCK], tl.float32)
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)[None, :]
        live = feature < n_features
        a = tl.load(ours[:, None] + feature, mask=live, other=0.0).to(tl.float32)
        b = tl.load(theirs[:, None] + feature, mask=live, other=0.0).to(tl.float32)
        if UNIT:
            scaled = b * b_scale[:, None]
            apart = tl.fma(a, a_scale[:, None] + tl.zeros_like(a), -scaled)
            apart -= tl.fma(b, b_scale[:, None] + tl.zeros_like(b), -scaled)
            shared += tl.abs(a * b)
        else:
            apart = a - b
        total += apart * apart
    square = tl.sum(total, axis=1)
    if UNIT:
        square *= tl.where((a_scale == 0) != (b_scale == 0), 2.0, 1.0)
        square = tl.where((tl.sum(shared, axis=1) == 0) & (square > 0), 2.0, square)
    return square


@triton.jit
def _measure(
    queries, scale, others, other_scale, candidates, out, n_candidates, n_features, UNIT: tl.constexpr, TOGETHER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
    row = tl.program_id(0).to(tl.int64) + tl.zeros([TOGETHER], tl.int64)
    at = row * n_candidates + column
    candidate = tl.load(candidates + at, mask=column < n_candidates, other=-1).to(tl.int64)
    there = candidate >= 0
    candidate = tl.where(there, candidate, 0)
    square = pair_squares(
        queries + row * n_features, tl.load(scale + row), others + candidate * n_features, tl.load(other_scale + candidate),
        n_features, UNIT, TOGETHER, BLOCK,
    )  # fmt: skip
    tl.store(out + at, tl.where(there, square, float("inf")), mask=column < n_candidates)


@triton.jit
def _exact(
    queries, scale, others, other_scale, rows, columns, out, n_pairs, n_features, TOGETHER: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64) * TOGETHER + tl.arange(0, TOGETHER)
    i = tl.load(rows + pair, mask=pair < n_pairs, other=0)
    j = tl.load(columns + pair, mask=pair < n_pairs, other=0)
    a_scale = tl.load(scale + i)
    b_scale = tl.load(other_scale + j)
    total = tl.zeros([TOGETHER, BLOCK], tl.float64)
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)[None, :]
        live = feature < n_features
        a = tl.load(queries + i[:, None] * n_features + feature, mask=live, other=0.0).to(tl.float64)
        b = tl.load(others + j[:, None] * n_features + feature, mask=live, other=0.0).to(tl.float64)
        apart = a * a_scale[:, None] - b * b_scale[:, None]
        total += apart * apart
    square = tl.sum(total, axis=1) * tl.where((a_scale == 0) != (b_scale == 0), 2.0, 1.0)
    tl.store(out + pair, square, mask=pair < n_pairs)


@triton.jit
def _all_pairs(queries, scale, others, other_scale, out, n, m, n_features, ROWS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    a_scale = tl.load(scale + row, mask=row < n, other=0.0)
    b_scale = tl.load(other_scale + column, mask=column < m, other=0.0)
    total = tl.zeros([ROWS, ROWS], tl.float32)
    ours, theirs = queries + row, others + column
    for _ in range(0, n_features):
        a = tl.load(ours, mask=row < n, other=0.0).to(tl.float32) * a_scale
        b = tl.load(theirs, mask=column < m, other=0.0).to(tl.float32) * b_scale
        apart = a[:, None] - b[None, :]
        total += apart * apart
        ours += n
        theirs += m
    total *= tl.where((a_scale == 0)[:, None] != (b_scale == 0)[None, :], 2.0, 1.0)
    tl.store(out + row[:, None] * m + column[None, :], total, mask=(row < n)[:, None] & (column < m)[None, :])


@triton.jit
def _centred(
    rows, centre, out, squares, scale, whole, n, n_features, UNIT: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * TOGETHER + tl.arange(0, TOGETHER)
    factor = tl.full([TOGETHER], 1.0, tl.float64)
    if UNIT:
        total = tl.zeros([TOGETHER, BLOCK], tl.float64)
        for start in range(0, n_features, BLOCK):
            feature = start + tl.arange(0, BLOCK)[None, :]
            live = (row < n)[:, None] & (feature < n_features)
            a = tl.load(rows + row[:, None] * n_features + feature, mask=live, other=0.0).to(tl.float64)
            total += a * a
        square = tl.sum(total, axis=1)
        factor = tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    total = tl.zeros([TOGETHER, BLOCK], tl.float64)
    uneven = tl.zeros([TOGETHER, BLOCK], tl.int32)
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)[None, :]
        live = (row < n)[:, None] & (feature < n_features)
        at = row[:, None] * n_features + feature
        a = tl.load(rows + at, mask=live, other=0.0).to(tl.float64) * factor[:, None]
        a = (a - tl.load(centre + feature, mask=feature < n_features, other=0.0).to(tl.float64)).to(tl.float32)
        tl.store(out + at, a, mask=live)
        uneven += (a != tl.floor(a)).to(tl.int32)
        total += a.to(tl.float64) * a.to(tl.float64)
    square = tl.sum(total, axis=1)
    tl.store(squares + row, square.to(tl.float32), mask=row < n)
    tl.store(scale + row, factor, mask=row < n)
    even = (tl.sum(uneven, axis=1) == 0) & (square <= 4194304.0)  # 2^22: sums stay below 2^24
    tl.store(whole + row, even, mask=row < n)
