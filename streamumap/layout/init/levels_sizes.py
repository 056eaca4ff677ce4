"""Bytes of the multilevel start, importable without numba or torch."""

from streamumap.layout.sizes import block_bytes

TOP = 4096
"""Vertices of the coarsest level, which has at most twice as many."""

FEW = 512
"""Least vertices of a graph that is coarsened."""

RATIO = 10
"""Mean number of vertices in a cell."""

MOST_CELLS = 1 << 23
"""Most cells of a level: two cells and a weight fit in an int64."""

KEPT = 3
"""Edges of a vertex that count for the coarser graph: its heaviest ones to other cells. They bound the size of that graph."""

PAIR_BYTES = 8
"""Host bytes of a pair of cells with the weight of one edge, sorted and added up in place."""

COARSE_BYTES = 2 * (4 + 2)
"""Bytes of a pair of cells in the coarser graph, in both directions."""

PAIR_DEVICE_BYTES = 72
"""Device bytes of a pair of cells while a GPU sorts and adds up all: the pair, a copy, the buffers of the sort and its results.
Seven to eight int64, as measured."""

MOST_AT_ONCE = 1 << 28
"""Most pairs of cells that a GPU sorts at once; more than that are sorted in pieces, which takes no longer."""

PIECES = (1 << 25, 1 << 22, 1 << 20)
"""Pairs of cells that a GPU sorts together where it does not sort all."""

CELL_DEVICE_BYTES = 40
"""Device bytes of a cell while pairs are added up in pieces: its sum twice, its largest share, its edges twice."""

COARSE_DEVICE_BYTES = 16
"""Device bytes of the first coarse graph for each row, at most, beside pieces; the graphs of coarser levels take a quarter of that.
It is laid out in blocks where it is larger. Measured on graphs with 14 neighbours: 6 to 9."""

DISTINCT = 0.5
"""Share of the pairs of cells that are left once equal ones are added up, at most. Measured on graphs with 14 neighbours: 0.16 to
0.24."""


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


def piece_sizes(n_rows: int) -> list[int]:
    """Numbers of pairs of cells that a GPU may sort together, the largest first. The smallest lets a graph of any size go in
    pieces."""
    few = min(PIECES[-1], n_rows * KEPT // 8)
    return [n_pairs for n_pairs in (*PIECES, few) if 0 < n_pairs < n_rows * KEPT]


def device_in_pieces(n_rows: int, n_components: int, block_rows: int, n_edges: int, piece_pairs: int) -> int:
    """Device bytes when a GPU makes the levels and sorts `piece_pairs` pairs of cells at a time: cells of all rows, beside a coarser
    graph or, later, positions twice; a piece; and the graph."""
    levels = n_rows * (4 + max(2 * n_components * 4, COARSE_DEVICE_BYTES * 5 // 4))
    cells = max(2 * TOP, min(n_rows // RATIO, MOST_CELLS)) * (CELL_DEVICE_BYTES + 2 * n_components * 4)
    return levels + cells + piece_pairs * PAIR_DEVICE_BYTES + block_bytes(n_rows, block_rows, n_edges) + block_rows * 8


def host_in_pieces(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes beside `device_in_pieces`: those of `host_beside_gpu`, or the runs of pairs and then the edges made of them, in both
    directions and twice."""
    distinct = int(n_rows * KEPT * DISTINCT)
    merging = max(n_rows * KEPT * PAIR_BYTES + distinct * 2 * PAIR_BYTES, distinct * (2 * PAIR_BYTES + COARSE_BYTES))
    return max(host_beside_gpu(n_rows, n_components, block_rows, n_edges), merging)
