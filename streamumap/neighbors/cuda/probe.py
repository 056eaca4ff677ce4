"""The nearest by sketches among the rows of many tiles, for all rows of a tile at once, on tensor cores.

For each row and each column of a tile the least distance is kept, with the tile's place in its low bits: the nearest rows are among these
minima, except where two of them share a column. One integer product, and three operations a score.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.neighbors.cuda.sketch import NEVER, NORM_SHIFT

TILE = 64
"""Rows of a tile."""

SPLITS = 4
"""Programs that share the tiles that one tile is compared with: SPLITS * TILE minima a row."""

WARPS, STAGES = 4, 3


def nearest_columns(
    codes: Tensor, others: Tensor, other_norms: Tensor, lists: Tensor | None, lengths: Tensor
) -> tuple[Tensor, int]:
    """Find the minima of each row of `codes` int8 (t * TILE, w), of t tiles, in each of the SPLITS * TILE columns: int32 (t * TILE, SPLITS *
    TILE); and the number of their low bits that hold the place of a tile in the list. The higher bits ascend with the distance.

    `others` int8 (T * TILE, w) and `other_norms` int32 (T * TILE,) are the rows compared with: tile i with the first lengths[i] tiles of
    lists[i], `lengths` int32 (t,), `lists` int32 (t, l); None: all T tiles.
    """
    n_tiles, width = len(codes) // TILE, codes.shape[1]
    n_listed = len(others) // TILE if lists is None else lists.shape[1]
    bits = max(1, (n_listed - 1).bit_length())
    out = torch.empty((len(codes), SPLITS * TILE), dtype=torch.int32, device=codes.device)
    _probe[(n_tiles, SPLITS)](
        codes, others, other_norms, lengths if lists is None else lists, lengths, out, n_listed, -(1 << bits),
        LISTED=lists is not None, WIDTH=width, ROWS=TILE, PARTS=SPLITS, SHIFT=NORM_SHIFT,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out, bits


def padded(codes: Tensor) -> Tensor:
    """Append zeros, up to whole tiles."""
    room = -len(codes) % TILE
    return codes if room == 0 else torch.cat([codes, codes.new_zeros(room, codes.shape[1])])


def unpack(minima: Tensor, columns: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take minima found in these columns apart: place in the list int64, row in the tile int64, whether there is one."""
    return (minima & ((1 << bits) - 1)).long(), columns % TILE, minima < NEVER // 2


@triton.jit(do_not_specialize=["n_listed", "high_bits"])
def _probe(
    codes, others, norms, lists, lengths, out, n_listed, high_bits, LISTED: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PARTS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    number = tl.arange(0, WIDTH)
    ours = tl.load(codes + (tile * ROWS + rows)[:, None] * WIDTH + number[None, :])
    best = tl.full([ROWS, ROWS], 0x7FFFFFFF, tl.int32)
    for place in range(part, tl.load(lengths + tile), PARTS):
        other = place
        if LISTED:
            other = tl.load(lists + tile * n_listed + place)
        there = other * ROWS + rows.to(tl.int64)
        theirs = tl.load(others + there[None, :] * WIDTH + number[:, None])
        dot = tl.dot(ours, theirs, out_dtype=tl.int32)
        score = tl.load(norms + there)[None, :] - (dot << (SHIFT + 1))
        best = tl.minimum(best, (score & high_bits) | place)
    at = (tile * ROWS + rows)[:, None] * (PARTS * ROWS) + part * ROWS + rows[None, :]
    tl.store(out + at, best)
