"""Which rows hang together, and how strongly each is tied: what a start along eigenvectors needs of the whole graph."""

import numpy as np

from streamumap.graph import cpu
from streamumap.graph.files import Graph


def roots_and_degrees(graph: Graph, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 (N,): the smallest row of each row's connected component; float64 (N,): the sum of its weights, where the
    largest is 65535. Reads `block_rows` rows of the graph at a time."""
    n = graph.n_rows
    parent, degrees = np.arange(n, dtype=np.int32), np.zeros(n)
    for start in range(0, n, block_rows):
        block = graph.block(start, min(start + block_rows, n))
        counts = np.diff(block.indptr)
        cpu.join_components(counts, block.targets, start, parent)
        tied = np.flatnonzero(counts)
        degrees[start + tied] = np.add.reduceat(block.weights, block.indptr[tied], dtype=np.float64)
    cpu.flatten(parent)
    return parent, degrees
