"""The graph's arithmetic in numba, held to `reference.py` by tests. Compiled once a machine (cached)."""

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
    """float32 (n, k) distances of a block of rows -> fills rho, sigma, float32 (n,)."""
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
    """As `reference.strengths`."""
    weights = np.empty(distances.shape, np.float32)
    rho, sigma = np.empty(len(distances), np.float32), np.empty(len(distances), np.float32)
    smooth_knn(distances, 0.0, max(0.0, local_connectivity - 1.0), rho, sigma)
    _strengths(distances, rho, sigma, weights)
    return weights


@njit(parallel=True, cache=True)
def _strengths(distances, rho, sigma, weights):
    for i in prange(len(distances)):
        for j in range(distances.shape[1]):
            there = distances[i, j] < np.inf
            weights[i, j] = _weight(distances[i, j], rho[i], sigma[i]) if there else np.float32(0)


@njit(cache=True)
def count_incoming(indices, first_row, counts):
    """Adds to `counts` (int64 (N,)) the edges that rows first_row.. send: indices int32 (n, k), -1 and the row itself
    left out."""
    n, k = indices.shape
    for i in range(n):
        for j in range(k):
            target = indices[i, j]
            if target >= 0 and target != first_row + i:
                counts[target] += 1


def gather_incoming(indices, distances, first_row, rho, sigma, start, stop, cursor, sources, weights):
    """Appends the edges of a block of rows whose targets lie in start..stop to the targets' lists.

    `cursor` int64 (stop - start,) is where each target's list goes on; `sources` int32 and `weights` float32 hold the
    lists.
    Each thread has its own targets and looks at all edges in order, so each list is sorted by source, whatever the
    number of threads.
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
    """Union of the edges that rows start.. send (indices, distances (n, k)) and receive (lists between list_start[i]
    and list_start[i + 1]).

    Row i's edges go to `targets` int32 and `weights` float32 from list_start[i] + i * k on, sorted by target, and their
    number to `degree` int64 (n,). An edge whose mixed weight is 0 (mix 0 and one direction only) is left out.
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
def compact(list_start, k, degree, first_edge, targets, weights, one, packed_targets, packed_weights):
    """What `merge_rows` wrote, without the gaps: row i's edges from first_edge[i] on, weights as uint16, `one` for 1
    and at least 1."""
    for i in prange(len(degree)):
        source, target = list_start[i] + i * k, first_edge[i]
        for e in range(degree[i]):
            packed_targets[target + e] = targets[source + e]
            packed_weights[target + e] = np.uint16(max(np.rint(np.float64(weights[source + e]) * one), 1.0))


@njit(cache=True)
def root_of(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def join_components(degree, targets, first_row, parent):
    """Union-find (Tarjan 1975) over rows first_row.. of a symmetric graph: `degree` int64 (rows,), `parent` int32 (N,),
    the root of a component is its smallest row."""
    e = 0
    for i in range(len(degree)):
        row = first_row + i
        for _ in range(degree[i]):
            if targets[e] < row:  # every edge is there twice
                a, b = root_of(parent, row), root_of(parent, targets[e])
                if a != b:
                    parent[max(a, b)] = min(a, b)
            e += 1


@njit(cache=True)
def flatten(parent):
    """Each row's root in place of the row that it was joined to, in place."""
    for i in range(len(parent)):
        parent[i] = root_of(parent, i)


def component_sizes(parent: np.ndarray) -> np.ndarray:
    """Rows of each component, int64, largest first."""
    sizes = np.zeros(len(parent), np.int64)
    _count_rows(parent, sizes)
    return -np.sort(-sizes[sizes > 0])


@njit(cache=True)
def _count_rows(parent, sizes):
    for i in range(len(parent)):
        sizes[root_of(parent, i)] += 1
