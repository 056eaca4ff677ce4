"""Bytes of `points.py` and `cuda/points.py` as formulas, importable without scipy or torch."""

FIGURE_BYTES = 56
"""Host bytes of a neighbour of a sampled row: its number, its ranks among the rows and on the map, its distance, and what
is made of them."""

LOST_ROWS = 16_384
"""Rows whose distances on the map are measured at a time on a CPU."""

TILE = 64
"""Points of a tile on a GPU."""

WINDOW = 192
"""Points around a row, in the order of their tiles, by which it is known how near its nearest are at most."""

LEAST_VALUES, MOST_VALUES = 1 << 18, 1 << 24
"""Distances that are on a GPU at a time."""


def values(query_rows: int) -> int:
    """How many of them, where so many rows are looked up together."""
    return min(MOST_VALUES, max(LEAST_VALUES, 8 * query_rows))


def tree(n_rows: int, n_components: int) -> int:
    """Host bytes of a k-d tree of the map: float64 positions, where rows are in it, its nodes; while it is searched for
    copies, which positions are new."""
    return n_rows * (n_components * 8 + 8 + 8 + 4 + 20 + 40)


def host(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Host bytes of a block of the k-NN graph while its lost neighbours are counted, and of distances on the map."""
    return query_rows * (k * 16 + 24) + min(query_rows, LOST_ROWS) * k * 40


def device(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Device bytes of `cuda.points`: positions, once more in the order of the curve, that order while it is made; a block of
    the graph, its distances, counts and what is kept of it; boxes or distances that are compared."""
    order = n_rows * (n_components * 12 + 80)
    return order + query_rows * (k * 32 + 64) + values(query_rows) * 40
