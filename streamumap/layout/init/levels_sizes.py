"""Bytes of the multilevel start, importable without numba or torch."""

from streamumap.layout.sizes import block_bytes

TOP = 4096
"""Vertices of the coarsest level, which has at most twice as many."""

FEW = 512
"""Least vertices of a graph that is coarsened."""

RATIO = 10
"""Mean number of vertices in a cell."""

KEPT = 3
"""Edges of a vertex that count for the coarser graph: its heaviest ones to other cells. They bound the size of that graph."""

PAIR_BYTES = 8
"""Host bytes of a pair of cells with the weight of one edge, sorted and added up in place."""

COARSE_BYTES = 2 * (4 + 2)
"""Bytes of a pair of cells in the coarser graph, in both directions."""

PAIR_DEVICE_BYTES = 72
"""Device bytes of a pair of cells while a GPU sorts and adds up all: the pair, a copy, the buffers of the sort and its results.
Seven to eight int64, as measured."""


def host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes when a CPU makes the levels. For each row: its cell and the coarser graph, beside the pairs of cells that this
    is made of or, later, positions. For each cell: its seed, twice, and the bounds of its edges, beside two float64 sums or,
    later, positions. And the graph."""
    positions = 3 * n_components * 4
    rows = n_rows * (4 + KEPT * COARSE_BYTES + max(KEPT * PAIR_BYTES, positions))
    cells = max(TOP, n_rows // RATIO) * (24 + max(16, positions))
    return rows + cells + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Device bytes when a GPU makes the levels: seeds and cells of all rows; the pairs of cells or, later, positions; and the
    graph."""
    levels = max(n_rows * KEPT * PAIR_DEVICE_BYTES, 3 * n_rows * n_components * 4)
    return n_rows * 28 + levels + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def host_beside_gpu(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes when a GPU makes the levels: row numbers, cells and positions in transit, and the graph."""
    return n_rows * (16 + 2 * n_components * 4) + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8
