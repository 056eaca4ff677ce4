"""Neighbors of neighbors: a row's candidates are the neighbors of its neighbors and of the rows that have it as a neighbor (Dong, Charikar, Li
2011). New lists are made of the old ones for all rows at once, so the result is the same every time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.neighbors.cuda.sizes import MERGE_ROWS

JOINS = 2
"""Passes over the neighbors of neighbors in a round."""

FORWARD = 16
REVERSE = 16
NEIGHBORS = 15
"""Neighbors inspected per visited row."""

CANDIDATES = (FORWARD + REVERSE) * NEIGHBORS


def no_neighbors(n_rows: int, device, width: int) -> tuple[Tensor, Tensor]:
    """Make empty lists int32 (N, w) and distances float32 (N, w)."""
    lists = torch.full((n_rows, width), -1, dtype=torch.int32, device=device)
    return lists, torch.full(lists.shape, torch.inf, device=device)


def reverse_neighbors(lists: Tensor, n_targets: int | None = None) -> Tensor:
    """Find the rows that have each row, or each of the first `n_targets`, among their FORWARD nearest: int32 (N, REVERSE), those that have it
    nearest first, then by number. `lists` int32 (N, w): nearest first, -1 for none."""
    n, device = n_targets or len(lists), lists.device
    out = torch.full((n + 1, REVERSE), -1, dtype=torch.int32, device=device)
    filled = torch.zeros(n + 1, dtype=torch.int32, device=device)
    for column in range(min(FORWARD, lists.shape[1])):
        target = torch.where((lists[:, column] >= 0) & (lists[:, column] < n), lists[:, column], n)
        target, source = target.sort(stable=True)
        target = target.long()
        count = torch.bincount(target, minlength=n + 1)
        place = torch.arange(len(lists), device=device) - (torch.cumsum(count, 0) - count)[target] + filled[target]
        fits = (place < REVERSE) & (target < n)
        out[target[fits], place[fits]] = source[fits].int()
        filled += count.int()
    return out[:n]


def candidates(lists: Tensor, reverse: Tensor, first: int, stop: int) -> Tensor:
    """Gather the candidates of rows first..stop: int32 (stop - first, CANDIDATES), with repetitions."""
    out = torch.empty((stop - first, CANDIDATES), dtype=torch.int32, device=lists.device)
    _candidates[(stop - first,)](
        lists, reverse, out, first, WIDTH=lists.shape[1], FROM=FORWARD, TO=REVERSE, EACH=NEIGHBORS,
        ALL=triton.next_power_of_2(CANDIDATES),
    )  # fmt: skip
    return out


def merge(
    queries: Tensor,
    found: Tensor,
    measured: Tensor,
    lists: Tensor,
    distances: Tensor,
    new_lists: Tensor,
    new_distances: Tensor,
) -> None:
    """Merge candidates into lists: nearest first, ties by number, each row once.

    `queries` int32 (n,): row numbers. `found` int32 and `measured` float32 (n, m): their candidates. The old and the new lists int32 and
    distances float32 (N, w) may be the same.
    """
    width, m = lists.shape[1], found.shape[1]
    room = triton.next_power_of_2(width + m)
    scratch = torch.empty((min(len(queries), MERGE_ROWS), room), dtype=torch.int64, device=lists.device)
    for at in range(0, len(queries), MERGE_ROWS):
        here = slice(at, at + MERGE_ROWS)
        _merge[(len(queries[here]),)](
            queries[here],
            found[here],
            measured[here],
            lists,
            distances,
            new_lists,
            new_distances,
            scratch,
            m,
            WIDTH=width,
            ROOM=room,
        )


@triton.jit
def _candidates(
    lists, reverse, out, first, WIDTH: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr, EACH: tl.constexpr, ALL: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, ALL)
    member = place // EACH
    rank = place % EACH
    i = first + row
    near = tl.load(lists + i * WIDTH + member, mask=(member < FROM) & (member < WIDTH), other=-1)
    back = tl.load(reverse + i * TO + (member - FROM), mask=(member >= FROM) & (member < FROM + TO), other=-1)
    through = tl.where(member < FROM, near, back)
    j = tl.load(lists + through.to(tl.int64) * WIDTH + rank, mask=(through >= 0) & (rank < WIDTH), other=-1)
    j = tl.where((member >= FROM) & (rank == EACH - 1), through, j)
    tl.store(out + row * (FROM + TO) * EACH + place, j, mask=place < (FROM + TO) * EACH)


@triton.jit
def _merge(
    queries, found, measured, lists, distances, new_lists, new_distances, scratch, n_found, WIDTH: tl.constexpr, ROOM: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.load(queries + row).to(tl.int64)
    place = tl.arange(0, ROOM)
    old = place < WIDTH
    new = (place >= WIDTH) & (place < WIDTH + n_found)
    j = tl.load(lists + i * WIDTH + place, mask=old, other=-1)
    d = tl.load(distances + i * WIDTH + place, mask=old, other=float("inf"))
    j = tl.where(new, tl.load(found + row * n_found + place - WIDTH, mask=new, other=-1), j)
    d = tl.where(new, tl.load(measured + row * n_found + place - WIDTH, mask=new, other=float("inf")), d)
    j = tl.where(d == float("inf"), -1, j)
    key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (j.to(tl.int64) & 0xFFFFFFFF)
    key = tl.sort(key)
    at = scratch + row * ROOM
    tl.store(at + place, key)
    tl.debug_barrier()
    before = tl.load(at + place - 1, mask=place > 0, other=-1)
    fresh = (key != before) & ((key & 0xFFFFFFFF) != 0xFFFFFFFF)
    rank = tl.cumsum(fresh.to(tl.int32), 0) - 1
    n_fresh = tl.sum(fresh.to(tl.int32), 0)
    slot = tl.arange(0, WIDTH)
    tl.store(new_lists + i * WIDTH + slot, tl.full([WIDTH], -1, tl.int32), mask=slot >= n_fresh)
    tl.store(new_distances + i * WIDTH + slot, tl.full([WIDTH], float("inf"), tl.float32), mask=slot >= n_fresh)
    kept = fresh & (rank < WIDTH)
    tl.store(new_lists + i * WIDTH + rank, (key & 0xFFFFFFFF).to(tl.int32), mask=kept)
    tl.store(new_distances + i * WIDTH + rank, (key >> 32).to(tl.int32).to(tl.float32, bitcast=True), mask=kept)
