"""The epoch of the layout in Triton, held to `reference.py` by tests. A program takes ROWS vertices, their edges and then
their pushes, LANES at a time.

It uses no atomics and adds up in a fixed order: it gives the same bytes every time. Without a GPU it runs in Triton's
interpreter (TRITON_INTERPRET=1).
"""

import numpy as np
import torch
import triton
import triton.language as tl

from streamumap.layout.schedule import ATTRACTION, CLIP, PUSH_SOFTENING, STEP_LIMIT, LayoutSettings

ROWS, LANES, WARPS = 4, 32, 1


def epoch(old, new, first_row: int, indptr, targets, weights, first_edge: int, number: int, s: LayoutSettings) -> None:
    """`cpu.epoch` over torch tensors on one device: positions float32 (N, C), indptr int64, targets int32, weights int16
    (uint16 bits)."""
    n_rows, n_components = len(indptr) - 1, old.shape[1]
    _epoch[(triton.cdiv(n_rows, ROWS),)](
        old, new, indptr, targets, weights, n_rows, first_row, _signed(first_edge), number, _signed(s.epoch_key(number)),
        _signed(s.phase_key()), _signed(s.rate_scale), s.least_weight, s.n_vertices, s.n_pushes(number), s.step_size(number), s.a,
        s.b, s.push_strength(number), n_components, triton.next_power_of_2(n_components), ROWS, LANES, ATTRACTION, CLIP, PUSH_SOFTENING,
        STEP_LIMIT, num_warps=WARPS,
    )  # fmt: skip


def _signed(x: int) -> int:
    """Returns the low 32 bits as an int32. Triton would compile the kernel again for an argument that needs more bits, as half
    of all seeds do."""
    return ((x + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def to_device(array: np.ndarray | torch.Tensor, device) -> torch.Tensor:
    """Copies a host array to the device; uint16 becomes int16 of the same bits, which Triton takes. A tensor stays as it is."""
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array).to(device)


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _squares(old, i, j, live, C: tl.constexpr):
    """Squared distances of vertices i, (ROWS,), to vertices j, (ROWS, LANES); 1 in lanes that are not live."""
    d2 = tl.zeros(j.shape, tl.float32)
    for c in tl.static_range(C):
        apart = tl.load(old + i * C + c)[:, None] - tl.load(old + j * C + c, mask=live, other=0.0)
        d2 += apart * apart
    return tl.where(live, tl.maximum(d2, 1e-12), 1.0)


@triton.jit
def _moves(old, i, j, live, factor, component, C: tl.constexpr, CLIP: tl.constexpr):
    """Sums up, for each vertex i, factor times the difference to the vertices j, cut at CLIP: (ROWS, C_PADDED)."""
    moves = tl.zeros([i.shape[0], component.shape[0]], tl.float32)
    for c in tl.static_range(C):
        apart = tl.load(old + i * C + c)[:, None] - tl.load(old + j * C + c, mask=live, other=0.0)
        move = tl.minimum(tl.maximum(factor * apart, -CLIP), CLIP)
        moves += tl.where(component[None, :] == c, tl.sum(tl.where(live, move, 0.0), axis=1)[:, None], 0.0)
    return moves


@triton.jit(
    do_not_specialize=["first_row", "first_edge", "number", "key", "phase", "n_vertices", "n_rows", "n_negative"]
)
def _epoch(
    old, new, indptr, targets, weights, n_rows, first_row, first_edge, number, key, phase, scale, least, n_vertices, n_negative, step, a, b,
    repulsion, C: tl.constexpr, C_PADDED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, ATTRACTION: tl.constexpr,
    CLIP: tl.constexpr, SOFTENING: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    row = tl.minimum(tl.program_id(0) * ROWS + tl.arange(0, ROWS), n_rows - 1)  # may do the last row again
    i = (first_row + row).to(tl.int64)
    lanes = tl.arange(0, LANES)[None, :]
    component = tl.arange(0, C_PADDED)
    moves = tl.zeros([ROWS, C_PADDED], tl.float32)
    n_fired = tl.zeros([ROWS], tl.int32)
    start = tl.load(indptr + row)
    degree = (tl.load(indptr + row + 1) - start).to(tl.int32)
    first = (start + first_edge).to(tl.uint32)
    for at in range(0, tl.max(degree, axis=0), LANES):
        in_row = at + lanes < degree[:, None]
        e = start[:, None] + at + lanes
        weight = tl.load(weights + e, mask=in_row, other=0).to(tl.int32) & 0xFFFF
        rate = weight.to(tl.uint32) * scale.to(tl.uint32)
        edge = first[:, None] + (at + lanes).to(tl.uint32)
        before = edge * 0x9E3779B9 + phase.to(tl.uint32) + number.to(tl.uint32) * rate
        fired = in_row & (weight >= least) & ((before + rate) < before)
        j = tl.load(targets + e, mask=fired, other=0).to(tl.int64)
        d2 = _squares(old, i, j, fired, C)
        p = tl.exp2(b * tl.log2(d2))
        factor = -2.0 * a * b * p / (d2 * (1.0 + a * p))
        moves += ATTRACTION * _moves(old, i, j, fired, factor, component, C, CLIP)
        n_fired += tl.sum(fired.to(tl.int32), axis=1)
    vertex_key = _mix(i.to(tl.uint32) ^ key.to(tl.uint32))
    n_pushes = n_fired * n_negative
    for at in range(0, tl.max(n_pushes, axis=0), LANES):
        live = at + lanes < n_pushes[:, None]
        j = tl.umulhi(_mix(vertex_key[:, None] + (at + lanes).to(tl.uint32) * 0x9E3779B9), n_vertices.to(tl.uint32)).to(
            tl.int64
        )
        d2 = _squares(old, i, j, live, C)
        factor = 2.0 * repulsion * b / ((SOFTENING + d2) * (1.0 + a * tl.exp2(b * tl.log2(d2))))
        moves += _moves(old, i, j, live, factor, component, C, CLIP)
    length = step * tl.sqrt(tl.sum(moves * moves, axis=1))
    scaled = step * tl.minimum(1.0, LIMIT / tl.maximum(length, 1e-12))
    at = i[:, None] * C + component[None, :]
    position = tl.load(old + at, mask=(component < C)[None, :], other=0.0)
    tl.store(new + at, position + scaled[:, None] * moves, mask=(component < C)[None, :])
