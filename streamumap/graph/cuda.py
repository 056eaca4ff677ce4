"""The graph on a GPU, in torch: it holds the k-NN graph, or lets it pass by where it does not fit, and merges blocks of edges by
sorting. Held to `reference.py` and to `cpu.py` by tests. It runs on any torch device.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.graph import merge_cuda as merge
from streamumap.graph.files import Create, Graph
from streamumap.graph.merge_cuda import OTHER_BITS, Files
from streamumap.graph.passing_cuda import PassingKnn, Scratch
from streamumap.graph.sizes import SCANNED
from streamumap.graph.smooth_cuda import sum_finite, weights_of
from streamumap.store.blockfile import READERS, BlockFile


def build(
    knn_indices: BlockFile,
    knn_distances: BlockFile,
    create: Create,
    *,
    local_connectivity: float,
    set_op_mix_ratio: float,
    block_edges: int,
    device: str,
    run_edges: int = 0,
    advance: Advance = no_advance,
) -> tuple[Graph, np.ndarray]:
    """`build.build` on a GPU. A block has as many rows as send and receive `block_edges` edges, and at least one. With `run_edges`
    the k-NN graph passes by, that many of its edges sorted together; the graph is the same."""
    files = Files(knn_indices, knn_distances, block_edges, device)
    with torch.inference_mode(), ThreadPoolExecutor(READERS if run_edges else 2) as beside:
        more = create, set_op_mix_ratio, block_edges, beside, advance
        if not run_edges:
            return merge.write(ResidentKnn(files, local_connectivity, beside, advance), *more)
        scratch = Scratch(create, beside)
        made = merge.write(PassingKnn(files, scratch, local_connectivity, run_edges, advance), *more)
        scratch.close()
        return made


class ResidentKnn:
    """The k-NN graph on the device: targets int32 (N, k), -1 for a row itself, and weights float32 (N, k). A `merge_cuda.Knn`."""

    def __init__(self, files: Files, local_connectivity: float, beside: ThreadPoolExecutor, advance: Advance):
        n, k = files.indices.shape
        self.targets = torch.empty((n, k), dtype=torch.int32, device=files.device)
        self.weights = torch.empty((n, k), dtype=torch.float32, device=files.device)
        self.degree = torch.zeros(n, dtype=torch.int32, device=files.device)
        self.n_sent = self._load(files, beside, advance)
        self._weigh(list(files.parts()), local_connectivity, advance)

    def _load(self, files: Files, beside: ThreadPoolExecutor, advance: Advance) -> int:
        """Copies the k-NN graph to the device and counts its edges. The distances lie where the weights will."""
        n_sent = 0
        for start, stop in files.parts():
            reading = beside.submit(files.distances.read, start, stop)
            neighbors = files.others(start, stop)
            self.targets[start:stop] = neighbors
            n_sent += merge.count(self.degree, neighbors, start)
            self.weights[start:stop] = torch.from_numpy(reading.result())
            advance(stop - start)
        return n_sent

    def _weigh(self, bounds: list[tuple[int, int]], local_connectivity: float, advance: Advance) -> None:
        """Replaces each distance by the weight of its edge, in place."""
        total, count = 0.0, 0
        for start, stop in bounds:
            sums = sum_finite(self.weights[start:stop])
            total, count = total + sums[0], count + sums[1]
        for start, stop in bounds:
            part = self.weights[start:stop]
            part.copy_(weights_of(part, total / max(count, 1), local_connectivity))
            advance(stop - start)

    def edges(self, start: int, stop: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        k, targets = self.targets.shape[1], self.targets[start:stop].flatten()
        sent = (targets >= first).logical_and_(targets < last).nonzero()[:, 0]
        keys = [(sent // k << OTHER_BITS) | targets[sent]]
        strengths = [self.weights[start:stop].flatten()[sent]]
        step = max(1, SCANNED // k)
        for row in range(first, last, step):
            targets = self.targets[row : min(row + step, last)].flatten()
            received = (targets >= start).logical_and_(targets < stop).nonzero()[:, 0]
            rows = targets[received].long().sub_(start).bitwise_left_shift_(OTHER_BITS)
            keys.append(rows.bitwise_or_((received // k).add_(row)))
            strengths.append(self.weights[row : row + step].flatten()[received])
        return torch.cat(keys), torch.cat(strengths)
