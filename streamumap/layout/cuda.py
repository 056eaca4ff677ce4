"""The layout's epoch in Triton: one program a vertex, its edges and then its pushes 32 at a time, held to
`reference.py` by tests.

No atomics and fixed sums: the same bytes every time. Runs in Triton's interpreter (TRITON_INTERPRET=1) where there is
no GPU.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from streamumap.layout.schedule import ATTRACTION, CLIP, PUSH_SOFTENING, STEP_LIMIT, Settings

LANES = 32


def epoch(old, new, first_row: int, indptr, targets, weights, first_edge: int, number: int, s: Settings) -> None:
    """As `cpu.epoch`, over torch tensors on one device: positions float32 (N, C), indptr int64, targets int32, weights
    int16 (uint16 bits)."""
    n_components = old.shape[1]
    _epoch[(len(indptr) - 1,)](
        old, new, indptr, targets, weights, first_row, first_edge & 0xFFFFFFFF, number, s.epoch_key(number), s.phase_key(), s.rate_scale,
        s.least_weight, s.n_vertices, s.negative_sample_rate, s.step_size(number), s.a, s.b, s.repulsion_strength,
        n_components, triton.next_power_of_2(n_components), LANES, ATTRACTION, CLIP, PUSH_SOFTENING, STEP_LIMIT, num_warps=1,
    )  # fmt: skip


def place(array: np.ndarray | torch.Tensor, device) -> torch.Tensor:
    """A host array on the device; uint16 as int16, of which Triton takes the bits. What is there already stays."""
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
def _difference(old, here, j, component, live, C: tl.constexpr):
    there = tl.load(
        old + j.to(tl.int64)[:, None] * C + component[None, :], mask=live[:, None] & (component < C)[None, :], other=0.0
    )
    difference = tl.where((component < C)[None, :] & live[:, None], here[None, :] - there, 0.0)
    return difference, tl.maximum(tl.sum(difference * difference, axis=1), 1e-12)


@triton.jit
def _clipped(x, CLIP: tl.constexpr):
    return tl.minimum(tl.maximum(x, -CLIP), CLIP)


@triton.jit(do_not_specialize=["first_row", "first_edge", "number", "key", "phase", "n_vertices"])
def _epoch(
    old, new, indptr, targets, weights, first_row, first_edge, number, key, phase, scale, least, n_vertices, n_negative, step, a, b, repulsion,
    C: tl.constexpr, C_PADDED: tl.constexpr, LANES: tl.constexpr, ATTRACTION: tl.constexpr, CLIP: tl.constexpr,
    SOFTENING: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    i = first_row + row
    lanes = tl.arange(0, LANES)
    component = tl.arange(0, C_PADDED)
    here = tl.load(old + i.to(tl.int64) * C + component, mask=component < C, other=0.0)
    move = tl.zeros([C_PADDED], tl.float32)
    n_fired = 0
    start = tl.load(indptr + row)
    stop = tl.load(indptr + row + 1)
    for at in range(start, stop, LANES):
        e = at + lanes
        weight = tl.load(weights + e, mask=e < stop, other=0).to(tl.int32) & 0xFFFF
        rate = weight.to(tl.uint32) * scale.to(tl.uint32)
        edge = (e + first_edge).to(tl.uint32)
        before = edge * 0x9E3779B9 + phase.to(tl.uint32) + number.to(tl.uint32) * rate
        fired = (e < stop) & (weight >= least) & ((before + rate) < before)
        j = tl.load(targets + e, mask=fired, other=0)
        difference, d2 = _difference(old, here, j, component, fired, C)
        p = tl.exp2(b * tl.log2(d2))
        factor = -2.0 * a * b * p / (d2 * (1.0 + a * p))
        move += ATTRACTION * tl.sum(_clipped(factor[:, None] * difference, CLIP), axis=0)
        n_fired += tl.sum(fired.to(tl.int32), axis=0)
    vertex_key = _mix(i.to(tl.uint32) ^ key.to(tl.uint32))
    n_pushes = n_fired * n_negative
    for at in range(0, n_pushes, LANES):
        live = at + lanes < n_pushes
        j = tl.umulhi(_mix(vertex_key + (at + lanes).to(tl.uint32) * 0x9E3779B9), n_vertices.to(tl.uint32))
        difference, d2 = _difference(old, here, j, component, live, C)
        factor = 2.0 * repulsion * b / ((SOFTENING + d2) * (1.0 + a * tl.exp2(b * tl.log2(d2))))
        move += tl.sum(_clipped(factor[:, None] * difference, CLIP), axis=0)
    length = step * tl.sqrt(tl.sum(move * move, axis=0))
    scaled = step * tl.minimum(1.0, LIMIT / tl.maximum(length, 1e-12))
    tl.store(new + i.to(tl.int64) * C + component, here + scaled * move, mask=component < C)
