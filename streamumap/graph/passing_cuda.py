"""The k-NN graph on a GPU where it does not fit: it passes by twice, and its edges go to scratch files, in runs sorted by the row
that receives them. A block of rows then reads its part of every run.

Weights are computed in the same parts as those of the resident form, so the graph has the same bytes.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.graph import merge_cuda as merge
from streamumap.graph.files import Create
from streamumap.graph.merge_cuda import OTHER_BITS, Files
from streamumap.graph.smooth_cuda import sum_finite, weights_of
from streamumap.store.blockfile import BlockFile

INDEXED = 4096
"""Edges of a run of which the first is kept in memory, so that a row is found in one read."""


class Scratch:
    """Files that are written behind the work and removed with `close`."""

    def __init__(self, create: Create, beside: ThreadPoolExecutor):
        self._create, self._beside, self._files = create, beside, list[BlockFile]()
        self._written: Future = beside.submit(lambda: None)

    def create(self, name: str, shape: tuple[int, ...], dtype) -> BlockFile:
        file = self._create(name, shape, dtype)
        file.written.rows = None  # no other run reads it, so nobody needs its checksum
        self._files.append(file)
        return file

    def write(self, file: BlockFile, start: int, block: Tensor) -> None:
        array = block.cpu().numpy()
        self.wait()
        self._written = self._beside.submit(file.write, start, array)

    def read(self, parts: list[tuple[BlockFile, int, int]]) -> list[np.ndarray]:
        """Reads rows (file, start, stop) of some files, side by side."""
        return list(self._beside.map(lambda part: part[0].read(part[1], part[2]), parts))

    def wait(self) -> None:
        self._written.result()

    def close(self) -> None:
        self.wait()
        for file in self._files:
            file.close()
            file.path.unlink()


class Runs:
    """Edges sorted within runs: `keys` int64 (edges,) of (receiving row, sending row), and `weights` float32 (edges,)."""

    def __init__(self, scratch: Scratch, n_edges: int):
        self.scratch = scratch
        self.keys = scratch.create("graph_keys", (n_edges,), np.int64)
        self.weights = scratch.create("graph_received", (n_edges,), np.float32)
        self._ends = [0]
        self._index: list[np.ndarray] = []

    def add(self, keys: Tensor, weights: Tensor) -> None:
        """Sorts edges and writes them as a run."""
        keys, order = keys.sort()
        start = self._ends[-1]
        self.scratch.write(self.keys, start, keys)
        self.scratch.write(self.weights, start, weights[order])
        self._index.append(keys[::INDEXED].clone().cpu().numpy())
        self._ends.append(start + len(keys))

    def between(self, low: int, high: int) -> list[tuple[int, int]]:
        """Finds the edges (start, stop) of each run whose keys are from `low` to below `high`, as far as there are any."""
        found = [(self._find(run, low), self._find(run, high)) for run in range(len(self._index))]
        return [(start, stop) for start, stop in found if start < stop]

    def _find(self, run: int, key: int) -> int:
        """Finds the first edge of a run whose key is at least `key`."""
        part = int(np.searchsorted(self._index[run], key)) - 1
        if part < 0:
            return self._ends[run]
        start = self._ends[run] + part * INDEXED
        return start + int(np.searchsorted(self.keys.read(start, min(start + INDEXED, self._ends[run + 1])), key))


class PassingKnn:
    """The k-NN graph in files. A `merge_cuda.Knn`. `run_edges`: edges that are sorted together."""

    def __init__(self, files: Files, scratch: Scratch, local_connectivity: float, run_edges: int, advance: Advance):
        (self.n, self.k), self.files = files.indices.shape, files
        self.degree = torch.zeros(self.n, dtype=torch.int32, device=files.device)
        self.n_sent = 0
        mean = self._count(advance)
        self.sent = scratch.create("graph_sent", (self.n, self.k), np.float32)
        self.runs = Runs(scratch, self.n_sent)
        self._distribute(mean, local_connectivity, run_edges, advance)
        scratch.wait()

    def _count(self, advance: Advance) -> float:
        """Counts the edges. Returns the mean of the finite distances."""
        total, count = 0.0, 0
        for start, stop in self.files.parts():
            self.n_sent += merge.count(self.degree, self.files.others(start, stop), start)
            sums = sum_finite(self.files.on_device(self.files.distances, start, stop))
            total, count = total + sums[0], count + sums[1]
            advance(stop - start)
        return total / max(count, 1)

    def _distribute(self, mean: float, local_connectivity: float, run_edges: int, advance: Advance) -> None:
        """Writes the weight of every edge that is sent, and the runs of those received."""
        keys = torch.empty(run_edges, dtype=torch.int64, device=self.files.device)
        weights = torch.empty(run_edges, dtype=torch.float32, device=self.files.device)
        n_filled = 0
        for start, stop in self.files.parts():
            part = weights_of(self.files.on_device(self.files.distances, start, stop), mean, local_connectivity)
            part = part.float()
            self.runs.scratch.write(self.sent, start, part)
            targets, part = self.files.others(start, stop).flatten(), part.flatten()
            at = (targets >= 0).nonzero()[:, 0]
            while len(at):
                some, at = at[: run_edges - n_filled], at[run_edges - n_filled :]
                rows = slice(n_filled, n_filled + len(some))
                keys[rows] = (targets[some].long() << OTHER_BITS) | (some // self.k).add_(start)
                weights[rows] = part[some]
                n_filled = rows.stop
                if n_filled == run_edges:
                    self.runs.add(keys, weights)
                    n_filled = 0
            advance(stop - start)
        if n_filled:
            self.runs.add(keys[:n_filled], weights[:n_filled])

    def edges(self, start: int, stop: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        received = self.runs.between(start << OTHER_BITS | first, (stop - 1) << OTHER_BITS | last)
        parts = [(file, *run) for file in (self.runs.keys, self.runs.weights) for run in received]
        read = self.runs.scratch.read([(self.sent, start, stop), *parts])
        sent, *arrays = (torch.from_numpy(array).to(self.files.device) for array in read)
        targets = self.files.others(start, stop).flatten()
        at = (targets >= first).logical_and_(targets < last).nonzero()[:, 0]
        keys = [(at // self.k << OTHER_BITS) | targets[at]]
        weights = [sent.flatten()[at], *arrays[len(received) :]]
        keys += [part.sub_(start << OTHER_BITS) for part in arrays[: len(received)]]
        return torch.cat(keys), torch.cat(weights)
