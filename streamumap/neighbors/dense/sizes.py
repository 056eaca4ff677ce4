"""Host bytes of the dense search as formulas, importable without numba, and the sizes by which it works."""

from math import isqrt

SKETCH = 256
"""Bytes of a row's sketch; with fewer features than this, one for each feature."""

LEAST_CELL = 256
OVERLAP = 2
WIDTH = 2
LEAST_WIDTH = 24
"""Candidates proposed for each neighbor asked for, and for each row at least."""

FORWARD = 28
REVERSE = 20
"""Nearest neighbors of a row, and nearest rows that have it as a neighbor, that take part in its join."""

MARGIN = 4
"""Neighbors kept beyond k where products choose them: measured distances then order near ties."""

TILE_ROWS = 512
TILES = 8
PIECE_BYTES = 2**21
WORKERS = 8
GROUP = 16
"""Pieces of products that are in memory at a time."""

BLAS_BYTES = 3 * 2**20
"""Buffers of an OpenBLAS thread, as measured."""

ASKING_ROWS = 256
"""New rows in one matrix product with rows of the map."""


def search(n_rows: int, n_features: int, itemsize: int, k: int, cell_rows: int, n_threads: int) -> int:
    """Predict the host bytes of `search.search`: what it holds throughout, and the step that needs most beyond. `itemsize`: bytes of a
    stored value."""
    n, width, cell = n_rows, list_width(k), min(n_rows, max(cell_rows, least_rows(k)))
    threads = min(n_threads, WORKERS)
    reading = threads * max(PIECE_BYTES // 4, n_features) * (itemsize + 8)
    n_cells = cell_counts(n)[0]
    sketches = n * (min(SKETCH, n_features) + 8)
    cells = n * OVERLAP * (4 + 16) + n_cells * 8 * (n_cells + threads * TILE_ROWS)
    members = n * (FORWARD + 2 * REVERSE) * 4
    introduced = k - 1 + REVERSE
    joining = _joining(n_features, introduced, threads)
    products = min(cell if cell == n else cell // 2, TILE_ROWS * TILES) ** 2 * 4
    steps = (
        sketches + _sketching(n_features, itemsize, threads),
        sketches + n * width * 9 + max(cells, members),
        n * (width * 4 + 9) + cell * width * 12 + reading,
        n * (k - 1 + (introduced + REVERSE) * 4 + 9) + cell * introduced * 12 + max(reading, joining),
        n * (MARGIN * 8 + 13) + products + reading + joining,  # the allocator keeps what joins have freed
        n * k * 12,
    )
    return held(n, n_features, k, cell) + max(steps) + threads * BLAS_BYTES


def held(n_rows: int, n_features: int, k: int, cell_rows: int) -> int:
    """Predict the bytes that a search holds throughout, also while its recall is measured: the table, the order of the rows, gathered
    rows."""
    return n_rows * ((k - 1) * 8 + 16) + cell_rows * n_features * 4


def count_closer(n_sample: int, n_others: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Predict the host bytes of `search.count_closer`: the sample, and the larger of what is needed while it is read, and of a block with
    its products. These are not in memory at once, but the allocator keeps what the first frees."""
    row_bytes = n_features * (itemsize + 8)
    blocks = max(block_rows, n_others) * row_bytes + block_rows * n_sample * 4
    return (
        n_sample * (n_features * 4 + n_others * 32) + max(n_sample * n_features * (itemsize + 4), blocks) + BLAS_BYTES
    )


def nearest(n_features: int, itemsize: int, query_rows: int, other_rows: int, n_threads: int) -> int:
    """Predict the host bytes of a search for the neighbors of new rows, which are read in pieces of `other_rows` rows. `itemsize`: bytes
    of a stored value, the larger of the two sides'."""
    block = other_rows * n_features * (itemsize + 8)
    products = n_threads * (ASKING_ROWS * other_rows * 4 + BLAS_BYTES)
    return query_rows * n_features * 4 + block + products


def list_width(k: int) -> int:
    """Return the number of candidates of a row."""
    return max(WIDTH * (k - 1), LEAST_WIDTH)


def least_rows(k: int) -> int:
    """Return the fewest rows that must be held at a time: one row with all its candidates, or with the members of its join."""
    return 2 + max(list_width(k), k + REVERSE)


def cell_counts(n_rows: int) -> tuple[int, int]:
    """Return the number of cells and the most rows of one. A fifth of the cells' room stays free, less where few rows leave fewer
    cells."""
    cap = max(LEAST_CELL, isqrt(2 * n_rows))
    return min(n_rows, max(1, -(-n_rows * OVERLAP * 5 // (cap * 4)))), cap


def join_step(n_features: int, n_members: int) -> int:
    """Return how many rows, with their gathered members and the products of these, make a piece."""
    return max(1, PIECE_BYTES // (n_members * (n_features + n_members) * 4))


def _sketching(n_features, itemsize, threads):
    """Count the projection and what it is made of, or the projection and pieces of rows with their float32 codes."""
    projection = n_features * SKETCH * 4
    piece_rows = max(1, PIECE_BYTES // (4 * n_features))
    codes = piece_rows * min(SKETCH, n_features) * 4 * 3
    return max(3 * projection, projection + threads * (piece_rows * n_features * (itemsize + 8) + codes))


def _joining(n_features, n_members, threads):
    """Count gathered members for each thread, and products for each piece that waits."""
    step = join_step(n_features, n_members)
    return step * n_members * (threads * n_features * 4 + (GROUP + threads) * (n_members * 4 + 12))
