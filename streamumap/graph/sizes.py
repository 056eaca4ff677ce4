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
    """Device bytes of `cuda.build`: the k-NN graph, three numbers a row, and the edges of a block while they are collected or
    sorted. One row may receive an edge from every other."""
    block_edges = max(block_edges, n_rows + k)
    return n_rows * (k * 8 + 24) + max(block_edges * 72, block_edges * 40 + n_rows * k * 2)


def cuda_host(n_rows: int, k: int, block_edges: int) -> int:
    """Host bytes of `cuda.build`: the bounds of the edges of all rows, and two blocks on their way to the files."""
    block_edges = max(block_edges, n_rows + k)
    return n_rows * 24 + block_edges * 16


def disk_bytes(n_rows: int, k: int) -> int:
    """Bytes of the files while they are made: every edge in both directions, 6 bytes each."""
    return n_rows * 8 + n_rows * 2 * (k - 1) * 6


UNEVEN_IN = 2
"""Edges that a block of rows receives, at most, as a multiple of the mean."""

MOST_EDGES = 1 << 23
"""Largest block on a GPU, in edges: enough to keep it busy."""
