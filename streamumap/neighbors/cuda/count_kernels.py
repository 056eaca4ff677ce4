"""Kernels of `count.py`: they count the rows of a block that are closer than a limit, for certain or as measured."""

import torch
import triton
import triton.language as tl
from torch import Tensor

COMPARED = 4096
"""Comparisons that a program makes together."""

PARTS = 8
"""Programs that share the block of one sampled row."""

Side = tuple[Tensor, Tensor, Tensor]
"""Squared norms float32, scales float64 and whether the numbers are whole bool, as `distances.centred` gives them."""


def count_sure(
    products: Tensor, ours: Side, theirs: Side, itself: Tensor, limits: Tensor, slack: float, sharp: bool
) -> tuple[Tensor, Tensor]:
    """Count pairs that are certainly closer than limits float64 (S, m): int64 (S, m); and mark pairs in doubt, which are not counted: bool
    (S, n).

    `products` float32 (S, n) of our rows and theirs; `itself` int64 (S,): the place of our row among theirs, if it is there. The error of
    |a|^2 + |b|^2 - 2ab is at most `slack` times |a|^2 + |b|^2, and 0 where both rows hold small whole numbers. `sharp`: a product of 0 is
    exact, since the rows share no feature. A scale of 0 is that of a zero row, which is at 2 from other rows.
    """
    (size, n), m = products.shape, limits.shape[1]
    width = triton.next_power_of_2(m)
    columns = max(16, COMPARED // width)
    n_parts = min(PARTS, triton.cdiv(n, columns))
    doubtful = torch.empty((size, n), dtype=torch.bool, device=products.device)
    counts = torch.empty((size, n_parts, m), dtype=torch.int32, device=products.device)
    _count_sure[(size, n_parts)](
        products, *ours, *theirs, itself, limits, counts, doubtful, n, m, slack, SHARP=sharp, LIMITS=width, COLUMNS=columns
    )  # fmt: skip
    return counts.sum(1), doubtful


def count_exact(measured: Tensor, rows: Tensor, limits: Tensor, start: int, stop: int) -> Tensor:
    """Count how many of the squared distances `measured` float64 (p,) from `rows` int64 (p,), ascending, are below the limits float64 (S, m)
    of their row, for rows start..stop: int64 (stop - start, m)."""
    m = limits.shape[1]
    width = triton.next_power_of_2(m)
    edges = torch.searchsorted(rows, torch.arange(start, stop + 1, device=rows.device))
    counts = torch.empty((stop - start, m), dtype=torch.int64, device=rows.device)
    _count_exact[(stop - start,)](
        measured, edges, limits[start:], counts, m, LIMITS=width, COLUMNS=max(16, COMPARED // width)
    )  # fmt: skip
    return counts


@triton.jit
def _count_sure(
    products, squares, scale, whole, other_squares, other_scale, other_whole, itself, limits, counts, doubtful, n, m, slack,
    SHARP: tl.constexpr, LIMITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    own = tl.load(squares + row)
    zero = (tl.load(scale + row) == 0).to(tl.int32)
    even = tl.load(whole + row).to(tl.int32)
    own_column = tl.load(itself + row)
    number = tl.arange(0, LIMITS)
    limit = tl.load(limits + row * m + number, mask=number < m, other=0.0).to(tl.float32)
    closer = tl.zeros([LIMITS, COLUMNS], tl.int32)
    for start in range(part * COLUMNS, n, tl.num_programs(1) * COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        there = column < n
        product = tl.load(products + row * n + column, mask=there, other=0.0)
        both = own + tl.load(other_squares + column, mask=there, other=0.0)
        n_zero = zero + (tl.load(other_scale + column, mask=there, other=1.0) == 0).to(tl.int32)
        n_even = even + tl.load(other_whole + column, mask=there, other=0).to(tl.int32)
        known = (n_zero > 0) | (n_even == 2)
        if SHARP:
            known = known | (product == 0)
        square = tl.where(n_zero == 2, 0.0, tl.where(n_zero == 1, 2.0, both - 2.0 * product))
        error = tl.where(known, 0.0, slack * both)
        there = there & (column != own_column)
        near = square[None, :] + error[None, :] < limit[:, None]
        far = (square[None, :] - error[None, :] >= limit[:, None]) | (limit <= 0)[:, None]
        doubt = (tl.sum((near | far).to(tl.int32), 0) < LIMITS) & there
        closer += (near & (there & (doubt == 0))[None, :]).to(tl.int32)
        tl.store(doubtful + row * n + column, doubt, mask=column < n)
    tl.store(counts + (row * tl.num_programs(1) + part) * m + number, tl.sum(closer, 1), mask=number < m)


@triton.jit
def _count_exact(measured, edges, limits, counts, m, LIMITS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, LIMITS)
    limit = tl.load(limits + row * m + number, mask=number < m, other=0.0)
    closer = tl.zeros([LIMITS, COLUMNS], tl.int64)
    stop = tl.load(edges + row + 1)
    for start in range(tl.load(edges + row), stop, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        square = tl.load(measured + at, mask=at < stop, other=float("inf"))
        closer += (square[None, :] < limit[:, None]).to(tl.int64)
    tl.store(counts + row * m + number, tl.sum(closer, 1), mask=number < m)
