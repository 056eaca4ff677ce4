"""Bytes of the k-NN backends as formulas, importable without torch or numba: what `planner.py` adds up and tests hold
to measurements."""

from math import isqrt

from streamumap.source.base import pinned_bytes

UNEVEN = 1.5
"""A block of rows may have this many times the mean of non-zeros."""

DENSE_SKETCH = 256
"""Bytes of a row's sketch; a row of fewer features has one for each."""

DENSE_SAMPLE_ROWS = 2048
DENSE_LEAST_CELL = 256
DENSE_OVERLAP = 2

DENSE_WIDTH = 2
DENSE_LEAST_WIDTH = 24
"""Candidates proposed for each neighbour wanted, and at least."""

DENSE_FORWARD = 28
DENSE_REVERSE = 20
"""Nearest neighbours of a row, and nearest rows that name it as neighbour, that take part in its join."""

DENSE_MARGIN = 4
"""Neighbours kept beyond k where products choose them: the distances put near ties right."""

DENSE_TILE_ROWS = 512
DENSE_TILES = 8
DENSE_PIECE_BYTES = 2**21
DENSE_WORKERS = 8
DENSE_GROUP = 16
"""Pieces of products that wait to be merged."""

DENSE_BLAS_BYTES = 3 * 2**20
"""What a thread of OpenBLAS keeps for the parts of matrices that it works on, as measured."""

CUDA_TILE_ROWS = 2048
"""Query rows of one matrix product."""

CUDA_GROUP = 32
CUDA_MARGIN = 9
CUDA_AGAIN_VALUES = 1 << 24
"""Values of others that are looked at again together where fast products cannot tell who is near."""

CUDA_LOOKED_PAIRS = 1 << 23
"""Pairs among which those that products leave in doubt are looked for together."""

CUDA_UPLOAD_ROWS = 65_536
CUDA_PROGRAMS = 2048
"""Programs that measure packed rows at once, each with a strip of D values."""

CUDA_SKETCH = 256
"""Bytes of a row's sketch."""

CUDA_SAMPLE_ROWS = 16_384
CUDA_PROPOSED = 4
"""Times as many rows as are kept are proposed by sketches and measured. Of 3,000 rows of one cluster, 2 found 0.988 after two joins, 4
0.993, 8 the same: what is left are errors of the sketches."""

CUDA_PADDED = 1.5
"""Room in tiles for each row: a cell of 128 rows fills its last tile of 64 to a half."""

CUDA_TILES_TOGETHER = 512
"""Tiles whose centres are found together; of 64 rows, 10 bytes a number."""

CUDA_LIST_BYTES = 1 << 26
"""Of the distances between tiles that are sorted together."""

CUDA_LARGEST_K = 129

CUDA_MERGE_ROWS = 32_768
"""Rows whose lists are sorted together."""

CUDA_FETCHED_ROWS = 1 << 20
"""Rows of the graph that come to the host together."""

CUDA_KEPT = ("float16", "bfloat16")
"""Stored dtypes that stay as they are on the device; all others become float32."""

CUVS_DEGREE = 64
CUVS_FACTOR = 4
"""Neighbours that NN-descent keeps of each row, and how many times as many it works with, at most."""

CUVS_MARGIN = 8
"""Neighbours asked for beyond k: float16 orders near ties wrongly, the rows put them right."""

CUVS_FILL_BYTES = 2**24
CUVS_FILLING = 8
"""Rows that are made float32 in one go, in bytes, and by how many threads."""

CUVS_ROW_BYTES = 656
"""Device bytes of a row in NN-descent beyond its float16 values, as measured with cuML 26.10: 4.6 GB at 500,000 rows of
3,072 features, 21.6 GB at 3,000,000."""

GIVEN_VALUE_BYTES = 96
"""Of a neighbour of a given graph while its block is checked and sorted."""

GIVEN_CHECKED_ROWS = 64
"""Rows whose given distances are compared with their own."""


def dense(n_rows: int, n_features: int, itemsize: int, k: int, cell_rows: int, n_threads: int) -> int:
    """Host bytes of `dense.search`: what it holds throughout, and the step that needs most beyond. `itemsize` is that
    of a stored value."""
    n, width, cell = n_rows, dense_width(k), min(n_rows, max(cell_rows, dense_least_rows(k)))
    threads = min(n_threads, DENSE_WORKERS)
    reading = threads * max(DENSE_PIECE_BYTES // 4, n_features) * (itemsize + 8)
    n_cells = dense_cells(n)[0]
    sketches = n * (min(DENSE_SKETCH, n_features) + 8)
    cells = n * DENSE_OVERLAP * (4 + 16) + n_cells * 8 * (n_cells + threads * DENSE_TILE_ROWS)
    members = n * (DENSE_FORWARD + 2 * DENSE_REVERSE) * 4
    introduced = k - 1 + DENSE_REVERSE
    joining = _joining(n_features, introduced, threads)
    products = min(cell if cell == n else cell // 2, DENSE_TILE_ROWS * DENSE_TILES) ** 2 * 4
    steps = (
        sketches + _sketching(n_features, itemsize, threads),
        sketches + n * width * 9 + max(cells, members),
        n * (width * 4 + 9) + cell * width * 12 + reading,
        n * (k - 1 + (introduced + DENSE_REVERSE) * 4 + 9) + cell * introduced * 12 + max(reading, joining),
        n * (DENSE_MARGIN * 8 + 13) + products + reading + joining,  # the allocator keeps what joins have freed
        n * k * 12,
    )
    return dense_held(n, n_features, k, cell) + max(steps) + threads * DENSE_BLAS_BYTES


def dense_held(n_rows: int, n_features: int, k: int, cell_rows: int) -> int:
    """Of it what is there at all times, also while the graph found so far is measured: the table, the order of the
    rows, gathered rows."""
    return n_rows * ((k - 1) * 8 + 16) + cell_rows * n_features * 4


def dense_count_closer(n_sample: int, n_others: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Host bytes of `dense.count_closer`: the sample; while it is read, or a block is, what that takes, and the
    products with the block.

    The last two are not there at once, but what one frees is no room for the other: the allocator keeps it.
    """
    row_bytes = n_features * (itemsize + 8)
    blocks = max(block_rows, n_others) * row_bytes + block_rows * n_sample * 4
    return (
        n_sample * (n_features * 4 + n_others * 32)
        + max(n_sample * n_features * (itemsize + 4), blocks)
        + DENSE_BLAS_BYTES
    )


def dense_width(k: int) -> int:
    """Candidates of a row."""
    return max(DENSE_WIDTH * (k - 1), DENSE_LEAST_WIDTH)


def dense_least_rows(k: int) -> int:
    """The fewest rows that must be held at a time: one row with all its candidates, or with the members of its join."""
    return 2 + max(dense_width(k), k + DENSE_REVERSE)


def dense_cells(n_rows: int) -> tuple[int, int]:
    """How many cells there are, and the most rows of one: a fifth of their room stays free, less where few rows leave
    fewer cells."""
    cap = max(DENSE_LEAST_CELL, isqrt(2 * n_rows))
    return min(n_rows, max(1, -(-n_rows * DENSE_OVERLAP * 5 // (cap * 4)))), cap


def dense_join_step(n_features: int, n_members: int) -> int:
    """Rows whose members, and the products of those, make a piece."""
    return max(1, DENSE_PIECE_BYTES // (n_members * (n_features + n_members) * 4))


def _sketching(n_features, itemsize, threads):
    """The projection and what it is made of, then pieces of rows with their float32 codes."""
    projection = n_features * DENSE_SKETCH * 4
    piece_rows = max(1, DENSE_PIECE_BYTES // (4 * n_features))
    codes = piece_rows * min(DENSE_SKETCH, n_features) * 4 * 3
    return max(3 * projection, projection + threads * (piece_rows * n_features * (itemsize + 8) + codes))


def _joining(n_features, n_members, threads):
    """Gathered members for each thread, products for each piece that waits."""
    step = dense_join_step(n_features, n_members)
    return step * n_members * (threads * n_features * 4 + (DENSE_GROUP + threads) * (n_members * 4 + 12))


def cuda_itemsize(dtype: str) -> int:
    return 2 if dtype in CUDA_KEPT else 4


def cuda_packed_rows(n_rows: int, n_features: int, n_nonzero: int, dtype: str) -> int:
    """Device bytes of a PackedOnDevice: pairs, bounds and squared norms, strips; while a block is uploaded its squares."""
    itemsize = cuda_itemsize(dtype)
    pairs = n_nonzero * ((2 if n_features <= 1 << 16 else 4) + itemsize) + n_rows * 16
    block = int(min(1.0, CUDA_UPLOAD_ROWS / n_rows * UNEVEN) * n_nonzero) * 24
    return pairs + min(CUDA_PROGRAMS, n_rows) * n_features * itemsize + block


def cuda_approximate(
    n_rows: int, n_features: int, k: int, dtype: str, is_sparse: bool, chunk_rows: int, query_rows: int, other_rows: int
) -> int:
    """Device bytes of `approximate` beyond packed rows: the most that one of its steps needs."""
    width = cuda_width(k)
    kept = CUDA_PROPOSED * width
    codes = n_rows * CUDA_SKETCH
    tiles = int(codes * CUDA_PADDED) + n_rows * 16
    sample = min(n_rows, CUDA_SAMPLE_ROWS, max(other_rows, 256)) * n_features * 12
    blocks = codes + other_rows * ((0 if is_sparse else n_features * 6) + CUDA_SKETCH * 9)
    sketching = max(sample, blocks) + n_features * CUDA_SKETCH * 20
    centring = CUDA_TILES_TOGETHER * 640 * CUDA_SKETCH
    ordering = codes + max(tiles + n_rows * 8 + centring, n_rows * (4 * CUDA_SKETCH // 8 + CUDA_SKETCH // 8 + 40))
    lists = n_rows * width * 8
    looking = chunk_rows * (1024 + kept * 48 + 2 * kept * 8) + CUDA_LIST_BYTES * 12
    joining = n_rows * 44 + chunk_rows // 4 * 480 * 20
    if is_sparse:
        return lists + max(sketching, ordering, tiles + looking, tiles + n_rows * (width * 4 + 64) + joining)
    width *= 2
    found = n_rows * width * 8
    resident = query_rows == n_rows
    row_bytes = n_features * cuda_itemsize(dtype)
    chunks = query_rows * row_bytes + (0 if resident else 3 * other_rows * row_bytes)
    measured = n_rows * width * 4 + CUDA_MERGE_ROWS * 2 * width * 8 + 65_536 * width * 10
    sketched = max(ordering, tiles + max(looking, n_rows * (width * 4 + 64) + joining, chunks + measured))
    return lists + found + codes + max(sketched, sketching + 2 * other_rows * row_bytes)


def cuda_width(k: int) -> int:
    """Neighbours kept of each row while a search is approximate; twice as many by sketches alone."""
    return max(32, 1 << (k - 2).bit_length())


def cuda_is_exhaustive(n_rows: int, n_features: int, k: int, recall: float) -> bool:
    """Whether all with all is the way to go: asked for, or cheaper (as measured on an H200: 2.8e14 multiplications and additions a
    second against a second and a half), or the lists would be too long for one program."""
    return recall >= 1 or k > CUDA_LARGEST_K or n_rows**2 * 2 * n_features < 1.5 * 2.8e14


def cuda_device(n_features: int, dtype: str, k: int, query_rows: int, other_rows: int, resident: bool) -> int:
    """Device bytes of `cuda.search`: the queries, their lists, two chunks of others, the scores of one tile and what is
    made of them."""
    row_bytes = n_features * cuda_itemsize(dtype)
    tile_rows = min(CUDA_TILE_ROWS, query_rows)
    scores = tile_rows * other_rows * 4
    groups = tile_rows * (other_rows // CUDA_GROUP) * 4
    picked = tile_rows * (k + CUDA_MARGIN) * CUDA_GROUP * (8 + 4) * 2
    squares = tile_rows * n_features * 4 * 2
    others = other_rows * (row_bytes * (1 if resident else 3) + 16)
    lists = query_rows * (k * (4 + 4) * 2 + 32)
    tile = max(scores + groups + picked, _cuda_again(tile_rows, other_rows, n_features))
    return query_rows * row_bytes + others + tile + squares + lists


def _cuda_again(tile_rows, other_rows, n_features):
    """A tile that is looked at again: gathered, as float32 and turned, beside as many others, and their scores."""
    again = min(other_rows, max(CUDA_GROUP, CUDA_AGAIN_VALUES // n_features))
    return (tile_rows * 3 + again * 2) * n_features * 4 + tile_rows * again * 4 * 2


def cuda_host(n_rows: int, n_features: int, dtype: str, k: int, other_rows: int) -> int:
    """Host bytes of `cuda.search`: two pinned chunks of rows as stored (`other_rows` 0: none), the graph, and parts of it on
    their way."""
    chunks = pinned_bytes(min(other_rows, n_rows), n_features, dtype) if other_rows else 0
    return chunks + n_rows * (k + 1) * 8 + min(n_rows, CUDA_FETCHED_ROWS) * (k - 1) * 8


def cuvs_width(n_rows: int, k: int) -> int:
    """Neighbours asked for of each row, itself perhaps among them."""
    return min(k + CUVS_MARGIN, n_rows)


def cuvs_padded(width: int) -> int:
    """Places of a row while its neighbours are measured: a program's arrays have powers of two."""
    return 1 << (width - 1).bit_length()


def cuvs_degree(k: int) -> int:
    """Neighbours that NN-descent keeps of each row."""
    return max(CUVS_DEGREE, -(-(k + CUVS_MARGIN) // 32) * 32)


def cuvs_host(n_rows: int, n_features: int, k: int) -> int:
    """Host bytes of `cuvs.search`: the rows as float32; NN-descent's graph with distances, its samples and what goes to
    and fro; two graphs of ours."""
    width = cuvs_width(n_rows, k)
    descent = cuvs_degree(k) * CUVS_FACTOR * 12 + 32 * (4 * 4 + 8)
    filling = CUVS_FILLING * max(CUVS_FILL_BYTES, n_features * 4) * 4
    return n_rows * (n_features * 4 + descent + width * 8 * 4 + cuvs_padded(width) * 4 * 3) + filling


def cuvs_device(n_rows: int, n_features: int, k: int) -> int:
    """Device bytes of `cuvs.search` while cuVS works: it keeps all rows as float16."""
    return n_rows * (n_features * 2 + CUVS_ROW_BYTES + cuvs_width(n_rows, k) * 12)


def cuvs_measuring(
    n_rows: int, n_features: int, k: int, dtype: str, is_sparse: bool, query_rows: int, other_rows: int
) -> int:
    """Device bytes of `cuvs.search` while its neighbours are measured, beyond packed rows."""
    width = cuvs_padded(cuvs_width(n_rows, k))
    lists = n_rows * width * 8 * 3 + CUDA_MERGE_ROWS * 2 * width * 8 + 65_536 * width * 10
    if is_sparse:
        return lists
    chunks = query_rows + (0 if query_rows == n_rows else 3 * other_rows)
    return lists + chunks * n_features * cuda_itemsize(dtype) + CUDA_TILE_ROWS * n_features * 8


def given(n_columns: int, n_features: int, k: int, block_rows: int) -> int:
    """Host bytes of a given graph: a block of it, and a few rows."""
    return block_rows * (n_columns * GIVEN_VALUE_BYTES + k * 24) + 2 * GIVEN_CHECKED_ROWS * n_features * 20


def count_closer(n_sample: int, n_others: int, n_features: int, block_rows: int) -> int:
    """Device bytes of `cuda.count_closer`: the sample twice, a block as float32, their products and which of them are in doubt; of
    some of these pairs numbers and distances. Before, the rows that others are, and some of the sample thrice for its centre."""
    pairs = n_sample * block_rows
    looking = block_rows * n_features * 4 * 3 + pairs * 5 + min(pairs, CUDA_LOOKED_PAIRS + block_rows) * 40
    before = (min(n_sample * n_others, CUDA_TILE_ROWS) * 2 + min(n_sample, 1024) * 6) * n_features * 4
    return n_sample * (n_features * 4 * 2 + n_others * 64) + max(looking, before)


def count_closer_packed(n_sample: int, n_others: int) -> int:
    """The same for rows on the device as pairs: what is compared, and counts in parts."""
    return n_sample * n_others * 128
