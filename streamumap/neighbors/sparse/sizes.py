"""Host bytes of the sparse search as formulas, importable without numba, and the sizes by which it works."""

from math import isqrt

from streamumap.source.sparse.csr_rows import SPAN_VALUES

UNEVEN_NONZEROS = 1.5
"""Factor by which a block of rows may have more non-zeros than the mean."""

CORPUS_ROWS = 65_536
"""Rows of an inverted index: their numbers fit uint16 and a row's sums (256 KiB) stay in a core's cache."""

MARGIN = 8
"""Candidates kept beyond k - 1: float32 sums may order near ties wrongly, which float64 distances correct."""

EXHAUSTIVE_ROWS = 2 * CORPUS_ROWS
"""Up to this many rows all are compared with all: exact, in at most 35 CPU seconds. Measured: 1.85 ns a pair; cells and joins take 45 us
a row."""

LISTED_BYTES = 2 + 4
"""Bytes of a pair in inverted lists: its row as uint16, its value as float32. Reading a block takes no more than making its lists, even
where values are stored as float64."""

TAKEN_ROW_BYTES = 40
"""Bytes of a candidate row while it is read: its number as int32 and int64, its length, its places before and after."""

PLACE_BYTES = 8 + 4
"""Bytes of an entry of a candidate list: its place among the rows read, as the search for it gives it and as int32."""

CHOICES = 16
"""Cells that each row is compared with in the first round."""

LEAST_CELL = 64
STRONGEST = 32
"""Most features of a centre."""

KEPT = 6
"""Rows of cells that a row is compared with by all features in the first round, for each place in its list."""

PER_CELL = 16
"""Rows for each cell in the sample on which centres are learnt, and rounds of learning."""

ROUNDS = 3
BLOCK_ROWS = 16_384
BATCH_ROWS = 8192
LEAST_WIDTH = 24
FORWARD = 20
REVERSE = 14
"""Nearest neighbors of a row, and nearest rows that have it as a neighbor, that take part in its join."""


def search(
    n_rows: int,
    n_features: int,
    n_nonzero: int,
    k: int,
    query_rows: int,
    batch_rows: int,
    n_sample: int,
    n_threads: int,
) -> int:
    """Predict the host bytes of `search.search` beyond the rows themselves; `n_sample` rows measure the recall. An approximate search may
    end by comparing all rows with all."""
    exhaustive = _exhaustive(n_rows, n_features, n_nonzero, k, query_rows, n_sample, n_threads)
    if not batch_rows:
        return exhaustive
    return max(exhaustive, _approximate(n_rows, n_features, n_nonzero, k, batch_rows, n_sample, n_threads))


def count_closer(
    n_rows: int, n_features: int, n_nonzero: int, n_sample: int, n_others: int, block_rows: int, n_threads: int
) -> int:
    """Predict the host bytes of `count.count_closer`: the sample and its others, which are read in one piece; then beside these the lists of
    a block, its squared norms and the float64 sums of each thread."""
    read_bytes = pair_bytes(n_features)
    own, others = (_pairs_of(size, n_rows, n_nonzero) for size in (n_sample, n_sample * n_others))
    block = _pairs_of(block_rows, n_rows, n_nonzero) * (read_bytes + LISTED_BYTES)
    block += block_rows * (8 + 8 * n_threads) + n_features * 8
    return (own + others) * read_bytes + n_sample * n_others * TAKEN_ROW_BYTES + max(_taking(others), block)


def nearest(
    n_features: int, row_pairs: float, query_pairs: float, query_rows: int, other_rows: int, n_threads: int
) -> int:
    """Predict the host bytes of a search for the neighbors of new rows: `query_pairs` and `row_pairs` are the mean non-zeros of a new row
    and of a row of the map. Counted are a block and its lists, for each of its rows the squared norm, the bias twice and the scale, and
    the sums of each thread."""
    pairs = int(other_rows * row_pairs * UNEVEN_NONZEROS)
    lists = pairs * (pair_bytes(n_features) + LISTED_BYTES) + n_features * 8 + other_rows * 24
    asking = int(query_rows * query_pairs * UNEVEN_NONZEROS) * 40
    return asking + lists + n_threads * other_rows * 4


def pair_bytes(n_features: int) -> int:
    """Return the bytes of a pair as it is read: its feature, its value as float32."""
    return (2 if n_features <= 1 << 16 else 4) + 4


def mean_cell_rows(n_rows: int) -> int:
    """Return the mean number of rows in a cell: it grows with the number of rows, and so does the number of cells."""
    return max(LEAST_CELL, isqrt(n_rows) // 8)


def centre_width(mean_pairs: float) -> int:
    """Return the number of features of a centre: half of a row's mean, within limits. More do not find more neighbors."""
    return min(STRONGEST, max(STRONGEST // 2, round(mean_pairs / 2)))


def head_width(mean_pairs: float) -> int:
    """Return the number of a row's strongest features by which those that may be near are told from others: a quarter of the mean, in fours."""
    return max(8, 4 * round(mean_pairs / 16))


def list_width(k: int) -> int:
    """Return the number of neighbors kept of each row while a search is approximate."""
    return max(LEAST_WIDTH, k - 1 + MARGIN)


def _exhaustive(n_rows, n_features, n_nonzero, k, query_rows, n_sample, n_threads):
    """Return the most that one of the steps needs. Scoring: candidates with their scores and each row's scale, beside a block's lists and
    the pairs these are made of, or the pairs of query rows and the sums of each thread. Deciding: candidates and the graph, beside the
    pairs of query rows and of all their candidates. Completing lists that float32 sums leave open. Measuring the recall."""
    read_bytes, width = pair_bytes(n_features), k - 1 + MARGIN
    corpus = _pairs_of(CORPUS_ROWS, n_rows, n_nonzero)
    asking = _pairs_of(query_rows, n_rows, n_nonzero) * read_bytes
    beside_lists = max(corpus * read_bytes, asking + (1 + n_threads) * CORPUS_ROWS * 4)
    scoring = n_rows * (width * 8 + 4) + corpus * LISTED_BYTES + beside_lists + n_features * 8
    naming = query_rows * width
    named = _pairs_of(naming, n_rows, n_nonzero)
    taken = named * read_bytes + _taking(named) + min(n_rows, naming) * TAKEN_ROW_BYTES + naming * PLACE_BYTES
    deciding = n_rows * (width * 4 + 4 + k * 8) + taken + asking
    completing = (
        n_rows * (k * 8 + 13) + corpus * (read_bytes + LISTED_BYTES) + asking + CORPUS_ROWS * (1 + n_threads) * 8
    )
    counting = count_closer(n_rows, n_features, n_nonzero, n_sample, k - 1, min(n_rows, CORPUS_ROWS), n_threads)
    return max(scoring, deciding, completing + n_features * 8, n_rows * k * 8 + counting)


def _pairs_of(some_rows, n_rows, n_nonzero):
    return int(min(1.0, some_rows / n_rows * UNEVEN_NONZEROS) * n_nonzero)


def _taking(n_pairs):
    """Count what `CsrRows.take` needs beside the pairs: the places of those of a span, and what is read of them."""
    return min(n_pairs, SPAN_VALUES) * 28


def _approximate(n_rows, n_features, n_nonzero, k, batch_rows, n_sample, n_threads):
    """Count the rows in the order of their cells, their heads and the centres, which are held throughout, and the step that needs most
    beyond. The buffers with which a thread probes stay: glibc does not give back the end of a thread's heap."""
    n, width, index_bytes = n_rows, list_width(k), 2 if n_features <= 1 << 16 else 4
    share = n_nonzero / n * UNEVEN_NONZEROS
    block_rows, cell_rows = min(n, BLOCK_ROWS), mean_cell_rows(n)
    n_cells = 2 * max(1, n // cell_rows)
    centres = n_cells * centre_width(n_nonzero / n) * (index_bytes + 4)
    arranged = n_nonzero * (index_bytes + 4) + n * 20 + centres
    heads = n * head_width(n_nonzero / n) * (index_bytes + 4)
    learning = int(min(n, PER_CELL * n_cells // 2) * (share * (index_bytes + 12) + 20)) + centres * 6
    arranging = n * 28 + centres * 4 + int(block_rows * share * 18) + n_threads * n_features * (9 + index_bytes)
    table = n * width * 9
    met = min(n, 16 * CHOICES * 2 * cell_rows)
    threads = n_threads * (n_cells * 8 + n_features * 4 + met * 8)
    joining = n * (FORWARD + 2 * REVERSE) * 4 + n_threads * (n_features * 4 + 24 * 1024)
    counted = count_closer(n, n_features, n_nonzero, n_sample, k - 1, min(n, CORPUS_ROWS), n_threads) + n * 4
    measuring = n * (width + k) * 8 + block_rows * k * 8 + n_threads * n_features * 8
    rounds = table + max(centres * 4, joining, counted)
    return max(learning, arranged + max(arranging, heads + threads + max(rounds, measuring)))
