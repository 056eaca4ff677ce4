"""Edges merged and joined on a GPU, in torch: what the resident and the passing form of the k-NN graph share.

Only integers are added atomically, and float64 is used where the reference has it: it gives the same bytes every time. It runs
on any torch device.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.graph.files import WEIGHT_ONE, Create, Graph, GraphWriter
from streamumap.graph.sizes import JUMPED
from streamumap.machine import gpu
from streamumap.store.blockfile import BlockFile

OTHER_BITS = 32
"""Low bits of a sorting key, for the other row; the row within its block is above."""


class Knn(Protocol):
    """A k-NN graph with the weights of its edges. `degree` int32 (N,), on the device: the edges that each row sends and receives.
    `n_sent`: the edges that all rows send."""

    degree: Tensor
    n_sent: int

    def edges(self, start: int, stop: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Collects the edges between rows start..stop and rows first..last, in both directions: int64 keys of (row - start,
        other row), and float32 weights."""


@dataclass(frozen=True)
class Files:
    """The k-NN files (N, k), and how they come to the device. A block has `block_edges` edges at most, or one row."""

    indices: BlockFile
    distances: BlockFile
    block_edges: int
    device: str

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) over all rows; each part sends about half the edges of a block."""
        n, k = self.indices.shape
        step = max(1, self.block_edges // (2 * k))
        return ((start, min(start + step, n)) for start in range(0, n, step))

    def others(self, start: int, stop: int) -> Tensor:
        """Reads the neighbours of these rows: int32 (rows, k), -1 for a row itself."""
        neighbors = self.on_device(self.indices, start, stop)
        itself = torch.arange(start, stop, dtype=torch.int32, device=self.device)[:, None]
        return neighbors.masked_fill_(neighbors == itself, -1)

    def on_device(self, file: BlockFile, start: int, stop: int) -> Tensor:
        return torch.from_numpy(file.read(start, stop)).to(self.device)


def count(degree: Tensor, targets: Tensor, start: int) -> int:
    """Adds the edges that rows start.. send and receive to `degree` int32 (N,); `targets` int32 (rows, k), -1 for none. Returns
    how many there are."""
    there = targets >= 0
    sent = there.sum(1, dtype=torch.int32)
    degree[start : start + len(targets)] += sent
    received = targets[there].long()
    degree.index_add_(0, received, torch.ones_like(received, dtype=torch.int32))
    return len(received)


def write(
    knn: Knn, create: Create, mix: float, block_edges: int, beside: ThreadPoolExecutor, advance: Advance
) -> tuple[Graph, np.ndarray]:
    """Merges and writes all rows. Returns the graph and the rows of each component, int64, largest first."""
    n, device, bounds = len(knn.degree), knn.degree.device, _cut(knn.degree, block_edges)
    del knn.degree
    writer = GraphWriter(create, n, 2 * knn.n_sent)
    parent = torch.arange(n, dtype=torch.int32, device=device)
    written: Future = beside.submit(lambda: None)

    def merge(start: int, stop: int) -> None:
        nonlocal written
        degree = torch.zeros(stop - start, dtype=torch.int64, device=device)
        ends, strengths = [], []
        for first, last in _windows(n, stop - start, block_edges):
            sizes, *block = merged(*knn.edges(start, stop, first, last), stop - start, mix)
            join(parent, torch.arange(start, stop, device=device).repeat_interleave(sizes), block[0])
            degree += sizes
            ends.append(block[0].cpu().numpy())
            strengths.append(block[1].cpu().numpy().view(np.uint16))
        del sizes, block
        written.result()
        written = beside.submit(writer.add, degree.cpu().numpy(), np.concatenate(ends), np.concatenate(strengths))
        advance(stop - start)

    for start, stop in bounds:
        gpu.in_halves(merge, start, stop)
    written.result()
    return writer.finish(), component_sizes(parent)


def _windows(n: int, n_rows: int, block_edges: int) -> Iterator[tuple[int, int]]:
    """Yields the rows, (first, last), with which a block of `n_rows` rows is merged at a time: all, but for a single row, which may
    have more edges than a block."""
    step = n if n_rows > 1 else block_edges
    return ((first, min(first + step, n)) for first in range(0, n, step))


def _cut(degree: Tensor, block_edges: int) -> list[tuple[int, int]]:
    """Cuts the rows into blocks, (start, stop), of at most `block_edges` edges, or of one row."""
    ends = np.cumsum(degree.cpu().numpy(), dtype=np.int64)
    bounds, start = [], 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + block_edges, "right")), start + 1)
        bounds.append((start, stop))
        start = stop
    return bounds


def merged(keys: Tensor, strengths: Tensor, n_rows: int, mix: float) -> tuple[Tensor, Tensor, Tensor]:
    """Merges the edges of a block, as `Knn.edges` gives them: degrees int64 (rows,), targets int32 and weights int16 (uint16 bits),
    sorted by row and target."""
    keys, order = keys.sort()
    strengths = strengths[order]
    del order
    again = torch.zeros(len(keys) + 1, dtype=torch.bool, device=keys.device)
    again[1:-1] = keys[1:] == keys[:-1]  # a key comes once or twice
    first = (~again[:-1]).nonzero()[:, 0]
    forth, back = strengths[first], torch.where(again[1:], strengths.roll(-1), 0.0)[first]
    keys = keys[first]
    del strengths, again, first
    both = forth.double() * back
    weight = (mix * (forth.double() + back - both) + (1.0 - mix) * both).float()
    positive = weight > 0
    keys, weight = keys[positive], weight[positive]
    rows = torch.arange(1, n_rows + 1, device=keys.device)
    degree = torch.searchsorted(keys, rows << OTHER_BITS).diff(prepend=rows.new_zeros(1))
    weight = (weight.double() * WEIGHT_ONE).round_().clamp_(min=1.0).int().short()
    return degree, (keys & ((1 << OTHER_BITS) - 1)).int(), weight


def join(parent: Tensor, one: Tensor, other: Tensor) -> None:
    """Joins the components of rows `one` and `other`, int64 and int32 (edges,). `parent` int32 (N,) is the smallest row known to
    be in the component of each row. Larger roots are hooked to smaller ones, and paths shortened, until no edge is left whose
    ends differ (Shiloach & Vishkin 1982)."""
    below = other < one  # every edge is there twice
    one, other = one[below], other[below].long()
    while len(one):
        a, b = parent[one], parent[other]
        apart = a != b
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        parent.scatter_reduce_(0, torch.maximum(a, b).long(), torch.minimum(a, b), "amin")
        while _shorten(parent):
            pass


def _shorten(parent: Tensor) -> bool:
    """Points each row to the parent of its parent. Returns whether any changed."""
    changed = torch.zeros((), dtype=torch.bool, device=parent.device)
    for part in parent.split(JUMPED):
        shorter = parent[part.long()]
        changed |= (shorter != part).any()
        part.copy_(shorter)
    return bool(changed)


def component_sizes(parent: Tensor) -> np.ndarray:
    """Counts the rows of each component, int64, largest first."""
    sizes = torch.zeros_like(parent)
    for part in parent.split(JUMPED):
        sizes.index_add_(0, part.long(), torch.ones_like(part))
    counts = sizes.cpu().numpy()
    return np.sort(counts[counts > 0].astype(np.int64))[::-1]
