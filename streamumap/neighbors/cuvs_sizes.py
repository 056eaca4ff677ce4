"""Bytes of the search by cuVS as formulas, importable without torch, and the sizes by which it works."""

from streamumap.neighbors.cuda.sizes import MERGE_ROWS, TILE_ROWS, kept_itemsize

DEGREE = 64
FACTOR = 4
"""Neighbors that NN-descent keeps of each row, at least, and the factor of those that it works with, at most."""

MARGIN = 8
"""Neighbors asked for beyond k: float16 orders near ties wrongly, which measuring the rows corrects."""

FILL_BYTES = 2**24
FILLING = 8
"""Bytes of float32 rows that one thread fills in at a time, and the number of threads."""

ROW_BYTES = 656
"""Device bytes of a row in NN-descent beyond its float16 values, as measured with cuML 26.10: 4.6 GB at 500,000 rows of
3,072 features, 21.6 GB at 3,000,000."""


def list_width(n_rows: int, k: int) -> int:
    """Return the number of neighbors asked for, the row itself perhaps among them."""
    return min(k + MARGIN, n_rows)


def padded_width(width: int) -> int:
    """Return the places of a row while its candidates are measured: a power of two, as a program's arrays need."""
    return 1 << (width - 1).bit_length()


def graph_degree(k: int) -> int:
    """Return the number of neighbors that NN-descent keeps of each row."""
    return max(DEGREE, -(-(k + MARGIN) // 32) * 32)


def host(n_rows: int, n_features: int, k: int) -> int:
    """Predict the host bytes of `cuvs.search`: the rows as float32; NN-descent's graph with distances, its samples and buffers; two
    graphs of ours."""
    width = list_width(n_rows, k)
    descent = graph_degree(k) * FACTOR * 12 + 32 * (4 * 4 + 8)
    filling = FILLING * max(FILL_BYTES, n_features * 4) * 4
    return n_rows * (n_features * 4 + descent + width * 8 * 4 + padded_width(width) * 4 * 3) + filling


def device(n_rows: int, n_features: int, k: int) -> int:
    """Predict the device bytes of `cuvs.search` while cuVS works: it keeps all rows as float16."""
    return n_rows * (n_features * 2 + ROW_BYTES + list_width(n_rows, k) * 12)


def measuring(
    n_rows: int, n_features: int, k: int, dtype: str, is_sparse: bool, query_rows: int, other_rows: int
) -> int:
    """Predict the device bytes of `cuvs.search` while its candidates are measured, beyond rows without their zeros."""
    width = padded_width(list_width(n_rows, k))
    lists = n_rows * width * 8 * 3 + MERGE_ROWS * 2 * width * 8 + 65_536 * width * 10
    if is_sparse:
        return lists
    chunks = query_rows + (0 if query_rows == n_rows else 3 * other_rows)
    return lists + chunks * n_features * kept_itemsize(dtype) + TILE_ROWS * n_features * 8
