"""The arithmetic of the graph in numba, held to `reference.py` by tests. Compiled once on a machine, then cached."""

import numpy as np
from numba import get_num_threads, njit, prange

from streamumap.graph.reference import MIN_SCALE, N_BISECTIONS, TOLERANCE

NO_ROW = np.int32(2**31 - 1)


@njit(cache=True)
def _rho(row, local_connectivity):
    n_positive, largest = 0, 0.0
    for d in row:
        if d > 0 and d < np.inf:
            n_positive += 1
            largest = d
    if n_positive == 0 or n_positive < local_connectivity:
        return largest
    whole = int(np.floor(local_connectivity))
    part = local_connectivity - whole
    seen, before = 0, 0.0
    for d in row:
        if d > 0 and d < np.inf:
            seen += 1
            if whole == 0:
                return part * d
            if seen == whole:
                if part <= TOLERANCE:
                    return d
                before = d
            elif seen == whole + 1:
                return before + part * (d - before)
    return before


@njit(cache=True)
def _sigma(row, rho, target):
    low, high, middle = 0.0, np.inf, 1.0
    for _ in range(N_BISECTIONS):
        total = 0.0
        for j in range(1, len(row)):
            total += np.exp(-(row[j] - rho) / middle) if row[j] > rho else 1.0
        if abs(total - target) < TOLERANCE:
            break
        if total > target:
            high = middle
        else:
            low = middle
        middle = middle * 2 if high == np.inf else (low + high) / 2
    return middle


@njit(parallel=True, cache=True)
def smooth_knn(distances, mean_distance, local_connectivity, rho, sigma):
    """Fills rho and sigma, float32 (n,), from the distances of a block of rows, float32 (n, k): `reference.smooth_knn`."""
    n, k = distances.shape
    target = np.log2(k)
    for i in prange(n):
        row = distances[i]
        rho[i] = _rho(row, local_connectivity)
        middle = _sigma(row, np.float64(rho[i]), target)
        total, count = 0.0, 0
        for d in row:
            if d < np.inf:
                total += d
                count += 1
        floor = MIN_SCALE * (total / max(count, 1) if rho[i] > 0 else mean_distance)
        sigma[i] = max(middle, floor)


@njit(cache=True)
def _weight(distance, rho, sigma):
    excess = np.float64(distance) - rho
    return np.float32(np.exp(-excess / sigma)) if excess > 0 else np.float32(1.0)


def strengths(distances: np.ndarray, local_connectivity: float) -> np.ndarray:
    """`reference.strengths`, fast."""
    weights = np.empty(distances.shape, np.float32)
    rho, sigma = np.empty(len(distances), np.float32), np.empty(len(distances), np.float32)
    smooth_knn(distances, 0.0, max(0.0, local_connectivity - 1.0), rho, sigma)
    _strengths(distances, rho, sigma, weights)
    return weights


@njit(parallel=True, cache=True)
def _strengths(distances, rho, sigma, weights):
    for i in prange(len(distances)):
        for j in range(distances.shape[1]):
            is_neighbor = distances[i, j] < np.inf
            weights[i, j] = _weight(distances[i, j], rho[i], sigma[i]) if is_neighbor else np.float32(0)


@njit(cache=True)
def count_incoming(indices, first_row, counts):
    """Adds the edges that rows first_row.. send to `counts`, int64 (N,), at their targets. `indices` int32 (n, k); -1 and the row
    itself do not count."""
    n, k = indices.shape
    for i in range(n):
        for j in range(k):
            target = indices[i, j]
            if target >= 0 and target != first_row + i:
                counts[target] += 1


def gather_incoming(indices, distances, first_row, rho, sigma, start, stop, cursor, sources, weights):
    """Appends the edges of rows first_row.. that go to rows start..stop to the lists of their targets.

    `sources` int32 and `weights` float32 hold the lists; `cursor` int64 (stop - start,) is the end of each list.
    Each thread has its own targets and reads all edges in order: each list is sorted by source, for any number of threads.
    """
    _gather_incoming(
        indices, distances, first_row, rho, sigma, start, stop, cursor, sources, weights, get_num_threads()
    )


@njit(parallel=True, cache=True)
def _gather_incoming(indices, distances, first_row, rho, sigma, start, stop, cursor, sources, weights, n_tasks):
    n, k = indices.shape
    for task in prange(n_tasks):
        low, high = start + (stop - start) * task // n_tasks, start + (stop - start) * (task + 1) // n_tasks
        for i in range(n):
            source = first_row + i
            for j in range(k):
                target = indices[i, j]
                if low <= target < high and target != source:
                    at = cursor[target - start]
                    sources[at] = source
                    weights[at] = _weight(distances[i, j], rho[source], sigma[source])
                    cursor[target - start] = at + 1


@njit(cache=True)
def _sorted_outgoing(indices, distances, row, rho, sigma, targets, weights):
    n = 0
    for j in range(len(indices)):
        target = indices[j]
        if target < 0 or target == row:
            continue
        weight = _weight(distances[j], rho, sigma)
        at = n
        while at > 0 and targets[at - 1] > target:
            targets[at], weights[at] = targets[at - 1], weights[at - 1]
            at -= 1
        targets[at], weights[at] = target, weight
        n += 1
    return n


ROWS_A_TASK = 1024


@njit(parallel=True, cache=True)
def merge_rows(
    indices, distances, start, rho, sigma, list_start, sources, source_weights, mix, degree, targets, weights
):
    """Merges the edges that rows start.. send (indices, distances (n, k)) with those they receive (between list_start[i] and
    list_start[i + 1] of sources and source_weights).

    The edges of row i go to `targets` int32 and `weights` float32 from list_start[i] + i * k on, sorted by target, and their
    number goes to `degree` int64 (n,). An edge of mixed weight 0 (mix 0 and one direction only) is left out.
    """
    n, k = indices.shape
    for task in prange((n + ROWS_A_TASK - 1) // ROWS_A_TASK):
        out, out_weights = np.empty(k, np.int32), np.empty(k, np.float32)
        for i in range(task * ROWS_A_TASK, min(n, (task + 1) * ROWS_A_TASK)):
            row = start + i
            n_out = _sorted_outgoing(indices[i], distances[i], row, rho[row], sigma[row], out, out_weights)
            first = list_start[i] + i * k
            at, a, b, stop = first, 0, list_start[i], list_start[i + 1]
            while a < n_out or b < stop:
                forth, back = np.float64(0), np.float64(0)
                target = min(out[a] if a < n_out else NO_ROW, sources[b] if b < stop else NO_ROW)
                if a < n_out and out[a] == target:
                    forth = np.float64(out_weights[a])
                    a += 1
                if b < stop and sources[b] == target:
                    back = np.float64(source_weights[b])
                    b += 1
                both = forth * back
                weight = np.float32(mix * (forth + back - both) + (1.0 - mix) * both)
                if weight > 0:
                    targets[at], weights[at] = target, weight
                    at += 1
            degree[i] = at - first


@njit(parallel=True, cache=True)
def compact(list_start, k, degree, first_edge, targets, weights, one, compact_targets, compact_weights):
    """Copies the edges of `merge_rows` without the gaps, those of row i from first_edge[i] on. Weights become uint16: `one` for
    1, and at least 1."""
    for i in prange(len(degree)):
        source, target = list_start[i] + i * k, first_edge[i]
        for e in range(degree[i]):
            compact_targets[target + e] = targets[source + e]
            compact_weights[target + e] = np.uint16(max(np.rint(np.float64(weights[source + e]) * one), 1.0))


@njit(cache=True)
def root_of(parent, i):
    """Finds the root of row i and shortens the way to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def join_components(degree, targets, first_row, parent):
    """Joins the components of rows first_row.. of a symmetric graph by union-find (Tarjan 1975). `degree` int64 (rows,),
    `parent` int32 (N,). The root of a component is its smallest row."""
    e = 0
    for i in range(len(degree)):
        row = first_row + i
        for _ in range(degree[i]):
            if targets[e] < row:  # the graph has every edge twice
                a, b = root_of(parent, row), root_of(parent, targets[e])
                if a != b:
                    parent[max(a, b)] = min(a, b)
            e += 1


@njit(cache=True)
def flatten(parent):
    """Replaces the parent of each row by its root."""
    for i in range(len(parent)):
        parent[i] = root_of(parent, i)


def component_sizes(parent: np.ndarray) -> np.ndarray:
    """Counts the rows of each component: int64, largest first."""
    sizes = np.zeros(len(parent), np.int64)
    _count_rows(parent, sizes)
    return -np.sort(-sizes[sizes > 0])


@njit(cache=True)
def _count_rows(parent, sizes):
    for i in range(len(parent)):
        sizes[root_of(parent, i)] += 1
