"""Plans of placing new rows on a map, and of reading both where the map is there already."""

from streamumap.machine.memory import Footprint
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.neighbors.dense import sizes as dense
from streamumap.neighbors.metric import named
from streamumap.neighbors.sparse import sizes as sparse
from streamumap.planning.fit import Blocks, Facts, Held, Shape, block_sizes, fit, hold_kernels, one_block
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import CONTEXT_BYTES, OUT_OF_SAMPLE_KERNELS, READING_BYTES, TORCH_HOST_BYTES
from streamumap.planning.stages.counting import csr_device_bytes, passes, passing_bytes
from streamumap.planning.stages.rows import csr_rows_footprint, scan_bytes
from streamumap.reduce import pca
from streamumap.source.base import pinned_bytes
from streamumap.source.sae import sizes as sae

MOST_QUERIES = 65_536

OTHER_ROWS = {
    "dense": (4096, 1024, 256, 64),
    "packed": (MOST_QUERIES, 16_384, 4096, 1024, 256, 64),
    "cuda": (65_536, 16_384, 4_096, 1_024),
}
"""Rows of the map with which a block of query rows is compared at once, by backend."""

CSR_QUERY_BYTES = 4 * (8 << 20)
"""Host bytes while query rows become CSR rows: some as stored, the mask of those that are not zero, and pairs."""


def place(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the search of new rows among those of the map: `query_rows` new rows at a time are compared with `other_rows` of the
    map at a time."""
    rows, new, k = held.rows, new_rows(facts), facts.params.n_neighbors
    if not facts.on_gpu:
        held = hold_kernels(facts, held, OUT_OF_SAMPLE_KERNELS)
    backend = "cuda" if facts.on_gpu else "packed" if facts.as_csr else "dense"
    named(facts.params.metric).check(backend)
    searching = {"cuda": _cuda_host_bytes, "packed": _sparse_bytes, "dense": _dense_bytes}[backend]
    positions = (2 * rows.n_rows + 3 * new.n_rows) * facts.params.n_components * 4 + _projecting_bytes(facts, new)
    if named(facts.params.metric).unit:  # two rows of one direction, as stored and as float64, and their difference
        positions += rows.n_features * 40

    def host(shape: Shape) -> int:
        return positions + searching(facts, rows, shape["query_rows"], shape["other_rows"])

    def device(shape: Shape) -> int:
        dtype = new.dtype if facts.params.reduce == "none" else "float32"
        sizes = rows.n_features, rows.dtype, dtype, k, shape["query_rows"], shape["other_rows"]
        rows_bytes = passing_bytes(held, 0, shape) if "pass_rows" in shape else csr_device_bytes(held)
        return rows_bytes + cuda.nearest(*sizes)

    shapes = [
        {"query_rows": query, "other_rows": min(other, max(rows.n_rows, 32))} | passing
        for query in block_sizes(min(new.n_rows, MOST_QUERIES), min(new.n_rows, 64))
        for other in OTHER_ROWS[backend]
        for passing in passes(facts, held)
    ]
    return fit(facts, held, "place", backend, Blocks(shapes, host, device if facts.on_gpu else None))


def new_rows(facts: Facts) -> Job:
    assert facts.job.placed is not None
    return facts.job.placed


def _cuda_host_bytes(facts: Facts, rows: Job, query_rows: int, other_rows: int) -> int:
    staged_queries = pinned_bytes(other_rows, rows.n_features, new_rows(facts).dtype)
    staged_rows = 0 if facts.as_csr else pinned_bytes(other_rows, rows.n_features, rows.dtype)
    return staged_queries + staged_rows + _table_bytes(facts, query_rows)


def _sparse_bytes(facts: Facts, rows: Job, query_rows: int, other_rows: int) -> int:
    new, row_pairs = new_rows(facts), (rows.n_nonzero or 0) / rows.n_rows
    query_pairs = row_pairs if new.n_nonzero is None else new.n_nonzero / new.n_rows
    sizes = rows.n_features, row_pairs, query_pairs, query_rows, other_rows, facts.machine.n_cores
    return CSR_QUERY_BYTES + sparse.nearest(*sizes) + _table_bytes(facts, query_rows)


def _dense_bytes(facts: Facts, rows: Job, query_rows: int, other_rows: int) -> int:
    itemsize = max(rows.itemsize, new_rows(facts).itemsize)
    sizes = rows.n_features, itemsize, query_rows, other_rows, facts.machine.n_cores
    return dense.nearest(*sizes) + _table_bytes(facts, query_rows)


def _table_bytes(facts: Facts, query_rows: int) -> int:
    """Count the host bytes of the neighbors of a block of new rows, and of the strengths and positions made of them."""
    return query_rows * (facts.params.n_neighbors * 40 + 64)


def _projecting_bytes(facts: Facts, new: Job) -> int:
    """Count the host bytes of the components, and of a block of rows that is projected on them."""
    if facts.params.reduce == "none":
        return 0
    dims = min(facts.params.reduce_dims, new.n_features)
    return dims * new.n_features * 16 + pca.PIECE_ROWS * new.n_features * (new.itemsize + 16)


def read(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the pass over new rows, and over those of a finished map where they become CSR rows. An SAE encodes on the CPU."""
    rows, new, csr = facts.job, new_rows(facts), csr_rows_footprint(facts)
    positions = rows.n_rows * (facts.params.n_components * 4 + 16)
    encoding = max((sae.cpu(j.n_rows, j.raw_features, j.n_features) for j in (rows, new) if j.raw_features), default=0)
    encoding += sum(sae.decoder(j.raw_features, j.n_features) for j in (rows, new))  # beside the weights of both
    row_bytes = max(rows.itemsize * rows.n_features, new.itemsize * new.n_features)

    def host(block_rows: int) -> int:
        packing = csr.host_bytes + scan_bytes(rows, block_rows) if facts.as_csr else 0
        return positions + max(scan_bytes(new, block_rows), packing, encoding) + block_rows * row_bytes

    sizes = block_sizes(max(1, min(max(new.n_rows, rows.n_rows), (32 << 20) // row_bytes)), 1)
    overhead = Footprint(TORCH_HOST_BYTES if facts.on_gpu else READING_BYTES, CONTEXT_BYTES)
    held = held.plus(disk_bytes=csr.disk_bytes)
    stage, held = fit(facts, held, "read", "numpy", one_block("block_rows", sizes, host), overhead)
    return stage, held.plus(new.n_rows * 18 + rows.n_rows * 8 + csr.host_bytes)
