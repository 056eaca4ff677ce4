"""Plans of reading the rows and of reducing them."""

from dataclasses import replace

from streamumap.machine.memory import Footprint
from streamumap.planning.fit import Facts, Held, block_sizes, fit, one_block
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import (
    CONTEXT_BYTES,
    READING_BYTES,
    READING_CONTEXT_BYTES,
    TORCH_HOST_BYTES,
    TORCH_READING_BYTES,
)
from streamumap.reduce import ica, pca
from streamumap.source.base import DEVICE_DTYPES
from streamumap.source.sae import sizes as sae
from streamumap.source.scan.sizes import (
    device_pairs_footprint,
    device_scan_footprint,
    pairs_scan_footprint,
    scan_footprint,
)
from streamumap.source.sparse.csr_rows import csr_footprint


def read(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the first pass over all rows, in which they are checked, encoded by an SAE and made CSR rows, as the job asks."""
    job, on_device, encodes = facts.job, _scans_on_device(facts), _encodes_on_device(facts)
    block_bytes = (64 if on_device else 32) * 2**20
    sizes = block_sizes(max(1, min(job.n_rows, block_bytes // max(job.n_features * job.itemsize, 1))), 1)
    csr = csr_rows_footprint(facts)

    def host(block_rows: int) -> int:
        block = 0 if job.sparse else block_rows * job.n_features * job.itemsize
        others = 0 if job.placed is None else job.n_rows * 9 + scan_bytes(job.placed, block_rows)
        return max(max(_scan(facts, block_rows).host_bytes, others) + csr.host_bytes + block, _encoding_bytes(facts))

    def device(block_rows: int) -> int:
        return _scan(facts, block_rows).device_bytes

    libraries = READING_BYTES
    if facts.on_gpu:
        libraries = TORCH_READING_BYTES if on_device or encodes else TORCH_HOST_BYTES
    overhead = Footprint(libraries, CONTEXT_BYTES if encodes else READING_CONTEXT_BYTES)
    blocks = one_block("block_rows", sizes, host, device if on_device or encodes else None)
    held = held.plus(disk_bytes=csr.disk_bytes)
    stage, held = fit(facts, held, "read", "cuda" if on_device else "numpy", blocks, overhead)
    return stage, held.plus(job.n_rows * 9 + csr.host_bytes + (0 if job.placed is None else job.placed.n_rows * 18))


def _scans_on_device(facts: Facts) -> bool:
    return facts.on_gpu and facts.job.dtype in DEVICE_DTYPES


def _encodes_on_device(facts: Facts) -> bool:
    return facts.on_gpu and bool(facts.job.raw_features)


def _scan(facts: Facts, block_rows: int) -> Footprint:
    """Count the bytes of the pass over the rows that are mapped."""
    job = facts.job
    if not _scans_on_device(facts):
        encoding = sae.cuda(job.raw_features, job.n_features) if _encodes_on_device(facts) else 0
        return Footprint(scan_bytes(job, block_rows), encoding)
    if job.sparse:
        return Footprint(*device_pairs_footprint(job.n_rows, job.n_features, job.n_nonzero or 0, job.itemsize))
    return Footprint(*device_scan_footprint(job.n_rows, job.n_features, job.dtype, block_rows))


def scan_bytes(job: Job, block_rows: int) -> int:
    """Count the host bytes of a pass over the rows on the CPU."""
    if job.sparse:
        return pairs_scan_footprint(job.n_rows, job.n_features, job.itemsize)
    return scan_footprint(job.n_rows, job.n_features, job.itemsize, block_rows)


def _encoding_bytes(facts: Facts) -> int:
    """Count the host bytes of an SAE that encodes the rows, if one does."""
    job = facts.job
    if not job.raw_features:
        return 0
    return (sae.cuda_host if facts.on_gpu else sae.cpu)(job.n_rows, job.raw_features, job.n_features)


def csr_rows_footprint(facts: Facts) -> Footprint:
    """Count the bytes of the CSR rows that stay on the host, in memory or on disk; none where the rows stay dense."""
    job = facts.job
    if job.n_nonzero is None:
        return Footprint()
    sizes = job.n_rows, job.n_features, job.n_nonzero, job.itemsize
    host_bytes, disk_bytes = csr_footprint(*sizes, on_disk=facts.csr_on_disk)
    return Footprint(host_bytes, disk_bytes=disk_bytes)


def reduce(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan PCA, and ICA among its components where that is asked for. Later stages see rows of `reduce_dims` float32 values."""
    job, dims = held.rows, min(facts.params.reduce_dims, held.rows.n_features, held.rows.n_rows)
    independent = facts.params.reduce == "ica"
    searching = ica.footprint(job.n_rows, dims, facts.machine.n_cores) if independent else 0

    def host(block_rows: int) -> int:
        return pca.footprint(job.n_features, dims, block_rows, searching) + block_rows * job.n_features * 8

    def device(block_rows: int) -> int:
        return pca.device_footprint(job.n_features, dims, block_rows, 4)

    sizes = block_sizes(max(1, min(job.n_rows, 8192)), 16)
    blocks = one_block("block_rows", sizes, host, device if facts.on_gpu else None)
    backend = ("cuda" if facts.on_gpu else "numpy") + (" + fastica" if independent else "")
    held = held.plus(disk_bytes=job.n_rows * dims * 4 + (1 + dims) * job.n_features * 8)
    stage, held = fit(facts, held, "reduce", backend, blocks)
    reduced = replace(
        job, n_features=dims, dtype="float32", n_nonzero=None, sparse=False, copied_bytes=0, raw_features=0
    )
    return stage, replace(held.plus(pca.LEFT_BYTES), rows=reduced)
