"""Host bytes of measuring a map as formulas, importable without scipy, and the sizes by which `points.py` works."""

FIGURE_BYTES = 56
"""Host bytes of a neighbour of a sampled row: its number, its ranks among the rows and on the map, its distance, and what
is made of them."""

LOST_ROWS = 16_384
"""Rows whose distances on the map are measured at a time on a CPU."""


def tree(n_rows: int, n_components: int) -> int:
    """Host bytes of a k-d tree of the map: float64 positions, where rows are in it, its nodes; while it is searched for
    copies, which positions are new."""
    return n_rows * (n_components * 8 + 8 + 8 + 4 + 20 + 40)


def host(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Host bytes of a block of the k-NN graph while its lost neighbours are counted, and of distances on the map."""
    return query_rows * (k * 16 + 24) + min(query_rows, LOST_ROWS) * k * 40
