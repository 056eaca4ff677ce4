"""A graph on disk: its three files, how they grow block by block, and a block of its rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamumap.store.blockfile import BlockFile

WEIGHT_ONE = 65535
"""A weight of 1 on disk: uint16, weight x 65535, half a step (8e-6) off at most."""

Create = Callable[..., BlockFile]
"""create(name, shape, dtype) -> BlockFile."""


@dataclass(frozen=True)
class GraphBlock:
    """Rows first_row.. of the graph. indptr int64 from 0, targets int32, weights uint16; the first edge is edge
    `first_edge` of the whole."""

    first_row: int
    first_edge: int
    indptr: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


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
        indptr = self.indptr.read(start, stop + 1)
        first, last = int(indptr[0]), int(indptr[-1])
        return GraphBlock(start, first, indptr - first, self.targets.read(first, last), self.weights.read(first, last))

    def heaviest(self) -> int:
        """The largest weight; 1 where there is no edge. Nearly always WEIGHT_ONE, and found at once: a row's nearest
        neighbours have it."""
        heaviest = 1
        for _, weights in self.weights.blocks(1 << 18):
            heaviest = max(heaviest, int(weights.max()))
            if heaviest == WEIGHT_ONE:
                break
        return heaviest


class GraphWriter:
    """A graph that gets its rows in order, a block at a time. Of one that was begun before, `begun_rows` and `begun_edges`
    are there."""

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
        """The next rows: how many edges each has, int (rows,), and these edges."""
        self.graph.targets.write(self.n_edges, targets)
        self.graph.weights.write(self.n_edges, weights)
        self.graph.indptr.write(self.n_rows + 1, self.n_edges + np.cumsum(degree, dtype=np.int64))
        self.n_rows += len(degree)
        self.n_edges += len(targets)

    def finish(self) -> Graph:
        self.graph.targets.shrink(self.n_edges)
        self.graph.weights.shrink(self.n_edges)
        return self.graph
