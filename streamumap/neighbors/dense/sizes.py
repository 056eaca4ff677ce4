"""Host bytes of the dense search as formulas, importable without numba, and the sizes by which it works."""

from math import isqrt

SKETCH = 256
"""Bytes of a row's sketch; a row of fewer features has one for each."""

LEAST_CELL = 256
OVERLAP = 2
WIDTH = 2
LEAST_WIDTH = 24
"""Candidates proposed for each neighbour wanted, and at least."""

FORWARD = 28
REVERSE = 20
"""Nearest neighbours of a row, and nearest rows that name it as neighbour, that take part in its join."""

MARGIN = 4
"""Neighbours kept beyond k where products choose them: the distances put near ties right."""

TILE_ROWS = 512
TILES = 8
PIECE_BYTES = 2**21
WORKERS = 8
GROUP = 16
"""Pieces of products that wait to be merged."""

BLAS_BYTES = 3 * 2**20
"""What a thread of OpenBLAS keeps for the parts of matrices that it works on, as measured."""

ASKING_ROWS = 256
"""New rows in one matrix product with rows of the map."""


def search(n_rows: int, n_features: int, itemsize: int, k: int, cell_rows: int, n_threads: int) -> int:
    """Host bytes of `search.search`: what it holds throughout, and the step that needs most beyond. `itemsize` is that
    of a stored value."""
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
    """Of it what is there at all times, also while the graph found so far is measured: the table, the order of the
    rows, gathered rows."""
    return n_rows * ((k - 1) * 8 + 16) + cell_rows * n_features * 4


def count_closer(n_sample: int, n_others: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Host bytes of `search.count_closer`: the sample; while it is read, or a block is, what that takes, and the
    products with the block.

    The last two are not there at once, but what one frees is no room for the other: the allocator keeps it.
    """
    row_bytes = n_features * (itemsize + 8)
    blocks = max(block_rows, n_others) * row_bytes + block_rows * n_sample * 4
    return (
        n_sample * (n_features * 4 + n_others * 32) + max(n_sample * n_features * (itemsize + 4), blocks) + BLAS_BYTES
    )


def nearest(n_features: int, itemsize: int, query_rows: int, other_rows: int, n_threads: int) -> int:
    """Host bytes of `nearest.nearest` with its queries, which are read in pieces of `other_rows` rows. `itemsize`: of a
    stored value, the larger of the two sides'."""
    block = other_rows * n_features * (itemsize + 8)
    products = n_threads * (ASKING_ROWS * other_rows * 4 + BLAS_BYTES)
    return query_rows * n_features * 4 + block + products


def list_width(k: int) -> int:
    """Candidates of a row."""
    return max(WIDTH * (k - 1), LEAST_WIDTH)


def least_rows(k: int) -> int:
    """The fewest rows that must be held at a time: one row with all its candidates, or with the members of its join."""
    return 2 + max(list_width(k), k + REVERSE)


def cell_counts(n_rows: int) -> tuple[int, int]:
    """How many cells there are, and the most rows of one: a fifth of their room stays free, less where few rows leave
    fewer cells."""
    cap = max(LEAST_CELL, isqrt(2 * n_rows))
    return min(n_rows, max(1, -(-n_rows * OVERLAP * 5 // (cap * 4)))), cap


def join_step(n_features: int, n_members: int) -> int:
    """Rows whose members, and the products of those, make a piece."""
    return max(1, PIECE_BYTES // (n_members * (n_features + n_members) * 4))


def _sketching(n_features, itemsize, threads):
    """The projection and what it is made of, then pieces of rows with their float32 codes."""
    projection = n_features * SKETCH * 4
    piece_rows = max(1, PIECE_BYTES // (4 * n_features))
    codes = piece_rows * min(SKETCH, n_features) * 4 * 3
    return max(3 * projection, projection + threads * (piece_rows * n_features * (itemsize + 8) + codes))


def _joining(n_features, n_members, threads):
    """Gathered members for each thread, products for each piece that waits."""
    step = join_step(n_features, n_members)
    return step * n_members * (threads * n_features * 4 + (GROUP + threads) * (n_members * 4 + 12))
