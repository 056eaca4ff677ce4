"""Neighbours of dense rows on a GPU, exhaustively: chunk against chunk, with torch, and distances in Triton.

Scores come from one matrix product with float32 sums (float16 and bfloat16 rows are multiplied as stored, float32 rows
as TF32). The best of a row are found by group maxima: the largest n scores lie in the n groups of 32 with the largest
maxima. What may enter a row's list is measured again in float32 from the differences of the two rows, so the scores
only propose. A chunk of `query_rows` stays on the device while all others pass by in chunks of `other_rows`; nothing
else depends on N but the graph itself. The same bytes every time.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
import triton
import triton.language as tl

from streamumap.events import Tick, no_tick
from streamumap.neighbors.footprint import CUDA_GROUP as GROUP
from streamumap.neighbors.footprint import CUDA_MARGIN as MARGIN
from streamumap.neighbors.footprint import CUDA_TILE_ROWS as TILE_ROWS
from streamumap.neighbors.zero import join_zero_rows
from streamumap.source.base import stored_dtype, widen

KEPT = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def search(
    source,
    k: int,
    metric: str,
    *,
    query_rows: int,
    other_rows: int,
    non_negative: bool,
    is_zero: np.ndarray,
    device: str,
    tick: Tick = no_tick,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact k-NN of a RowSource's rows. `other_rows` is a multiple of GROUP. Ticks N rows."""
    n = source.n_rows
    indices, distances = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    with torch.inference_mode(), _precision("high"), _Feeder(source, metric, other_rows, device) as feeder:
        for start in range(0, n, query_rows):
            stop = min(start + query_rows, n)
            queries, scale = feeder.chunk(start, stop)
            found = torch.full((stop - start, k - 1), -1, dtype=torch.int32, device=device)
            squares = torch.full((stop - start, k - 1), torch.inf, device=device)
            for first, others, other_scale in feeder.others(start, stop, queries, scale, other_rows):
                bias = None if metric == "cosine" else 0.5 * _row_squares(others)
                for at in range(0, stop - start, TILE_ROWS):
                    tile = slice(at, min(at + TILE_ROWS, stop - start))
                    _search_tile(
                        queries[tile],
                        scale[tile],
                        start + at,
                        others,
                        other_scale,
                        bias,
                        first,
                        found[tile],
                        squares[tile],
                        non_negative,
                    )
                tick((stop - start) * (first + len(others)) // n - (stop - start) * first // n)
            squares = squares / 2 if metric == "cosine" else squares.sqrt()
            indices[start:stop, 1:] = found.cpu().numpy()
            distances[start:stop, 1:] = squares.cpu().numpy()
            del queries, found, squares
    indices[:, 0], distances[:, 0] = np.arange(n), 0.0
    if metric == "cosine":
        join_zero_rows(indices, distances, np.flatnonzero(is_zero).astype(np.int32))
    return indices, distances


def count_closer(
    source, sample: np.ndarray, others: np.ndarray, metric: str, *, other_rows: int, device: str, tick: Tick = no_tick
) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (1 for cosine, else
    inf). Ticks N rows.
    Distances that differ by less than a few float32 roundings count as equal.
    """
    counts = torch.zeros(others.shape, dtype=torch.int64, device=device)
    with torch.inference_mode(), _precision("highest"), _Feeder(source, metric, other_rows, device) as feeder:
        ours = _unit(feeder.take(sample).float(), metric)
        own = (ours * ours).sum(1)
        thresholds = _thresholds(feeder, ours, own, others, metric)
        for start in range(0, source.n_rows, other_rows):
            block, scale = feeder.chunk(start, min(start + other_rows, source.n_rows))
            block = block.float() * scale[:, None]
            squares = own[:, None] + (block * block).sum(1)[None, :] - 2 * (ours @ block.T)
            if metric == "cosine":
                squares.masked_fill_((own == 0)[:, None] ^ (scale == 0)[None, :], 2.0)
            here = np.flatnonzero((sample >= start) & (sample < start + len(block)))
            squares[torch.from_numpy(here).to(device), torch.from_numpy(sample[here] - start).to(device)] = torch.inf
            for column in range(others.shape[1]):
                counts[:, column] += (squares < thresholds[:, column : column + 1]).sum(1)
            tick(len(block))
    return counts.cpu().numpy()


def project(
    source, directions: np.ndarray, metric: str, *, other_rows: int, device: str, tick: Tick = no_tick
) -> np.ndarray:
    """The rows (of length 1 for cosine) times float32 (D, C): float32 (N, C). Ticks N rows."""
    out = np.empty((source.n_rows, directions.shape[1]), np.float32)
    with torch.inference_mode(), _Feeder(source, metric, other_rows, device) as feeder:
        along = torch.from_numpy(np.ascontiguousarray(directions)).to(device)
        for first, rows, scale in feeder.stream(other_rows):
            out[first : first + len(rows)] = ((rows.float() @ along) * scale[:, None]).cpu().numpy()
            tick(len(rows))
    return out


def _thresholds(feeder, ours, own, others, metric):
    needed = np.unique(others[others >= 0]).astype(np.int64)
    out = torch.full(others.shape, 2.0 if metric == "cosine" else torch.inf, device=ours.device)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1)
    for first in range(0, len(needed), TILE_ROWS):
        theirs = _unit(feeder.take(needed[first : first + TILE_ROWS]).float(), metric)
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


def _search_tile(queries, scale, first_query, others, other_scale, bias, first_other, found, squares, non_negative):
    """Merges the best of one chunk of others into the tile's lists, in place. `bias` None: cosine."""
    width = found.shape[1]
    scores = _scores(queries, others)
    scores = scores.mul_(other_scale[None, :]) if bias is None else scores.sub_(bias[None, :])
    overlap = range(max(first_query, first_other), min(first_query + len(queries), first_other + len(others)))
    if len(overlap):
        numbers = torch.arange(overlap.start, overlap.stop, device=scores.device)
        scores[numbers - first_query, numbers - first_other] = -torch.inf
    best, candidates = _largest(scores, min(width + MARGIN, len(others)))
    hopeless = best == -torch.inf
    if bias is None and non_negative:
        hopeless |= best <= 0
    candidates = torch.where(hopeless, -1, candidates.int())
    new = torch.empty(candidates.shape, device=scores.device)
    _pair_squares[(len(queries), candidates.shape[1])](
        queries, others, scale, other_scale, candidates, new, candidates.shape[1], queries.shape[1], BLOCK=1024
    )
    candidates = torch.where(candidates >= 0, candidates + first_other, -1)
    merged, order = torch.sort(torch.cat([squares, new], 1), dim=1, stable=True)
    squares.copy_(merged[:, :width])
    found.copy_(torch.cat([found, candidates], 1).gather(1, order[:, :width]))


def _scores(queries, others):
    """float32 (n, m) products. Half precision goes in as stored; the sums are float32."""
    if queries.dtype != torch.float32 and queries.is_cuda:
        return torch.mm(queries, others.T, out_dtype=torch.float32)
    return queries.float() @ others.float().T


@contextmanager
def _precision(name):
    """How float32 matrices are multiplied: "high" is TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _row_squares(rows):
    out = torch.empty(len(rows), device=rows.device)
    for at in range(0, len(rows), TILE_ROWS):
        out[at : at + TILE_ROWS] = (rows[at : at + TILE_ROWS].float() ** 2).sum(1)
    return out


def _largest(scores, n):
    """(values, columns) of the n largest of each row."""
    n_groups = scores.shape[1] // GROUP
    if scores.shape[1] % GROUP or n_groups <= n:
        return scores.topk(n, dim=1)
    groups = scores.view(len(scores), n_groups, GROUP).amax(2).topk(n, dim=1, sorted=False).indices
    columns = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    values, at = scores.gather(1, columns).topk(n, dim=1)
    return values, columns.gather(1, at)


@triton.jit
def _pair_squares(queries, others, scale, other_scale, candidates, out, n_candidates, n_features, BLOCK: tl.constexpr):
    """Squared distance of a query and one of its candidates, both scaled; inf where the candidate is -1.

    A scale of 0 is a zero row's under cosine: at 2 (a right angle) from a row that is none, not at 1.
    """
    row = tl.program_id(0).to(tl.int64)
    at = row * n_candidates + tl.program_id(1)
    candidate = tl.load(candidates + at).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    if candidate >= 0:
        a_scale = tl.load(scale + row)
        b_scale = tl.load(other_scale + candidate)
        for start in range(0, n_features, BLOCK):
            feature = start + tl.arange(0, BLOCK)
            live = feature < n_features
            a = tl.load(queries + row * n_features + feature, mask=live, other=0.0).to(tl.float32) * a_scale
            b = tl.load(others + candidate * n_features + feature, mask=live, other=0.0).to(tl.float32) * b_scale
            total += (a - b) * (a - b)
        total *= tl.where((a_scale == 0) != (b_scale == 0), 2.0, 1.0)
    square = tl.sum(total, axis=0)
    tl.store(out + at, tl.where(candidate >= 0, square, float("inf")))


class _Feeder:
    """Chunks of rows on the device, each with the factors that make its rows' length 1 (cosine; 0 for a zero row).

    Reads one chunk ahead into pinned memory.
    """

    def __init__(self, source, metric, chunk_rows, device):
        self.source, self.metric, self.device = source, metric, device
        self.kept = KEPT.get(source.dtype)
        staged = stored_dtype(source.dtype) if self.kept is not None else np.dtype(np.float32)
        self.staging = [_pinned((min(chunk_rows, source.n_rows), source.n_features), staged, device) for _ in range(2)]
        self.reader = ThreadPoolExecutor(1)
        self.turn = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.shutdown()

    def chunk(self, start, stop):
        """Rows start..stop: (n, D) as kept on the device, float32 (n,) scale."""
        rows = torch.empty((stop - start, self.source.n_features), dtype=self.kept or torch.float32, device=self.device)
        step = len(self.staging[0])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            rows[first - start : last - start] = self._sent(self._stage(self.turn, first, last))
        return rows, self._scale(rows)

    def others(self, start, stop, queries, scale, other_rows):
        """(first, rows, scale) of every chunk; from the device itself where start..stop are all rows."""
        n = self.source.n_rows
        if (start, stop) != (0, n):
            yield from self.stream(other_rows)
            return
        for first in range(0, n, other_rows):
            yield first, queries[first : first + other_rows], scale[first : first + other_rows]

    def stream(self, other_rows):
        """(first, rows, scale) of every chunk, read while the one before is used."""
        n = self.source.n_rows
        waiting = self.reader.submit(self._stage, self.turn, 0, min(other_rows, n))
        for first in range(0, n, other_rows):
            rows = self._sent(waiting.result())
            self.turn = 1 - self.turn
            if first + other_rows < n:
                waiting = self.reader.submit(self._stage, self.turn, first + other_rows, min(first + 2 * other_rows, n))
            yield first, rows, self._scale(rows)

    def take(self, numbers):
        stored = self.source.take(numbers)
        if self.kept is None:
            return torch.from_numpy(widen(stored, self.source.dtype)).to(self.device)
        return torch.from_numpy(stored).view(self.kept).to(self.device)

    def _stage(self, turn, start, stop):
        buffer = self.staging[turn].numpy()[: stop - start]
        if self.kept is not None:
            self.source.read(start, stop, buffer)
        else:
            buffer[:] = widen(self.source.read(start, stop), self.source.dtype)
        return self.staging[turn][: stop - start]

    def _sent(self, staged):
        rows = staged.to(self.device)
        return rows if self.kept is None else rows.view(self.kept)

    def _scale(self, rows):
        if self.metric != "cosine":
            return torch.ones(len(rows), device=self.device)
        norms = _row_squares(rows).sqrt_()
        return torch.where(norms > 0, 1.0 / norms, 0.0)


def _pinned(shape, dtype, device):
    array = torch.from_numpy(np.empty(0, dtype)).new_empty(shape)
    return array.pin_memory() if str(device).startswith("cuda") else array
