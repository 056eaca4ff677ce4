"""The graph on a CPU: reads k-NN files and writes the symmetric weights to three files, a block of rows at a time.

Four numbers a row stay in memory (rho, sigma, the number of incoming edges, the component). An edge takes memory only while
its block is made, and 6 bytes on disk.
"""

from dataclasses import dataclass

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.graph import cpu
from streamumap.graph.files import WEIGHT_ONE, Create, Graph, GraphWriter
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint


@dataclass(frozen=True)
class WeightedKnn:
    """The k-NN files (N, k), and the two numbers of each row that turn its distances into weights."""

    indices: BlockFile
    distances: BlockFile
    rho: np.ndarray  # float32 (N,)
    sigma: np.ndarray  # float32 (N,)


@dataclass(frozen=True)
class Incoming:
    """The edges that a block of rows receives, row after row."""

    bounds: np.ndarray  # int64 (rows + 1,)
    sources: np.ndarray  # int32, ascending within a row
    weights: np.ndarray  # float32


def build(
    knn_indices: BlockFile,
    knn_distances: BlockFile,
    create: Create,
    *,
    local_connectivity: float,
    set_op_mix_ratio: float,
    block_rows: int,
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[Graph, np.ndarray]:
    """Streams the k-NN files (N, k) into a Graph. Also returns the sizes of its connected components, int64, largest first.
    Advances by N three times.

    It reads all k-NN files once for each block of rows, to find the incoming edges of the block.
    """
    n = len(knn_indices)
    knn = WeightedKnn(knn_indices, knn_distances, np.empty(n, np.float32), np.empty(n, np.float32))
    n_incoming, parent = np.zeros(n, np.int64), np.arange(n, dtype=np.int32)
    arrays = dict(rho=knn.rho, sigma=knn.sigma, incoming=n_incoming, parent=parent)
    facts = checkpoint.resume(arrays)
    if not facts:
        _smooth(knn, local_connectivity, block_rows, advance)
        _count_incoming(knn_indices, n_incoming, block_rows, advance)
    writer = GraphWriter(create, n, 2 * int(n_incoming.sum()), facts.get("row", 0), facts.get("edges", 0))
    for start in range(writer.n_rows, n, block_rows):
        stop = min(start + block_rows, n)
        incoming = _incoming(knn, start, n_incoming[start:stop], block_rows)
        targets, weights, degree = _merged(knn, start, stop, incoming, set_op_mix_ratio)
        writer.add(degree, targets, weights)
        cpu.join_components(degree, targets, start, parent)
        advance(stop - start)
        checkpoint.done(lambda: (arrays, {}), row=stop, edges=writer.n_edges)
    return writer.finish(), cpu.component_sizes(parent)


def _smooth(knn: WeightedKnn, local_connectivity: float, block_rows: int, advance: Advance) -> None:
    """Fills rho and sigma."""
    mean = _mean_distance(knn.distances, block_rows)
    for start, distances in knn.distances.blocks(block_rows):
        stop = start + len(distances)
        cpu.smooth_knn(distances, mean, local_connectivity, knn.rho[start:stop], knn.sigma[start:stop])
        advance(len(distances))


def _count_incoming(knn_indices: BlockFile, counts: np.ndarray, block_rows: int, advance: Advance) -> None:
    """Adds the edges that each row receives to `counts`, int64 (N,)."""
    for start, indices in knn_indices.blocks(block_rows):
        cpu.count_incoming(indices, start, counts)
        advance(len(indices))


def _incoming(knn: WeightedKnn, start: int, counts: np.ndarray, block_rows: int) -> Incoming:
    """Collects the edges that rows start.. receive; `counts` int64 (rows,) says how many each receives."""
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    sources, weights = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.float32)
    cursor, stop = bounds[:-1].copy(), start + len(counts)
    for first, indices in knn.indices.blocks(block_rows):
        distances = knn.distances.read(first, first + len(indices))
        cpu.gather_incoming(indices, distances, first, knn.rho, knn.sigma, start, stop, cursor, sources, weights)
    return Incoming(bounds, sources, weights)


def _merged(knn: WeightedKnn, start: int, stop: int, incoming: Incoming, mix: float) -> tuple:
    """Merges the edges that rows start..stop send and receive: targets int32, weights uint16, degree int64 (rows,)."""
    indices, distances = knn.indices.read(start, stop), knn.distances.read(start, stop)
    degree = np.empty(stop - start, np.int64)
    most = len(incoming.sources) + indices.size
    targets, weights = np.empty(most, np.int32), np.empty(most, np.float32)
    cpu.merge_rows(
        indices, distances, start, knn.rho, knn.sigma, incoming.bounds, incoming.sources, incoming.weights, mix,
        degree, targets, weights,
    )  # fmt: skip
    first_edge = np.cumsum(degree) - degree
    compact_targets, compact_weights = np.empty(degree.sum(), np.int32), np.empty(degree.sum(), np.uint16)
    cpu.compact(
        incoming.bounds, indices.shape[1], degree, first_edge, targets, weights, WEIGHT_ONE, compact_targets, compact_weights
    )  # fmt: skip
    return compact_targets, compact_weights, degree


def _mean_distance(knn_distances: BlockFile, block_rows: int) -> float:
    total, count = 0.0, 0
    for _, distances in knn_distances.blocks(block_rows):
        finite = distances[np.isfinite(distances)]
        total += float(finite.sum(dtype=np.float64))
        count += finite.size
    return total / max(count, 1)
