"""The graph that bench/layout.py lays out, its start, and how long its edges become on a map."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measures import Data

from streamumap.events import no_advance
from streamumap.graph.files import Graph
from streamumap.layout import schedule
from streamumap.planning.planner import make_plan, with_edges
from streamumap.run import dispatch
from streamumap.run.initialize import GraphBlocks, first_positions, layout_backend
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, NoCheckpoint

EDGE_ROWS = 65_536
"""Rows whose edges are measured at a time."""


@dataclass(frozen=True)
class Setup:
    """The rows, their exact k-NN graph and their fuzzy graph."""

    data: Data
    indices: np.ndarray  # int32 (N, k)
    distances: np.ndarray  # float32 (N, k)
    graph: Graph
    graph_seconds: float
    heaviest: int


def set_up(data: Data, folder: Path) -> Setup:
    """Searches the exact k-NN graph and builds the fuzzy graph as a run does."""
    indices, distances = dispatch.search(
        data.rows, data.plan, data.params, data.sample, lambda *_: False, no_advance, NO_CHECKPOINT
    )

    def create(name, shape, dtype):
        return BlockFile.create(folder / f"{name}.npy", shape, dtype)

    def filled(name, array):
        file = create(name, array.shape, array.dtype)
        file.write(0, array)
        return file

    knn = filled("knn_indices", indices), filled("knn_distances", distances)
    seconds, graph = 0.0, None
    for _ in range(2):  # the first time may compile
        started = time.perf_counter()
        graph, _ = dispatch.build_graph(data.plan, data.params, knn, NoCheckpoint(create), no_advance)
        seconds = time.perf_counter() - started
    assert graph is not None
    return Setup(data, indices, distances, graph, seconds, graph.heaviest())


def settings(setup: Setup, seed: int, n_epochs: int) -> schedule.LayoutSettings:
    """The layout's settings for this graph, from the parameters of the run."""
    values = {name: getattr(setup.data.params, name) for name in schedule.LAYOUT_PARAMS}
    return schedule.layout_settings(setup.graph.n_rows, setup.heaviest, **values | {"seed": seed, "n_epochs": n_epochs})


def our_start(setup: Setup, seed: int, init: str, dims: int = 2, n_epochs: int = 1) -> np.ndarray:
    """First positions as a run makes them, float32 (N, dims)."""
    data = setup.data
    p = dataclasses.replace(data.params, n_components=dims, seed=seed, init=init)
    plan = with_edges(make_plan(data.plan.job, p, data.plan.budget, data.plan.machine), p, setup.graph.n_edges)
    blocks = GraphBlocks(setup.graph, layout_backend(plan))
    return first_positions(data.rows, plan, p, blocks, settings(setup, seed, n_epochs), no_advance, print)[0]


def edges_on_map(setup: Setup, embedding: np.ndarray) -> dict[str, float]:
    """Edge lengths on the map: `edge_similarity` (see bench/layout.py) and the median as `edge_length`."""
    s, n = settings(setup, 0, 1), setup.graph.n_rows
    total = weight = 0.0
    lengths = np.empty(setup.graph.n_edges, np.float32)
    for first in range(0, n, EDGE_ROWS):
        block = setup.graph.block(first, min(first + EDGE_ROWS, n))
        sources = np.repeat(np.arange(first, first + len(block.indptr) - 1), np.diff(block.indptr))
        squares = ((embedding[sources].astype(np.float64) - embedding[block.targets]) ** 2).sum(1)
        total += float((block.weights / (1 + s.a * squares**s.b)).sum())
        weight += float(block.weights.sum(dtype=np.float64))
        lengths[block.first_edge : block.first_edge + len(squares)] = np.sqrt(squares)
    return {"edge_similarity": total / weight, "edge_length": float(np.median(lengths))}
