"""The state that the steps of a dense search share: the rows, one buffer for gathered rows, and the table of the best neighbors so far."""

from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np
from numba import njit

from streamumap.neighbors.dense.sizes import PIECE_BYTES, least_rows
from streamumap.neighbors.protocol import KnnGraph, SearchRequest
from streamumap.neighbors.table import difference, insert
from streamumap.neighbors.zero import join_zero_rows
from streamumap.source.views.normalized import DenseRows

SLACK = 64 * float(np.finfo(np.float32).eps)
"""Upper bound on the error of a squared distance that comes from a float32 product, relative to the squared norms of the two rows."""


def slices(n: int, piece: int) -> list[slice]:
    """Cut 0..n into pieces, of which the last may be shorter."""
    piece = max(1, piece)
    return [slice(start, min(start + piece, n)) for start in range(0, n, piece)]


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """Sum the squares of each row: float64 (n,)."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


class Work:
    """The state of a search.

    `rows`: as they are compared. `buffer` float32 (cell_rows, D): gathered rows. `indices` int32 and `squares` float32 (N, k - 1): the
    table, without the rows themselves. `order` int64 (N,): all rows, neighbors likely close to each other. `is_zero` bool (N,): rows
    without a direction, under a metric that compares directions.
    """

    def __init__(self, request: SearchRequest, pool: Executor):
        self.metric, self.k, self.seed, self.advance = request.rows.metric, request.k, request.seed, request.advance
        self.pool, self.unit = pool, self.metric.unit
        self.rows = DenseRows(request.rows.source, unit=self.unit)
        self.n = self.rows.n_rows
        self.cell_rows = min(max(request.blocks["cell_rows"], least_rows(self.k)), self.n)
        self.is_zero = request.is_zero if self.unit else np.zeros(self.n, bool)
        self.buffer = np.empty((self.cell_rows, self.rows.n_features), np.float32)
        self.order = np.arange(self.n)
        self.clear(self.k - 1)

    def clear(self, width):
        """Make the table empty."""
        self.indices = np.full((self.n, width), -1, np.int32)
        self.squares = np.full((self.n, width), np.inf, np.float32)

    def state(self):
        """Get what a checkpoint saves: arrays that change, and none that grow."""
        return {"indices": self.indices, "squares": self.squares, "order": self.order}, {}

    def gather(self, needed, out):
        """Read the rows of these ascending numbers into `out`, by pieces, several at a time."""
        pieces = slices(len(needed), PIECE_BYTES // (4 * self.rows.n_features))
        contiguous = len(needed) > 0 and needed[-1] - needed[0] == len(needed) - 1

        def read(piece):
            part = needed[piece]
            out[piece] = self.rows.block(int(part[0]), int(part[-1]) + 1) if contiguous else self.rows.take(part)

        for _ in self.pool.map(read, pieces):
            pass
        return out[: len(needed)]

    def each(self, kernel, n_items, piece, *arguments):
        """Call kernel(start, stop, *arguments) for pieces of the items, several at a time; return what the calls return."""
        return list(self.pool.map(lambda part: kernel(part.start, part.stop, *arguments), slices(n_items, piece)))

    def batches(self, lists) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (pivots, needed, needed rows): runs of rows in `order` that, with their lists, need at most `cell_rows` rows."""
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
        """Merge the rows in `lists` int32 (N, m) into the table at their true distances."""
        local = np.empty(self.n, np.int32)
        for pivots, needed, block in self.batches(lists):
            local[needed] = np.arange(len(needed), dtype=np.int32)
            self.each(
                _merge_measured, len(pivots), 64, block, local, pivots, lists, self.is_zero, self.indices, self.squares
            )
        self.advance(self.n)

    def measure_again(self):
        """Measure the table anew from differences of rows: the products that made it err where distances are small."""
        chosen = self.indices
        self.clear(self.k - 1)
        self.measure(chosen)

    def finish(self) -> KnnGraph:
        """Turn the table into a graph, each row itself in front."""
        indices = np.empty((self.n, self.k), np.int32)
        distances = np.zeros((self.n, self.k), np.float32)
        indices[:, 0] = np.arange(self.n)
        indices[:, 1:] = self.indices[:, : self.k - 1]
        distances[:, 1:] = self.metric.from_squares(self.squares[:, : self.k - 1], np)
        if self.is_zero.any():
            join_zero_rows(indices, distances, np.flatnonzero(self.is_zero).astype(np.int32))
        return KnnGraph(indices, distances)


def _unique(pivots, lists):
    found = np.unique(lists[pivots])
    return np.union1d(found[found >= 0], pivots)


@njit(cache=True)
def _batch_end(order, start, lists, seen, number, limit):
    """Find the first place after `start` whose row and list no longer fit. `seen` marks the up to `limit` rows needed with `number`."""
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


@njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _merge_measured(start, stop, block, local, pivots, lists, is_zero, indices, squares):
    for place in range(start, stop):
        i = pivots[place]
        for j in lists[i]:
            if j >= 0:
                square = difference(block[local[i]], block[local[j]])
                if is_zero[i] != is_zero[j]:
                    square = 2.0
                insert(indices[i], squares[i], np.float32(square), j)
