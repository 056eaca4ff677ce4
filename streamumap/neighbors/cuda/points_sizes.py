"""Device bytes of `cuda/points.py` as a formula, importable without torch, and the sizes by which it works."""

TILE = 64
"""Points of a tile."""

WINDOW = 192
"""Points around a row, in the order of the curve, that give an upper bound on the distance of its nearest ones."""

SORTED_ROWS = 1 << 24
"""Points that are sorted together along the curve."""

CHUNK_ROWS = 1 << 22
"""Points whose places on the curve are computed together: bounds the temporaries."""

LEAST_VALUES, MOST_VALUES = 1 << 18, 1 << 24
"""Distances on the device at a time."""


def values(query_rows: int) -> int:
    """Return how many distances may be on the device where `query_rows` rows are looked up together."""
    return min(MOST_VALUES, max(LEAST_VALUES, 8 * query_rows))


def device(n_rows: int, k: int, n_components: int, query_rows: int) -> int:
    """Predict the device bytes of `cuda/points.py`: positions and rows while these are sorted, part by part; positions again in that
    order; then these alone with both directions of the order, a block of the graph with its distances and counts, and the boxes or
    distances that are compared."""
    point = n_components * 4
    sorting = n_rows * (point + 4) + min(n_rows, SORTED_ROWS) * 64 + min(n_rows, CHUNK_ROWS) * (64 + 2 * point)
    comparing = n_rows * (point + 9) + query_rows * (k * 32 + 64) + values(query_rows) * 40
    return max(sorting, n_rows * (2 * point + 4), comparing)
