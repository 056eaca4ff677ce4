"""Host bytes of measuring a map as formulas, importable without scipy, and the sizes by which `points.py` works."""

FIGURE_BYTES = 56
"""Host bytes of one neighbor of a sampled row: its number, its ranks among the rows and on the map, its distance, and temporaries."""

LOST_ROWS = 16_384
"""Rows whose distances on the map are measured together on a CPU."""


def tree(n_rows: int, n_components: int) -> int:
    """Predict the host bytes of a k-d tree of the map: float64 positions, the place of each row in it, its nodes; and a mask of new
    positions while it is searched for copies."""
    return n_rows * (n_components * 8 + 8 + 8 + 4 + 20 + 40)


def host(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Predict the host bytes of a block of the k-NN graph while its lost neighbors are counted, and of distances on the map."""
    return query_rows * (k * 16 + 24) + min(query_rows, LOST_ROWS) * k * 40
