"""First positions from the graph itself: coarsened tenfold, level by level, laid out from the coarsest down.

A level's vertices gather in cells around seeds: each joins, pass after pass, the cell of its heaviest neighbour that
has one. Cells are the next level's vertices. The coarsest level starts where the caller says, and every level is laid
out by the epochs of `run.py`; a vertex then starts at its cell's place, drawn to its neighbours. So a point starts
among its own, and the epochs of the whole graph have only near ways to go. After Hu 2005, "Efficient, High-Quality
Force-Directed Graph Drawing". A bounded number of passes over the graph: it cannot hang.

`levels_reference.py` says what a pass is; `levels_cpu.py` (numba) and `levels_cuda.py` (Triton) do it fast.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.layout import epochs
from streamumap.layout.init.levels_sizes import FEW, KEPT, RATIO, TOP
from streamumap.layout.schedule import LayoutSettings, on_graph

MOST_CELLS = 1 << 23
"""So that two cells and a weight fit in an int64."""

ROUNDS = 32
"""Most passes in which vertices join cells; on real graphs all have joined after about ten."""

TOP_EPOCHS, LEVEL_EPOCHS = 900, 300
"""Epochs of levels with up to 2 TOP vertices, and of larger ones."""

HEAT = 2.0
"""Steps on a level are this many times those on the graph: positions there are to be found, not kept."""

FULL_REPULSION = 2 * TOP
"""Vertices of a level from which on repulsion has its whole strength. Pushes come from random vertices, so the fewer there are
the more often one comes from nearby, and thin graphs tear: with n / 10 vertices a ring of 6,000 rows and a trajectory of 8,000
had 8 and 6 breaks at whole strength, 5 and 1 at a tenth (means of 5 seeds)."""

RANDOM_TOP = 64
"""Vertices of the coarsest level where positions are random: so few find their order whatever they begin from."""

WIDENING = 0.3
"""A level of r times as many vertices starts r^WIDENING times as wide as the coarser one ended. bench/LOG.md has the
table: at 0 points crowd, far from their neighbours; at 0.5, the same room for each, long edges stay long."""

SMOOTHINGS = 2
"""Passes in which each vertex moves to the weighted mean of its neighbours."""

WEIGHT_ONE = 65535
"""The heaviest edge of a coarser level."""


@dataclass(frozen=True)
class Start:
    """float32 (N, n_components) positions; how many vertices each level has, the graph's own first; how many vertices
    of the graph no seed reached."""

    positions: np.ndarray
    level_sizes: tuple[int, ...]
    n_unreached: int


@dataclass(frozen=True)
class CoarseGraph:
    """The graph of the cells of a level, with the attributes of a `GraphBlock`: one block holds all of it."""

    indptr: np.ndarray  # int64 (M + 1,)
    targets: np.ndarray  # int32 (edges,)
    weights: np.ndarray  # uint16 (edges,)
    first_row: int = 0
    first_edge: int = 0


@dataclass(frozen=True)
class Coarsening:
    """The vertices of a level gathered in cells, and the graph of the cells."""

    read_blocks: Callable[[], Iterable[tuple]]  # reads the level's own graph onto the backend
    cells: Any  # int32 (n_vertices,), on the backend
    n_vertices: int
    n_unreached: int
    graph: CoarseGraph

    @property
    def coarse(self) -> list[Callable[[], CoarseGraph]]:
        """The graph of the cells, as one block."""
        return [lambda: self.graph]


def start(
    blocks: Sequence[Callable],
    settings: LayoutSettings,
    backend: epochs.Backend,
    top_positions: Callable[[np.ndarray], np.ndarray],
    advance: Advance = no_advance,
    top: int | None = None,
) -> Start:
    """Makes first positions on the graph of `blocks` (as in `epochs.run`).

    `top_positions` gives the positions of the coarsest level, float32 (M, n_components), for M vertices of the graph, one
    in each of its cells (int64 (M,), ascending); `top` is the least M, and half the largest [TOP]. Advances by N in all, and
    often by 0.
    """
    n = n_rows = settings.n_vertices
    top = TOP if top is None else top
    vertices, sizes = np.arange(n), [n]
    levels: list[Coarsening] = []
    while n_cells := _n_cells(n, not levels, top):
        seeds = choose_seeds(n, n_cells, settings.seed, len(levels) + 1)
        vertices = vertices[seeds]
        half = 0 if levels else n_rows // 3
        levels.append(_coarsened(levels[-1].coarse if levels else blocks, n, seeds, backend, advance, half))
        n = n_cells
        sizes.append(n)
    n_unreached = levels[0].n_unreached if levels else 0
    positions = top_positions(vertices)
    n_advanced = 2 * (n_rows // 3) if levels else 0
    while levels:
        positions = _refined(positions, levels.pop(), settings, backend, advance)
    advance(n_rows - n_advanced)
    return Start(positions, tuple(sizes), n_unreached)


def _coarsened(
    blocks: Sequence[Callable], n: int, seeds: np.ndarray, backend: epochs.Backend, advance: Advance, half: int
) -> Coarsening:
    """Gathers the n vertices in cells around the seeds. Advances by `half` twice."""
    read_blocks = epochs.block_reader(blocks, backend)
    cells, n_unreached = _cells(read_blocks, seeds, n, backend, advance)
    advance(half)
    graph = _coarse(read_blocks, cells, n, len(seeds), backend)
    advance(half)
    return Coarsening(read_blocks, cells, n, n_unreached, graph)


def _refined(
    positions: np.ndarray, level: Coarsening, settings: LayoutSettings, backend: epochs.Backend, advance: Advance
) -> np.ndarray:
    """Lays out the cells of a level from these positions; returns where its vertices start."""
    n_cells = len(positions)
    n_epochs = LEVEL_EPOCHS if n_cells > 2 * TOP else TOP_EPOCHS
    state, on_level = epochs.LayoutState(positions), _on_level(settings, n_cells, n_epochs)
    state = epochs.run(state, n_epochs, level.coarse, on_level, backend, lambda _: advance(0))
    wide = np.float32((level.n_vertices / n_cells) ** WIDENING)
    return _prolonged(state.positions * wide, level.read_blocks, level.cells, backend)


def _n_cells(n: int, is_whole: bool, top: int) -> int:
    """Vertices of the next coarser level; 0 where there is none. `is_whole`: the level is the graph itself."""
    if n > 2 * top:
        return min(max(top, n // RATIO), MOST_CELLS)
    return n // RATIO if is_whole and n >= FEW else 0


def _on_level(s: LayoutSettings, n_vertices: int, n_epochs: int) -> LayoutSettings:
    """The layout's settings for a coarser level."""
    share = min(1.0, n_vertices / FULL_REPULSION)
    return replace(
        on_graph(s, n_vertices, WEIGHT_ONE, n_epochs),
        learning_rate=HEAT * s.learning_rate, repulsion_strength=share * s.repulsion_strength,
    )  # fmt: skip


def choose_seeds(n: int, n_cells: int, seed: int, level: int) -> np.ndarray:
    """int64 (n_cells,) ascending: one vertex, at random, of each of n_cells equal runs of the n."""
    bounds = np.arange(n_cells + 1, dtype=np.int64) * n // n_cells
    at = np.random.Generator(np.random.Philox(key=[seed, 0x1E + (level << 8)])).random(n_cells)
    return bounds[:-1] + (at * np.diff(bounds)).astype(np.int64)


def _cells(read_blocks, seeds: np.ndarray, n: int, backend: epochs.Backend, advance: Advance):
    """Each vertex's cell, int32 (n,), placed, and how many no seed reached. Pieces of the graph without a seed go to a
    cell at random, each as a whole: nothing ties them to any place."""
    own = np.full(n, -1, np.int32)
    own[seeds] = np.arange(len(seeds), dtype=np.int32)
    cells = _until_still(backend.levels.join_cells, backend.to_device(own), read_blocks, backend, advance)
    lost = cells < 0
    n_lost = int(lost.sum())
    if n_lost:
        roots = _until_still(backend.levels.join_roots, backend.levels.own_numbers(lost), read_blocks, backend, advance)
        cells = backend.levels.scattered(cells, roots, len(seeds))
    return cells, n_lost


def _until_still(passed: Callable, values, read_blocks, backend: epochs.Backend, advance: Advance):
    """`passed` over the graph's blocks until nothing changes, ROUNDS times at most."""
    old, new = values, backend.empty_like(values)
    for _ in range(ROUNDS):
        for first_row, _, *block in read_blocks():
            passed(old, new, first_row, *block)
        advance(0)
        if bool((old == new).all()):
            break
        old, new = new, old
    return old


def _coarse(read_blocks, cells, n: int, n_cells: int, backend: epochs.Backend) -> CoarseGraph:
    """The graph of the cells: edges between two are added up, set against the sizes of both, and the heaviest of a
    cell, on either side, weigh 1."""
    pairs = backend.levels.no_pairs(cells, n, KEPT)
    for first_row, _, *block in read_blocks():
        backend.levels.heaviest(cells, pairs, first_row, *block)
    return CoarseGraph(*backend.levels.coarse_graph(pairs, n_cells))


def _prolonged(positions: np.ndarray, read_blocks, cells, backend: epochs.Backend) -> np.ndarray:
    """Positions of cells -> of their vertices, smoothed."""
    old = backend.to_device(positions)[cells]
    new = backend.empty_like(old)
    for _ in range(SMOOTHINGS):
        for first_row, _, *block in read_blocks():
            backend.levels.smooth(old, new, first_row, *block)
        old, new = new, old
    return np.array(backend.to_host(old))
