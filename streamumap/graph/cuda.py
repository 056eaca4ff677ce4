"""The graph on a GPU, in torch: it holds the k-NN graph and merges blocks of edges by sorting. Held to `reference.py` and to
`cpu.py` by tests.

Only integers are added atomically, and float64 is used where the reference has it: it gives the same bytes every time. It runs
on any torch device.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.graph.files import WEIGHT_ONE, Create, Graph, GraphWriter
from streamumap.graph.reference import MIN_SCALE, N_BISECTIONS, TOLERANCE
from streamumap.machine import gpu
from streamumap.store.blockfile import BlockFile

TARGET_BITS = 32
"""Low bits of a sorting key, for the target; the row within its block is above."""


def build(
    knn_indices: BlockFile,
    knn_distances: BlockFile,
    create: Create,
    *,
    local_connectivity: float,
    set_op_mix_ratio: float,
    block_edges: int,
    device: str,
    advance: Advance = no_advance,
) -> tuple[Graph, np.ndarray]:
    """`build.build` on a GPU. A block has as many rows as send and receive `block_edges` edges, and at least one."""
    with torch.inference_mode(), ThreadPoolExecutor(2) as beside:
        targets, weights = _on_device(knn_indices, knn_distances, block_edges, device, beside, advance)
        _weigh(targets, weights, local_connectivity, block_edges, advance)
        bounds = _bounds(targets, block_edges)
        writer = GraphWriter(create, len(targets), 2 * int((targets >= 0).sum()))
        parent = torch.arange(len(targets), device=device)
        written: Future = beside.submit(lambda: None)

        def merge(start: int, stop: int) -> None:
            nonlocal written
            degree, ends, strengths = _merged(targets, weights, start, stop, set_op_mix_ratio)
            _join(parent, torch.arange(start, stop, device=device).repeat_interleave(degree), ends)
            block = degree.cpu().numpy(), ends.cpu().numpy(), strengths.cpu().numpy().view(np.uint16)
            del degree, ends, strengths
            written.result()
            written = beside.submit(writer.add, *block)
            advance(stop - start)

        for start, stop in bounds:
            gpu.in_halves(merge, start, stop)
        written.result()
        sizes = torch.bincount(parent)
        return writer.finish(), sizes[sizes > 0].sort(descending=True).values.cpu().numpy()


def _on_device(knn_indices, knn_distances, block_edges, device, beside, advance) -> tuple[Tensor, Tensor]:
    """Copies the k-NN graph to the device: indices int32 (N, k), -1 for a row itself, and distances float32 (N, k)."""
    n, k = knn_indices.shape
    targets = torch.empty((n, k), dtype=torch.int32, device=device)
    distances = torch.empty((n, k), dtype=torch.float32, device=device)
    for start, stop in _parts(n, k, block_edges):
        reading = beside.submit(knn_distances.read, start, stop)
        neighbors = torch.from_numpy(knn_indices.read(start, stop)).to(device)
        itself = torch.arange(start, stop, dtype=torch.int32, device=device)[:, None]
        targets[start:stop] = neighbors.masked_fill_(neighbors == itself, -1)
        distances[start:stop] = torch.from_numpy(reading.result())
        advance(stop - start)
    return targets, distances


def _parts(n: int, k: int, block_edges: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) over all rows; each part sends about half the edges of a block."""
    step = max(1, block_edges // (2 * k))
    return ((start, min(start + step, n)) for start in range(0, n, step))


def _weigh(targets: Tensor, distances: Tensor, local_connectivity: float, block_edges: int, advance: Advance) -> None:
    """Replaces each distance by the weight of its edge, in place."""
    n, k = distances.shape
    total, count = 0.0, 0
    for start, stop in _parts(n, k, block_edges):
        part = distances[start:stop]
        finite = part.isfinite()
        total += float(torch.where(finite, part, 0.0).sum(dtype=torch.float64))
        count += int(finite.sum())
    for start, stop in _parts(n, k, block_edges):
        rho, sigma = smooth_knn(distances[start:stop], total / max(count, 1), local_connectivity)
        excess = (distances[start:stop].double() - rho.double()[:, None]).clamp_(min=0.0)
        distances[start:stop] = excess.div_(-sigma.double()[:, None]).exp_()
        advance(stop - start)


def smooth_knn(distances: Tensor, mean_distance: float, local_connectivity: float) -> tuple[Tensor, Tensor]:
    """`reference.smooth_knn` over tensors."""
    rho = _rho(distances, local_connectivity)
    sigma = _sigma(distances[:, 1:], rho.double(), float(np.log2(distances.shape[1])))
    finite = distances.isfinite()
    mean = torch.where(finite, distances, 0.0).sum(1, dtype=torch.float64) / finite.sum(1).clamp(min=1)
    return rho, torch.maximum(sigma, MIN_SCALE * torch.where(rho > 0, mean, mean_distance)).float()


def _rho(distances: Tensor, local_connectivity: float) -> Tensor:
    positive = (distances > 0) & (distances < torch.inf)
    rank = positive.cumsum(1, dtype=torch.int32)
    n_positive = rank[:, -1]

    def at(number) -> Tensor:
        """Returns the positive distance with this number, counted from 1."""
        return torch.where(positive & (rank == number), distances, 0.0).sum(1, dtype=torch.float64)

    whole = int(np.floor(local_connectivity))
    part = local_connectivity - whole
    if whole == 0:
        rho = part * at(1)
    elif part <= TOLERANCE:
        rho = at(whole)
    else:
        rho = at(whole) + part * (at(whole + 1) - at(whole))
    too_few = (n_positive == 0) | (n_positive < local_connectivity)
    return torch.where(too_few, at(n_positive[:, None]), rho).float()


def _sigma(others: Tensor, rho: Tensor, target: float) -> Tensor:
    """Bisects in float64, all rows at once; a row that has converged stays."""
    excess = (others.double() - rho[:, None]).clamp_(min=0.0)
    low, middle = torch.zeros_like(rho), torch.ones_like(rho)
    high, converged = torch.full_like(rho, torch.inf), torch.zeros_like(rho, dtype=torch.bool)
    for _ in range(N_BISECTIONS):
        total = (excess / -middle[:, None]).exp_().sum(1)
        converged |= (total - target).abs() < TOLERANCE
        high = torch.where(total > target, middle, high)
        low = torch.where(total > target, low, middle)
        middle = torch.where(converged, middle, torch.where(high == torch.inf, middle * 2, (low + high) / 2))
    return middle


def _bounds(targets: Tensor, block_edges: int) -> list[tuple[int, int]]:
    """Cuts the rows into blocks, (start, stop), by the number of edges that they send and receive."""
    degree = (targets >= 0).sum(1)
    n, k = targets.shape
    for first, last in _parts(n, k, block_edges):
        degree += torch.bincount(targets[first:last].flatten() + 1, minlength=n + 1)[1:]
    ends = degree.cumsum(0).cpu().numpy()
    bounds, start = [], 0
    while start < n:
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + block_edges, "right")), start + 1)
        bounds.append((start, stop))
        start = stop
    return bounds


def _edges(targets: Tensor, weights: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Collects the edges that rows start..stop send and receive: int64 keys of (row - start, other row), float32 weights."""
    k = targets.shape[1]
    sent = (targets[start:stop] >= 0).flatten().nonzero()[:, 0]
    sent_keys = (sent // k << TARGET_BITS) | targets[start:stop].flatten()[sent]
    sent_weights = weights[start:stop].flatten()[sent]
    del sent
    received = (targets >= start).logical_and_(targets < stop).flatten().nonzero()[:, 0]
    keys = targets.flatten()[received].long().sub_(start).bitwise_left_shift_(TARGET_BITS).bitwise_or_(received // k)
    return torch.cat([sent_keys, keys]), torch.cat([sent_weights, weights.flatten()[received]])


def _merged(targets: Tensor, weights: Tensor, start: int, stop: int, mix: float) -> tuple[Tensor, Tensor, Tensor]:
    """Merges the edges that rows start..stop send and receive: degrees int64 (rows,), targets int32 and weights int16 (uint16
    bits), sorted by row and target."""
    keys, strengths = _edges(targets, weights, start, stop)
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
    rows = torch.arange(1, stop - start + 1, device=keys.device)
    degree = torch.searchsorted(keys, rows << TARGET_BITS).diff(prepend=rows.new_zeros(1))
    weight = (weight.double() * WEIGHT_ONE).round_().clamp_(min=1.0).int().short()
    return degree, (keys & ((1 << TARGET_BITS) - 1)).int(), weight


def _join(parent: Tensor, one: Tensor, other: Tensor) -> None:
    """Joins the components of rows `one` and `other`, int64 and int32 (edges,). `parent` int64 (N,) is the smallest row known to
    be in the component of each row. Larger roots are hooked to smaller ones, and paths shortened, until no edge is left whose
    ends differ (Shiloach & Vishkin 1982)."""
    below = other < one  # every edge is there twice
    one, other = one[below], other[below].long()
    while len(one):
        a, b = parent[one], parent[other]
        apart = a != b
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(shorter := parent[parent], parent):
            parent.copy_(shorter)
