"""First positions from the graph itself. The graph is coarsened about tenfold, level by level; then the levels are laid out,
the coarsest first (Hu 2005, "Efficient, High-Quality Force-Directed Graph Drawing").

To coarsen, the vertices of a level gather in cells around seeds: in each pass, a vertex without a cell joins that of its
heaviest neighbour that has one. The cells are the vertices of the next level. The caller gives the positions of the coarsest
level. The epochs of `layout/epochs.py` lay out each level; its vertices then start at the positions of their cells, smoothed
along their edges. So each row starts near its neighbours and has short ways to go. The number of passes is bounded: it
cannot hang.

`levels_reference.py` defines each pass; `levels_cpu.py` (numba) and `levels_cuda.py` (Triton) are fast.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.layout import epochs
from streamumap.layout.init.levels_sizes import FEW, KEPT, MOST_CELLS, RATIO, TOP
from streamumap.layout.schedule import LayoutSettings, on_graph

ROUNDS = 32
"""Most passes in which vertices join cells. On real graphs all have joined after about ten."""

TOP_EPOCHS, LEVEL_EPOCHS = 900, 300
"""Epochs of levels with up to 2 TOP vertices, and of larger levels."""

HEAT = 2.0
"""Step size on a level, as a multiple of that on the whole graph: its positions are still to be found."""

FULL_REPULSION = 2 * TOP
"""Least vertices of a level with full repulsion; on a smaller one it is proportionally weaker. Pushes come from random vertices:
the fewer there are, the more often one is near, and thin graphs tear. With n / 10 vertices, a ring of 6,000 rows and a
trajectory of 8,000 had 8 and 6 breaks at full repulsion, 5 and 1 at a tenth (means of 5 seeds)."""

RANDOM_TOP = 64
"""Vertices of the coarsest level when its positions are random: so few find their order from any start."""

WIDENING = 0.3
"""Exponent of the growth of the map from level to level: a level with r times as many vertices starts r^WIDENING times as wide
as the coarser one ended. At 0 points crowd, far from their neighbours; at 0.5, which keeps the density, long edges stay long.
bench/LOG.md has the table."""

SMOOTHINGS = 2
"""Passes in which each vertex moves to the weighted mean of its neighbours."""

WEIGHT_ONE = 65535
"""Weight of the heaviest edge of a coarser level."""


@dataclass(frozen=True)
class Start:
    """First positions, and how they were made."""

    positions: np.ndarray  # float32 (N, n_components)
    level_sizes: tuple[int, ...]  # vertices of each level, the whole graph first
    n_unreached: int  # vertices of the whole graph that no seed reached


@dataclass(frozen=True)
class Pieces:
    """The pieces of the levels that a device holds at a time where it does not hold all: pairs of cells that are sorted together, and bytes
    of a coarse graph."""

    most_pairs: int
    coarse_bytes: int


@dataclass(frozen=True)
class CoarseGraph:
    """The graph of the cells of a level, with the attributes of a `GraphBlock`: one block holds all of it."""

    indptr: np.ndarray  # int64 (M + 1,)
    targets: np.ndarray  # int32 (edges,)
    weights: np.ndarray  # uint16 (edges,)
    first_row: int = 0
    first_edge: int = 0

    @property
    def n_bytes(self) -> int:
        return self.indptr.nbytes + self.targets.nbytes + self.weights.nbytes

    def cuts(self, n_bytes: int) -> list[int]:
        """Rows between which to cut the graph into blocks of at most `n_bytes`, or of one row."""
        ends = 8 * np.arange(len(self.indptr)) + 6 * self.indptr
        cuts = [0]
        while cuts[-1] < len(ends) - 1:
            last = int(np.searchsorted(ends, ends[cuts[-1]] + n_bytes - 8, "right")) - 1
            cuts.append(max(last, cuts[-1] + 1))
        return cuts

    def rows(self, start: int, stop: int) -> "CoarseGraph":
        """A block of these rows."""
        first, last = self.indptr[start], self.indptr[stop]
        edges = self.targets[first:last], self.weights[first:last]
        return CoarseGraph(self.indptr[start : stop + 1] - first, *edges, start, int(first))


@dataclass(frozen=True)
class Coarsening:
    """The vertices of a level gathered in cells, and the graph of the cells."""

    read_blocks: Callable[[], Iterable[tuple]]  # reads the level's own graph onto the backend
    cells: Any  # int32 (n_vertices,), on the backend
    n_vertices: int
    n_unreached: int
    graph: CoarseGraph
    most_bytes: int | None = None  # of two blocks of the coarse graph; None: one block holds all of it

    @property
    def coarse(self) -> list[Callable[[], CoarseGraph]]:
        """The graph of the cells, as one block or, where that is larger than `most_bytes`, as several."""
        if self.most_bytes is None or self.graph.n_bytes <= self.most_bytes:
            return [lambda: self.graph]
        cuts = self.graph.cuts(self.most_bytes // 2)  # one is read while the other is used
        return [partial(self.graph.rows, *cut) for cut in pairwise(cuts)]


def start(
    blocks: Sequence[Callable],
    settings: LayoutSettings,
    backend: epochs.Backend,
    top_positions: Callable[[np.ndarray], np.ndarray],
    advance: Advance = no_advance,
    top: int | None = None,
    pieces: Pieces | None = None,
) -> Start:
    """Makes first positions on the graph of `blocks`, which `epochs.run` takes as well.

    `top_positions` gives the positions of the coarsest level, float32 (M, n_components): it gets one vertex of the graph for
    each of the M cells, int64 (M,) ascending. M is `top` [TOP] to 2 `top`, or less on a small graph. `pieces`: bounds
    for a GPU that does not hold all pairs of cells at once. Advances by N in all, and often by 0.
    """
    n = n_rows = settings.n_vertices
    top = TOP if top is None else top
    vertices, sizes = np.arange(n), [n]
    levels: list[Coarsening] = []
    while n_cells := _n_cells(n, not levels, top):
        seeds = choose_seeds(n, n_cells, settings.seed, len(levels) + 1)
        vertices = vertices[seeds]
        half = 0 if levels else n_rows // 3
        levels.append(_coarsened(levels[-1].coarse if levels else blocks, n, seeds, backend, advance, half, pieces))
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
    blocks: Sequence[Callable],
    n: int,
    seeds: np.ndarray,
    backend: epochs.Backend,
    advance: Advance,
    half: int,
    pieces: Pieces | None,
) -> Coarsening:
    """Gathers the n vertices of a level in cells around the seeds. Advances by `half` twice."""
    read_blocks = epochs.block_reader(blocks, backend)
    cells, n_unreached = _cells(read_blocks, seeds, n, backend, advance)
    advance(half)
    if pieces is None or n * KEPT <= pieces.most_pairs:
        graph = _coarse(read_blocks, cells, n, len(seeds), backend)
    else:
        graph = CoarseGraph(*backend.levels.coarse_graph_in_pieces(read_blocks, cells, len(seeds), pieces.most_pairs))
    advance(half)
    return Coarsening(read_blocks, cells, n, n_unreached, graph, pieces.coarse_bytes if pieces else None)


def _refined(
    positions: np.ndarray, level: Coarsening, settings: LayoutSettings, backend: epochs.Backend, advance: Advance
) -> np.ndarray:
    """Lays out the cells of a level from these positions. Returns the positions at which its vertices start."""
    n_cells = len(positions)
    n_epochs = LEVEL_EPOCHS if n_cells > 2 * TOP else TOP_EPOCHS
    state, on_level = epochs.LayoutState(positions), _on_level(settings, n_cells, n_epochs)
    state = epochs.run(state, n_epochs, level.coarse, on_level, backend, lambda _: advance(0))
    wide = np.float32((level.n_vertices / n_cells) ** WIDENING)
    return _prolonged(state.positions * wide, level.read_blocks, level.cells, backend)


def _n_cells(n: int, is_whole: bool, top: int) -> int:
    """Returns the number of vertices of the next coarser level, 0 if there is none. `is_whole`: the level is the whole graph."""
    if n > 2 * top:
        return min(max(top, n // RATIO), MOST_CELLS)
    return n // RATIO if is_whole and n >= FEW else 0


def _on_level(s: LayoutSettings, n_vertices: int, n_epochs: int) -> LayoutSettings:
    """Adapts the settings of the layout to a coarser level."""
    share = min(1.0, n_vertices / FULL_REPULSION)
    return replace(
        on_graph(s, n_vertices, WEIGHT_ONE, n_epochs),
        learning_rate=HEAT * s.learning_rate, repulsion_strength=share * s.repulsion_strength,
    )  # fmt: skip


def choose_seeds(n: int, n_cells: int, seed: int, level: int) -> np.ndarray:
    """Draws one vertex from each of n_cells equal runs of the n vertices: int64 (n_cells,), ascending."""
    bounds = np.arange(n_cells + 1, dtype=np.int64) * n // n_cells
    at = np.random.Generator(np.random.Philox(key=[seed, 0x1E + (level << 8)])).random(n_cells)
    return bounds[:-1] + (at * np.diff(bounds)).astype(np.int64)


def _cells(read_blocks, seeds: np.ndarray, n: int, backend: epochs.Backend, advance: Advance):
    """Finds the cell of each vertex, int32 (n,) on the backend, and counts the vertices that no seed reached. A component of
    the graph without a seed goes to a random cell, as a whole: no edge ties it to any position."""
    own = np.full(n, -1, np.int32)
    own[seeds] = np.arange(len(seeds), dtype=np.int32)
    cells = _until_still(backend.levels.join_cells, backend.to_device(own), read_blocks, backend, advance)
    lost = cells < 0
    n_lost = int(lost.sum())
    if n_lost:
        roots = _until_still(backend.levels.join_roots, backend.levels.own_numbers(lost), read_blocks, backend, advance)
        cells = backend.levels.scattered(cells, roots, len(seeds))
    return cells, n_lost


def _until_still(one_pass: Callable, values, read_blocks, backend: epochs.Backend, advance: Advance):
    """Repeats a pass over the blocks of the graph until nothing changes, ROUNDS times at most."""
    old, new = values, backend.empty_like(values)
    for _ in range(ROUNDS):
        for first_row, _, *block in read_blocks():
            one_pass(old, new, first_row, *block)
        advance(0)
        if bool((old == new).all()):
            break
        old, new = new, old
    return old


def _coarse(read_blocks, cells, n: int, n_cells: int, backend: epochs.Backend) -> CoarseGraph:
    """Makes the graph of the cells. The edges between two cells are added up and divided by the geometric mean of both cells'
    sums; then the heaviest edge of each cell weighs 1."""
    pairs = backend.levels.no_pairs(cells, n, KEPT)
    for first_row, _, *block in read_blocks():
        backend.levels.heaviest(cells, pairs[first_row:], first_row, *block)
    return CoarseGraph(*backend.levels.coarse_graph(pairs, n_cells))


def _prolonged(positions: np.ndarray, read_blocks, cells, backend: epochs.Backend) -> np.ndarray:
    """Gives each vertex the position of its cell, then smooths."""
    old = backend.levels.of_cells(backend.to_device(positions), cells)
    new = backend.empty_like(old)
    for _ in range(SMOOTHINGS):
        for first_row, _, *block in read_blocks():
            backend.levels.smooth(old, new, first_row, *block)
        old, new = new, old
    return np.array(backend.to_host(old))
