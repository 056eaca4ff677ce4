"""Bytes of the search on a GPU as formulas, importable without torch, and the sizes by which it works."""

from dataclasses import dataclass

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
"""Bytes of the distances between tiles that are sorted together, and of the lists that are made of them."""

REGION_ROWS = 1 << 17
"""Mean rows of a region."""

LARGEST_PART = 1 << 18
"""Most rows of a part: a larger region is cut."""

ARRANGED_PARTS = 8
"""Part of a window's rows that are arranged together."""

WRITERS = 8
"""Threads that write runs of places to a file."""

REGION_SAMPLE = 64
"""Sampled rows for each region, on which their centres are learnt."""

CELL_ROWS = 128
"""Mean rows of a cell. Comparing tiles of such cells with 1/128 of 3,000,000 rows found 0.945 of the neighbors, of twice as large cells 0.909,
of a balanced 2-means tree 0.678 (2,000 rows)."""

SAMPLE_RUN = 8
"""Rows of which one is sampled to learn the centres of cells, or fewer: as many as fit a window."""

MOVED_CENTRES = 1 << 16
"""Centres that are moved together."""

LLOYD = 8
ASSIGN_ROWS = 1 << 17
"""Rows whose nearest centres are looked for together: 1 kB each."""

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
    codes, tiles = n_rows * SKETCH, _tiles(n_rows)
    sketching = _sketching(n_rows, n_features, is_sparse, other_rows) + codes
    ordering = codes + _ordering(n_rows)
    lists = n_rows * width * 8
    looking, joining = _looking(k, chunk_rows), n_rows * 44 + chunk_rows // 4 * 480 * 20
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


def _sketching(n_rows: int, n_features: int, is_sparse: bool, other_rows: int) -> int:
    """Count the learning of the projection, and the block that is projected."""
    sample = min(n_rows, SAMPLE_ROWS, max(other_rows, 256)) * n_features * 12
    block = other_rows * ((0 if is_sparse else n_features * 6) + SKETCH * 9)
    return max(sample, block) + n_features * SKETCH * 20


def _tiles(n_rows: int) -> int:
    """Count sketches, row numbers and norms in tiles."""
    return int(n_rows * SKETCH * PADDED) + n_rows * 16


def _ordering(n_rows: int) -> int:
    """Count what makes tiles beside sketches: cells, a sample of the rows, their sort; or the tiles while their centres are computed."""
    cells = n_rows * (SKETCH // SAMPLE_RUN + SKETCH * 10 // CELL_ROWS + 100) + min(n_rows, ASSIGN_ROWS) * 1400
    return max(cells, _tiles(n_rows) + n_rows * 8 + TILES_TOGETHER * 640 * SKETCH)


def _looking(k: int, chunk_rows: int) -> int:
    """Count the minima of a chunk, its candidates, and lists of tiles."""
    kept = PROPOSED * list_width(k)
    return chunk_rows * (1024 + kept * 48 + 2 * kept * 8) + LIST_BYTES * 12


@dataclass(frozen=True)
class Passing:
    """The sizes of a search while rows pass by (`passing.py`). `n_nonzero`: None for dense rows."""

    n_rows: int
    n_features: int
    n_nonzero: int | None
    dtype: str
    k: int
    group_rows: int
    window_rows: int
    chunk_rows: int
    other_rows: int

    @property
    def width(self) -> int:
        return passing_width(self.k, self.n_nonzero is not None)

    @property
    def pairs_bytes(self) -> int:
        """Bytes of a row without its zeros in a file, 0 for dense rows."""
        pair = (2 if self.n_features <= 1 << 16 else 4) + kept_itemsize(self.dtype)
        return -(-(self.n_nonzero or 0) * pair // self.n_rows)

    def device(self) -> int:
        """Predict the device bytes of arranging, looking, joining and assembling: the most that one of them needs."""
        window, group, width = min(self.window_rows, self.n_rows), min(self.group_rows, self.n_rows), self.width
        is_sparse = self.n_nonzero is not None
        codes, kept = window * SKETCH, group * width * 16
        rows = min(self.n_rows, int(window * UNEVEN_NONZEROS)) * self.pairs_bytes + window * 28
        if is_sparse:
            rows += min(PROGRAMS, window) * self.n_features * kept_itemsize(self.dtype)
        rows += self._cells()
        tiles = _tiles(window) + (0 if is_sparse else codes)
        ordering, looking = codes + _ordering(window), tiles + kept + _looking(self.k, self.chunk_rows)
        joining = window * (width * 4 + 44) + kept + self.chunk_rows // 4 * 480 * 32 + (0 if is_sparse else codes)
        counting = min(group, FETCHED_ROWS) * width * 24
        assembling = self.n_rows * 4 + min(self.n_rows, FETCHED_ROWS) * (width * 24 + self.k * 24)
        return max(self._arranging(), self._learning(), rows + max(ordering, looking, joining + counting), assembling)

    def _cells(self) -> int:
        """Count the centres of cells, and the part and the norm of each."""
        return self.n_rows // CELL_ROWS * (SKETCH + 8)

    def _learning(self) -> int:
        """Count what learns the cells: sketches of some rows, the regions near them and what they are nearest to; centres and their sums."""
        sample = self.n_rows // max(SAMPLE_RUN, -(-self.n_rows // self.window_rows)) + 1
        return sample * (SKETCH + 120) + 6 * self._cells() + min(sample, ASSIGN_ROWS) * 1400

    def _arranging(self) -> int:
        if self.n_nonzero is None:
            return _sketching(self.n_rows, self.n_features, False, self.other_rows) + self.n_rows // 8 * 6
        block = arranged_rows(self.window_rows)
        row = self.pairs_bytes + 16 + max(SKETCH * 6, self.pairs_bytes * 8)
        sketching = _sketching(self.n_rows, self.n_features, True, 0)
        return sketching + block * row + ASSIGN_ROWS * 1400 + self.n_rows // 8 * 6

    def decide_rows(self, n_bytes: int) -> int:
        """Return how many dense rows, at least a tile of them, may measure their candidates together in so many bytes."""
        row_bytes = self.n_features * kept_itemsize(self.dtype)
        left = n_bytes - 3 * self.other_rows * row_bytes - 65_536 * self.width * 10
        return max(min(TILE_ROWS, self.n_rows), min(self.n_rows, left // (row_bytes + self.width * 24 + self.k * 24)))

    def deciding(self, query_rows: int) -> int:
        """Predict the device bytes while dense rows measure their candidates."""
        row_bytes = self.n_features * kept_itemsize(self.dtype)
        own = query_rows * (row_bytes + self.width * 24 + self.k * 24)
        return own + 3 * self.other_rows * row_bytes + 65_536 * self.width * 10

    def host(self) -> int:
        """Predict the host bytes: the graph, the place of each row and their sort, lists on their way to files."""
        n, group, window = self.n_rows, min(self.group_rows, self.n_rows), min(self.window_rows, self.n_rows)
        is_sparse = self.n_nonzero is not None
        staged = 0 if is_sparse else pinned_bytes(min(self.other_rows, n), self.n_features, self.dtype)
        arranged = n * (6 + 24 if is_sparse else 6 + 8) + arranged_rows(self.window_rows) * self.pairs_bytes * 3
        searching = group * self.width * 16 + window * 16 + n * 6 + (8 * n if is_sparse else 0)
        assembled = (0 if is_sparse else n * self.width * 4) + min(n, FETCHED_ROWS) * (self.width * 8 + self.k * 24)
        return staged + n * self.k * 8 + max(arranged, searching, assembled + n * 4 + (8 * n if is_sparse else 0))

    def disk(self) -> int:
        """Predict the bytes of files while the search works: rows, lists before and after a step, the graph between two rounds."""
        kept = self.pairs_bytes if self.n_nonzero is not None else 2 * SKETCH
        return self.n_rows * (kept + 2 * self.width * 8 + self.k * 8)


def arranged_rows(window_rows: int) -> int:
    """Return how many rows without their zeros are arranged together."""
    return max(1, window_rows // ARRANGED_PARTS)


def list_width(k: int) -> int:
    """Return the number of neighbors kept of each row while a search is approximate; twice as many are kept by sketches alone."""
    return max(32, 1 << (k - 2).bit_length())


def passing_width(k: int, is_sparse: bool) -> int:
    """Return the number of neighbors kept in files while rows pass by: a join takes no more of them. Of dense rows, which are found by sketches
    alone, as many as elsewhere."""
    return max(16, 1 << (k - 2).bit_length()) if is_sparse else 2 * list_width(k)


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
