"""Device bytes of `cuda/points.py` as a formula, importable without torch, and the sizes by which it works."""

TILE = 64
"""Points of a tile."""

WINDOW = 192
"""Points around a row, in the order of the curve, that give an upper bound on the distance of its nearest ones."""

LEAST_VALUES, MOST_VALUES = 1 << 18, 1 << 24
"""Distances on the device at a time."""


def values(query_rows: int) -> int:
    """Return how many distances may be on the device where `query_rows` rows are looked up together."""
    return min(MOST_VALUES, max(LEAST_VALUES, 8 * query_rows))


def device(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Predict the device bytes of `cuda/points.py`: positions, again in the order of the curve, and that order while it is made; a block
    of the graph with its distances and counts; the boxes or distances that are compared."""
    order = n_rows * (n_components * 12 + 80)
    return order + query_rows * (k * 32 + 64) + values(query_rows) * 40
