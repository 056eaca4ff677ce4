"""Bytes of the layout, importable without numba or torch."""

UNEVEN_EDGES = 2
"""Edges of a block of rows, at most, as a multiple of the mean."""


def block_bytes(n_rows: int, block_rows: int, n_edges: int) -> int:
    """Bytes of the graph on its device: all of it in one block, or two smaller blocks, as one is read while the other is used."""
    if block_rows >= n_rows:
        return n_edges * 6 + n_rows * 8
    edges = min(n_edges, int(block_rows / n_rows * n_edges * UNEVEN_EDGES))
    return 2 * (edges * 6 + block_rows * 8)


def layout_host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes of a layout on a CPU: the first positions, those before and after an epoch and those being saved; the graph, with
    the bounds of its rows twice."""
    return 4 * n_rows * n_components * 4 + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def layout_device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Device bytes of a layout: the positions before and after an epoch, and the graph."""
    return 2 * n_rows * n_components * 4 + block_bytes(n_rows, block_rows, n_edges)


def cuml_bytes(n_rows: int, k: int) -> int:
    """Device bytes of cuML's UMAP on a k-NN graph: 2.4 GB at 3,000,000 rows and k = 15 (cuML 26.10)."""
    return n_rows * k * 56
