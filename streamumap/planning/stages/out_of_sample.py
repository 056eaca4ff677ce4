"""Rows that are placed on the map of others; and, where that map is there already, what reads both."""

from streamumap.neighbors.cuda import sizes as cuda
from streamumap.neighbors.dense import sizes as dense
from streamumap.neighbors.metric import named
from streamumap.neighbors.sparse import sizes as sparse
from streamumap.planning.fit import BudgetFit, Shape, powers
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import PLACING, READING_BYTES, TORCH_HOST_BYTES
from streamumap.planning.stages.neighbors import device_rows
from streamumap.planning.stages.rows import csr_bytes, scanning
from streamumap.reduce import pca
from streamumap.source.base import pinned_bytes
from streamumap.source.sae import sizes as encoding

MOST_QUERIES = 65_536
OTHERS = (4096, 1024, 256, 64)
CUDA_OTHERS = (65_536, 16_384, 4_096, 1_024)

READ_BYTES = 4 * (8 << 20)
"""While rows that ask are packed: some as stored, where they are not zero, and pairs."""


def place(f: BudgetFit) -> StagePlan:
    """`query_rows` of the rows that are placed ask, `other_rows` of the map's pass by."""
    job, new, p = f.job, f.original.placed, f.params
    assert new is not None
    if not f.gpu:
        f.compile(PLACING)
    others = CUDA_OTHERS if f.gpu else (OTHERS if not f.as_csr else (MOST_QUERIES, 16_384, *OTHERS))
    shapes = [
        {"query_rows": query, "other_rows": min(other, max(job.n_rows, 32))}
        for query in powers(min(new.n_rows, MOST_QUERIES), min(new.n_rows, 64))
        for other in others
    ]
    held = (2 * job.n_rows + 3 * new.n_rows) * p.n_components * 4 + _projecting(f, new)
    if named(p.metric).unit:  # two rows of one direction, as stored and as float64, and what they differ by
        held += job.n_features * 40
    k = p.n_neighbors

    def host(shape: Shape) -> int:
        query, other = shape["query_rows"], shape["other_rows"]
        if f.gpu:
            pinned = pinned_bytes(other, job.n_features, new.dtype) + (
                0 if f.as_csr else pinned_bytes(other, job.n_features, job.dtype)
            )
            return held + pinned + _table(query, k)
        if f.as_csr:
            row_pairs = (job.n_nonzero or 0) / job.n_rows
            asked = row_pairs if new.n_nonzero is None else new.n_nonzero / new.n_rows
            sizes = job.n_features, row_pairs, asked, query, other, f.machine.n_cores
            return held + READ_BYTES + sparse.nearest(*sizes) + _table(query, k)
        itemsize = max(job.itemsize, new.itemsize)
        return held + dense.nearest(job.n_features, itemsize, query, other, f.machine.n_cores) + _table(query, k)

    def device(shape: Shape) -> int:
        sizes = job.n_features, job.dtype, _dtype(f, new), k, shape["query_rows"], shape["other_rows"]
        return device_rows(f) + cuda.nearest(*sizes)

    backend = "cuda" if f.gpu else "packed" if f.as_csr else "dense"
    return f.fit("place", backend, shapes, host, device if f.gpu else None)


def _table(query_rows: int, k: int) -> int:
    """Host bytes of the neighbors of a block of new rows, and of the strengths and positions made of them."""
    return query_rows * (k * 40 + 64)


def _dtype(f: BudgetFit, new: Job) -> str:
    return new.dtype if f.params.reduce == "none" else "float32"


def _projecting(f: BudgetFit, new: Job) -> int:
    """Of the components, and of a block of rows that is brought to them."""
    if f.params.reduce == "none":
        return 0
    dims = min(f.params.reduce_dims, new.n_features)
    return dims * new.n_features * 16 + pca.PIECE_ROWS * new.n_features * (new.itemsize + 16)


def read(f: BudgetFit) -> StagePlan:
    """Rows that are placed on a map that is there are looked through, and the map's rows are packed. An SAE encodes on the
    CPU."""
    job, new = f.original, f.original.placed
    assert new is not None
    csr, positions = csr_bytes(f), job.n_rows * (f.params.n_components * 4 + 16)
    encodes = max(
        (encoding.cpu(j.n_rows, j.raw_features, j.n_features) for j in (job, new) if j.raw_features), default=0
    )
    row_bytes = max(job.itemsize * job.n_features, new.itemsize * new.n_features)

    def host(block_rows: int) -> int:
        packing = csr + scanning(job, block_rows) if f.as_csr else 0
        return positions + max(scanning(new, block_rows), packing, encodes) + block_rows * row_bytes

    sizes = powers(max(1, min(max(new.n_rows, job.n_rows), (32 << 20) // row_bytes)), 1)
    working, f.host_base = f.host_base, TORCH_HOST_BYTES if f.gpu else READING_BYTES
    stage = f.solve("read", "numpy", "block_rows", sizes, host)
    f.host_base = working + new.n_rows * 18 + job.n_rows * 8 + csr
    return stage
