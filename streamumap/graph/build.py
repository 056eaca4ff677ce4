"""The graph stage: k-NN files in, the symmetric weights as three files out, a block of rows at a time.

Bytes: three numbers a row stay in memory (rho, sigma, how many edges come in); an edge takes memory only while its
block is made, 6 bytes on disk.
"""

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.graph import cpu
from streamumap.graph.files import WEIGHT_ONE, Create, Graph, Growing
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint


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
    """Streams the k-NN files (N, k) into a Graph. Also gives the rows of each of its connected components, int64,
    largest first. Ticks N rows three times.

    The k-NN files are read once for each block of rows, to find the edges that come in.
    """
    n = len(knn_indices)
    rho, sigma = np.empty(n, np.float32), np.empty(n, np.float32)
    incoming, parent = np.zeros(n, np.int64), np.arange(n, dtype=np.int32)
    whole = dict(rho=rho, sigma=sigma, incoming=incoming, parent=parent)
    facts = checkpoint.resume(whole)
    if not facts:
        _smooth(knn_distances, local_connectivity, block_rows, rho, sigma, advance)
        for start, indices in knn_indices.blocks(block_rows):
            cpu.count_incoming(indices, start, incoming)
            advance(len(indices))
        del indices
    growing = Growing(create, n, 2 * int(incoming.sum()), facts.get("row", 0), facts.get("edges", 0))
    for start in range(growing.n_rows, n, block_rows):
        stop = min(start + block_rows, n)
        bounds, sources, source_weights = _incoming(
            knn_indices, knn_distances, rho, sigma, start, stop, incoming, block_rows
        )
        targets, weights, degree = _merged(
            knn_indices, knn_distances, rho, sigma, start, stop, bounds, sources, source_weights, set_op_mix_ratio
        )
        growing.add(degree, targets, weights)
        cpu.join_components(degree, targets, start, parent)
        advance(stop - start)
        checkpoint.done(lambda: (whole, {}), row=stop, edges=growing.n_edges)
    return growing.finish(), cpu.component_sizes(parent)


def _smooth(knn_distances, local_connectivity, block_rows, rho, sigma, advance):
    mean = _mean_distance(knn_distances, block_rows)
    for start, distances in knn_distances.blocks(block_rows):
        stop = start + len(distances)
        cpu.smooth_knn(distances, mean, local_connectivity, rho[start:stop], sigma[start:stop])
        advance(len(distances))


def _incoming(knn_indices, knn_distances, rho, sigma, start, stop, incoming, block_rows):
    """The edges that rows start..stop receive: bounds int64 (rows + 1,), sources int32 ascending in each list, weights
    float32."""
    bounds = np.zeros(stop - start + 1, np.int64)
    np.cumsum(incoming[start:stop], out=bounds[1:])
    sources, weights = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.float32)
    cursor = bounds[:-1].copy()
    for first, indices in knn_indices.blocks(block_rows):
        distances = knn_distances.read(first, first + len(indices))
        cpu.gather_incoming(indices, distances, first, rho, sigma, start, stop, cursor, sources, weights)
    return bounds, sources, weights


def _merged(knn_indices, knn_distances, rho, sigma, start, stop, bounds, sources, source_weights, mix):
    """The edges of rows start..stop: targets int32, weights uint16, degree int64 (rows,)."""
    indices, distances = knn_indices.read(start, stop), knn_distances.read(start, stop)
    degree = np.empty(stop - start, np.int64)
    most = len(sources) + indices.size
    targets, weights = np.empty(most, np.int32), np.empty(most, np.float32)
    cpu.merge_rows(
        indices, distances, start, rho, sigma, bounds, sources, source_weights, mix, degree, targets, weights
    )
    first_edge = np.cumsum(degree) - degree
    packed_targets, packed_weights = np.empty(degree.sum(), np.int32), np.empty(degree.sum(), np.uint16)
    cpu.compact(
        bounds, indices.shape[1], degree, first_edge, targets, weights, WEIGHT_ONE, packed_targets, packed_weights
    )
    return packed_targets, packed_weights, degree


def _mean_distance(knn_distances, block_rows) -> float:
    total, count = 0.0, 0
    for _, distances in knn_distances.blocks(block_rows):
        finite = distances[np.isfinite(distances)]
        total += float(finite.sum(dtype=np.float64))
        count += finite.size
    return total / max(count, 1)
