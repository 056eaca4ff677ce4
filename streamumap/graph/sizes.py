"""Bytes of the graph stage, importable without numba."""


def build(n_rows: int, k: int, block_rows: int) -> int:
    """Host bytes of `build.build`: rho, sigma, counts and components of all rows; of a block, the edges that come in (8 bytes,
    while k-NN rows pass by), those that go out, and both merged as they are found (8) and as they are kept (6); or what
    counting the components takes."""
    outgoing = block_rows * k
    incoming = min(n_rows, block_rows * UNEVEN_IN) * (k - 1)
    passing = 16 * outgoing if block_rows < n_rows else 8 * outgoing
    merging = 8 * outgoing + 14 * (incoming + outgoing)
    block = block_rows * 40 + 8 * incoming + max(passing, merging)
    return n_rows * (4 + 4 + 8 + 4) + max(block, n_rows * 24)


def cuda(n_rows: int, k: int, block_edges: int) -> int:
    """Device bytes of `cuda.build`: the k-NN graph, three numbers a row, and the edges of a block while they are sorted or
    picked out. All rows may send to one."""
    block_edges = max(block_edges, n_rows + k)
    return n_rows * (k * 8 + 24) + max(block_edges * 72, block_edges * 40 + n_rows * k * 2)


def cuda_host(n_rows: int, k: int, block_edges: int) -> int:
    """Host bytes of `cuda.build`: where the rows' edges end, and two blocks on their way to the files."""
    block_edges = max(block_edges, n_rows + k)
    return n_rows * 24 + block_edges * 16


def disk_bytes(n_rows: int, k: int) -> int:
    """Of the graph's files while they are made: every edge in both directions, 6 bytes each."""
    return n_rows * 8 + n_rows * 2 * (k - 1) * 6


UNEVEN_IN = 2
"""A block of rows may receive this many times the mean of edges."""

MOST_EDGES = 1 << 23
"""Of a block on a GPU: enough to keep it busy."""
