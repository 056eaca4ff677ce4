"""Bytes of the graph stage, importable without numba."""


def build(n_rows: int, k: int, block_rows: int) -> int:
    """Host bytes of `build.build`: rho, sigma and counts of all rows; k-NN rows, incoming lists and the merged edges of
    a block."""
    block_edges = block_rows * k
    return n_rows * (4 + 4 + 8) + block_edges * (8 * 2 + 8 * UNEVEN_IN + 8 * 2 * UNEVEN_IN + 8) + block_rows * 32


def disk_bytes(n_rows: int, k: int) -> int:
    """Of the graph's files while they are made: every edge in both directions, 6 bytes each."""
    return n_rows * 8 + n_rows * 2 * (k - 1) * 6


UNEVEN_IN = 2
"""A block of rows may receive this many times the mean of edges."""
