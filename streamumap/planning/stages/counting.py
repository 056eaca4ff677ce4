"""Bytes of counting, for some sampled rows, how many rows lie closer than given ones."""

from streamumap.neighbors.cuda import passing_sizes
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.neighbors.dense import sizes as dense
from streamumap.neighbors.sparse import sizes as sparse
from streamumap.planning.fit import Facts, Held, Shape
from streamumap.planning.job import SEARCH_ROWS
from streamumap.source.base import pinned_bytes


def count_host_bytes(facts: Facts, held: Held, n_others: int, block_rows: int, n_sample: int = SEARCH_ROWS) -> int:
    """Count the host bytes of `dispatch.count_closer` for `n_sample` rows and `n_others` of each."""
    job, rows = facts.job, held.rows
    if facts.on_gpu:
        return 0 if facts.as_csr else pinned_bytes(min(block_rows, job.n_rows), job.n_features, job.dtype)
    if rows.n_nonzero is None:
        return count_dense_bytes(facts, n_others, block_rows, n_sample)
    sizes = rows.n_rows, rows.n_features, rows.n_nonzero, min(n_sample, rows.n_rows), n_others, block_rows
    return sparse.count_closer(*sizes, facts.machine.n_cores)


def count_dense_bytes(facts: Facts, n_others: int, block_rows: int, n_sample: int = SEARCH_ROWS) -> int:
    """Count the host bytes for dense rows on the CPU. Ranks are counted among the rows as they came, not the reduced ones."""
    job = facts.job
    return dense.count_closer(min(n_sample, job.n_rows), n_others, job.n_features, job.itemsize, block_rows)


def count_device_bytes(facts: Facts, n_others: int, block_rows: int, n_sample: int = SEARCH_ROWS) -> int:
    """Count the device bytes of `dispatch.count_closer` for `n_sample` rows and `n_others` of each."""
    size = min(n_sample, facts.job.n_rows)
    if facts.as_csr:
        return cuda.count_closer_csr(size, n_others)
    return cuda.count_closer(size, n_others, facts.job.n_features, block_rows)


def csr_device_bytes(held: Held) -> int:
    """Count the bytes of the CSR rows that stay on the device; 0 where the rows are dense."""
    rows = held.rows
    if rows.n_nonzero is None:
        return 0
    return cuda.csr_rows(rows.n_rows, rows.n_features, rows.n_nonzero, rows.dtype)


def passes(facts: Facts, held: Held) -> list[Shape]:
    """List the ways in which rows are on a GPU: all of those without their zeros, which stay, or these passing by; else as they came."""
    if not facts.on_gpu or held.rows.n_nonzero is None:
        return [{}]
    return [{}, *({"pass_rows": size} for size in passing_sizes.pass_sizes(held.rows.n_rows))]


def passing_bytes(held: Held, n_sample: int, shape: Shape) -> int:
    """Count the device bytes of rows without their zeros that pass by, beside `n_sample` of them."""
    rows = held.rows
    return passing_sizes.device(
        rows.n_rows, rows.n_features, rows.n_nonzero or 0, rows.dtype, n_sample, shape["pass_rows"]
    )
