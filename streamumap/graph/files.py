"""A graph on disk: its three files, the writer that makes them block by block, and a block of rows in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamumap.store.blockfile import BlockFile

WEIGHT_ONE = 65535
"""Weight of 1 on disk. Weights are uint16, weight x 65535, at most half a step (8e-6) off."""

Create = Callable[..., BlockFile]
"""Makes a file: create(name, shape, dtype) -> BlockFile."""


@dataclass(frozen=True)
class GraphBlock:
    """Rows first_row.. of a graph. Their first edge is edge `first_edge` of the whole graph."""

    first_row: int
    first_edge: int
    indptr: np.ndarray  # int64 (rows + 1,), from 0
    targets: np.ndarray  # int32 (edges,)
    weights: np.ndarray  # uint16 (edges,)


@dataclass(frozen=True)
class Graph:
    """The files of a graph."""

    indptr: BlockFile  # int64 (N + 1,)
    targets: BlockFile  # int32 (edges,)
    weights: BlockFile  # uint16 (edges,)

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_edges(self) -> int:
        return len(self.targets)

    def block(self, start: int, stop: int) -> GraphBlock:
        """Reads rows start..stop."""
        indptr = self.indptr.read(start, stop + 1)
        first, last = int(indptr[0]), int(indptr[-1])
        return GraphBlock(start, first, indptr - first, self.targets.read(first, last), self.weights.read(first, last))

    def heaviest(self) -> int:
        """Returns the largest weight, 1 for a graph without edges. It is nearly always WEIGHT_ONE and found in the first block: a
        row and its nearest neighbour have it."""
        heaviest = 1
        for _, weights in self.weights.blocks(1 << 18):
            heaviest = max(heaviest, int(weights.max()))
            if heaviest == WEIGHT_ONE:
                break
        return heaviest


class GraphWriter:
    """Writes a graph, a block of rows at a time, in order. A graph from a checkpoint already has `begun_rows` and
    `begun_edges`."""

    def __init__(self, create: Create, n_rows: int, most_edges: int, begun_rows: int = 0, begun_edges: int = 0):
        self.graph = Graph(
            create("indptr", (n_rows + 1,), np.int64),
            create("targets", (most_edges,), np.int32),
            create("weights", (most_edges,), np.uint16),
        )
        if not begun_rows:
            self.graph.indptr.write(0, np.zeros(1))
        self.n_rows, self.n_edges = begun_rows, begun_edges

    def add(self, degree: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        """Appends rows: the number of edges of each, int (rows,), and these edges."""
        self.graph.targets.write(self.n_edges, targets)
        self.graph.weights.write(self.n_edges, weights)
        self.graph.indptr.write(self.n_rows + 1, self.n_edges + np.cumsum(degree, dtype=np.int64))
        self.n_rows += len(degree)
        self.n_edges += len(targets)

    def finish(self) -> Graph:
        """Shrinks the files to the edges that there are."""
        self.graph.targets.shrink(self.n_edges)
        self.graph.weights.shrink(self.n_edges)
        return self.graph
