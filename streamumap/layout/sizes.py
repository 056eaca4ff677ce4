"""Bytes of the layout, importable without numba or torch."""

UNEVEN = 2
"""A block of rows may have this many times the mean of edges."""


def block_bytes(n_rows: int, block_rows: int, n_edges: int) -> int:
    """Of the graph where it is used: the whole once; of smaller blocks one is there while the next one comes."""
    if block_rows >= n_rows:
        return n_edges * 6 + n_rows * 8
    edges = min(n_edges, int(block_rows / n_rows * n_edges * UNEVEN))
    return 2 * (edges * 6 + block_rows * 8)


def layout_host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Positions as they came, before and after an epoch, and as they are saved; the graph, of which bounds are read and moved."""
    return 4 * n_rows * n_components * 4 + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def layout_device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Positions before and after an epoch, and the graph."""
    return 2 * n_rows * n_components * 4 + block_bytes(n_rows, block_rows, n_edges)


def cuml_bytes(n_rows: int, k: int) -> int:
    """Device bytes of cuML's UMAP on a given k-NN graph: 2.4 GB at 3,000,000 rows and k = 15 (cuML 26.10)."""
    return n_rows * k * 56
