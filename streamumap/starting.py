"""Where points start, and the graph by blocks for start and layout: as the plan says."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap import initial
from streamumap.backends import Rows, on_device
from streamumap.errors import InputError
from streamumap.events import Tick
from streamumap.graph.files import Graph, GraphBlock
from streamumap.layout.footprint import TOP
from streamumap.params import Params
from streamumap.plans import Plan
from streamumap.source import open_rows, widen
from streamumap.source.rows import DenseRows


def layout_backend(plan: Plan):
    """The `layout.run.Backend` that the plan names; for cuML's layout, the one that makes its start."""
    from streamumap.layout import run

    if plan.device and plan["layout"].backend != "cpu":
        return run.cuda_backend(plan.device)
    return run.cpu_backend()


class GraphBlocks:
    """A graph by blocks of its rows, for start and layout. A block that is all of it is read and placed once for both."""

    def __init__(self, graph: Graph, backend):
        self.graph, self.backend = graph, backend
        self._whole: GraphBlock | None = None

    def of(self, block_rows: int) -> list[Callable[[], GraphBlock]]:
        """Functions that read the blocks, in order."""
        n = self.graph.n_rows
        if block_rows >= n:
            return [self._placed]
        self.forget()
        return [partial(self.graph.block, start, min(start + block_rows, n)) for start in range(0, n, block_rows)]

    def forget(self) -> None:
        self._whole = None

    def _placed(self) -> GraphBlock:
        if self._whole is None:
            block, place = self.graph.block(0, self.graph.n_rows), self.backend.place
            self._whole = GraphBlock(0, 0, place(block.indptr), place(block.targets), place(block.weights))
        return self._whole


def first_positions(
    rows: Rows, plan: Plan, p: Params, blocks: GraphBlocks, settings, tick: Tick
) -> tuple[np.ndarray, str]:
    """float32 (N, n_components), and in a few words how they were found. `settings`: the layout's."""
    n = rows.original.n_rows
    if p.init.endswith(".npy"):
        return _given_positions(p.init, n, p.n_components), p.init
    if p.init == "random":
        return initial.random(n, p.n_components, p.seed), "random"
    if p.init == "spectral":
        return initial.spectral(lambda: iter([(0, _graph_matrix(blocks.graph))]), n, p.n_components, p.seed), "spectral"
    with threadpool_limits(1):  # the same sums for any number of threads
        if p.init == "pca" or n <= 2 * TOP:
            return _pca(rows, plan, p, tick), "pca"
        from streamumap.layout import levels

        def place_top(numbers: np.ndarray) -> np.ndarray:
            size = plan["start"].blocks["sample_rows"]
            read = _reader(rows, rows.metric)
            sample = read(numbers[initial.sample_numbers(len(numbers), size)])
            parts = initial.blocks(lambda a, b: read(numbers[a:b]), len(numbers), size)
            return initial.pca(parts, sample, rows.searched.n_features, p.n_components, p.seed)

        in_blocks = blocks.of(plan["start"].blocks["block_rows"])
        begun = levels.start(in_blocks, settings, blocks.backend, place_top, tick)
    said = f"multilevel, {' -> '.join(f'{size:,}' for size in begun.level_sizes)} vertices, the last by pca"
    if begun.n_unreached:
        said += f"; {begun.n_unreached:,} rows in small pieces of the graph start at random places"
    return begun.positions, said


def _pca(rows: Rows, plan: Plan, p: Params, tick: Tick) -> np.ndarray:
    n, blocks = rows.original.n_rows, plan["start"].blocks
    sample = _reader(rows, rows.metric)(initial.sample_numbers(n, blocks["sample_rows"]))
    if plan.device is None:
        parts = _ahead(_block_reader(rows, rows.metric), n, blocks["block_rows"], plan.machine.n_cores, tick)
        return initial.pca(parts, sample, rows.searched.n_features, p.n_components, p.seed)
    from streamumap.neighbors import cuda

    along, offset = initial.directions(sample, rows.searched.n_features, p.n_components, p.seed)
    with on_device(rows, plan, blocks["block_rows"]) as there:
        projected = cuda.project(there, along, other_rows=blocks["block_rows"], tick=tick)
    return initial.placed(projected - offset, p.n_components, p.seed)


def _given_positions(path: str, n_rows: int, n_components: int) -> np.ndarray:
    source = open_rows(path)
    if (source.n_rows, source.n_features) != (n_rows, n_components):
        found = f"{source.n_rows} x {source.n_features}"
        raise InputError(
            f"--init: {path}: expected {n_rows} x {n_components} positions, found {found}; give one position for each row."
        )
    positions = widen(source.read(0, n_rows), source.dtype)
    source.close()
    if not np.isfinite(positions).all():
        raise InputError(f"--init: {path}: expected finite positions, found NaN or Inf; replace them.")
    return positions


def _reader(rows: Rows, metric: str) -> Callable[[np.ndarray], Any]:
    """A function that gives the rows of some numbers (int64, ascending) as a matrix, of rows of length 1 for cosine."""
    packed = rows.packed
    if packed is not None:
        return lambda numbers: _sparse(packed.take(numbers), packed.n_features, metric)
    return DenseRows(rows.searched, metric).take


def _block_reader(rows: Rows, metric: str) -> Callable[[int, int], Any]:
    """The same for rows start..stop."""
    packed = rows.packed
    if packed is not None:
        return lambda start, stop: _sparse(packed.block(start, stop), packed.n_features, metric)
    return DenseRows(rows.searched, metric).block


def _ahead(read, n_rows: int, block_rows: int, n_threads: int, tick: Tick) -> Iterator[tuple[int, object]]:
    """(start, read(start, stop)) over all rows in order, `n_threads` blocks in memory at a time. One tick a row."""
    waiting: deque = deque()

    def next_block():
        first, block = waiting.popleft()
        yield first, block.result()
        tick(min(block_rows, n_rows - first))

    with ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, n_rows, block_rows):
            waiting.append((start, pool.submit(read, start, min(start + block_rows, n_rows))))
            if len(waiting) == n_threads:
                yield from next_block()
        while waiting:
            yield from next_block()


def _sparse(rows, n_features: int, metric: str):
    """Packed rows as a scipy matrix."""
    import scipy.sparse

    indptr, indices, values = rows
    matrix = scipy.sparse.csr_matrix((values, indices.astype(np.int32), indptr), shape=(len(indptr) - 1, n_features))
    if metric == "cosine":
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1), np.float64)).ravel()
        matrix = scipy.sparse.diags(1.0 / np.where(norms > 0, norms, 1.0)).astype(np.float32) @ matrix
    return matrix.tocsr()


def _graph_matrix(graph):
    import scipy.sparse

    block = graph.block(0, graph.n_rows)
    return scipy.sparse.csr_matrix(
        (block.weights.astype(np.float32), block.targets, block.indptr), shape=(graph.n_rows, graph.n_rows)
    )
