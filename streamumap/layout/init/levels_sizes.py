"""Bytes of the multilevel start, importable without numba or torch."""

from streamumap.layout.sizes import block_bytes

TOP = 4096
"""Vertices of the coarsest level of a start, at most twice as many."""

FEW = 512
"""A graph of fewer vertices is not coarsened; one with more is, at least once."""

RATIO = 10
"""Vertices of a cell, on average."""

KEPT = 3
"""Edges to other cells that a vertex of a level has a say with, its heaviest: what bounds the coarser graph."""

PAIR_BYTES = 8
"""Of a pair of cells that a row names, with its weight: sorted and added up where it is."""

COARSE_BYTES = 2 * (4 + 2)
"""Of the same in the coarser graph, where each is a neighbour of the other, should no row have named it before."""

PAIR_DEVICE_BYTES = 72
"""Of a pair of cells that a row names, while a GPU sorts and adds up all: the pair, a copy to sort, what sorting takes and
what comes of it. Seven to eight int64, as measured."""


def host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes where a CPU makes the levels. Of each row its cell and the coarser graph, beside the pairs of cells that it
    is made of, or positions later; of each cell its seed, twice, and where its edges begin, beside two float64 sums, or
    positions later; and the graph."""
    positions = 3 * n_components * 4
    rows = n_rows * (4 + KEPT * COARSE_BYTES + max(KEPT * PAIR_BYTES, positions))
    cells = max(TOP, n_rows // RATIO) * (24 + max(16, positions))
    return rows + cells + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Device bytes where a GPU makes the levels: seeds and cells of all rows; the pairs of cells that rows name, or positions
    later; and the graph."""
    levels = max(n_rows * KEPT * PAIR_DEVICE_BYTES, 3 * n_rows * n_components * 4)
    return n_rows * 28 + levels + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def host_beside_gpu(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes where a GPU makes the levels: numbers of rows, cells and positions on their way, and the graph."""
    return n_rows * (16 + 2 * n_components * 4) + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8
