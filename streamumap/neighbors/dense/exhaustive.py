"""All rows compared with all, block against block, by matrix products: exact, and the last resort where candidates are not good enough.

Products choose a few rows more than a row has neighbors, and these are measured. That is enough where the last of them is further than
the last neighbor by more than the error of a product. For the other rows (clusters far apart, a heavy column in part of the rows)
products are made again, and every row that they do not tell from the nearest is measured (`_settle`).
"""

import numpy as np
from numba import njit

from streamumap.neighbors.dense.cells import make_cells
from streamumap.neighbors.dense.sizes import MARGIN, PIECE_BYTES, TILE_ROWS, TILES
from streamumap.neighbors.dense.sketch import make_sketch
from streamumap.neighbors.dense.workspace import SLACK, Work, slices, squared_norms
from streamumap.neighbors.table import difference, insert
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

CHUNK = 64
"""Products checked together: most groups hold nothing near and are skipped."""


def all_with_all(work: Work, checkpoint: Checkpoint = NO_CHECKPOINT) -> None:
    """Fill the table anew. Every pair of blocks is multiplied once, for the rows of both. Advances by N rows, and by N for measuring.

    Rows stay in the order of the input. The table is wider by MARGIN, which makes up for most errors of products.
    """
    n = work.n
    if work.cell_rows < n:
        work.order = make_cells(work, make_sketch(work), 0)[2]
    work.clear(min(work.k - 1 + MARGIN, n - 1))
    half = max(1, work.cell_rows // 2) if work.cell_rows < n else n
    products = np.empty(min(half, TILE_ROWS * TILES) ** 2, np.float32)
    facts = checkpoint.resume(work.state()[0])
    begin, after = facts.get("row", 0), facts.get("column", 0)
    for start in range(begin, n, half):
        block = _load(work, start, min(start + half, n), work.buffer[:half])
        own = _norms(work, block)
        for first in range(max(start, after) if start == begin else start, n, half):
            other = block if first == start else _load(work, first, min(first + half, n), work.buffer[half:])
            other_norms = own if first == start else _norms(work, other)
            _merge_blocks(work, products, start, block, own, first, other, other_norms)
            checkpoint.done(work.state, row=start, column=first + len(other))
        work.advance(len(block))
    worst = work.squares[:, -1].copy()
    work.measure_again()
    if min(work.k - 1 + MARGIN, n - 1) < n - 1:
        _settle(work, products, half, worst)


def _load(work, start, stop, out):
    return work.gather(np.arange(start, stop), out)


def _norms(work, block):
    return np.ones(len(block), np.float32) if work.unit else squared_norms(block).astype(np.float32)


def _settle(work: Work, products, half, worst) -> None:
    """Complete the lists of rows that products leave open. `worst` float32 (N,): the largest squared distance by products among the measured
    candidates of each row; all other rows are at least as far, up to SLACK."""
    n, side, whole = work.n, min(half, TILE_ROWS * TILES), half == work.n
    unsure = np.zeros(n, bool)
    for piece in slices(n, half):
        block = _load(work, piece.start, piece.stop, work.buffer[:half])
        _mark_unsure(_norms(work, block), worst[piece], work.squares[piece, -1], work.is_zero[piece], unsure[piece])
    numbers = np.flatnonzero(unsure)
    for part in slices(len(numbers), side):
        asking = numbers[part]
        near, local = (block, asking) if whole else (work.gather(asking, work.buffer[:half]), np.arange(len(asking)))
        for others in slices(n, half):
            far = block if whole else _load(work, others.start, others.stop, work.buffer[half:])
            norms = _norms(work, far)
            for tile in slices(len(far), side):
                _settle_square(work, products, asking, near, local, others.start + tile.start, far[tile], norms[tile])
                work.advance(0)


def _settle_square(work: Work, products, asking, near, local, first, far, norms):
    def measure(part):
        ours = near[local[part]]
        dots = products[part.start * len(far) : part.stop * len(far)].reshape(-1, len(far))
        np.matmul(ours, far.T, out=dots)
        _measure_open(
            dots, asking[part], ours, _norms(work, ours), first, far, norms, work.is_zero, work.indices, work.squares
        )

    step = min(TILE_ROWS, PIECE_BYTES // (4 * work.rows.n_features))
    list(work.pool.map(measure, slices(len(asking), step)))


@njit(cache=True)
def _mark_unsure(norms, worst, last, is_zero, unsure):
    """Mark rows for which an unmeasured row may be nearer than the last neighbor; the norm of such a row is at most `reach`."""
    for i in range(len(norms)):
        reach = np.sqrt(np.float64(norms[i])) + np.sqrt(np.float64(last[i]))
        slack = SLACK * (norms[i] + reach * reach)
        unsure[i] = not is_zero[i] and last[i] > 0 and worst[i] - slack < last[i]


@njit(nogil=True, cache=True)
def _measure_open(dots, numbers, ours, own, first, others, norms, is_zero, indices, squares):
    """Merge rows that products do not tell from the nearest, at their true distances."""
    keep = np.float32(1 - SLACK)
    for row in range(len(dots)):
        i = numbers[row]
        worst = squares[i, -1] - keep * own[row]
        for start in range(0, len(others), CHUNK):
            stop = min(start + CHUNK, len(others))
            nearer = np.int32(0)
            for j in range(start, stop):
                nearer |= np.int32(keep * norms[j] - np.float32(2) * dots[row, j] <= worst)
            if nearer == 0:
                continue
            for j in range(start, stop):
                if (
                    keep * norms[j] - np.float32(2) * dots[row, j] <= worst
                    and first + j != i
                    and not is_zero[first + j]
                ):
                    square = difference(ours[row], others[j])
                    if insert(indices[i], squares[i], np.float32(square), np.int32(first + j)) >= 0:
                        worst = squares[i, -1] - keep * own[row]


def _merge_blocks(work: Work, products, start, block, norms, first, other, other_norms):
    """Merge two blocks by squares of TILES x TILES tiles; of one block with itself only those above the diagonal."""
    side = TILE_ROWS * TILES
    for b in slices(len(other), side):
        for a in slices(len(block), side):
            if first > start or b.stop > a.start:
                square = products[: (a.stop - a.start) * (b.stop - b.start)].reshape(a.stop - a.start, -1)
                both = first > start or b.start > a.start
                _merge_square(
                    work, square, start + a.start, block[a], norms[a], first + b.start, other[b], other_norms[b], both
                )


def _merge_square(work: Work, products, row, near, norms, column, far, other_norms, both):
    """Merge a square: each thread takes a tile of rows, for products and lists, then a tile of columns."""

    def across(tile):
        np.matmul(near[tile], far.T, out=products[tile])
        _merge(products[tile], norms[tile], other_norms, row + tile.start, column, work.indices, work.squares)

    def down(tile):
        _merge_down(tile.start, tile.stop, products, norms, other_norms, row, column, work.indices, work.squares)

    list(work.pool.map(across, slices(len(near), TILE_ROWS)))
    if both:
        list(work.pool.map(down, slices(len(far), TILE_ROWS)))


@njit(nogil=True, cache=True)
def _merge(products, norms, other_norms, first_row, first_other, indices, squares):
    """Merge products into the lists of their rows. Most are further than the worst kept: CHUNK of them are skipped at a time."""
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
                    insert(indices[i], squares[i], max(np.float32(0), norms[row] + score), np.int32(first_other + j))
                    worst = squares[i, -1] - norms[row]


@njit(nogil=True, cache=True)
def _merge_down(first, last, products, norms, other_norms, first_row, first_other, indices, squares):
    """Merge products into the lists of the rows that are columns first..last, CHUNK columns at a time."""
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
                    insert(
                        indices[i], squares[i], max(np.float32(0), other_norms[j] + score), np.int32(first_row + row)
                    )
                    worst[j - start] = squares[i, -1] - other_norms[j]
