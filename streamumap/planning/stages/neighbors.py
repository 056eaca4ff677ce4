"""The k-NN graph, and the ranks by which it and the map are measured."""

from dataclasses import replace

from streamumap.errors import InputError
from streamumap.neighbors import cuvs_sizes as cuvs
from streamumap.neighbors import given
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.neighbors.dense import sizes as dense
from streamumap.neighbors.sparse import sizes as sparse
from streamumap.planning.fit import BudgetFit, Shape, powers
from streamumap.planning.job import SEARCH_ROWS, StagePlan
from streamumap.planning.overheads import (
    APPROXIMATE,
    COMPILING_BYTES,
    DENSE,
    PACKED,
    TORCH_EXACT_BYTES,
    TORCH_WORKING_BYTES,
)
from streamumap.source.base import pinned_bytes


def neighbors(f: BudgetFit) -> StagePlan:
    ways = {
        "given": _given,
        "packed": _sparse,
        "dense": _dense,
        "cuda": _cuda,
        "cuvs": _cuvs,
    }
    backend = _backend(f)
    if not f.gpu:
        f.compile(PACKED if f.as_csr else DENSE)
    return ways[backend](f)


def _backend(f: BudgetFit) -> str:
    """Rows of which the zeros are not counted yet are planned as dense, whatever is asked for."""
    wanted = f.params.neighbors
    if f.job.knn_columns:
        return "given"
    if wanted in ("cuda", "cuvs") and not f.gpu:
        raise InputError(
            f"--neighbors: {wanted} needs a GPU and this is a CPU run; use --neighbors auto or --device cuda."
        )
    if wanted in ("packed", "dense") and f.gpu:
        raise InputError(
            f"--neighbors: {wanted} searches on the CPU and this is a GPU run; use --neighbors auto or --device cpu."
        )
    if f.gpu:
        return "cuvs" if wanted == "cuvs" else "cuda"
    return "packed" if f.as_csr else "dense"


def _given(f: BudgetFit) -> StagePlan:
    """Nothing is searched: the graph is copied, and its recall measured."""
    job, k = f.job, f.params.n_neighbors
    return f.solve(
        "neighbors", "given", "block_rows", powers(min(job.n_rows, 16_384), min(job.n_rows, 64)),
        lambda b: max(given.host_bytes(job.knn_columns, job.n_features, k, b), ranking(f, k - 1, b)),
        (lambda b: device_rows(f) + counting(f, k - 1, b)) if f.gpu else None,
    )  # fmt: skip


def _sparse(f: BudgetFit) -> StagePlan:
    """By cells where there are enough rows and they fit, else all with all."""
    job, k, threads = f.job, f.params.n_neighbors, f.machine.n_cores
    n_nonzero = job.n_nonzero or 0
    exhaustive = f.params.recall >= 1 or job.n_rows <= sparse.EXHAUSTIVE_ROWS
    shapes = [
        {"query_rows": query, "batch_rows": batch}
        for batch in ([0] if exhaustive else [sparse.BATCH_ROWS, 0])
        for query in powers(min(job.n_rows, 8192), 64)
    ]

    def host(shape: Shape) -> int:
        return sparse.search(job.n_rows, job.n_features, n_nonzero, k, **shape, n_sample=SEARCH_ROWS, n_threads=threads)

    compiling = 2 * COMPILING_BYTES
    stage = f.fit("neighbors", "packed", shapes, lambda shape: host(shape) + (compiling if shape["batch_rows"] else 0))
    if stage.blocks["batch_rows"]:
        before = f.spared_bytes
        f.compile(APPROXIMATE, compiling)
        spared = f.spared_bytes - before
        stage = replace(stage, predicted=replace(stage.predicted, host_bytes=stage.predicted.host_bytes - spared))
    return stage


def _dense(f: BudgetFit) -> StagePlan:
    """The graph found so far is measured in between, by blocks of no more rows than a cell has."""
    job, k, threads = f.job, f.params.n_neighbors, f.machine.n_cores
    n, d = job.n_rows, job.n_features
    least = min(n, dense.least_rows(k))
    return f.solve(
        "neighbors", "dense", "cell_rows", [*powers(min(n, 4096), least), least],
        lambda b: max(dense.search(n, d, job.itemsize, k, b, threads), dense.held(n, d, k, b) + _counting_dense(f, k - 1, b)),
    )  # fmt: skip


def _counting_dense(f: BudgetFit, n_others, block_rows, n_sample=SEARCH_ROWS) -> int:
    """Ranks are counted in the rows as they came, reduced or not."""
    rows = f.original
    return dense.count_closer(min(n_sample, rows.n_rows), n_others, rows.n_features, rows.itemsize, block_rows)


def ranking(f: BudgetFit, n_others, block_rows, n_sample=SEARCH_ROWS) -> int:
    """Host bytes of `backends.count_closer` for `n_sample` rows and `n_others` of each."""
    job, rows = f.job, f.original
    if f.gpu:
        return 0 if f.as_csr else pinned_bytes(min(block_rows, rows.n_rows), rows.n_features, rows.dtype)
    if job.n_nonzero is None:
        return _counting_dense(f, n_others, block_rows, n_sample)
    sizes = job.n_rows, job.n_features, job.n_nonzero, min(n_sample, job.n_rows), n_others, block_rows
    return sparse.count_closer(*sizes, f.machine.n_cores)


def counting(f: BudgetFit, n_others, block_rows, n_sample=SEARCH_ROWS) -> int:
    """Device bytes of the same."""
    size = min(n_sample, f.job.n_rows)
    if f.as_csr:
        return cuda.count_closer_csr(size, n_others)
    return cuda.count_closer(size, n_others, f.original.n_features, block_rows)


def _cuda(f: BudgetFit) -> StagePlan:
    """All rows on the device where they fit, else as many query rows as do. What is approximate may end with all with
    all, so both are counted."""
    job, k = f.job, f.params.n_neighbors
    approximate = not cuda.is_exhaustive(job.n_rows, job.n_features, k, f.params.recall)

    def exact(shape: Shape) -> int:
        query, other = shape["query_rows"], shape["other_rows"]
        return cuda.exhaustive(job.n_features, job.dtype, k, query, other, resident=query == job.n_rows)

    def way(shape: Shape) -> int:
        blocks = shape["chunk_rows"], shape["query_rows"], shape["other_rows"]
        return cuda.approximate(job.n_rows, job.n_features, k, job.dtype, f.as_csr, *blocks)

    least = min(job.n_rows, 2_048)
    shapes = [
        {"query_rows": query, "other_rows": other, "chunk_rows": other if approximate else 0}
        for query in powers(min(job.n_rows, 131_072) if f.as_csr else job.n_rows, least)
        for other in (65_536, 16_384, 4_096, 1_024)
    ]
    if approximate and f.as_csr:  # all with all, should it come to that, gets no more than the way around it takes
        shapes = [s for s in shapes if exact(s) <= way(s)] or shapes[-1:]

    def host(shape: Shape) -> int:
        staged = 0 if f.as_csr else shape["other_rows"]
        spared = 0 if approximate else TORCH_WORKING_BYTES - TORCH_EXACT_BYTES
        return cuda.host(job.n_rows, job.n_features, job.dtype, k, staged) - spared

    def device(shape: Shape) -> int:
        search = max(exact(shape), way(shape) if approximate else 0)
        return device_rows(f) + max(search, counting(f, k - 1, shape["other_rows"]))

    return f.fit("neighbors", "cuda", shapes, host, device)


def _cuvs(f: BudgetFit) -> StagePlan:
    """cuVS first, which wants all rows on both sides; then its neighbours are measured."""
    job, k = f.job, f.params.n_neighbors
    n, d = job.n_rows, job.n_features
    shapes = [
        {"query_rows": query, "other_rows": other}
        for query in powers(min(n, 131_072) if f.as_csr else n, min(n, 2_048))
        for other in (65_536, 16_384, 4_096, 1_024)
    ]

    def host(shape: Shape) -> int:
        staged = 0 if f.as_csr else pinned_bytes(min(shape["other_rows"], n), d, job.dtype)
        return cuvs.host(n, d, k) + staged

    def device(shape: Shape) -> int:
        blocks = shape["query_rows"], shape["other_rows"]
        measuring = cuvs.measuring(n, d, k, job.dtype, f.as_csr, *blocks)
        ranking_bytes = counting(f, k - 1, shape["other_rows"])
        return max(cuvs.device(n, d, k), device_rows(f) + max(measuring, ranking_bytes))

    return f.fit("neighbors", "cuvs", shapes, host, device)


def device_rows(f: BudgetFit) -> int:
    """Of packed rows that stay on the device."""
    job = f.job
    if job.n_nonzero is None:
        return 0
    return cuda.csr_rows(job.n_rows, job.n_features, job.n_nonzero, job.dtype)
