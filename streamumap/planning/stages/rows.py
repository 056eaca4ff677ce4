"""Reading the rows, and reducing them."""

from dataclasses import replace

from streamumap.planning.fit import BudgetFit, powers
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import (
    CONTEXT_BYTES,
    READING_BYTES,
    READING_CONTEXT_BYTES,
    TORCH_HOST_BYTES,
    TORCH_READING_BYTES,
)
from streamumap.source.base import DEVICE_DTYPES
from streamumap.source.sae import sizes as encoding


def read(f: BudgetFit) -> StagePlan:
    from streamumap.source.scan.sizes import device_pairs_footprint, device_scan_footprint

    job, working = f.job, f.host_base
    on_device = f.gpu is not None and job.dtype in DEVICE_DTYPES
    block_bytes = (64 if on_device else 32) * 2**20
    sizes = powers(max(1, min(job.n_rows, block_bytes // max(job.n_features * job.itemsize, 1))), 1)
    encodes = f.gpu is not None and bool(job.raw_features)

    def first(block_rows: int) -> tuple[int, int]:
        if on_device and job.sparse:
            return device_pairs_footprint(job.n_rows, job.n_features, job.n_nonzero or 0, job.itemsize)
        if on_device:
            return device_scan_footprint(job.n_rows, job.n_features, job.dtype, block_rows)
        return scanning(job, block_rows), encoding.cuda(job.raw_features, job.n_features) if encodes else 0

    def host(block_rows: int) -> int:
        block_bytes = 0 if job.sparse else block_rows * job.n_features * job.itemsize
        others = 0 if job.placed is None else job.n_rows * 9 + scanning(job.placed, block_rows)
        return max(max(first(block_rows)[0], others) + csr + block_bytes, _encoding(f))

    csr = csr_bytes(f)
    f.host_base = READING_BYTES
    if f.gpu:
        f.host_base = TORCH_READING_BYTES if on_device or encodes else TORCH_HOST_BYTES
    f.context_bytes = CONTEXT_BYTES if encodes else READING_CONTEXT_BYTES
    stage = f.solve(
        "read", "cuda" if on_device else "numpy", "block_rows", sizes,
        host, (lambda b: first(b)[1]) if on_device or encodes else None,
    )  # fmt: skip
    f.host_base = working + job.n_rows * 9 + csr + (0 if job.placed is None else job.placed.n_rows * 18)
    f.context_bytes = CONTEXT_BYTES
    return stage


def scanning(job: Job, block_rows: int) -> int:
    """Host bytes of a pass over the rows on the CPU."""
    from streamumap.source.scan.sizes import pairs_scan_footprint, scan_footprint

    if job.sparse:
        return pairs_scan_footprint(job.n_rows, job.n_features, job.itemsize)
    return scan_footprint(job.n_rows, job.n_features, job.itemsize, block_rows)


def _encoding(f: BudgetFit) -> int:
    job = f.job
    if not job.raw_features:
        return 0
    return (encoding.cuda_host if f.gpu else encoding.cpu)(job.n_rows, job.raw_features, job.n_features)


def csr_bytes(f: BudgetFit) -> int:
    """Of the packed rows that stay in memory."""
    job = f.job
    if job.n_nonzero is None:
        return 0
    from streamumap.source.sparse.csr_rows import csr_footprint

    host, disk = csr_footprint(job.n_rows, job.n_features, job.n_nonzero, job.itemsize, on_disk=f.csr_on_disk)
    f.disk = max(f.disk, disk + f.kept_bytes)
    return host


def reduce(f: BudgetFit) -> StagePlan:
    from streamumap.reduce import ica, pca

    job, dims = f.job, min(f.params.reduce_dims, f.job.n_features, f.job.n_rows)
    sizes = powers(max(1, min(job.n_rows, 8192)), 16)
    independent = f.params.reduce == "ica"
    f.disk += job.n_rows * dims * 4 + (1 + dims) * job.n_features * 8

    def host(block_rows: int) -> int:
        block_bytes = block_rows * job.n_features * 8
        searching = ica.footprint(job.n_rows, dims, f.machine.n_cores) if independent else 0
        return pca.footprint(job.n_features, dims, block_rows, searching) + block_bytes

    stage = f.solve(
        "reduce", ("cuda" if f.gpu else "numpy") + (" + fastica" if independent else ""), "block_rows", sizes, host,
        (lambda b: pca.device_footprint(job.n_features, dims, b, 4)) if f.gpu else None,
    )  # fmt: skip
    f.host_base += pca.LEFT_BYTES
    f.job = replace(job, n_features=dims, dtype="float32", n_nonzero=None, sparse=False, copied_bytes=0, raw_features=0)
    return stage
