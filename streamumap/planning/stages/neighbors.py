"""Plans of the search for the k-NN graph, which measures its own recall, for each backend."""

from dataclasses import replace

from streamumap.errors import InputError
from streamumap.neighbors import cuvs_sizes as cuvs
from streamumap.neighbors import given
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.neighbors.dense import sizes as dense
from streamumap.neighbors.metric import named
from streamumap.neighbors.sparse import sizes as sparse
from streamumap.planning.fit import Blocks, Facts, Held, Shape, block_sizes, fit, hold_kernels, one_block, spare, spend
from streamumap.planning.job import SEARCH_ROWS, StagePlan
from streamumap.planning.overheads import (
    COMPILING_BYTES,
    DENSE_KERNELS,
    SPARSE_APPROXIMATE_KERNELS,
    SPARSE_KERNELS,
    TORCH_EXACT_BYTES,
    TORCH_WORKING_BYTES,
)
from streamumap.planning.stages.counting import (
    count_dense_bytes,
    count_device_bytes,
    count_host_bytes,
    csr_device_bytes,
)
from streamumap.source.base import pinned_bytes

WINDOW = 3
"""Rows of a window for each row of its group."""

OTHER_ROWS = (65_536, 16_384, 4_096, 1_024)
"""Rows with which a block of query rows is compared at once on a GPU."""


def search(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the search by the backend that the options and the machine decide. Raises InputError where they contradict, or where
    the backend does not have the metric."""
    backends = {"given": _given, "packed": _sparse, "dense": _dense, "cuda": _cuda, "cuvs": _cuvs}
    backend = _backend(facts)
    if backend != "given":
        named(facts.params.metric).check(backend)
    if not facts.on_gpu:
        held = hold_kernels(facts, held, SPARSE_KERNELS if facts.as_csr else DENSE_KERNELS)
    return backends[backend](facts, held)


def _backend(facts: Facts) -> str:
    """Choose the backend. Rows whose zeros are not counted yet are planned as dense, whatever is asked for."""
    option = facts.params.neighbors
    if facts.job.knn_columns:
        return "given"
    if option in ("cuda", "cuvs") and not facts.on_gpu:
        raise InputError(
            f"--neighbors: {option} needs a GPU and this is a CPU run; use --neighbors auto or --device cuda."
        )
    if option in ("packed", "dense") and facts.on_gpu:
        raise InputError(
            f"--neighbors: {option} searches on the CPU and this is a GPU run; use --neighbors auto or --device cpu."
        )
    if facts.on_gpu:
        return "cuvs" if option == "cuvs" else "cuda"
    return "packed" if facts.as_csr else "dense"


def _given(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan no search: the graph that the user gives is copied, and its recall measured."""
    rows, k = held.rows, facts.params.n_neighbors

    def host(block_rows: int) -> int:
        copying = given.host_bytes(rows.knn_columns, rows.n_features, k, block_rows)
        return max(copying, count_host_bytes(facts, held, k - 1, block_rows))

    def device(block_rows: int) -> int:
        return csr_device_bytes(held) + count_device_bytes(facts, k - 1, block_rows)

    sizes = block_sizes(min(rows.n_rows, 16_384), min(rows.n_rows, 64))
    blocks = one_block("block_rows", sizes, host, device if facts.on_gpu else None)
    return fit(facts, held, "neighbors", "given", blocks)


def _sparse(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan a search by cells where there are enough rows and they fit (`batch_rows` > 0), else an exhaustive one."""
    rows, k, threads = held.rows, facts.params.n_neighbors, facts.machine.n_cores
    exhaustive = facts.exhaustive or facts.params.recall >= 1 or rows.n_rows <= sparse.EXHAUSTIVE_ROWS
    compiling = 2 * COMPILING_BYTES

    def host(shape: Shape) -> int:
        sizes = rows.n_rows, rows.n_features, rows.n_nonzero or 0, k
        searching = sparse.search(*sizes, **shape, n_sample=SEARCH_ROWS, n_threads=threads)
        return searching + (compiling if shape["batch_rows"] else 0)

    shapes = [
        {"query_rows": query, "batch_rows": batch}
        for batch in ([0] if exhaustive else [sparse.BATCH_ROWS, 0])
        for query in block_sizes(min(rows.n_rows, 8192), 64)
    ]
    stage, held = fit(facts, held, "neighbors", "packed", Blocks(shapes, host))
    if not stage.blocks["batch_rows"]:
        return stage, held
    compiled = hold_kernels(facts, held, SPARSE_APPROXIMATE_KERNELS, compiling)
    return spare(stage, compiled.spared_bytes - held.spared_bytes), compiled


def _dense(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan a search by cells, whose recall is measured between its rounds in blocks of at most the rows of a cell."""
    rows, k, threads = held.rows, facts.params.n_neighbors, facts.machine.n_cores
    n, d = rows.n_rows, rows.n_features

    def host(cell_rows: int) -> int:
        measuring = dense.held(n, d, k, cell_rows) + count_dense_bytes(facts, k - 1, cell_rows)
        return max(dense.search(n, d, rows.itemsize, k, cell_rows, threads), measuring)

    least = min(n, dense.least_rows(k))
    blocks = one_block("cell_rows", [*block_sizes(min(n, 4096), least), least], host)
    stage, held = fit(facts, held, "neighbors", "dense", blocks)
    return stage, replace(held, cell_rows=stage.blocks["cell_rows"])


def _cuda(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan a search with all rows on the device where they fit, without their zeros or as sketches; else with a window of them. An approximate
    search may end in an exhaustive one, so both are counted."""
    rows, k, as_csr = held.rows, facts.params.n_neighbors, facts.as_csr
    n, d, dtype = rows.n_rows, rows.n_features, rows.dtype
    approximate = not cuda.is_exhaustive(n, d, k, facts.params.recall)

    def exact_bytes(shape: Shape) -> int:
        query, other = shape["query_rows"], shape["other_rows"]
        return cuda.exhaustive(d, dtype, k, query, other, resident=query == n)

    def approximate_bytes(shape: Shape) -> int:
        return cuda.approximate(n, d, k, dtype, as_csr, shape["chunk_rows"], shape["query_rows"], shape["other_rows"])

    def host(shape: Shape) -> int:
        without_solver = 0 if approximate else TORCH_WORKING_BYTES - TORCH_EXACT_BYTES
        if shape["window_rows"]:
            return _passing(held, k, shape).host()
        staged = 0 if as_csr else shape["other_rows"]
        return cuda.host(n, d, dtype, k, staged) - without_solver

    def device(shape: Shape) -> int:
        if shape["window_rows"]:
            deciding = 0 if as_csr else _passing(held, k, shape).deciding(shape["query_rows"])
            return max(_passing(held, k, shape).device(), deciding, exact_bytes(shape))  # counts as the quality stage
        counting = count_device_bytes(facts, k - 1, shape["other_rows"])
        searching = max(exact_bytes(shape), approximate_bytes(shape) if approximate else 0)
        return csr_device_bytes(held) + max(searching, counting)

    shapes = [shape | {"chunk_rows": shape["other_rows"] if approximate else 0} for shape in _tiles(facts, n)]
    if (
        approximate and as_csr
    ):  # the exhaustive search, should it come to that, gets no more than the approximate one takes
        shapes = [shape for shape in shapes if exact_bytes(shape) <= approximate_bytes(shape)] or shapes[-1:]
    shapes = [shape | {"group_rows": 0, "window_rows": 0} for shape in shapes]
    if approximate:
        shapes += _windows(facts, held)
    stage, left = fit(facts, held, "neighbors", "cuda", Blocks(shapes, host, device))
    if stage.blocks["window_rows"]:
        stage = spend(stage, _passing(held, k, stage.blocks).disk())
    return stage, left


def _windows(facts: Facts, held: Held) -> list[Shape]:
    """List the windows of a search while rows pass by: the largest groups first, with fewer candidates at a time where they are small. As many
    query rows decide, or compare all with all, as fit in what the windows take."""
    rows, k, out = held.rows, facts.params.n_neighbors, []
    for other in OTHER_ROWS:
        parts = 2
        while rows.n_rows // parts >= min(4 * other, rows.n_rows // 2):
            group = rows.n_rows // parts
            shape = {"other_rows": other, "chunk_rows": other, "group_rows": group, "window_rows": WINDOW * group}
            sizes = _passing(held, k, shape)
            most = sizes.device()
            query = sizes.decide_rows(most) if rows.n_nonzero is None else min(rows.n_rows, 131_072)
            while query > 2_048 and cuda.exhaustive(rows.n_features, rows.dtype, k, query, other, False) > most:
                query //= 2
            out.append({"query_rows": query} | shape)
            parts += -(-parts // 4)
    return out


def _passing(held: Held, k: int, shape: Shape) -> cuda.Passing:
    rows = held.rows
    sizes = (shape[name] for name in ("group_rows", "window_rows", "chunk_rows", "other_rows"))
    return cuda.Passing(rows.n_rows, rows.n_features, rows.n_nonzero, rows.dtype, k, *sizes)


def _cuvs(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan a search by cuVS, which holds all rows on the host and on the device; then its recall is measured."""
    rows, k, as_csr = held.rows, facts.params.n_neighbors, facts.as_csr
    n, d = rows.n_rows, rows.n_features

    def host(shape: Shape) -> int:
        staged = 0 if as_csr else pinned_bytes(min(shape["other_rows"], n), d, rows.dtype)
        return cuvs.host(n, d, k) + staged

    def device(shape: Shape) -> int:
        measuring = cuvs.measuring(n, d, k, rows.dtype, as_csr, shape["query_rows"], shape["other_rows"])
        counting = count_device_bytes(facts, k - 1, shape["other_rows"])
        return max(cuvs.device(n, d, k), csr_device_bytes(held) + max(measuring, counting))

    return fit(facts, held, "neighbors", "cuvs", Blocks(_tiles(facts, n), host, device))


def _tiles(facts: Facts, n_rows: int) -> list[Shape]:
    """List the blocks of query rows, and of the rows that they are compared with, on a GPU."""
    most_queries = min(n_rows, 131_072) if facts.as_csr else n_rows
    return [
        {"query_rows": query, "other_rows": other}
        for query in block_sizes(most_queries, min(n_rows, 2_048))
        for other in OTHER_ROWS
    ]
