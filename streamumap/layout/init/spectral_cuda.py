"""The product of `spectral_cpu.py` in Triton, one program a vertex. Without a GPU it runs in Triton's interpreter."""

import triton
import triton.language as tl

LANES = 32


def product(old, new, part, factors, first_row: int, indptr, targets, weights) -> None:
    """`spectral_cpu.product` over torch tensors on one device; weights int16 (uint16 bits)."""
    width = old.shape[1]
    _product[(len(indptr) - 1,)](
        old, new, part, factors, indptr, targets, weights, first_row, width, triton.next_power_of_2(width), LANES, num_warps=1
    )  # fmt: skip


@triton.jit(do_not_specialize=["first_row"])
def _product(
    old, new, part, factors, indptr, targets, weights, first_row, M: tl.constexpr, M_PADDED: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    i = (first_row + row).to(tl.int64)
    lanes = tl.arange(0, LANES)
    column = tl.arange(0, M_PADDED)
    mine = tl.load(part + i)
    along = tl.zeros([M_PADDED], tl.float64)
    total = tl.zeros([1], tl.float64)
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    stop = tl.where(mine < 0, start, stop)
    for at in range(start, stop, LANES):
        in_row = at + lanes < stop
        weight = (tl.load(weights + at + lanes, mask=in_row, other=0).to(tl.int32) & 0xFFFF).to(tl.float64)
        j = tl.load(targets + at + lanes, mask=in_row, other=0).to(tl.int64)
        mask = in_row[:, None] & (column < M)[None, :]
        value = tl.load(old + j[:, None] * M + column[None, :], mask=mask, other=0.0)
        along += tl.sum(weight[:, None] * value, axis=0)
        total += tl.sum(weight, axis=0)
    live = column < tl.where(mine >= 0, M, 0)
    at_factor = factors + tl.maximum(mine, 0).to(tl.int64) * 3
    itself = tl.load(old + i * M + column, mask=live, other=0.0)
    before = tl.load(new + i * M + column, mask=live, other=0.0)
    out = tl.load(at_factor) * along / tl.maximum(total, 1.0)
    out += tl.load(at_factor + 1) * itself + tl.load(at_factor + 2) * before
    tl.store(new + i * M + column, out, mask=live)
