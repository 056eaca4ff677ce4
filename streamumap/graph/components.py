"""Connected components and degrees of a graph, which the spectral start needs."""

import numpy as np

from streamumap.graph import cpu
from streamumap.graph.files import Graph


def roots_and_degrees(graph: Graph, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest row of each row's connected component, int32 (N,), and the sum of each row's weights, float64 (N,),
    in units of 1/65535. Reads `block_rows` rows of the graph at a time."""
    n = graph.n_rows
    parent, degrees = np.arange(n, dtype=np.int32), np.zeros(n)
    for start in range(0, n, block_rows):
        block = graph.block(start, min(start + block_rows, n))
        counts = np.diff(block.indptr)
        cpu.join_components(counts, block.targets, start, parent)
        connected = np.flatnonzero(counts)
        sums = np.add.reduceat(block.weights, block.indptr[connected], dtype=np.float64)
        degrees[start + connected] = sums
    cpu.flatten(parent)
    return parent, degrees
