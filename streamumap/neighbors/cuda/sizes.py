"""Bytes of the search on a GPU as formulas, importable without torch, and the sizes by which it works."""

from streamumap.neighbors.sparse.sizes import UNEVEN_NONZEROS
from streamumap.source.base import pinned_bytes

TILE_ROWS = 2048
"""Query rows in one matrix product."""

GROUP = 32
MARGIN = 9
AGAIN_VALUES = 1 << 24
"""Values of other rows in one product that is made again, where fast products cannot tell who is near."""

LOOKED_PAIRS = 1 << 23
"""Pairs among which those that products leave in doubt are looked up at a time."""

UPLOAD_ROWS = 65_536
PROGRAMS = 2048
"""Programs that measure rows without their zeros at once, each with a strip of D values."""

SKETCH = 256
"""Bytes of a row's sketch."""

SAMPLE_ROWS = 16_384
PROPOSED = 4
"""Factor of the candidates that sketches propose, and that are measured, over the neighbors kept. In 3,000 rows of one cluster 2 found 0.988
after two joins, 4 found 0.993, and 8 the same: the rest are errors of the sketches."""

PADDED = 1.5
"""Places in tiles for each row: a cell of 128 rows fills half of its last tile of 64, on average."""

TILES_TOGETHER = 512
"""Tiles whose centres are computed together: 64 rows each, 10 bytes for each number of a sketch."""

LIST_BYTES = 1 << 26
"""Bytes of the distances between tiles that are sorted together."""

LARGEST_K = 129
MERGE_ROWS = 32_768
"""Rows whose lists are sorted together."""

FETCHED_ROWS = 1 << 20
"""Rows of the graph that are copied to the host together."""

KEPT = ("float16", "bfloat16")
"""Stored dtypes that are kept on the device; all others become float32."""


def kept_itemsize(dtype: str) -> int:
    """Return the bytes of a value on the device."""
    return 2 if dtype in KEPT else 4


def csr_rows(n_rows: int, n_features: int, n_nonzero: int, dtype: str) -> int:
    """Predict the device bytes of a SparseOnDevice: pairs, bounds and squared norms, strips; and the squares of a block being uploaded."""
    itemsize = kept_itemsize(dtype)
    pairs = n_nonzero * ((2 if n_features <= 1 << 16 else 4) + itemsize) + n_rows * 16
    block = int(min(1.0, UPLOAD_ROWS / n_rows * UNEVEN_NONZEROS) * n_nonzero) * 24
    return pairs + min(PROGRAMS, n_rows) * n_features * itemsize + block


def approximate(
    n_rows: int, n_features: int, k: int, dtype: str, is_sparse: bool, chunk_rows: int, query_rows: int, other_rows: int
) -> int:
    """Predict the device bytes of `approximate` beyond rows without their zeros: the most that one of its steps needs."""
    width = list_width(k)
    kept = PROPOSED * width
    codes = n_rows * SKETCH
    tiles = int(codes * PADDED) + n_rows * 16
    sample = min(n_rows, SAMPLE_ROWS, max(other_rows, 256)) * n_features * 12
    blocks = codes + other_rows * ((0 if is_sparse else n_features * 6) + SKETCH * 9)
    sketching = max(sample, blocks) + n_features * SKETCH * 20
    centring = TILES_TOGETHER * 640 * SKETCH
    ordering = codes + max(tiles + n_rows * 8 + centring, n_rows * (4 * SKETCH // 8 + SKETCH // 8 + 40))
    lists = n_rows * width * 8
    looking = chunk_rows * (1024 + kept * 48 + 2 * kept * 8) + LIST_BYTES * 12
    joining = n_rows * 44 + chunk_rows // 4 * 480 * 20
    if is_sparse:
        return lists + max(sketching, ordering, tiles + looking, tiles + n_rows * (width * 4 + 64) + joining)
    width *= 2
    found = n_rows * width * 8
    resident = query_rows == n_rows
    row_bytes = n_features * kept_itemsize(dtype)
    chunks = query_rows * row_bytes + (0 if resident else 3 * other_rows * row_bytes)
    measured = n_rows * width * 4 + MERGE_ROWS * 2 * width * 8 + 65_536 * width * 10
    sketched = max(ordering, tiles + max(looking, n_rows * (width * 4 + 64) + joining, chunks + measured))
    return lists + found + codes + max(sketched, sketching + 2 * other_rows * row_bytes)


def list_width(k: int) -> int:
    """Return the number of neighbors kept of each row while a search is approximate; twice as many are kept by sketches alone."""
    return max(32, 1 << (k - 2).bit_length())


def is_exhaustive(n_rows: int, n_features: int, k: int, recall: float) -> bool:
    """Decide whether all rows are compared with all: because it is asked for, or cheaper (as measured on an H200: 2.8e14 multiplications
    and additions a second, against a second and a half), or because lists would be too long for one program."""
    return recall >= 1 or k > LARGEST_K or n_rows**2 * 2 * n_features < 1.5 * 2.8e14


def exhaustive(n_features: int, dtype: str, k: int, query_rows: int, other_rows: int, resident: bool) -> int:
    """Predict the device bytes of `exhaustive`: the queries, their lists, two chunks of other rows, the scores of one tile and their
    temporaries."""
    row_bytes = n_features * kept_itemsize(dtype)
    tile_rows = min(TILE_ROWS, query_rows)
    scores = tile_rows * other_rows * 4
    groups = tile_rows * (other_rows // GROUP) * 4
    picked = tile_rows * (k + MARGIN) * GROUP * (8 + 4) * 2
    squares = tile_rows * n_features * 4 * 2
    others = other_rows * (row_bytes * (1 if resident else 3) + 16)
    lists = query_rows * (k * (4 + 4) * 2 + 32)
    tile = max(scores + groups + picked, _again(tile_rows, other_rows, n_features))
    return query_rows * row_bytes + others + tile + squares + lists


def _again(tile_rows, other_rows, n_features):
    """Count a tile that is compared again: gathered, as float32 and transposed, beside as many other rows, and their scores."""
    again = min(other_rows, max(GROUP, AGAIN_VALUES // n_features))
    return (tile_rows * 3 + again * 2) * n_features * 4 + tile_rows * again * 4 * 2


def host(n_rows: int, n_features: int, dtype: str, k: int, other_rows: int) -> int:
    """Predict the host bytes of a search: two pinned chunks of rows as stored (`other_rows` 0: none), the graph, and the part of it that is
    copied."""
    chunks = pinned_bytes(min(other_rows, n_rows), n_features, dtype) if other_rows else 0
    return chunks + n_rows * (k + 1) * 8 + min(n_rows, FETCHED_ROWS) * (k - 1) * 8


def count_closer(n_sample: int, n_others: int, n_features: int, block_rows: int) -> int:
    """Predict the device bytes of counting ranks in dense rows: the sample twice; a block as float32, its products, a mask of those in doubt,
    numbers and distances of some of them; before, the rows of `others`, and part of the sample three times for its centre."""
    pairs = n_sample * block_rows
    looking = block_rows * n_features * 4 * 3 + pairs * 5 + min(pairs, LOOKED_PAIRS + block_rows) * 40
    before = (min(n_sample * n_others, TILE_ROWS) * 2 + min(n_sample, 1024) * 6) * n_features * 4
    return n_sample * (n_features * 4 * 2 + n_others * 64) + max(looking, before)


def count_closer_csr(n_sample: int, n_others: int) -> int:
    """Predict the device bytes of counting ranks in rows without their zeros: limits, and counts in parts."""
    return n_sample * n_others * 128


def nearest(n_features: int, dtype: str, query_dtype: str, k: int, query_rows: int, other_rows: int) -> int:
    """Predict the device bytes of a search for the neighbors of new rows: these, two chunks of other rows, a tile's scores and candidates."""
    kept = max((dtype, query_dtype), key=kept_itemsize)
    asking = query_rows * 12
    widened = (other_rows + min(TILE_ROWS, query_rows)) * n_features * 4
    return asking + widened + exhaustive(n_features, kept, k + 1, query_rows, other_rows, resident=False)
