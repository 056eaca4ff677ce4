"""Bytes of the graph stage, importable without numba."""

UNEVEN_IN = 2
"""A block of rows may receive this many times the mean of edges."""


def build(n_rows: int, k: int, block_rows: int) -> int:
    """Host bytes of `build.build`: rho, sigma and counts of all rows; of a block, the edges that come in (12 bytes: source and
    weight while k-NN rows pass by), those that go out, and both merged as they are found (8) and as they are kept (6)."""
    outgoing = block_rows * k
    incoming = min(n_rows, block_rows * UNEVEN_IN) * (k - 1)
    passing = 16 * outgoing if block_rows < n_rows else 8 * outgoing
    merging = 8 * outgoing + 14 * (incoming + outgoing)
    return n_rows * 16 + block_rows * 40 + 8 * incoming + max(passing, merging)


def disk_bytes(n_rows: int, k: int) -> int:
    """Of the graph's files while they are made: every edge in both directions, 6 bytes each."""
    return n_rows * 8 + n_rows * 2 * (k - 1) * 6
