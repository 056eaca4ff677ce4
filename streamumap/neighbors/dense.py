"""Neighbours of dense rows on a CPU, in bounded memory, whatever the number of rows.

Each row gets a sketch: SKETCH numbers of one byte that keep distances nearly (the strongest components of a sample,
and a random projection of the rest: Johnson & Lindenstrauss 1984). Sketches of all rows stay in memory and propose
candidates: the rows of a few overlapping cells, then neighbours of neighbours, new ones only (NN-descent: Dong,
Moses, Li 2011). The rows themselves decide: candidates are measured in batches of rows that lie close together and so
share candidates. Then the recall is measured; while it is too low, the neighbours of each row are compared with each
other by products of the rows, and at last all with all.

Sums of sketches are integers, a row's list is written by one thread, and matrix products run on one BLAS thread each
and are merged in a fixed order: the bytes do not depend on the number of threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from streamumap.events import Tick, no_tick
from streamumap.neighbors.zero import join_zero_rows

SKETCH = 256
COMPONENTS = 64
"""Of the SKETCH dimensions. Among 30 candidates, 192 components alone keep 0.57 of the neighbours of codes, 192 random
ones 0.86 of those of both codes and embeddings, 64 and 128 of them 0.87 and 0.96."""
SAMPLE_ROWS = 2048

OVERLAP = 2
CHOICES = 8
"""Nearest cells that a row may go to when nearer ones are full."""
LEAST_CELL = 256

PASSES = 3
SKETCH_JOINS = 6
SETTLED = 0.02
"""Joins of sketches stop when they change less than this share of the lists."""

FORWARD = 28
REVERSE = 20
"""Nearest neighbours of a row, and nearest rows that name it as neighbour, that take part in its join."""

WIDTH = 2
LEAST_WIDTH = 24
"""Candidates proposed for each neighbour wanted, and at least."""

ROW_JOINS = 3

MARGIN = 4
"""Neighbours kept beyond k where products choose them: the distances put near ties right."""

TILE_ROWS = 512
TILES = 8
CHUNK = 64
PIECE_BYTES = 2**21
WORKERS = 8

Reached = Callable[[np.ndarray], bool]


def footprint(n_rows: int, n_features: int, k: int, cell_rows: int) -> int:
    """Host bytes of `search` at its peak: sketches, candidates, tables and members of joins, and the gathered rows
    with what reads them.
    """
    sketches = min(SKETCH, n_features) + 8
    candidates = _width(k) * (4 + 4 + 1)
    members = (FORWARD + 2 * REVERSE) * 4
    tables = (k + MARGIN) * 8 * 2 + k * 8
    order = OVERLAP * 3 * 8 + 64
    return n_rows * (sketches + candidates + members + tables + order) + cell_bytes(n_features, cell_rows)


def _width(k):
    return max(WIDTH * (k - 1), LEAST_WIDTH)


def least_rows(k: int) -> int:
    """The fewest rows that must be held at a time: one row with all its candidates, or with the members of its join."""
    return 2 + max(_width(k), k + REVERSE)


def cell_bytes(n_features: int, cell_rows: int) -> int:
    """Gathered rows, pieces on their way, the projection with the sample it comes from, tiles of products."""
    reading = WORKERS * 3 * max(PIECE_BYTES, n_features * 4)
    projection = 3 * n_features * SKETCH * 4 + 3 * min(SAMPLE_ROWS, cell_rows) * n_features * 4
    tiles = 2 * (TILES * TILE_ROWS) ** 2 * 4
    return cell_rows * n_features * 4 + reading + projection + tiles


def search(
    rows,
    k: int,
    *,
    cell_rows: int,
    seed: int,
    n_threads: int,
    reached: Reached,
    exhaustive: bool,
    is_zero: np.ndarray | None = None,
    tick: Tick = no_tick,
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of `rows` (a DenseRows): indices int32 (N, k), distances float32 (N, k), nearest first, self in front, -1
    and inf where none.

    At most `cell_rows` rows are held at a time. `reached(indices)`, with indices int32 (N, k - 1) without self, says
    whether a graph is good enough; `exhaustive` compares all with all at once. `is_zero`: bool (N,), the rows without
    a direction, for cosine.
    Ticks N rows for each step: a measuring, a join, all with all.
    """
    with ThreadPoolExecutor(min(n_threads, WORKERS)) as pool, threadpool_limits(1):
        work = _Work(rows, k, max(cell_rows, least_rows(k)), seed, pool, is_zero, tick)
        if exhaustive or all_with_all_is_cheaper(rows.n_rows, rows.n_features) or not _approximate(work, reached):
            _all_with_all(work)
        return work.finish()


def all_with_all_is_cheaper(n_rows: int, n_features: int) -> bool:
    """By CPU seconds as measured on a core with AVX-512: products at 85 GFLOP/s and 3 ns a pair to scan, against
    proposing and measuring.
    """
    return n_rows * (n_features * 1.2e-11 + 3e-9) < 2.2e-4 + n_features * 1.8e-7


def count_closer(rows, sample: np.ndarray, others: np.ndarray, block_rows: int, tick: Tick = no_tick) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (inf). Ticks N rows.
    Squared distances are compared that come from float32 products, which err by a few units in the last place of the
    squared norms: a row counts only where it is closer by ROUNDINGS of them, so that none is closer than itself.
    """
    ours = rows.take(sample)
    cosine = rows.metric == "cosine"
    centre = np.float32(0) if cosine else ours.mean(0)  # far from the origin the norms would swallow the digits
    ours -= centre
    own = _squares(ours)
    thresholds = np.concatenate(
        [
            _thresholds(rows, centre, ours[piece], own[piece], others[piece])
            for piece in _pieces(len(sample), block_rows // max(1, others.shape[1]))
        ]
    )
    order = np.argsort(-thresholds, axis=1)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, rows.n_rows, block_rows):
        block = rows.block(start, min(start + block_rows, rows.n_rows))
        block -= centre
        _count(ours @ block.T, own, _squares(block), sample - start, cosine, order, thresholds, counts)
        tick(len(block))
    return counts


ROUNDINGS = 8
"""Units of float32 of the sum of the squared norms."""


def _thresholds(rows, centre, ours, own, others):
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed) - centre
    local = np.where(others >= 0, np.searchsorted(needed, others), -1).astype(np.int32)
    out = np.full(others.shape, np.inf)
    squares = _squares(theirs)
    _measure_pairs(ours, theirs, own, squares, local, rows.metric == "cosine", out)
    slack = ROUNDINGS * np.finfo(np.float32).eps * (own[:, None] + (squares[local] if len(needed) else 0.0))
    return np.where(local >= 0, out - slack, np.inf)


def _pieces(n, piece):
    piece = max(1, piece)
    return [slice(start, min(start + piece, n)) for start in range(0, n, piece)]


class _Work:
    """What the steps share: the rows, one buffer for gathered rows, and the k - 1 best of every row so far, itself
    apart.
    """

    def __init__(self, rows, k, cell_rows, seed, pool, is_zero, tick):
        self.rows, self.k, self.seed, self.pool, self.tick = rows, k, seed, pool, tick
        self.n, self.cosine = rows.n_rows, rows.metric == "cosine"
        self.cell_rows = min(cell_rows, self.n)
        self.is_zero = np.zeros(self.n, bool) if is_zero is None or not self.cosine else is_zero
        self.buffer = np.empty((self.cell_rows, rows.n_features), np.float32)
        self.order = np.arange(self.n)
        self.clear(k - 1)

    def clear(self, width):
        self.indices = np.full((self.n, width), -1, np.int32)
        self.squares = np.full((self.n, width), np.inf, np.float32)

    def gather(self, needed, out):
        """Rows of these ascending numbers into `out`, by pieces, several at a time."""
        pieces = _pieces(len(needed), PIECE_BYTES // (4 * self.rows.n_features))
        contiguous = len(needed) > 0 and needed[-1] - needed[0] == len(needed) - 1

        def read(piece):
            part = needed[piece]
            out[piece] = self.rows.block(int(part[0]), int(part[-1]) + 1) if contiguous else self.rows.take(part)

        for _ in self.pool.map(read, pieces):
            pass
        return out[: len(needed)]

    def each(self, kernel, n_items, piece, *arguments):
        """kernel(start, stop, *arguments) over the items by pieces, several at a time; what they return."""
        return list(self.pool.map(lambda part: kernel(part.start, part.stop, *arguments), _pieces(n_items, piece)))

    def batches(self, lists) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(pivots, needed, rows needed): runs of rows in `order` whose lists need at most `cell_rows` rows."""
        seen = np.full(self.n, -1, np.int32)
        start, number = 0, 0
        while start < self.n:
            stop = _batch_end(self.order, start, lists, seen, number, self.cell_rows)
            needed = (
                np.flatnonzero(seen == number)
                if self.cell_rows * 8 > self.n
                else _unique(self.order[start:stop], lists)
            )
            yield self.order[start:stop], needed, self.gather(needed, self.buffer)
            start, number = stop, number + 1

    def measure(self, lists):
        """Merges the rows in `lists` int32 (N, m), at their true distances, into the table."""
        local = np.empty(self.n, np.int32)
        for pivots, needed, block in self.batches(lists):
            local[needed] = np.arange(len(needed), dtype=np.int32)
            self.each(
                _merge_measured, len(pivots), 64, block, local, pivots, lists, self.is_zero, self.indices, self.squares
            )
        self.tick(self.n)

    def finish(self):
        indices = np.empty((self.n, self.k), np.int32)
        distances = np.zeros((self.n, self.k), np.float32)
        indices[:, 0] = np.arange(self.n)
        indices[:, 1:] = self.indices[:, : self.k - 1]
        distances[:, 1:] = self.squares[:, : self.k - 1] / 2 if self.cosine else np.sqrt(self.squares[:, : self.k - 1])
        if self.is_zero.any():
            join_zero_rows(indices, distances, np.flatnonzero(self.is_zero).astype(np.int32))
        return indices, distances


def _unique(pivots, lists):
    found = np.unique(lists[pivots])
    return np.union1d(found[found >= 0], pivots)


def _squares(rows):
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def _approximate(work, reached) -> bool:
    work.measure(_propose(work))
    for _ in range(ROW_JOINS):
        if reached(work.indices):
            return True
        _join_rows(work)
        _measure_again(work)
    return reached(work.indices)


def _measure_again(work):
    """Products chose the neighbours; distances come from differences."""
    chosen = work.indices
    work.clear(work.k - 1)
    work.measure(chosen)


def _propose(work):
    """int32 (N, WIDTH * (k - 1)): rows near by their sketches, nearest first. Also sets the order of rows."""
    sketch = _sketch(work)
    width = min(_width(work.k), work.n - 1)
    indices = np.full((work.n, width), -1, np.int32)
    squares = np.full((work.n, width), np.inf, np.float32)
    fresh = np.zeros((work.n, width), np.uint8)
    for number in range(PASSES):
        cells, bounds, order = _cells(work, sketch, number)
        if number == 0:
            work.order = order
        members = np.argsort(cells.ravel(), kind="stable")[np.count_nonzero(cells < 0) :] // OVERLAP
        for own in cells.T.copy():
            by_cell = np.argsort(own, kind="stable")  # so that the rows of a cell stay in the cache
            work.each(_search_cells, work.n, TILE_ROWS, by_cell, own, bounds, members, *sketch, indices, squares, fresh)
    del members, cells
    for _ in range(SKETCH_JOINS):
        members = _members(indices, squares, fresh, FORWARD, REVERSE)
        fresh[:, :FORWARD] = 0
        slots = 1 << int(width + members.shape[1] ** 2).bit_length()
        changes = work.each(
            _join_sketches, work.n, TILE_ROWS, work.order, members, slots, *sketch, indices, squares, fresh
        )
        if sum(changes) < SETTLED * work.n * FORWARD:
            break
    return indices


def _sketch(work):
    """int8 (N, s), what one unit of it is worth float32 (N,), squared norms float32 (N,), of rows less the sample's
    median.

    The median, since a few far rows would carry a mean away from all others, whose differences one byte would then
    not tell.
    """
    n, n_features = work.n, work.rows.n_features
    random = np.random.Generator(np.random.Philox(key=[work.seed, 2**32]))
    sample = work.rows.take(np.sort(random.choice(n, min(SAMPLE_ROWS, work.cell_rows), replace=False)))
    centre = np.median(sample, axis=0)
    sample -= centre
    unit = max(float(np.abs(sample).max()), np.finfo(np.float32).tiny)
    sample /= unit
    projection = _projection(sample, random) if n_features > SKETCH else None
    del sample
    codes = np.empty((n, min(SKETCH, n_features)), np.int8)
    scale, norm = np.empty(n, np.float32), np.empty(n, np.float32)

    def fill(piece):
        block = work.rows.block(piece.start, piece.stop)
        block -= centre
        block /= unit
        norm[piece] = np.minimum(np.einsum("ij,ij->i", block, block), np.float32(1e37))
        values = np.nan_to_num(block @ projection if projection is not None else block, copy=False)
        lengths = np.einsum("ij,ij->i", values, values)
        largest = np.maximum(np.abs(values).max(1), np.finfo(np.float32).tiny)
        codes[piece] = np.rint(values * (127 / largest)[:, None])
        scale[piece] = np.sqrt(norm[piece] / np.where(lengths > 0, lengths, 1)) * largest / 127

    for _ in work.pool.map(fill, _pieces(n, PIECE_BYTES // (4 * n_features))):
        pass
    norm[work.is_zero] = np.inf
    return codes, scale, norm


def _projection(sample, random):
    """float32 (D, SKETCH): COMPONENTS by subspace iteration (Halko, Martinsson, Tropp 2011), the rest random and
    across them.
    """
    gauss = random.standard_normal((sample.shape[1], SKETCH), dtype=np.float32)
    basis = np.linalg.qr(gauss[:, :COMPONENTS])[0]
    for _ in range(2):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    rest = gauss[:, COMPONENTS:]
    rest -= basis @ (basis.T @ rest)
    gauss[:, :COMPONENTS] = basis
    rest /= np.float32(np.sqrt(SKETCH - COMPONENTS))
    return gauss


def _cells(work, sketch, number):
    """Cells of rows near the same random row: cells int32 (N, OVERLAP), where each begins among the sorted, and rows
    by cell, near cells close.
    """
    codes, scale, norm = sketch
    n = work.n
    cap = max(LEAST_CELL, int(np.sqrt(2 * n)))
    n_cells = max(1, -(-n * OVERLAP * 5 // (cap * 4)))
    random = np.random.Generator(np.random.Philox(key=[work.seed, number]))
    chosen = np.sort(random.choice(n, min(n_cells, n), replace=False))
    centres = codes[chosen] * scale[chosen, None]
    bias = -0.5 * np.where(np.isinf(norm[chosen]), 0, norm[chosen])
    cells = np.full((n, OVERLAP), -1, np.int32)
    room = np.full(len(chosen), cap, np.int64)
    n_choices = min(CHOICES, len(chosen))

    def nearest(piece):
        scores = (codes[piece] * scale[piece, None]) @ centres.T + bias
        return _highest(scores, n_choices)

    pieces = _pieces(n, TILE_ROWS)
    for batch in range(0, len(pieces), 64):
        for piece, choices in zip(
            pieces[batch : batch + 64], work.pool.map(nearest, pieces[batch : batch + 64]), strict=True
        ):
            _assign(choices, room, cells[piece])
    bounds = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(np.bincount(cells[cells >= 0], minlength=len(chosen)), out=bounds[1:])
    rank = np.argsort(_tour(centres @ centres.T + bias))
    return cells, bounds, np.argsort(rank[cells[:, 0]], kind="stable")


@njit(nogil=True, cache=True)
def _highest(scores, n_choices):
    """Columns of each row's highest scores, highest first."""
    out = np.zeros((len(scores), n_choices), np.int32)
    for row in range(len(scores)):
        best = np.full(n_choices, -np.inf, np.float32)
        for j in range(scores.shape[1]):
            if scores[row, j] > best[-1]:
                at = n_choices - 1
                while at > 0 and best[at - 1] < scores[row, j]:
                    best[at], out[row, at] = best[at - 1], out[row, at - 1]
                    at -= 1
                best[at], out[row, at] = scores[row, j], j
    return out


@njit(cache=True)
def _tour(scores):
    """Each centre once, the next always the nearest of those left."""
    n = len(scores)
    tour, left = np.zeros(n, np.int64), np.ones(n, np.bool_)
    left[0] = False
    for step in range(1, n):
        best = -1
        for j in range(n):
            if left[j] and (best < 0 or scores[tour[step - 1], j] > scores[tour[step - 1], best]):
                best = j
        tour[step] = best
        left[best] = False
    return tour


@njit(cache=True)
def _assign(choices, room, cells):
    """Each row to its nearest cells that have room; where all its choices are full, to the emptiest, which may be
    full too.
    """
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


@njit(inline="always")
def _code_product(codes, i, j):
    """int32: Numba would make it int64, at half the speed."""
    a, b = codes[i], codes[j]
    total = np.int32(0)
    for d in range(len(a)):
        total = np.int32(total + np.int32(np.int16(a[d]) * np.int16(b[d])))
    return total


@njit(inline="always")
def _insert(indices, squares, square, number):
    """Puts (square, number) into one row's lists, sorted by both, unless it is there or beyond their end: where it
    went, or -1.
    """
    at = len(squares) - 1
    if square > squares[at] or (square == squares[at] and (np.isinf(square) or number >= indices[at])):
        return -1
    there = np.int32(0)  # without a branch, for vectors
    for c in range(len(squares)):
        there |= np.int32(indices[c] == number)
    if there:
        return -1
    while at > 0 and (squares[at - 1] > square or (squares[at - 1] == square and indices[at - 1] > number)):
        squares[at], indices[at] = squares[at - 1], indices[at - 1]
        at -= 1
    squares[at], indices[at] = square, number
    return at


@njit(inline="always")
def _insert_fresh(indices, squares, fresh, square, number):
    at = _insert(indices, squares, square, number)
    if at < 0:
        return False
    for c in range(len(squares) - 1, at, -1):
        fresh[c] = fresh[c - 1]
    fresh[at] = 1
    return True


@njit(nogil=True, cache=True)
def _search_cells(start, stop, order, own, bounds, members, codes, scale, norm, indices, squares, fresh):
    for place in range(start, stop):
        i = order[place]
        if own[i] < 0:
            continue
        for at in range(bounds[own[i]], bounds[own[i] + 1]):
            j = members[at]
            square = norm[j] - np.float32(2) * scale[i] * scale[j] * np.float32(_code_product(codes, i, j))
            if square < squares[i, -1] and j != i:
                _insert_fresh(indices[i], squares[i], fresh[i], square, np.int32(j))


@njit(cache=True)
def _members(indices, squares, fresh, forward, reverse):
    """int32 (N, forward + reverse): nearest neighbours and the nearest rows that name this one; -1: none, -2 - j: row
    j, not fresh.
    """
    n, width = len(indices), min(forward, indices.shape[1])
    out = np.full((n, width + reverse), -1, np.int32)
    best = np.full((n, reverse), np.inf, np.float32)
    for i in range(n):
        for c in range(width):
            j = indices[i, c]
            if j >= 0:
                out[i, c] = j if fresh[i, c] else -2 - j
                if squares[i, c] < best[j, -1]:
                    _insert(out[j, width:], best[j], squares[i, c], np.int32(i if fresh[i, c] else -2 - i))
    return out


@njit(nogil=True, cache=True)
def _join_sketches(start, stop, order, members, slots, codes, scale, norm, indices, squares, fresh):
    """Neighbours of neighbours, unless both steps are old; the number of changes."""
    changes = 0
    visited = np.empty(slots, np.int32)
    for place in range(start, stop):
        i = order[place]
        visited[:] = -1
        for c in range(indices.shape[1]):
            if indices[i, c] >= 0:
                _visit(visited, indices[i, c])
        for step in members[i]:
            if step == -1:
                continue
            through = step if step >= 0 else -2 - step
            for second in members[through]:
                if second == -1 or (step < 0 and second < 0):
                    continue
                j = second if second >= 0 else -2 - second
                if j == i or not _visit(visited, j):
                    continue
                square = norm[j] - np.float32(2) * scale[i] * scale[j] * np.float32(_code_product(codes, i, j))
                if square < squares[i, -1] and _insert_fresh(indices[i], squares[i], fresh[i], square, j):
                    changes += 1
    return changes


@njit(inline="always")
def _visit(visited, number):
    """Whether `number` was not in the open-addressing set; it is now."""
    at = (number * np.int64(2654435761) >> np.int64(8)) & (len(visited) - 1)
    while visited[at] != -1:
        if visited[at] == number:
            return False
        at = (at + 1) & (len(visited) - 1)
    visited[at] = number
    return True


@njit(cache=True)
def _batch_end(order, start, lists, seen, number, limit):
    """The first place after `start` whose row and list no longer fit: `seen` marks up to `limit` rows with `number`."""
    n_needed = 0
    for place in range(start, len(order)):
        i = order[place]
        added = 0
        if seen[i] != number:
            added += 1
        for j in lists[i]:
            if j >= 0 and seen[j] != number:
                added += 1
        if n_needed + added > limit and place > start:
            return place
        if seen[i] != number:
            seen[i] = number
            n_needed += 1
        for j in lists[i]:
            if j >= 0 and seen[j] != number:
                seen[j] = number
                n_needed += 1
    return len(order)


@njit(inline="always", fastmath={"reassoc", "contract"})
def _difference(a, b):
    total = 0.0
    for d in range(len(a)):
        step = np.float64(a[d] - b[d])
        total += step * step
    return total


@njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _merge_measured(start, stop, block, local, pivots, lists, is_zero, indices, squares):
    for place in range(start, stop):
        i = pivots[place]
        for j in lists[i]:
            if j >= 0:
                square = _difference(block[local[i]], block[local[j]])
                if is_zero[i] != is_zero[j]:
                    square = 2.0
                _insert(indices[i], squares[i], np.float32(square), j)


@njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _measure_pairs(ours, theirs, own, squares, local, cosine, out):
    for i in range(len(ours)):
        for c in range(local.shape[1]):
            if local[i, c] >= 0:
                j = local[i, c]
                apart = cosine and (own[i] == 0) != (squares[j] == 0)
                out[i, c] = 2.0 if apart else _difference(ours[i], theirs[j])


def _join_rows(work):
    """Compares the neighbours of each row, in both directions, with each other, by products of the rows."""
    members = _members(work.indices, work.squares, np.ones(work.indices.shape, np.uint8), work.k - 1, REVERSE)
    step = max(1, PIECE_BYTES // (members.shape[1] * (work.rows.n_features + members.shape[1]) * 4))
    for pivots, needed, block in work.batches(members):
        norms = np.ones(len(needed), np.float32) if work.cosine else _squares(block).astype(np.float32)

        def products(piece, pivots=pivots, needed=needed, block=block):
            found = members[pivots[piece]]
            local = np.where(found >= 0, np.searchsorted(needed, found), 0)
            gathered = block[local]
            return found, local, gathered @ gathered.transpose(0, 2, 1)

        for group in _pieces(len(pivots), step * WORKERS * 2):
            pieces = [
                slice(group.start + p.start, group.start + p.stop) for p in _pieces(group.stop - group.start, step)
            ]
            for found, local, dots in work.pool.map(products, pieces):
                _merge_pairs(found, local, norms, dots, work.indices, work.squares)
    work.tick(work.n)


@njit(cache=True)
def _merge_pairs(members, local, norms, dots, table_indices, table_squares):
    width = members.shape[1]
    for pivot in range(len(members)):
        for a in range(width):
            i = members[pivot, a]
            if i < 0:
                continue
            for b in range(a):
                j = members[pivot, b]
                if j < 0 or i == j:
                    continue
                square = max(
                    np.float32(0), norms[local[pivot, a]] + norms[local[pivot, b]] - np.float32(2) * dots[pivot, a, b]
                )
                if square < table_squares[i, -1]:
                    _insert(table_indices[i], table_squares[i], square, j)
                if square < table_squares[j, -1]:
                    _insert(table_indices[j], table_squares[j], square, i)


def _all_with_all(work):
    """Every pair of blocks once; the products serve the rows of both."""
    n = work.n
    if work.cell_rows < n:
        work.order = _cells(work, _sketch(work), 0)[2]
    work.clear(min(work.k - 1 + MARGIN, n - 1))
    half = max(1, work.cell_rows // 2) if work.cell_rows < n else n
    for start in range(0, n, half):
        block, norms = _load(work, start, min(start + half, n), work.buffer[:half])
        for first in range(start, n, half):
            other, other_norms = (
                (block, norms) if first == start else _load(work, first, min(first + half, n), work.buffer[half:])
            )
            _merge_blocks(work, start, block, norms, first, other, other_norms)
        work.tick(len(block))
    _measure_again(work)


def _load(work, start, stop, out):
    block = work.gather(np.arange(start, stop), out)
    return block, np.ones(len(block), np.float32) if work.cosine else _squares(block).astype(np.float32)


def _merge_blocks(work, start, block, norms, first, other, other_norms):
    """Squares of TILES x TILES tiles: a thread takes a tile of rows for its products and its rows, then a tile of
    columns for theirs.
    """
    for b in _pieces(len(other), TILE_ROWS * TILES):
        for a in _pieces(len(block), TILE_ROWS * TILES):
            if first == start and b.stop <= a.start:
                continue
            near, far, row, column = block[a], other[b], start + a.start, first + b.start
            both = first > start or b.start > a.start
            products = np.empty((len(near), len(far)), np.float32)

            def across(
                tile,
                near=near,
                far=far,
                products=products,
                norms=norms[a],
                others=other_norms[b],
                row=row,
                column=column,
            ):
                np.matmul(near[tile], far.T, out=products[tile])
                _merge(products[tile], norms[tile], others, row + tile.start, column, work.indices, work.squares)

            def down(tile, products=products, norms=norms[a], others=other_norms[b], row=row, column=column):
                _merge_down(tile.start, tile.stop, products, norms, others, row, column, work.indices, work.squares)

            list(work.pool.map(across, _pieces(len(near), TILE_ROWS)))
            if both:
                list(work.pool.map(down, _pieces(len(far), TILE_ROWS)))


@njit(nogil=True, cache=True)
def _merge(products, norms, other_norms, first_row, first_other, indices, squares):
    """Most rows are further than the worst kept: CHUNK of them are passed over at a time."""
    for row in range(len(products)):
        i = first_row + row
        dots = products[row]
        worst = squares[i, -1] - norms[row]
        for start in range(0, len(dots), CHUNK):
            stop = min(start + CHUNK, len(dots))
            nearer = np.int32(0)
            for j in range(start, stop):
                nearer |= np.int32(other_norms[j] - np.float32(2) * dots[j] < worst)
            if nearer == 0:
                continue
            for j in range(start, stop):
                score = other_norms[j] - np.float32(2) * dots[j]
                if score < worst and first_other + j != i:
                    _insert(indices[i], squares[i], max(np.float32(0), norms[row] + score), np.int32(first_other + j))
                    worst = squares[i, -1] - norms[row]


@njit(nogil=True, cache=True)
def _merge_down(first, last, products, norms, other_norms, first_row, first_other, indices, squares):
    """The same for the rows of columns first..last, CHUNK columns at a time."""
    worst = np.empty(CHUNK, np.float32)
    for start in range(first, last, CHUNK):
        stop = min(start + CHUNK, last)
        for j in range(start, stop):
            worst[j - start] = squares[first_other + j, -1] - other_norms[j]
        for row in range(len(products)):
            dots, norm = products[row], norms[row]
            nearer = np.int32(0)
            for j in range(start, stop):
                nearer |= np.int32(norm - np.float32(2) * dots[j] < worst[j - start])
            if nearer == 0:
                continue
            for j in range(start, stop):
                score, i = norm - np.float32(2) * dots[j], first_other + j
                if score < worst[j - start] and first_row + row != i:
                    _insert(
                        indices[i], squares[i], max(np.float32(0), other_norms[j] + score), np.int32(first_row + row)
                    )
                    worst[j - start] = squares[i, -1] - other_norms[j]


@njit(nogil=True, cache=True)
def _count(dots, own, squares, itself, cosine, order, thresholds, counts):
    for row in range(len(dots)):
        for j in range(dots.shape[1]):
            if j == itself[row]:
                continue
            square = max(0.0, own[row] + squares[j] - 2.0 * dots[row, j])
            if cosine and (own[row] == 0) != (squares[j] == 0):
                square = 2.0
            for c in order[row]:
                if square >= thresholds[row, c]:
                    break
                counts[row, c] += 1
