"""Bytes of the search by cuVS as formulas, importable without torch, and the sizes by which it works."""

from streamumap.neighbors.cuda.sizes import MERGE_ROWS, TILE_ROWS, kept_itemsize

DEGREE = 64
FACTOR = 4
"""Neighbours that NN-descent keeps of each row, and how many times as many it works with, at most."""

MARGIN = 8
"""Neighbours asked for beyond k: float16 orders near ties wrongly, the rows put them right."""

FILL_BYTES = 2**24
FILLING = 8
"""Rows that are made float32 in one go, in bytes, and by how many threads."""

ROW_BYTES = 656
"""Device bytes of a row in NN-descent beyond its float16 values, as measured with cuML 26.10: 4.6 GB at 500,000 rows of
3,072 features, 21.6 GB at 3,000,000."""


def list_width(n_rows: int, k: int) -> int:
    """Neighbours asked for of each row, itself perhaps among them."""
    return min(k + MARGIN, n_rows)


def padded_width(width: int) -> int:
    """Places of a row while its neighbours are measured: a program's arrays have powers of two."""
    return 1 << (width - 1).bit_length()


def graph_degree(k: int) -> int:
    """Neighbours that NN-descent keeps of each row."""
    return max(DEGREE, -(-(k + MARGIN) // 32) * 32)


def host(n_rows: int, n_features: int, k: int) -> int:
    """Host bytes of `cuvs.search`: the rows as float32; NN-descent's graph with distances, its samples and what goes to
    and fro; two graphs of ours."""
    width = list_width(n_rows, k)
    descent = graph_degree(k) * FACTOR * 12 + 32 * (4 * 4 + 8)
    filling = FILLING * max(FILL_BYTES, n_features * 4) * 4
    return n_rows * (n_features * 4 + descent + width * 8 * 4 + padded_width(width) * 4 * 3) + filling


def device(n_rows: int, n_features: int, k: int) -> int:
    """Device bytes of `cuvs.search` while cuVS works: it keeps all rows as float16."""
    return n_rows * (n_features * 2 + ROW_BYTES + list_width(n_rows, k) * 12)


def measuring(
    n_rows: int, n_features: int, k: int, dtype: str, is_sparse: bool, query_rows: int, other_rows: int
) -> int:
    """Device bytes of `cuvs.search` while its neighbours are measured, beyond packed rows."""
    width = padded_width(list_width(n_rows, k))
    lists = n_rows * width * 8 * 3 + MERGE_ROWS * 2 * width * 8 + 65_536 * width * 10
    if is_sparse:
        return lists
    chunks = query_rows + (0 if query_rows == n_rows else 3 * other_rows)
    return lists + chunks * n_features * kept_itemsize(dtype) + TILE_ROWS * n_features * 8
