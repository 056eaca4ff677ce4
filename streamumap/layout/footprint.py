"""Bytes of the layout stage, importable without numba or torch."""

TOP = 4096
"""Vertices of the coarsest level of a start; a graph of up to twice as many is not coarsened."""

KEPT = 3
"""Edges to other cells that a vertex of a level has a say with, its heaviest: what bounds the coarser graph."""


def layout_bytes(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Where the epochs run: two sets of positions, their copy on the way in or out, and one block of the graph twice
    (read, placed)."""
    block_edges = min(n_edges, int(block_rows / n_rows * n_edges * 2))
    return 3 * n_rows * n_components * 4 + (block_edges * 6 + block_rows * 8) * 2


def start_bytes(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Where the levels are made: seeds and cells of all rows; the pairs of cells that rows name while they are sorted
    and added up, or positions later; and one block of the graph twice (read, placed)."""
    block_edges = min(n_edges, int(block_rows / n_rows * n_edges * 2))
    pairs = n_rows * KEPT * PAIR_BYTES
    return n_rows * 28 + max(pairs, 3 * n_rows * n_components * 4) + (block_edges * 6 + block_rows * 8) * 2


PAIR_BYTES = 88
"""Eleven int64 a pair: it, both cells, and what sorting and adding up take."""


def cuml_bytes(n_rows: int, k: int) -> int:
    """Device bytes of cuML's UMAP on a given k-NN graph: 2.4 GB at 3,000,000 rows and k = 15 (cuML 26.10)."""
    return n_rows * k * 56
