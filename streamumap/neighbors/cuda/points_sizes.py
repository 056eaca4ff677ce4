"""Device bytes of `cuda/points.py` as a formula, importable without torch, and the sizes by which it works."""

TILE = 64
"""Points of a tile on a GPU."""

WINDOW = 192
"""Points around a row, in the order of their tiles, by which it is known how near its nearest are at most."""

LEAST_VALUES, MOST_VALUES = 1 << 18, 1 << 24
"""Distances that are on a GPU at a time."""


def values(query_rows: int) -> int:
    """How many of them, where so many rows are looked up together."""
    return min(MOST_VALUES, max(LEAST_VALUES, 8 * query_rows))


def device(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Device bytes of `cuda.points`: positions, once more in the order of the curve, that order while it is made; a block of
    the graph, its distances, counts and what is kept of it; boxes or distances that are compared."""
    order = n_rows * (n_components * 12 + 80)
    return order + query_rows * (k * 32 + 64) + values(query_rows) * 40
