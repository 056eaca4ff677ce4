"""Neighbors and ranks on a map, on a CPU: a k-d tree of its positions (scipy).

The tree holds float64, in which differences of float32 positions are exact where two points are near.
"""

import numpy as np
from scipy.spatial import cKDTree

from streamumap.neighbors.points_sizes import LOST_ROWS
from streamumap.quality import distances

TIE = 1e-12
"""Relative difference below which two distances are equal."""

THICK = 64
"""Number of copies of one position from which on they are left out of the tree: a search near them would walk through all of them."""


class Points:
    """The positions float32 (N, c) of a map. Rows without a position (NaN) are nobody's neighbors."""

    def __init__(self, positions: np.ndarray, n_threads: int):
        self.positions, self.n_threads = positions, n_threads
        self.placed = np.flatnonzero(np.isfinite(positions).all(1))
        all_placed = len(self.placed) == len(positions)
        self.tree = cKDTree((positions if all_placed else positions[self.placed]).astype(np.float64))
        self.place = np.zeros(len(positions), np.int32)  # in the order of the tree
        self.place[self.placed[self.tree.indices]] = np.arange(len(self.placed), dtype=np.int32)
        self._few = (0, self.tree, self.placed)

    def nearest(self, sample: np.ndarray, k: int) -> np.ndarray:
        """Find the k rows nearest on the map to each of the rows `sample` (S,), without itself: int64 (S, k)."""
        tree, rows = self._without_copies(k + 1)
        found = rows[self._query(tree, sample, np.arange(1, k + 2))[1]]
        is_self = found == sample[:, None]
        is_self[~is_self.any(1), -1] = True  # as many at distance 0 as to crowd it out
        return found[~is_self].reshape(len(sample), k)

    def ranks(self, sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Count the rows that are closer on the map to row sample[i] than row others[i, j] is, without itself: int64 (S, m); the number of
        all other rows where others[i, j] is -1 or has no position."""
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
        """Compute the share of each row's neighbors, int (B, m) with -1 for none, that are not among its equally many nearest rows on the
        map: float32 (B,), NaN for a row without neighbors or without a position."""
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
        """Find the k-th nearest points for each of `k`, where 1 is the row itself or a copy: their distances, and the points. Rows that
        lie close together are looked up one after the other, so that the cache holds their branches of the tree."""
        far, found = np.empty((len(rows), len(k))), np.empty((len(rows), len(k)), np.int64)
        where = self.place[rows].argsort()
        for start in range(0, len(rows), LOST_ROWS):
            part = where[start : start + LOST_ROWS]
            centres = self.positions[rows[part]].astype(np.float64)
            far[part], found[part] = tree.query(centres, k=k, workers=self.n_threads)
        return far, found

    def _without_copies(self, most: int) -> tuple[cKDTree, np.ndarray]:
        """Get a tree with at most `most` copies of a position, and the rows of its points: the whole tree where no position has too
        many."""
        if self._few[0] != most:
            self._few = (most, *self._make_few(most))
        return self._few[1:]

    def _make_few(self, most: int) -> tuple[cKDTree, np.ndarray]:
        """Build that tree. Copies lie side by side in the order of the whole tree."""
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
