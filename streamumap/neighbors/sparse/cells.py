"""Cells of rows that are near the same centre, by k-means on a sample, and all rows in the order of their cells.

A centre is sparse too: the strongest features of a cell's mean. So a row is compared with all centres through inverted lists, as with
as many rows.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numba import njit, prange

from streamumap.events import Advance
from streamumap.neighbors.sparse.heads import heads
from streamumap.neighbors.sparse.lists import add_products, highest, inverse_norms, invert, squared_norms
from streamumap.neighbors.sparse.sizes import BLOCK_ROWS, PER_CELL, ROUNDS, centre_width, head_width, mean_cell_rows
from streamumap.source.sparse.csr_rows import CsrRows

PARTS = 64
"""Pieces that one call is cut into, each done by one thread."""

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr int64 (n + 1,), features, values float32."""


@dataclass(frozen=True)
class Cells:
    """All rows in the order of their cells: rows starts[c]..starts[c + 1] are those of cell c.

    `rows`: their pairs, with values as stored. `scale` float32 (N,): what makes their length 1 where they are compared so, else 1. `half`
    float32 (N,): half their squared norm, 0 where they are compared at length 1. `row_ids` int32 (N,): their numbers in the input.
    `starts` int64 (C + 1,). `centres`, with values as rows are compared, and `centre_half` float32 (C,): those of the cells.
    `heads`: what `heads.heads` gives for the rows as they are compared.

    Half the squared distance of two rows (at length 1: less 1) is half[i] + half[j] - scale[i] * scale[j] * their product.
    """

    rows: Csr
    scale: np.ndarray
    half: np.ndarray
    row_ids: np.ndarray
    starts: np.ndarray
    centres: Csr
    centre_half: np.ndarray
    heads: tuple[np.ndarray, np.ndarray]


def make_cells(rows: CsrRows, unit: bool, seed: int, advance: Advance) -> Cells:
    """Make the cells. None has more than twice the mean number of rows. Advances by N rows."""
    n = rows.n_rows
    cell_rows = mean_cell_rows(n)
    width = centre_width(rows.n_nonzero / n)
    lists, halves = _learn(rows, cell_rows, width, unit, np.random.Generator(np.random.Philox(key=[seed, 1])))
    own, lengths = np.empty(n, np.int32), np.empty(n, np.int32)
    scale, half = np.ones(n, np.float32), np.zeros(n, np.float32)
    for start in range(0, n, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, n))
        block = rows.block(part.start, part.stop)
        lengths[part] = np.diff(block[0])
        scale[part], half[part] = _scale_and_half(squared_norms(block[0], block[2]), unit)
        _nearest_centre(*block, scale[part], *lists, halves, own[part])
        advance(part.stop - start)
    row_ids = np.argsort(own, kind="stable").astype(np.int32)
    starts = _starts(np.bincount(own, minlength=len(halves)), 2 * cell_rows)
    del own
    arranged = _arrange(rows, row_ids, lengths)
    scale, half = scale[row_ids], half[row_ids]
    centres, centre_half = _means(arranged, scale, np.arange(n, dtype=np.int32), starts, rows.n_features, width, unit)
    strongest = heads(*arranged, scale, head_width(len(arranged[1]) / n))
    return Cells(arranged, scale, half, row_ids, starts, centres, centre_half, strongest)


def _scale_and_half(squares, unit):
    if unit:
        return inverse_norms(squares), np.zeros(len(squares), np.float32)
    return np.ones(len(squares), np.float32), np.minimum(0.5 * squares, np.finfo(np.float32).max).astype(np.float32)


def _learn(rows, cell_rows, width, unit, random):
    """Learn centres by k-means on PER_CELL rows for each cell: their inverted lists, and half their squared norms.

    A centre with more than twice its share of rows is replaced by several random rows of its cell, one with less than an eighth is
    dropped: dense regions get more cells.
    """
    n, n_cells = rows.n_rows, max(1, rows.n_rows // cell_rows)
    sample = rows.take(np.sort(random.choice(n, min(n, PER_CELL * n_cells), replace=False)))
    scale, half = _scale_and_half(squared_norms(sample[0], sample[2]), unit)
    n_sample = len(scale)
    chosen = np.sort(random.choice(n_sample, n_cells, replace=False))
    centres, centre_half = _scaled(_take(sample, chosen), scale[chosen]), half[chosen]
    for number in range(ROUNDS):
        own = np.empty(n_sample, np.int32)
        lists = invert(*centres, rows.n_features)
        _nearest_centre(*sample, scale, *lists, centre_half, own)
        order = np.argsort(own, kind="stable").astype(np.int32)
        size = np.bincount(own, minlength=len(centre_half))
        starts = np.concatenate([[0], np.cumsum(size)])
        centres, centre_half = _means(sample, scale, order, starts, rows.n_features, width, unit)
        if number < ROUNDS - 1:
            large = np.flatnonzero(size > 2 * PER_CELL)
            kept = np.flatnonzero((size >= PER_CELL // 8) & (size <= 2 * PER_CELL))
            new = [order[starts[c] + random.choice(size[c], size[c] // PER_CELL, replace=False)] for c in large]
            chosen = np.sort(np.concatenate([np.empty(0, np.int32), *new]))
            centres = _joined(_take(centres, kept), _scaled(_take(sample, chosen), scale[chosen]))
            centre_half = np.concatenate([centre_half[kept], half[chosen]])
    order = _by_group(centres, centre_half, rows.n_features, width, unit, random)
    return invert(*_take(centres, order), rows.n_features), centre_half[order]


def _by_group(centres: Csr, half, n_features, width, unit, random) -> np.ndarray:
    """Order centres so that near ones mostly follow each other, by k-means among them: int32 (C,). So do the rows of near cells, and what a
    row is compared with is in a core's cache."""
    n, ones = len(half), np.ones(len(half), np.float32)
    chosen = np.sort(random.choice(n, isqrt(n), replace=False))
    groups, group_half = _take(centres, chosen), half[chosen]
    for _ in range(ROUNDS):
        own = np.empty(n, np.int32)
        _nearest_centre(*centres, ones, *invert(*groups, n_features), group_half, own)
        order = np.argsort(own, kind="stable").astype(np.int32)
        sizes = np.bincount(own)
        starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
        groups, group_half = _means(centres, ones, order, starts, n_features, width, unit)
    return order


def _take(rows: Csr, numbers) -> Csr:
    indptr, features, values = rows
    lengths = np.diff(indptr)[numbers]
    out = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(indptr[numbers] - out[:-1], lengths) + np.arange(out[-1])
    return out, features[at], values[at]


def _scaled(rows: Csr, scale) -> Csr:
    return rows[0], rows[1], rows[2] * np.repeat(scale, np.diff(rows[0]))


def _joined(a: Csr, b: Csr) -> Csr:
    return np.concatenate([a[0], a[0][-1] + b[0][1:]]), np.concatenate([a[1], b[1]]), np.concatenate([a[2], b[2]])


def _means(rows: Csr, scale, members, starts, n_features, width, unit) -> tuple[Csr, np.ndarray]:
    """Compute the `width` strongest features of the mean of rows members[starts[c]..starts[c + 1]] for each c, and half its squared norm;
    for `unit` the mean is brought to length 1, and the half is 0."""
    n_cells = len(starts) - 1
    features, values = np.zeros((n_cells, width), rows[1].dtype), np.zeros((n_cells, width), np.float32)
    lengths = np.zeros(n_cells, np.int64)
    _sum_strongest(*rows, scale, members, starts, n_features, features, values, lengths)
    squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    there = np.arange(width) < lengths[:, None]
    if unit:
        values *= inverse_norms(squares)[:, None]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return (indptr, features[there], values[there]), _scale_and_half(squares, unit)[1]


@njit(parallel=True, cache=True)
def _sum_strongest(indptr, feature, value, scale, members, starts, n_features, features, values, lengths):
    n_cells, n_kept = features.shape
    for part in prange(PARTS):
        sums, seen = np.zeros(n_features), np.zeros(n_features, np.bool_)
        touched = np.empty(n_features, feature.dtype)
        for c in range(n_cells * part // PARTS, n_cells * (part + 1) // PARTS):
            n_touched = 0
            for place in range(starts[c], starts[c + 1]):
                i = members[place]
                for at in range(indptr[i], indptr[i + 1]):
                    f = feature[at]
                    if not seen[f]:
                        seen[f] = True
                        touched[n_touched] = f
                        n_touched += 1
                    sums[f] += np.float64(value[at]) * scale[i]
            own = np.sort(touched[:n_touched])
            strength = np.abs(sums[own])
            least = np.sort(strength)[n_touched - n_kept] if n_touched > n_kept else 0.0
            for x in range(n_touched):
                if strength[x] >= least and lengths[c] < n_kept:
                    features[c, lengths[c]] = own[x]
                    values[c, lengths[c]] = sums[own[x]] / (starts[c + 1] - starts[c])
                    lengths[c] += 1
            for f in own:
                sums[f], seen[f] = 0.0, False


@njit(parallel=True, fastmath={"reassoc", "nsz", "contract"}, cache=True)
def _nearest_centre(indptr, features, values, scale, bounds, list_rows, list_values, centre_half, own):
    """Find the nearest centre of each row, the first of equally near ones: `own` int32 (n,)."""
    n = len(own)
    for part in prange(PARTS):
        sums = np.empty(len(centre_half), np.float32)
        for i in range(n * part // PARTS, n * (part + 1) // PARTS):
            for c in range(len(sums)):
                sums[c] = -centre_half[c]
            add_products(sums, features, values, indptr[i], indptr[i + 1], scale[i], bounds, list_rows, list_values)
            highest(sums, own[i : i + 1])


def _starts(sizes, most):
    """Compute where cells of these sizes begin, with cells of more than `most` rows cut into pieces: int64 (C + 1,)."""
    pieces = np.maximum(1, -(-sizes // most))
    first = np.repeat(np.cumsum(sizes) - sizes, pieces)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = first + np.repeat(sizes, pieces) * number // np.repeat(pieces, pieces)
    return np.append(starts, sizes.sum())[np.append(np.repeat(sizes > 0, pieces), True)]


def _arrange(rows, row_ids, lengths) -> Csr:
    """Copy all rows into the order of `row_ids`."""
    place = np.empty(len(row_ids), np.int32)
    place[row_ids] = np.arange(len(row_ids), dtype=np.int32)
    indptr = np.zeros(len(row_ids) + 1, np.int64)
    np.cumsum(lengths[row_ids], out=indptr[1:])
    _, features, values = rows.block(0, 0)
    arranged = indptr, np.empty(indptr[-1], features.dtype), np.empty(indptr[-1], values.dtype)
    for start in range(0, len(row_ids), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(row_ids))
        _put(*rows.block(start, stop), place[start:stop], *arranged)
    return arranged


@njit(cache=True)
def _put(indptr, features, values, place, out_indptr, out_features, out_values):
    for i in range(len(place)):
        at = out_indptr[place[i]]
        for p in range(indptr[i], indptr[i + 1]):
            out_features[at], out_values[at] = features[p], values[p]
            at += 1
