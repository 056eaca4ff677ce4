"""Passes over all rows, chunk by chunk: exact ranks of sampled rows' neighbours, and projections."""

import numpy as np
import torch

from streamumap import gpu
from streamumap.events import Tick, no_tick
from streamumap.neighbors.cuda.exhaustive import precision
from streamumap.neighbors.cuda.packed import PackedOnDevice
from streamumap.neighbors.footprint import CUDA_TILE_ROWS as TILE_ROWS

PART, WHOLE = 1e-6, 1e-12
"""What distances of packed rows may differ by and still be equal: as a part of them (they are float32), and of what they
are a difference of (float64)."""


def count_closer(rows, sample: np.ndarray, others: np.ndarray, *, other_rows: int, tick: Tick = no_tick) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (1 for cosine, else
    inf). Ticks N rows.
    Distances that differ by less than a few float32 roundings count as equal.
    """
    if isinstance(rows, PackedOnDevice):
        return _count_packed(rows, sample, others, other_rows, tick)
    counts, metric, device = torch.zeros(others.shape, dtype=torch.int64, device=rows.device), rows.metric, rows.device
    with torch.inference_mode(), precision("highest"):
        ours = _unit(rows.take(sample).float(), metric)
        own = (ours * ours).sum(1)
        thresholds = _thresholds(rows, ours, own, others)
        for first, stored, scale in rows.stream(other_rows):

            def compare(start: int, stop: int, first=first, stored=stored, scale=scale) -> None:
                part = slice(start - first, stop - first)
                squares = _squares(ours, own, stored[part].float() * scale[part, None], scale[part], metric)
                here = np.flatnonzero((sample >= start) & (sample < stop))
                squares[torch.from_numpy(here).to(device), torch.from_numpy(sample[here] - start).to(device)] = (
                    torch.inf
                )
                counts.add_(torch.stack([(squares < column[:, None]).sum(1) for column in thresholds.T], 1))

            gpu.in_halves(compare, first, first + len(stored))
            tick(len(stored))
    return counts.cpu().numpy()


def _squares(ours, own, block, scale, metric):
    """Squared distances of the sampled rows to a block of rows."""
    squares = own[:, None] + (block * block).sum(1)[None, :] - 2 * (ours @ block.T)
    if metric == "cosine":
        squares.masked_fill_((own == 0)[:, None] ^ (scale == 0)[None, :], 2.0)
    return squares


def _count_packed(rows, sample, others, other_rows, tick):
    queries = torch.from_numpy(sample.astype(np.int32)).to(rows.device)
    counts = torch.zeros(others.shape, dtype=torch.int64, device=rows.device)
    with torch.inference_mode():
        theirs = torch.from_numpy(others.astype(np.int32)).to(rows.device)
        none = 1.0 if rows.metric == "cosine" else torch.inf
        thresholds = torch.where(theirs >= 0, rows.measure(queries, theirs), none)
        own = 1.0 if rows.metric == "cosine" else rows.squares[queries.long(), None].float()
        thresholds = thresholds * (1 - PART) - WHOLE * own

        def compare(start: int, stop: int) -> None:
            counts.add_(rows.count_closer(queries, thresholds, start, stop))

        for start in range(0, rows.n_rows, other_rows):
            stop = min(start + other_rows, rows.n_rows)
            gpu.in_halves(compare, start, stop)
            tick(stop - start)
    return counts.cpu().numpy()


def project(rows, directions: np.ndarray, *, other_rows: int, tick: Tick = no_tick) -> np.ndarray:
    """The rows (of length 1 for cosine) times float32 (D, C): float32 (N, C). Ticks N rows."""
    out = np.empty((rows.n_rows, directions.shape[1]), np.float32)
    with torch.inference_mode():
        along = torch.from_numpy(np.ascontiguousarray(directions)).to(rows.device)
        for first, block, scale in rows.stream(other_rows):

            def place(start: int, stop: int, first=first, block=block, scale=scale) -> None:
                part = slice(start - first, stop - first)
                out[start:stop] = ((block[part].float() @ along) * scale[part, None]).cpu().numpy()

            gpu.in_halves(place, first, first + len(block))
            tick(len(block))
    return out


def _thresholds(rows, ours, own, others):
    metric = rows.metric
    needed = np.unique(others[others >= 0]).astype(np.int64)
    out = torch.full(others.shape, 2.0 if metric == "cosine" else torch.inf, device=ours.device)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1)
    for first in range(0, len(needed), TILE_ROWS):
        theirs = _unit(rows.take(needed[first : first + TILE_ROWS]).float(), metric)
        i, j = np.nonzero((local >= first) & (local < first + TILE_ROWS))
        for at in range(0, len(i), TILE_ROWS):
            a, b = (
                torch.from_numpy(i[at : at + TILE_ROWS]).to(ours.device),
                torch.from_numpy(j[at : at + TILE_ROWS]).to(ours.device),
            )
            there = torch.from_numpy(local[i[at : at + TILE_ROWS], j[at : at + TILE_ROWS]] - first).to(ours.device)
            squares = ((ours[a] - theirs[there]) ** 2).sum(1)
            if metric == "cosine":
                squares.masked_fill_((own[a] == 0) ^ (theirs[there] == 0).all(1), 2.0)
            out[a, b] = squares
    return out - 4e-6 * own[:, None]


def _unit(rows, metric):
    if metric != "cosine":
        return rows
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)
