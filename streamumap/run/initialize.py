"""First positions of the layout, by the method that the user asked for and in the blocks of the plan."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap.errors import InputError
from streamumap.events import Advance
from streamumap.graph.files import Graph, GraphBlock
from streamumap.layout.init import pca
from streamumap.layout.init.levels_sizes import COARSE_DEVICE_BYTES, FEW
from streamumap.layout.init.spectral_sizes import PART_ROWS
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.run.dispatch import Rows
from streamumap.source import open_rows, widen
from streamumap.source.views.normalized import DenseRows


def layout_backend(plan: Plan):
    """The `layout.epochs.Backend` that the plan names; for cuML's layout, the one that makes its first positions."""
    from streamumap.layout import epochs

    if plan.device and plan["layout"].backend != "cpu":
        return epochs.cuda_backend(plan.device)
    return epochs.cpu_backend()


class GraphBlocks:
    """A graph in blocks of rows, for first positions and layout. A block of all rows is read and moved to the device once for both."""

    def __init__(self, graph: Graph, backend):
        self.graph, self.backend = graph, backend
        self._whole: GraphBlock | None = None

    def of(self, block_rows: int) -> list[Callable[[], GraphBlock]]:
        """Functions that read the blocks, in the order of the rows."""
        n = self.graph.n_rows
        if block_rows >= n:
            return [self._on_device]
        self.forget()
        return [partial(self.graph.block, start, min(start + block_rows, n)) for start in range(0, n, block_rows)]

    def forget(self) -> None:
        self._whole = None

    def _on_device(self) -> GraphBlock:
        if self._whole is None:
            block, to_device = self.graph.block(0, self.graph.n_rows), self.backend.to_device
            self._whole = GraphBlock(0, 0, to_device(block.indptr), to_device(block.targets), to_device(block.weights))
        return self._whole


TopPositions = Callable[[np.ndarray], np.ndarray]
"""A function of row numbers int64 (M,), ascending, that returns their positions float32 (M, n_components)."""


def first_positions(
    rows: Rows, plan: Plan, p: Params, blocks: GraphBlocks, settings, advance: Advance, warn: Callable[[str], None]
) -> tuple[np.ndarray, str]:
    """First positions float32 (N, n_components), and a few words about how they were found. `settings`: the layout's.

    Positions given by the user are scaled and used. Otherwise `init` gives positions to the coarsest level of the graph, or to
    the rows themselves where they are few.
    """
    n = rows.original.n_rows
    if p.init.endswith(".npy"):
        positions = _given_positions(p.init, n, p.n_components)
        if np.ptp(positions, axis=0).any():
            return pca.given(positions, p.seed), f"{p.init}, scaled to {pca.WIDTH:g}"
        warn(
            f"--init: {p.init}: all rows have the same position, which says nothing; the default start is used instead."
        )
    with threadpool_limits(1):  # the same sums for any number of threads
        top_positions, how = _first_of_all(rows, plan, p, blocks, settings, lambda _: advance(0), warn)
        return _multilevel(top_positions, how, plan, p, blocks, settings, advance)


def _first_of_all(
    rows: Rows, plan: Plan, p: Params, blocks: GraphBlocks, settings, advance: Advance, warn: Callable[[str], None]
) -> tuple[TopPositions, str]:
    """The positions of the coarsest level, and how they are found. Advances by 0: no row has its position yet."""
    if p.init == "random":
        return (lambda numbers: pca.random(len(numbers), p.n_components, p.seed)), "at random"
    by_pca = partial(_pca, rows, plan, p)
    if p.init == "spectral":
        return _spectral(by_pca, plan, p, blocks, settings, advance, warn)
    return by_pca, "by pca"


def _multilevel(
    top_positions: TopPositions, how: str, plan: Plan, p: Params, blocks: GraphBlocks, settings, advance: Advance
) -> tuple[np.ndarray, str]:
    n = settings.n_vertices
    if n < FEW:
        advance(n)
        return top_positions(np.arange(n)), how
    from streamumap.layout.init import levels

    in_blocks = blocks.of(plan["start"].blocks["block_rows"])
    top = levels.RANDOM_TOP if p.init == "random" else levels.TOP
    pieces, n_pairs = None, plan["start"].blocks.get("piece_pairs")
    if n_pairs:
        pieces = levels.Pieces(n_pairs, n * COARSE_DEVICE_BYTES)
    begun = levels.start(in_blocks, settings, blocks.backend, top_positions, advance, top, pieces)
    said = f"multilevel, {' -> '.join(f'{size:,}' for size in begun.level_sizes)} vertices, the last {how}"
    if begun.n_unreached:
        said += f"; {begun.n_unreached:,} rows in small pieces of the graph start at random places"
    return begun.positions, said


def _pca(rows: Rows, plan: Plan, p: Params, numbers: np.ndarray) -> np.ndarray:
    """Positions along the first principal components of these rows: a `TopPositions`."""
    size, read = plan["start"].blocks["sample_rows"], _reader(rows)
    sample = read(numbers[pca.sample_numbers(len(numbers), size)])
    parts = pca.blocks(lambda a, b: read(numbers[a:b]), len(numbers), size)
    return pca.pca(parts, sample, rows.searched.n_features, p.n_components, p.seed)


def _spectral(
    by_pca: TopPositions,
    plan: Plan,
    p: Params,
    blocks: GraphBlocks,
    settings,
    advance: Advance,
    warn: Callable[[str], None],
) -> tuple[TopPositions, str]:
    """Positions along the graph's eigenvectors. Where the graph has several components, each is laid out along its own eigenvectors,
    around the position that the default start gives it."""
    from streamumap.graph.components import roots_and_degrees
    from streamumap.layout.epochs import block_reader
    from streamumap.layout.init import spectral

    n, graph = settings.n_vertices, blocks.graph
    parts = spectral.split(*roots_and_degrees(graph, PART_ROWS), p.n_components)
    read_blocks = block_reader(blocks.of(n if n < FEW else plan["start"].blocks["block_rows"]), blocks.backend)
    found = spectral.solve(read_blocks, parts, p.n_components, graph.n_edges, p.seed, blocks.backend, advance)
    said = f"along eigenvectors after {found.n_products:,} products"
    if not found.converged:
        warn(
            f"--init spectral: no eigenvectors after {found.n_products:,} products with the graph, whose smallest eigenvalues lie "
            "too close together (long chains of rows have such); the default start is used instead."
        )
        return by_pca, "by pca"
    vectors = found.vectors
    if len(parts.order) < n or parts.n_parts > 1:
        others, _ = _multilevel(by_pca, "by pca", plan, p, blocks, settings, advance)
        vectors = spectral.apart(found, parts, others)
        said += f", {parts.n_parts:,} of the graph's pieces each along its own"
    positions = pca.center_and_jitter(vectors, p.n_components, p.seed)
    return (lambda numbers: positions[numbers]), said


def _given_positions(path: str, n_rows: int, n_components: int) -> np.ndarray:
    """Reads the user's positions, float64 (N, n_components). Raises InputError."""
    source = open_rows(path)
    if (source.n_rows, source.n_features) != (n_rows, n_components):
        found = f"{source.n_rows} x {source.n_features}"
        raise InputError(
            f"--init: {path}: expected {n_rows} x {n_components} positions, found {found}; give one position for each row."
        )
    stored = source.read(0, n_rows)
    positions = (stored if source.dtype == "float64" else widen(stored, source.dtype)).astype(np.float64)
    source.close()
    if not np.isfinite(positions).all():
        raise InputError(f"--init: {path}: expected finite positions, found NaN or Inf; replace them.")
    return positions


def _reader(rows: Rows) -> Callable[[np.ndarray], Any]:
    """A function that reads rows by number (int64, ascending) as a matrix, as they are compared."""
    csr, unit = rows.csr, rows.metric.unit
    if csr is not None:
        return lambda numbers: _sparse(csr.take(numbers), csr.n_features, unit)
    return DenseRows(rows.searched, unit=unit).take


def _sparse(rows, n_features: int, unit: bool):
    """CSR rows as a SciPy matrix."""
    import scipy.sparse

    indptr, indices, values = rows
    matrix = scipy.sparse.csr_matrix((values, indices.astype(np.int32), indptr), shape=(len(indptr) - 1, n_features))
    if unit:
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1), np.float64)).ravel()
        matrix = scipy.sparse.diags(1.0 / np.where(norms > 0, norms, 1.0)).astype(np.float32) @ matrix
    return matrix.tocsr()
