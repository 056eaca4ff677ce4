"""Neighbors and ranks on a map, on a GPU (torch alone).

Points are sorted along a Morton curve (`curve.py`), in tiles of TILE with a box around each. The points in a window around a row give an
upper bound on the distances of its k nearest; only tiles whose boxes are nearer than that are searched.

Squared distances of float32 positions are computed by the same operations everywhere, so those of one pair have the same bits: no row is
closer than itself, and ties are ties. The distance to a box is never larger than to a point in it.
"""

from collections.abc import Iterator

import numpy as np
import torch

from streamumap.neighbors.cuda.curve import order
from streamumap.neighbors.cuda.points_sizes import CHUNK_ROWS, TILE, WINDOW


class Points:
    """The positions float32 (N, c) of a map. Rows without a position (NaN) are nobody's neighbors. At most `values` distances are on the device
    at a time."""

    def __init__(self, positions: np.ndarray, device: str, values: int):
        self.values, self.n_components = values, positions.shape[1]
        with torch.inference_mode():
            there = torch.from_numpy(positions).to(device)
            self.rows = order(there)
            self.n = len(self.rows)
            self.flat = torch.empty((self.n + -self.n % TILE, self.n_components), device=device)
            torch.index_select(there, 0, self.rows, out=self.flat[: self.n])
            self.flat[self.n :] = self.flat[self.n - 1]
            del there
            self.place = torch.full((len(positions),), -1, dtype=torch.int32, device=device)
            for start in range(0, self.n, CHUNK_ROWS):
                rows = self.rows[start : start + CHUNK_ROWS].long()
                self.place[rows] = torch.arange(start, start + len(rows), dtype=torch.int32, device=device)
            self.tiles = self.flat.view(-1, TILE, self.n_components)
            self.low, self.high = self.tiles.amin(1), self.tiles.amax(1)
            self.flat[self.n :] = torch.inf

    def nearest(self, sample: np.ndarray, k: int) -> np.ndarray:
        """Find the k rows nearest on the map to each of the rows `sample` (S,), without itself: int64 (S, k), nearest first."""
        with torch.inference_mode():
            at = self._at(sample)
            near, where = self._window(at, k)
            reach = near[:, -1]
            last = (near == reach[:, None]).nonzero(as_tuple=True)
            found = [(last[0], where[last], near[last])]
            ours = self.flat[at]
            for query, tile in self._near_tiles(ours, ours, reach, TILE):
                squares = _squares(ours[query][:, None], self.tiles[tile])
                mine, theirs = (squares < reach[query][:, None]).nonzero(as_tuple=True)
                points = tile[mine] * TILE + theirs
                others = points != at[query[mine]]
                mine, theirs, points = mine[others], theirs[others], points[others]
                found.append((query[mine], points, squares[mine, theirs]))
            query, points, squares = (torch.cat(parts) for parts in zip(*found, strict=True))
            return self._first(query, points, squares, len(at), k).cpu().numpy()

    def ranks(self, sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Count the rows that are closer on the map to row sample[i] than row others[i, j] is, without itself: int64 (S, m); the number of
        all other rows where others[i, j] is -1 or has no position."""
        with torch.inference_mode():
            at = self._at(sample)
            limits = self._to_others(at, torch.from_numpy(others).to(at.device))
            counts = self._count(at, limits, 1)
            return torch.where(limits >= 0, counts, self.n - 1).cpu().numpy().astype(np.int64)

    def lost(self, rows: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """Compute the share of each row's neighbors, int (B, m) with -1 for none, that are not among its equally many nearest rows on the
        map: float32 (B,), NaN for a row without neighbors or without a position."""
        with torch.inference_mode():
            at = self._at(rows)
            order = at.argsort(stable=True)
            at, others = at[order], torch.from_numpy(neighbors).to(at.device)[order]
            wanted = (others >= 0).sum(1)
            limits = torch.empty(others.shape, device=at.device)
            step = max(1, self.values // (4 * WINDOW))
            for first in range(0, len(at), step):
                part = slice(first, first + step)
                limits[part] = self._within_reach(at[part], others[part], wanted[part])
            kept = (limits >= 0) & (self._count(at, limits, TILE) < wanted[:, None])
            shares = 1 - kept.sum(1) / wanted.double()
            out = torch.empty(len(at), device=at.device)
            out[order] = torch.where((wanted > 0) & (at >= 0), shares, torch.nan).float()
            return out.cpu().numpy()

    def _at(self, rows: np.ndarray) -> torch.Tensor:
        """Get the places of rows on the curve, int64; -1 for those without a position."""
        return self.place[torch.from_numpy(rows).to(self.place.device)].long()

    def _to_others(self, at: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Measure squared distances of the points `at` (B,) to rows `others` (B, m); -1 where there is none."""
        theirs = self.place[others.clamp(min=0).long()].long()
        squares = _squares(self.flat[at.clamp(min=0)][:, None], self.flat[theirs.clamp(min=0)])
        return torch.where((others >= 0) & (theirs >= 0) & (at >= 0)[:, None], squares, -1)

    def _within_reach(self, at: torch.Tensor, others: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Measure as `_to_others` does, with -1 for rows that cannot be among the `wanted` int64 (B,) nearest."""
        limits, (near, _) = self._to_others(at, others), self._window(at.clamp(min=0), others.shape[1])
        reach = near.gather(1, (wanted - 1).clamp(0, near.shape[1] - 1)[:, None])
        return torch.where(limits <= reach, limits, -1)

    def _window(self, at: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the k nearest points in a window around each of `at` on the curve: squared distances (B, k), ascending, and their places. They
        are no nearer than the k nearest of all."""
        width = min(self.n, max(WINDOW, 2 * k + 2))
        first = (at - width // 2).clamp(0, self.n - width)
        where = first[:, None] + torch.arange(width, device=at.device)
        squares = _squares(self.flat[at][:, None], self.flat[where])
        squares.masked_fill_(where == at[:, None], torch.inf)
        near, which = squares.topk(min(k, width - 1), dim=1, largest=False)
        return near, where.gather(1, which)

    def _count(self, at: torch.Tensor, limits: torch.Tensor, together: int) -> torch.Tensor:
        """Count the points that are closer to each of `at` (B,), in the order of the curve, than the squared distances `limits` (B, t), without
        itself: int32 (B, t). `together` points are compared with the same tiles."""
        n, padding = len(at), -len(at) % together
        ours = self.flat[torch.cat([at, at[-1:].expand(padding)]).clamp(min=0)].view(-1, together, self.n_components)
        limits = torch.cat([limits, limits.new_full((padding, limits.shape[1]), -1)]).view(len(ours), together, -1)
        counts = torch.zeros(limits.shape, dtype=torch.int32, device=at.device)
        for query, tile in self._near_tiles(ours.amin(1), ours.amax(1), limits.amax((1, 2)), together * TILE):
            squares, most = _squares(ours[query][:, :, None], self.tiles[tile][:, None]), limits[query]
            closer = [(squares < most[:, :, i, None]).sum(2, dtype=torch.int32) for i in range(limits.shape[2])]
            counts.index_add_(0, query, torch.stack(closer, 2))
        counts -= (limits > 0).int()  # itself
        return counts.view(-1, limits.shape[2])[:n]

    def _near_tiles(
        self, low: torch.Tensor, high: torch.Tensor, reach: torch.Tensor, pair_values: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield numbers of boxes (low, high) and of tiles that may have points closer to them than `reach`, squared: as many pairs at a time as
        make at most `values` distances, `pair_values` for each pair."""
        step, pairs = max(1, self.values // len(self.low)), max(1, self.values // pair_values)
        for first in range(0, len(low), step):
            part = slice(first, first + step)
            squares = torch.zeros((), device=low.device)
            for axis in range(self.n_components):
                below = self.low[None, :, axis] - high[part, None, axis]
                above = low[part, None, axis] - self.high[None, :, axis]
                squares = squares + torch.maximum(below, above).clamp_(min=0) ** 2
            query, tile = (squares < reach[part, None]).nonzero(as_tuple=True)
            for start in range(0, len(query), pairs):
                yield query[start : start + pairs] + first, tile[start : start + pairs]

    def _first(self, query: torch.Tensor, points: torch.Tensor, squares: torch.Tensor, n: int, k: int) -> torch.Tensor:
        """Sort what was found for each of n queries and take the k nearest: rows int64 (n, k), by distance, then by number."""
        rows = self.rows[points]
        order = rows.argsort(stable=True)
        order = order[squares[order].argsort(stable=True)]
        order = order[query[order].argsort(stable=True)]
        query, rows = query[order], rows[order]
        begin = torch.searchsorted(query, torch.arange(n, device=query.device))
        return rows[begin[:, None] + torch.arange(k, device=query.device)].long()


def _squares(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Measure squared distances of points (..., c), axis by axis."""
    out = (ours[..., 0] - theirs[..., 0]) ** 2
    for axis in range(1, ours.shape[-1]):
        out += (ours[..., axis] - theirs[..., axis]) ** 2
    return out
