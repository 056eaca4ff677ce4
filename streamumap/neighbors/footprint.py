"""Bytes of the k-NN backends as formulas, importable without torch or numba: what `planner.py` adds up and tests hold to measurements."""

PACKED_CORPUS_ROWS = 65_536
"""Rows of an inverted index: their numbers fit uint16 and a row's sums (256 KiB) stay in a core's cache."""

PACKED_MARGIN = 8
"""Candidates kept beyond k - 1: float32 sums may order near ties wrongly, the float64 distances put them right."""

UNEVEN = 1.5
"""A block of rows may have this many times the mean of non-zeros."""

DENSE_OVERLAP = 2
DENSE_REVERSE = 15

CUDA_TILE_ROWS = 2048
"""Query rows of one matrix product."""

CUDA_GROUP = 32
CUDA_MARGIN = 9
CUDA_KEPT = ("float16", "bfloat16")
"""Stored dtypes that stay as they are on the device; all others become float32."""


def packed(n_rows: int, n_features: int, n_nonzero: int, k: int, query_rows: int, n_threads: int) -> int:
    """Host bytes of `packed.search` beyond the rows themselves."""
    corpus_nonzero = int(min(1.0, PACKED_CORPUS_ROWS / n_rows * UNEVEN) * n_nonzero)
    query_nonzero = int(min(1.0, query_rows / n_rows * UNEVEN) * n_nonzero)
    lists = corpus_nonzero * (2 + 4 + 8 + 2 + 4) + n_features * 16
    measuring = query_nonzero * (k + PACKED_MARGIN) * 8
    tables = n_rows * (k + PACKED_MARGIN) * 8 + n_rows * k * 8
    return lists + tables + query_nonzero * 14 + measuring + n_threads * PACKED_CORPUS_ROWS * 4


def dense(n_rows: int, n_features: int, k: int, cell_rows: int) -> int:
    """Host bytes of `dense.search`: the table with its reverse lists, and rows and products of one cell."""
    tables = n_rows * (k - 1) * 8 + n_rows * k * 8 + n_rows * DENSE_REVERSE * 8 + n_rows * DENSE_OVERLAP * 8
    return tables + cell_rows * (3 * n_features * 4 + cell_rows * 4)


def cuda_itemsize(dtype: str) -> int:
    return 2 if dtype in CUDA_KEPT else 4


def cuda_device(n_features: int, dtype: str, k: int, query_rows: int, other_rows: int, resident: bool) -> int:
    """Device bytes of `cuda.search`: the queries, their lists, two chunks of others, the scores of one tile and what is made of them."""
    row_bytes = n_features * cuda_itemsize(dtype)
    tile_rows = min(CUDA_TILE_ROWS, query_rows)
    scores = tile_rows * other_rows * 4
    groups = tile_rows * (other_rows // CUDA_GROUP) * 4
    picked = tile_rows * (k + CUDA_MARGIN) * CUDA_GROUP * (8 + 4) * 2
    squares = tile_rows * n_features * 4 * 2
    others = other_rows * row_bytes * (1 if resident else 3)
    lists = query_rows * (k * (4 + 4) * 2 + 8)
    return query_rows * row_bytes + others + scores + groups + picked + squares + lists


def cuda_host(n_rows: int, n_features: int, itemsize: int, k: int, other_rows: int) -> int:
    """Host bytes of `cuda.search`: two pinned chunks and the graph."""
    return 2 * min(other_rows, n_rows) * n_features * itemsize + n_rows * k * 8


def count_closer(n_sample: int, n_others: int, n_features: int, block_rows: int) -> int:
    """Bytes, on the device or the host, of `count_closer` over dense rows: the sample, a block as float32, their products."""
    gathered = min(n_sample * n_others, 2 * CUDA_TILE_ROWS) * n_features * 4
    return n_sample * n_features * 4 * 2 + block_rows * n_features * 4 * 3 + n_sample * block_rows * 4 * 4 + gathered
