"""Bytes of the searches for the nearest of some rows, importable without torch or numba, and the sizes by which they work."""

from streamumap.neighbors.sizes import CUDA_TILE_ROWS, DENSE_BLAS_BYTES, UNEVEN, cuda_device, cuda_itemsize
from streamumap.neighbors.sparse.sizes import LISTED_BYTES, pair_bytes

TILE_ROWS = 256
"""Rows that ask, in one matrix product on a CPU."""


def table(query_rows: int, k: int) -> int:
    """Host bytes of what is found for a block of rows that ask, and of the strengths and places made of it."""
    return query_rows * (k * 40 + 64)


def dense(n_features: int, itemsize: int, k: int, query_rows: int, other_rows: int, n_threads: int) -> int:
    """Host bytes of `nearest.nearest` with its queries, which are read in pieces of `other_rows` rows. `itemsize`: of a
    stored value, the larger of the two sides'."""
    block = other_rows * n_features * (itemsize + 8)
    products = n_threads * (TILE_ROWS * other_rows * 4 + DENSE_BLAS_BYTES)
    return query_rows * n_features * 4 + block + products + table(query_rows, k)


def sparse(
    n_features: int, row_pairs: float, query_pairs: float, k: int, query_rows: int, other_rows: int, n_threads: int
) -> int:
    """Host bytes of `sparse.nearest` with its queries: `row_pairs` and `query_pairs` non-zeros of a row on either side, on
    average. A block stays beside its lists; of its rows squares, bias twice and scale are there, and sums of each thread."""
    pairs = int(other_rows * row_pairs * UNEVEN)
    lists = pairs * (pair_bytes(n_features) + LISTED_BYTES) + n_features * 8 + other_rows * 24
    asking = int(query_rows * query_pairs * UNEVEN) * 40
    return asking + lists + n_threads * other_rows * 4 + table(query_rows, k)


def cuda(n_features: int, dtype: str, query_dtype: str, k: int, query_rows: int, other_rows: int) -> int:
    """Device bytes of `cuda.nearest`: rows that ask, two chunks of others, a tile's scores, and what is picked of them."""
    kept = max((dtype, query_dtype), key=cuda_itemsize)
    asking = query_rows * 12
    widened = (other_rows + min(CUDA_TILE_ROWS, query_rows)) * n_features * 4
    return asking + widened + cuda_device(n_features, kept, k + 1, query_rows, other_rows, resident=False)
