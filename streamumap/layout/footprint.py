"""Bytes of the layout stage, importable without numba or torch."""


def layout_bytes(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Where the epochs run: two sets of positions, their copy on the way in or out, and one block of the graph twice
    (read, placed)."""
    block_edges = min(n_edges, int(block_rows / n_rows * n_edges * 2))
    return 3 * n_rows * n_components * 4 + (block_edges * 6 + block_rows * 8) * 2


def cuml_bytes(n_rows: int, k: int) -> int:
    """Device bytes of cuML's UMAP on a given k-NN graph: 2.4 GB at 3,000,000 rows and k = 15 (cuML 26.10)."""
    return n_rows * k * 56
