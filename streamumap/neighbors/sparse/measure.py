"""Exact distances of rows without their zeros, in float64."""

import numpy as np
from numba import njit, prange

from streamumap.neighbors.metric import Metric

NEAR = 1e-6
"""Below this, half squared distances of rows at length 1 come from differences: 1 - cos has lost too many digits."""


PARTS = 64
"""Pieces that one call is cut into, each done by one thread."""

ROUNDED = 16
"""A float32 key of rows with m shared features is off by at most m + ROUNDED units in the last place of their squared norms."""

PIECE_VALUES = 1 << 14
"""Distances that are converted together: a few hundred kilobytes, which no formula counts."""


def to_distances(measured: np.ndarray, metric: Metric) -> None:
    """Turn what `pair` gives, float32 (n, k), into distances of the metric, in place: in float64, in which the root of the square of a float32
    number is that number again."""
    step = max(1, PIECE_VALUES // measured.shape[1])
    for start in range(0, len(measured), step):
        wide = measured[start : start + step].astype(np.float64)
        measured[start : start + step] = metric.from_squares(2 * wide if metric.unit else wide**2, np)


@njit(cache=True)
def pair(a_features, a_values, b_features, b_values, unit):
    """Measure two rows given by their ascending features: the Euclidean distance, float64; for `unit` half the squared distance at length 1."""
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
    if not unit:
        return np.sqrt(difference)
    if aa == 0.0 or bb == 0.0:
        return 0.0 if aa == bb else 1.0
    distance = 1.0 - dot / np.sqrt(aa * bb)
    if distance >= NEAR:
        return distance
    return _half_square(a_features, a_values, 1.0 / np.sqrt(aa), b_features, b_values, 1.0 / np.sqrt(bb))


@njit(cache=True)
def _half_square(a_features, a_values, a_scale, b_features, b_values, b_scale):
    """Compute half the squared distance of two rows times their scales."""
    a, b, total = 0, 0, 0.0
    while a < len(a_features) or b < len(b_features):
        step = 0.0
        in_a = b >= len(b_features) or (a < len(a_features) and a_features[a] <= b_features[b])
        in_b = a >= len(a_features) or (b < len(b_features) and b_features[b] <= a_features[a])
        if in_a:
            step += a_values[a] * a_scale
            a += 1
        if in_b:
            step -= b_values[b] * b_scale
            b += 1
        total += step * step
    return total / 2


@njit(parallel=True, cache=True)
def measure(
    row_ids, indptr, features, values, their_indptr, their_features, their_values, best, local, unit, indices, out
):
    """Fill indices int32 and out float32 (n, k): each row itself, then the k - 1 nearest of its candidates by (distance, row number).

    `row_ids`: the numbers of the rows `indptr`, `features`, `values`; `best` (n, m): those of their candidates, -1 for none, which are
    rows `local` (n, m) of their_indptr, their_features, their_values.
    """
    n_kept, k = best.shape[1], indices.shape[1]
    for row in prange(len(best)):
        own = slice(indptr[row], indptr[row + 1])
        found, distance = np.empty(n_kept, np.int32), np.empty(n_kept, np.float64)
        n_found = 0
        for c in range(n_kept):
            if best[row, c] < 0:
                continue
            theirs = slice(their_indptr[local[row, c]], their_indptr[local[row, c] + 1])
            d = pair(features[own], values[own], their_features[theirs], their_values[theirs], unit)
            at = n_found
            while at > 0 and (distance[at - 1] > d or (distance[at - 1] == d and found[at - 1] > best[row, c])):
                distance[at], found[at] = distance[at - 1], found[at - 1]
                at -= 1
            distance[at], found[at] = d, best[row, c]
            n_found += 1
        indices[row, 0], out[row, 0] = row_ids[row], np.float32(0)
        for c in range(min(n_found, k - 1)):
            indices[row, c + 1], out[row, c + 1] = found[c], np.float32(distance[c])


@njit(parallel=True, cache=True)
def measure_lists(start, indptr, features, values, half, row_ids, lists, keys, unit, n_features, indices, out):
    """Fill indices int32 and out float32 (n, k) for rows start.. as `measure` does, from their lists (n, w), sorted by keys float32: what
    cannot be among the nearest, since its key says so, is not measured."""
    n, k = indices.shape
    for part in prange(PARTS):
        strip = np.zeros(n_features)
        found, distance = np.empty(lists.shape[1], np.int32), np.empty(lists.shape[1], np.float64)
        for row in range(n * part // PARTS, n * (part + 1) // PARTS):
            i, n_found, norm = start + row, 0, 0.0
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = values[at]
                norm += np.float64(values[at]) * np.float64(values[at])
            last = min(k - 2, lists.shape[1] - 1)
            rounding = 2 * (indptr[i + 1] - indptr[i] + ROUNDED) * np.float64(np.finfo(np.float32).eps)
            for c in range(lists.shape[1]):
                j = lists[row, c]
                if j < 0:
                    break
                if c > last:
                    scale = 1.0 if unit else 2.0 * np.float64(half[i]) + half[j] + half[lists[row, last]]
                    if np.float64(keys[row, c]) - keys[row, last] > rounding * scale:
                        continue
                d = _looked_up(strip, norm, i, j, indptr, features, values, unit)
                at, number = n_found, row_ids[j]
                while at > 0 and (distance[at - 1] > d or (distance[at - 1] == d and found[at - 1] > number)):
                    distance[at], found[at] = distance[at - 1], found[at - 1]
                    at -= 1
                distance[at], found[at] = d, number
                n_found += 1
            indices[row, 0], out[row, 0] = row_ids[i], np.float32(0)
            for c in range(min(n_found, k - 1)):
                indices[row, c + 1], out[row, c + 1] = found[c], np.float32(distance[c])
            for at in range(indptr[i], indptr[i + 1]):
                strip[features[at]] = 0


@njit(cache=True)
def _looked_up(strip, norm, i, j, indptr, features, values, unit):
    """Measure rows i and j as `pair` does, to the same bits: row i is in the strip, and its squared norm is known."""
    if unit:
        dot, other = 0.0, 0.0
        for at in range(indptr[j], indptr[j + 1]):
            y = np.float64(values[at])
            dot += strip[features[at]] * y
            other += y * y
        if norm > 0.0 and other > 0.0:
            distance = 1.0 - dot / np.sqrt(norm * other)
            if distance >= NEAR:
                return distance
    own, theirs = slice(indptr[i], indptr[i + 1]), slice(indptr[j], indptr[j + 1])
    return pair(features[own], values[own], features[theirs], values[theirs], unit)


@njit(parallel=True, cache=True)
def measure_pairs(indptr, features, values, their_indptr, their_features, their_values, local, unit, out):
    """Fill out float64 (n, m) with the distances of each row to rows `local` (n, m); entries whose row is -1 stay."""
    for row in prange(len(local)):
        own = slice(indptr[row], indptr[row + 1])
        for j in range(local.shape[1]):
            if local[row, j] >= 0:
                theirs = slice(their_indptr[local[row, j]], their_indptr[local[row, j] + 1])
                out[row, j] = pair(features[own], values[own], their_features[theirs], their_values[theirs], unit)
