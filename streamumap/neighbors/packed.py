"""Neighbours of rows that are mostly zeros, exactly, through an inverted index in numba.

A block of rows is turned into lists: for each feature, who has it and how much. A row's products with the whole block
are then sums over the lists of its own features, and its best are picked from those (Turtle & Flood 1995 call it
term-at-a-time scoring). The candidates that are left are measured again in float64 from the rows themselves. Every row
is computed by one thread from the same numbers in the same order: the same bytes for any number of threads.
"""

import numpy as np
from numba import njit, prange

from streamumap.events import Tick, no_tick
from streamumap.neighbors.footprint import PACKED_CORPUS_ROWS as CORPUS_ROWS
from streamumap.neighbors.footprint import PACKED_MARGIN as MARGIN
from streamumap.neighbors.zero import join_zero_rows

FAST = {"reassoc", "nsz", "nnan"}
CHUNK = 64


def search(
    rows, k: int, metric: str, *, non_negative: bool, is_zero: np.ndarray, query_rows: int, tick: Tick = no_tick
) -> tuple[np.ndarray, np.ndarray]:
    """Exact k-NN. `rows`: a PackedRows; `is_zero`: bool (N,). Ticks N rows for each block of CORPUS_ROWS, then N rows
    more."""
    n = rows.n_rows
    n_kept = min(k - 1 + MARGIN, n - 1)
    best = np.full((n, n_kept), -1, np.int32)
    scores = np.full((n, n_kept), -np.inf, np.float32)
    scale = _inverse_norms(rows, query_rows) if metric == "cosine" else np.ones(n, np.float32)
    least = np.float32(0.0 if metric == "cosine" and non_negative else -np.inf)
    for start in range(0, n, CORPUS_ROWS):
        stop = min(start + CORPUS_ROWS, n)
        lists = _invert(rows, start, stop, scale)
        bias = _bias(rows, start, stop, metric)
        for first in range(0, n, query_rows):
            last = min(first + query_rows, n)
            indptr, features, values = rows.block(first, last)
            _score(
                indptr,
                features,
                values,
                scale[first:last],
                first,
                start,
                bias,
                *lists,
                least,
                best[first:last],
                scores[first:last],
            )
            tick(last - first)
    del scores
    indices, distances = _measure_all(rows, best, k, metric, query_rows, tick)
    if metric == "cosine":
        join_zero_rows(indices, distances, np.flatnonzero(is_zero).astype(np.int32))
    return indices, distances


def count_closer(
    rows, sample: np.ndarray, others: np.ndarray, metric: str, block_rows: int, tick: Tick = no_tick
) -> np.ndarray:
    """How many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m).

    `sample` int64 (S,) ascending, `others` (S, m), -1 for the distance at which there is no edge (1 for cosine, else
    inf). Ticks N rows.
    """
    ours = rows.take(sample)
    own = _squared_norms(ours[0], ours[2])
    thresholds = _thresholds(rows, ours, others, metric)
    counts = np.zeros(others.shape, np.int64)
    for start in range(0, rows.n_rows, block_rows):
        stop = min(start + block_rows, rows.n_rows)
        indptr, features, values = rows.block(start, stop)
        lists = _lists(indptr, features, values, rows.n_features)
        _count(
            *ours, own, sample - start, *lists, _squared_norms(indptr, values), metric == "cosine", thresholds, counts
        )
        tick(stop - start)
    return counts


def _thresholds(rows, ours, others, metric):
    """The distances to `others`, less what rounding may be: as a part of them and, for cosine, of the 1 from which they
    are taken."""
    needed = np.unique(others[others >= 0]).astype(np.int64)
    theirs = rows.take(needed)
    local = np.where(others >= 0, np.searchsorted(needed, others), -1)
    out = np.full(others.shape, 1.0 if metric == "cosine" else np.inf)
    _pairs(*ours, *theirs, local, metric == "cosine", out)
    return out * (1 - 1e-6) - (1e-12 if metric == "cosine" else 0.0)


def _inverse_norms(rows, block_rows):
    out = np.empty(rows.n_rows, np.float32)
    for start in range(0, rows.n_rows, block_rows):
        indptr, _, values = rows.block(start, min(start + block_rows, rows.n_rows))
        squares = _squared_norms(indptr, values)
        out[start : start + len(squares)] = 1.0 / np.sqrt(np.where(squares > 0, squares, 1.0))
    return out


def _squared_norms(indptr, values):
    out = np.zeros(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        out[filled] = np.add.reduceat(values.astype(np.float64) ** 2, indptr[:-1][filled])
    return out


def _bias(rows, start, stop, metric):
    """What a row's score starts from: nearest is then largest. euclidean: 2 x.y - y.y, halved."""
    if metric == "cosine":
        return np.zeros(stop - start, np.float32)
    indptr, _, values = rows.block(start, stop)
    return np.maximum(-0.5 * _squared_norms(indptr, values), np.finfo(np.float32).min).astype(np.float32)


def _lists(indptr, features, values, n_features):
    """CSR -> for each feature the rows that have it, ascending: (bounds int64 (D + 1,), row uint16 or int32, value
    float32)."""
    order = np.argsort(features, kind="stable")
    bounds = np.zeros(n_features + 1, np.int64)
    np.cumsum(np.bincount(features, minlength=n_features), out=bounds[1:])
    n = len(indptr) - 1
    owner = np.repeat(np.arange(n, dtype=np.uint16 if n <= CORPUS_ROWS else np.int32), np.diff(indptr))
    return bounds, owner[order], values[order]


def _invert(rows, start, stop, scale):
    indptr, features, values = rows.block(start, stop)
    return _lists(indptr, features, values * np.repeat(scale[start:stop], np.diff(indptr)), rows.n_features)


@njit(parallel=True, fastmath=FAST, cache=True)
def _score(indptr, features, values, scale, first_row, first_other, bias, bounds, owner, amount, least, best, scores):
    """Merges each query row's best among the block's rows into `best` and `scores` (n, n_kept), highest first."""
    n_others = len(bias)
    for row in prange(len(indptr) - 1):
        sums = bias.copy()
        for at in range(indptr[row], indptr[row + 1]):
            feature, value = features[at], values[at] * scale[row]
            for p in range(bounds[feature], bounds[feature + 1]):
                sums[owner[p]] += value * amount[p]
        itself = first_row + row - first_other
        if 0 <= itself < n_others:
            sums[itself] = -np.inf
        for start in range(0, n_others, CHUNK):
            stop = min(start + CHUNK, n_others)
            floor = max(scores[row, -1], least)
            highest = np.float32(-np.inf)
            for j in range(start, stop):
                highest = np.float32(max(highest, sums[j]))
            if highest > floor:
                _keep(sums, start, stop, first_other, least, best[row], scores[row])


@njit(cache=True)
def _keep(sums, start, stop, first_other, least, best, scores):
    for j in range(start, stop):
        score = sums[j]
        if score > scores[-1] and score > least:
            at = len(scores) - 1
            while at > 0 and scores[at - 1] < score:
                scores[at], best[at] = scores[at - 1], best[at - 1]
                at -= 1
            scores[at], best[at] = score, first_other + j


@njit(cache=True)
def _pair(a_features, a_values, b_features, b_values, cosine):
    """float64 distance of two rows given by their ascending features."""
    a, b, dot, aa, bb, difference = 0, 0, 0.0, 0.0, 0.0, 0.0
    while a < len(a_features) or b < len(b_features):
        if b >= len(b_features) or (a < len(a_features) and a_features[a] < b_features[b]):
            x, y = np.float64(a_values[a]), np.float64(0)
            a += 1
        elif a >= len(a_features) or b_features[b] < a_features[a]:
            x, y = np.float64(0), np.float64(b_values[b])
            b += 1
        else:
            x, y = np.float64(a_values[a]), np.float64(b_values[b])
            a += 1
            b += 1
        dot += x * y
        aa += x * x
        bb += y * y
        difference += (x - y) * (x - y)
    if not cosine:
        return np.sqrt(difference)
    if aa == 0.0 or bb == 0.0:
        return 0.0 if aa == bb else 1.0
    return max(0.0, 1.0 - dot / np.sqrt(aa * bb))


def _measure_all(rows, best, k, metric, query_rows, tick):
    n = len(best)
    indices, out = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    for start in range(0, n, query_rows):
        stop = min(start + query_rows, n)
        needed = np.unique(best[start:stop])
        theirs = rows.take(needed[needed >= 0].astype(np.int64))
        local = np.searchsorted(needed[needed >= 0], best[start:stop]).astype(np.int32)
        _measure(
            start,
            *rows.block(start, stop),
            *theirs,
            best[start:stop],
            local,
            metric == "cosine",
            indices[start:stop],
            out[start:stop],
        )
        tick(stop - start)
    return indices, out


@njit(parallel=True, cache=True)
def _measure(
    first_row, indptr, features, values, their_indptr, their_features, their_values, best, local, cosine, indices, out
):
    """Fills indices int32, out float32 (n, k): self, then the k - 1 nearest of each row's candidates by (distance, row
    number)."""
    n_kept, k = best.shape[1], indices.shape[1]
    for row in prange(len(best)):
        own = slice(indptr[row], indptr[row + 1])
        found, distance = np.empty(n_kept, np.int32), np.empty(n_kept, np.float64)
        n_found = 0
        for c in range(n_kept):
            if best[row, c] < 0:
                continue
            theirs = slice(their_indptr[local[row, c]], their_indptr[local[row, c] + 1])
            d = _pair(features[own], values[own], their_features[theirs], their_values[theirs], cosine)
            at = n_found
            while at > 0 and (distance[at - 1] > d or (distance[at - 1] == d and found[at - 1] > best[row, c])):
                distance[at], found[at] = distance[at - 1], found[at - 1]
                at -= 1
            distance[at], found[at] = d, best[row, c]
            n_found += 1
        indices[row, 0], out[row, 0] = first_row + row, np.float32(0)
        for c in range(min(n_found, k - 1)):
            indices[row, c + 1], out[row, c + 1] = found[c], np.float32(distance[c])


@njit(parallel=True, cache=True)
def _pairs(indptr, features, values, their_indptr, their_features, their_values, local, cosine, out):
    for row in prange(len(local)):
        own = slice(indptr[row], indptr[row + 1])
        for j in range(local.shape[1]):
            if local[row, j] >= 0:
                theirs = slice(their_indptr[local[row, j]], their_indptr[local[row, j] + 1])
                out[row, j] = _pair(features[own], values[own], their_features[theirs], their_values[theirs], cosine)


@njit(parallel=True, cache=True)
def _count(indptr, features, values, own, itself, bounds, owner, amount, squares, cosine, thresholds, counts):
    for row in prange(len(counts)):
        dots = np.zeros(len(squares))
        for at in range(indptr[row], indptr[row + 1]):
            feature, value = features[at], np.float64(values[at])
            for p in range(bounds[feature], bounds[feature + 1]):
                dots[owner[p]] += value * amount[p]
        order = np.argsort(-thresholds[row])
        for j in range(len(squares)):
            if j == itself[row]:
                continue
            if cosine:
                product = own[row] * squares[j]
                distance = 1.0 - dots[j] / np.sqrt(product) if product > 0 else np.float64(own[row] != squares[j])
            else:
                distance = np.sqrt(max(0.0, own[row] + squares[j] - 2.0 * dots[j]))
            for c in order:
                if distance >= thresholds[row, c]:
                    break
                counts[row, c] += 1
