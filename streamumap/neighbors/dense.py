"""Neighbours of dense rows on a CPU, in bounded memory, whatever the number of rows.

A pass puts every row into its OVERLAP nearest of many cells of at most `cell_rows` rows, compares the rows of a cell with each other by matrix
products and merges what it finds into one table. Between passes, the neighbours of each row are compared with each other, which carries
neighbours across cells (the local join of NN-descent: Dong, Moses, Li 2011). After each step the recall is measured; when PASSES did not
reach the floor, all blocks are compared with all. Matrix products run on one BLAS thread each and are merged in a fixed order, so the bytes
do not depend on the number of threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit, prange
from threadpoolctl import threadpool_limits

from streamumap.events import Tick, no_tick

OVERLAP = 2
CHOICES = 8
"""Nearest cells that a row may go to when nearer ones are full."""

PASSES = 3
JOINS = 2
REVERSE = 15
"""Rows that name a row as neighbour and take part in its join, the nearest first."""

TILE_ROWS = 512
PIVOTS = 64
CHUNK = 64

EXHAUSTIVE_ROWS = 100_000
"""Up to here all with all takes less time than passes and joins do (63,666 x 384 and x 3,072, 2 cores)."""

Reached = Callable[[np.ndarray], bool]


def footprint(n_rows: int, n_features: int, k: int, cell_rows: int) -> int:
    """Host bytes of `search` at its peak: the table with its reverse lists, and the rows and products of one cell."""
    table = n_rows * (k - 1) * 8 + n_rows * k * 8 + n_rows * REVERSE * 8
    membership = n_rows * OVERLAP * 8
    return table + membership + cell_bytes(n_features, cell_rows)


def cell_bytes(n_features: int, cell_rows: int) -> int:
    """Stored rows, float32 rows, their normalised copy, and the products of all pairs."""
    return cell_rows * (3 * n_features * 4 + cell_rows * 4)


def search(
    rows, k: int, *, cell_rows: int, seed: int, n_threads: int, reached: Reached, exhaustive: bool, tick: Tick = no_tick
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of `rows` (a DenseRows). `reached(indices)` says whether a graph is good enough; `exhaustive` compares all with all at once.

    Ticks N rows for each pass and each join, N rows for all with all.
    """
    table = _Table(rows.n_rows, k - 1)
    with ThreadPoolExecutor(n_threads) as pool, threadpool_limits(1):
        if exhaustive or rows.n_rows <= cell_rows or not _approximate(rows, table, cell_rows, seed, pool, reached, tick):
            table = _Table(rows.n_rows, k - 1)
            _all_with_all(rows, table, cell_rows, pool, tick)
    return table.finish(rows)


def count_closer(rows, sample: np.ndarray, others: np.ndarray, block_rows: int, tick: Tick = no_tick) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (inf). Ticks N rows.
    """
    ours = rows.take(sample)
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), 0)
    thresholds = np.stack([_squares(theirs[local[i]] - ours[i]) for i in range(len(sample))])
    thresholds[others < 0] = np.inf
    thresholds = (thresholds - 1e-6 * np.abs(thresholds)).astype(np.float32)
    counts = np.zeros(others.shape, np.int64)
    own = _squares(ours).astype(np.float32)
    for start in range(0, rows.n_rows, block_rows):
        block = rows.block(start, min(start + block_rows, rows.n_rows))
        _count(ours @ block.T, own, _squares(block).astype(np.float32), sample - start, thresholds, counts)
        tick(len(block))
    return counts


class _Table:
    """The k best of every row so far, itself apart: indices int32, squared distances float32, nearest first."""

    def __init__(self, n_rows, width):
        self.indices = np.full((n_rows, width), -1, np.int32)
        self.squares = np.full((n_rows, width), np.inf, np.float32)

    def finish(self, rows):
        """Distances again, from differences of the rows themselves, sorted by (distance, row number), with self in front."""
        n, width = self.indices.shape
        indices, distances = np.full((n, width + 1), -1, np.int32), np.zeros((n, width + 1), np.float32)
        block_rows = max(1, PIVOTS * PIVOTS // (width + 1))
        for start in range(0, n, block_rows):
            stop = min(start + block_rows, n)
            found = self.indices[start:stop]
            needed = np.unique(found[found >= 0]).astype(np.int64)
            theirs, local = rows.take(needed), np.searchsorted(needed, found)
            exact = np.stack([_squares(theirs[local[i]] - row) for i, row in enumerate(rows.block(start, stop))])
            exact = exact / 2 if rows.metric == "cosine" else np.sqrt(exact)
            exact[found < 0] = np.inf
            order = np.lexsort((found, exact), axis=1)
            indices[start:stop, 1:] = np.take_along_axis(found, order, 1)
            distances[start:stop, 1:] = np.take_along_axis(exact, order, 1)
        indices[:, 0] = np.arange(n)
        return indices, distances


def _squares(rows):
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def _approximate(rows, table, cell_rows, seed, pool, reached, tick) -> bool:
    for number in range(PASSES):
        for members in _cells(rows, cell_rows, np.random.Generator(np.random.Philox(key=[seed, number])), pool):
            _compare(rows.take(members), members, table, pool)
        tick(rows.n_rows)
        for _ in range(JOINS):
            if reached(table.indices):
                return True
            _join(rows, table, pool)
            tick(rows.n_rows)
    return reached(table.indices)


def _cells(rows, cell_rows, random, pool) -> Iterator[np.ndarray]:
    """Row numbers (int64, ascending) of each cell: nearest random rows as centres, no cell larger than `cell_rows`."""
    n = rows.n_rows
    n_cells = max(1, -(-n * OVERLAP * 5 // (cell_rows * 4)))
    centres = rows.take(np.sort(random.choice(n, n_cells, replace=False)))
    bias = -0.5 * _squares(centres).astype(np.float32)
    cells = np.full((n, OVERLAP), -1, np.int32)
    room = np.full(n_cells, cell_rows, np.int64)
    n_choices = min(CHOICES, n_cells)

    def nearest(start):
        scores = rows.block(start, min(start + TILE_ROWS, n)) @ centres.T + bias
        best = np.argpartition(-scores, n_choices - 1, axis=1)[:, :n_choices]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        return np.take_along_axis(best, order, 1)

    starts = range(0, n, TILE_ROWS)
    for start, choices in zip(starts, pool.map(nearest, starts), strict=True):
        _assign(choices, room, cells[start : start + TILE_ROWS])
    order = np.argsort(cells.ravel(), kind="stable")
    bounds = np.searchsorted(cells.ravel()[order], np.arange(n_cells + 1))
    for cell in range(n_cells):
        members = order[bounds[cell] : bounds[cell + 1]] // OVERLAP
        if len(members) > 1:
            yield members


@njit(cache=True)
def _assign(choices, room, cells):
    """Each row to its nearest cells that have room; the first one always, to the emptiest where all its choices are full."""
    for row in range(len(choices)):
        n = 0
        for cell in choices[row]:
            if n < cells.shape[1] and room[cell] > 0:
                cells[row, n] = cell
                room[cell] -= 1
                n += 1
        if n == 0:
            cells[row, 0] = np.argmax(room)
            room[cells[row, 0]] -= 1


def _compare(block, members, table, pool):
    """All pairs of the rows of one cell, a tile of rows at a time."""
    squares = _squares(block).astype(np.float32)
    numbers = members.astype(np.int32)

    def product(start):
        return block[start : start + TILE_ROWS] @ block.T

    starts = range(0, len(block), TILE_ROWS)
    for start, dots in zip(starts, pool.map(product, starts), strict=True):
        tile = slice(start, start + TILE_ROWS)
        _merge(dots, squares[tile], squares, numbers[tile], numbers, table.indices, table.squares)


def _all_with_all(rows, table, cell_rows, pool, tick):
    """Every pair of blocks once; the products serve the rows of both."""
    n = rows.n_rows
    half = max(TILE_ROWS, cell_rows // 2)
    starts = range(0, n, half)
    for start in starts:
        block = rows.block(start, min(start + half, n))
        squares, numbers = _squares(block).astype(np.float32), np.arange(start, start + len(block), dtype=np.int32)
        for first in range(start, n, half):
            other = block if first == start else rows.block(first, min(first + half, n))
            others = np.arange(first, first + len(other), dtype=np.int32)
            other_squares = _squares(other).astype(np.float32)
            tiles = [slice(t, t + TILE_ROWS) for t in range(0, len(block), TILE_ROWS)]
            products = pool.map(lambda tile, block=block, other=other: block[tile] @ other.T, tiles)
            for tile, dots in zip(tiles, products, strict=True):
                _merge(dots, squares[tile], other_squares, numbers[tile], others, table.indices, table.squares)
                if first != start:
                    _merge(np.ascontiguousarray(dots.T), other_squares, squares[tile], others, numbers[tile], table.indices, table.squares)
        tick(len(block))


@njit(inline="always")
def _insert(indices, squares, square, number):
    """Puts (square, number) into one row's sorted lists unless it is there."""
    width = len(squares)
    for at in range(width):
        if indices[at] == number:
            return
    at = width - 1
    while at > 0 and (squares[at - 1] > square or (squares[at - 1] == square and indices[at - 1] > number)):
        squares[at], indices[at] = squares[at - 1], indices[at - 1]
        at -= 1
    squares[at], indices[at] = square, number


@njit(parallel=True, fastmath={"nnan", "nsz"}, cache=True)
def _merge(dots, squares, other_squares, numbers, other_numbers, table_indices, table_squares):
    """Most rows are further than the worst kept: they are passed over CHUNK at a time by their smallest distance."""
    n_others = dots.shape[1]
    for row in prange(len(dots)):
        number = numbers[row]
        indices, best = table_indices[number], table_squares[number]
        for start in range(0, n_others, CHUNK):
            stop = min(start + CHUNK, n_others)
            least = np.float32(np.inf)
            for j in range(start, stop):
                least = min(least, other_squares[j] - np.float32(2) * dots[row, j])
            if squares[row] + least >= best[-1]:
                continue
            for j in range(start, stop):
                square = max(np.float32(0), squares[row] + (other_squares[j] - np.float32(2) * dots[row, j]))
                if square < best[-1] and other_numbers[j] != number:
                    _insert(indices, best, square, other_numbers[j])


def _join(rows, table, pool):
    """Compares the neighbours of each row, in both directions, with each other."""
    reverse = _reverse(table.indices, table.squares)
    n = rows.n_rows

    def products(start):
        members = np.concatenate([table_now[start : start + PIVOTS], reverse[start : start + PIVOTS]], axis=1)
        needed = np.unique(members[members >= 0]).astype(np.int64)
        block = rows.take(needed)
        local = np.where(members >= 0, np.searchsorted(needed, members), 0)
        gathered = block[local]
        return members, gathered @ gathered.transpose(0, 2, 1)

    table_now = table.indices.copy()
    starts = range(0, n, PIVOTS)
    for batch in range(0, len(starts), 64):
        for members, dots in pool.map(products, starts[batch : batch + 64]):
            _merge_pairs(members, dots, table.indices, table.squares)


@njit(cache=True)
def _merge_pairs(members, dots, table_indices, table_squares):
    width = members.shape[1]
    for pivot in range(len(members)):
        for a in range(width):
            for b in range(a):
                i, j = members[pivot, a], members[pivot, b]
                if i < 0 or j < 0 or i == j:
                    continue
                square = max(np.float32(0), dots[pivot, a, a] + dots[pivot, b, b] - np.float32(2) * dots[pivot, a, b])
                if square < table_squares[i, -1]:
                    _insert(table_indices[i], table_squares[i], square, j)
                if square < table_squares[j, -1]:
                    _insert(table_indices[j], table_squares[j], square, i)


@njit(cache=True)
def _reverse(indices, squares):
    """int32 (N, REVERSE): the nearest rows that have this row among their neighbours, -1 where there are fewer."""
    n, width = indices.shape
    out = np.full((n, REVERSE), -1, np.int32)
    best = np.full((n, REVERSE), np.inf, np.float32)
    for i in range(n):
        for j in range(width):
            target = indices[i, j]
            if target >= 0 and squares[i, j] < best[target, -1]:
                _insert(out[target], best[target], squares[i, j], np.int32(i))
    return out


@njit(parallel=True, cache=True)
def _count(dots, own, squares, itself, thresholds, counts):
    for row in prange(len(dots)):
        order = np.argsort(-thresholds[row])
        for j in range(dots.shape[1]):
            if j == itself[row]:
                continue
            square = max(np.float32(0), own[row] + squares[j] - np.float32(2) * dots[row, j])
            for c in order:
                if square >= thresholds[row, c]:
                    break
                counts[row, c] += 1
