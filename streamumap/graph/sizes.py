"""Bytes of the graph, importable without numba or torch."""


def build(n_rows: int, k: int, block_rows: int) -> int:
    """Host bytes of `build.build`: rho, sigma, counts and components of all rows; for a block, its incoming edges (8 bytes each,
    beside the k-NN rows that are read for them), its outgoing edges, and both merged, with gaps (8) and without (6); or the
    bytes for counting the components."""
    outgoing = block_rows * k
    incoming = min(n_rows, block_rows * UNEVEN_IN) * (k - 1)
    passing = 16 * outgoing if block_rows < n_rows else 8 * outgoing
    merging = 8 * outgoing + 14 * (incoming + outgoing)
    block = block_rows * 40 + 8 * incoming + max(passing, merging)
    return n_rows * (4 + 4 + 8 + 4) + max(block, n_rows * 24)


def cuda(n_rows: int, k: int, block_edges: int) -> int:
    """Device bytes of `cuda.build`: the k-NN graph, two numbers a row, the parts of all rows that are looked through, and the edges
    of a block while they are collected or sorted."""
    scanned = min(n_rows * k, SCANNED) * 2
    return n_rows * (k * 8 + 8) + min(n_rows, JUMPED) * 16 + scanned + block_edges * 72


def cuda_passing(n_rows: int, block_edges: int, run_edges: int) -> int:
    """Device bytes where the k-NN graph passes by: two numbers a row, and the edges of a block, or those of a run beside the part
    from which it is filled."""
    edges = max(block_edges * 72, run_edges * 60 + block_edges * 36)
    return n_rows * 8 + min(n_rows, JUMPED) * 16 + edges


def cuda_host(n_rows: int, k: int, block_edges: int) -> int:
    """Host bytes of `cuda.build`: the number of edges of each row and their sums or, later, the edges of one row, which may receive
    one from every other; and two blocks on their way to the files."""
    return n_rows * 16 + k * 16 + block_edges * 16


def cuda_passing_host(n_rows: int, k: int, block_edges: int, run_edges: int) -> int:
    """Host bytes where the k-NN graph passes by: those of `cuda_host`, and a run on its way to the files."""
    return cuda_host(n_rows, k, block_edges) + run_edges * 24


def run_sizes(n_rows: int, k: int) -> list[int]:
    """Edges that a GPU may sort together where the k-NN graph passes by, the largest first."""
    few = max(1, min(1 << 22, n_rows * k // 8))
    return [n_edges for n_edges in (1 << 26, 1 << 24, 1 << 22) if few < n_edges < n_rows * k] + [few]


def disk_bytes(n_rows: int, k: int) -> int:
    """Bytes of the files while they are made: every edge in both directions, 6 bytes each."""
    return n_rows * 8 + n_rows * 2 * (k - 1) * 6


def passing_disk_bytes(n_rows: int, k: int) -> int:
    """Bytes of the scratch files through which a k-NN graph passes by: 12 an edge that is received, 4 one that is sent."""
    return n_rows * (k * 16)


UNEVEN_IN = 2
"""Edges that a block of rows receives, at most, as a multiple of the mean."""

MOST_EDGES = 1 << 23
"""Largest block on a GPU, in edges: enough to keep it busy."""

SCANNED = 1 << 26
"""Neighbours that a GPU looks through together for those in a block."""

JUMPED = 1 << 24
"""Rows whose roots are looked up, or counted, together: bounds the temporaries."""
