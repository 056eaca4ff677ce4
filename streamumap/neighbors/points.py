"""Nearest points of a map and ranks on it, on a CPU: a k-d tree of its positions (scipy).

The tree holds float64: distances are differences of float32 positions, which lose nothing where two are near.
"""

import numpy as np
from scipy.spatial import cKDTree

from streamumap.neighbors.points_sizes import LOST_ROWS
from streamumap.quality import distances

TIE = 1e-12
"""Distances that differ by less than this part of themselves are equal."""

THICK = 64
"""Copies of one position from which on they make a leaf of the tree that every search from there would have to walk through."""


class Points:
    """The positions float32 (N, c) of a map. Rows without one (NaN) are nobody's neighbours."""

    def __init__(self, positions: np.ndarray, n_threads: int):
        self.positions, self.n_threads = positions, n_threads
        self.placed = np.flatnonzero(np.isfinite(positions).all(1))
        all_placed = len(self.placed) == len(positions)
        self.tree = cKDTree((positions if all_placed else positions[self.placed]).astype(np.float64))
        self.place = np.zeros(len(positions), np.int32)  # in the order of the tree
        self.place[self.placed[self.tree.indices]] = np.arange(len(self.placed), dtype=np.int32)
        self._few = (0, self.tree, self.placed)

    def nearest(self, sample: np.ndarray, k: int) -> np.ndarray:
        """int64 (S, k): the k rows nearest on the map to each of the rows `sample` (S,), itself apart."""
        tree, rows = self._without_copies(k + 1)
        found = rows[self._query(tree, sample, np.arange(1, k + 2))[1]]
        is_self = found == sample[:, None]
        is_self[~is_self.any(1), -1] = True  # as many at distance 0 as to crowd it out
        return found[~is_self].reshape(len(sample), k)

    def ranks(self, sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How many rows are closer on the map to row sample[i] than row others[i, j] is, itself apart: int64 (S, m), the
        number of all others where others[i, j] is -1 or has no place."""
        out = np.full(others.shape, len(self.placed) - 1, np.int64)
        gaps = distances(self.positions, sample, others)
        out[gaps == 0] = 0
        row, at = np.nonzero(np.isfinite(gaps) & (gaps > 0))
        for start in range(0, len(row), LOST_ROWS):
            i, j = row[start : start + LOST_ROWS], at[start : start + LOST_ROWS]
            centres, reach = self.positions[sample[i]].astype(np.float64), gaps[i, j] * (1 - TIE)
            counts = self.tree.query_ball_point(centres, reach, return_length=True, workers=self.n_threads)
            out[i, j] = counts - 1
        return out

    def lost(self, rows: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """Share of each row's neighbours, int (B, m) with -1 where there is none, that are not among its as many nearest
        on the map: float32 (B,), NaN for a row without neighbours or without a place."""
        wanted = (neighbors >= 0).sum(1)
        reach = np.full(len(rows), np.nan)
        tree, _ = self._without_copies(neighbors.shape[1] + 1)
        looked_up = (wanted > 0) & np.isfinite(self.positions[rows]).all(1)
        for k in np.unique(wanted[looked_up]):
            part = np.flatnonzero(looked_up & (wanted == k))
            reach[part] = self._query(tree, rows[part], [int(k) + 1])[0][:, 0]
        out = np.full(len(rows), np.nan, np.float32)
        for start in range(0, len(rows), LOST_ROWS):
            block = slice(start, start + LOST_ROWS)
            kept = distances(self.positions, rows[block], neighbors[block]) <= reach[block, None] * (1 + TIE)
            kept &= neighbors[block] >= 0
            there = looked_up[block]
            out[block][there] = 1 - kept.sum(1)[there] / wanted[block][there]
        return out

    def _query(self, tree: cKDTree, rows: np.ndarray, k) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the k-th nearest points and which these are, for each of `k`, 1 being the row itself or a copy.
        Rows that lie close together are looked up one after the other: their branches stay in the cache."""
        far, found = np.empty((len(rows), len(k))), np.empty((len(rows), len(k)), np.int64)
        where = self.place[rows].argsort()
        for start in range(0, len(rows), LOST_ROWS):
            part = where[start : start + LOST_ROWS]
            centres = self.positions[rows[part]].astype(np.float64)
            far[part], found[part] = tree.query(centres, k=k, workers=self.n_threads)
        return far, found

    def _without_copies(self, most: int) -> tuple[cKDTree, np.ndarray]:
        """The tree of no more than `most` copies of a position, and the rows of its points: the whole one where no
        position has too many."""
        if self._few[0] != most:
            self._few = (most, *self._make_few(most))
        return self._few[1:]

    def _make_few(self, most: int) -> tuple[cKDTree, np.ndarray]:
        """Copies lie side by side in the order of a tree."""
        order, is_copy = self.tree.indices, np.ones(len(self.placed) - 1, bool)
        for axis in self.tree.data.T:
            is_copy &= axis[order[1:]] == axis[order[:-1]]
        first = np.concatenate([[0], np.flatnonzero(~is_copy) + 1])
        n_copies = np.diff(first, append=len(order))
        if n_copies.max() <= max(THICK, most):
            return self.tree, self.placed
        number = np.arange(len(order)) - np.repeat(first, n_copies)
        few = np.sort(order[number < most])
        return cKDTree(self.tree.data[few]), self.placed[few]
