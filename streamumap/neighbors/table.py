"""Neighbor lists under construction, in numba: one list a row, of the nearest rows known so far.

A list is sorted by (squared distance or another key, row number) and holds no row twice, so it does not depend on the order in which
candidates come. Free places hold -1 and inf.
"""

import numpy as np
from numba import njit


@njit(inline="always")
def insert(indices, squares, square, number):
    """Insert (square, number) into one row's list, unless the list has that row or nearer ones only; return where it went, or -1."""
    at = len(squares) - 1
    if square > squares[at] or (square == squares[at] and (np.isinf(square) or number >= indices[at])):
        return -1
    there = np.int32(0)  # without a branch, for vectors
    for c in range(len(squares)):
        there |= np.int32(indices[c] == number)
    if there:
        return -1
    while at > 0 and (squares[at - 1] > square or (squares[at - 1] == square and indices[at - 1] > number)):
        squares[at], indices[at] = squares[at - 1], indices[at - 1]
        at -= 1
    squares[at], indices[at] = square, number
    return at


@njit(inline="always")
def insert_fresh(indices, squares, fresh, square, number):
    """Insert as `insert` does, mark the place as new since the last join, and return whether it went in."""
    at = insert(indices, squares, square, number)
    if at < 0:
        return False
    for c in range(len(squares) - 1, at, -1):
        fresh[c] = fresh[c - 1]
    fresh[at] = 1
    return True


@njit(cache=True)
def members_of(indices, squares, fresh, forward, reverse):
    """Gather the rows that take part in the join of each row: int32 (N, forward + reverse), its nearest neighbors, then the nearest rows
    that have it as a neighbor. -1: none; -2 - j: row j, known since before the last join.
    """
    n, width = len(indices), min(forward, indices.shape[1])
    out = np.full((n, width + reverse), -1, np.int32)
    best = np.full((n, reverse), np.inf, np.float32)
    for i in range(n):
        for c in range(width):
            j = indices[i, c]
            if j >= 0:
                out[i, c] = j if fresh[i, c] else -2 - j
                if squares[i, c] < best[j, -1]:
                    insert(out[j, width:], best[j], squares[i, c], np.int32(i if fresh[i, c] else -2 - i))
    return out


@njit(inline="always")
def places(indices, members):
    """Return the sizes of `visited`, a power of two, and of `met` that `meet` needs."""
    n_met = members.shape[1] ** 2
    n_visited = 1
    while n_visited <= n_met + indices.shape[1] + 1:
        n_visited *= 2
    return n_visited, n_met


@njit(nogil=True, cache=True)
def meet(i, known, members, visited, met):
    """Write the neighbors of row i's neighbors to `met` and return how many: without row i, those in `known`, and those reached by two
    old steps. `members` int32 (N, m) comes from `members_of`."""
    visited[:] = -1
    _visit(visited, i)
    for j in known:
        if j >= 0:
            _visit(visited, j)
    n_met = 0
    for step in members[i]:
        if step == -1:
            continue
        for second in members[step if step >= 0 else -2 - step]:
            if second == -1 or (step < 0 and second < 0):
                continue
            j = second if second >= 0 else -2 - second
            if _visit(visited, j):
                met[n_met] = j
                n_met += 1
    return n_met


@njit(inline="always")
def _visit(visited, number):
    """Add `number` to an open-addressing hash set; return whether it is new."""
    at = (number * np.int64(2654435761) >> np.int64(8)) & (len(visited) - 1)
    while visited[at] != -1:
        if visited[at] == number:
            return False
        at = (at + 1) & (len(visited) - 1)
    visited[at] = number
    return True


@njit(inline="always", fastmath={"reassoc", "contract"})
def difference(a, b):
    """Sum the squared differences of two rows in float64."""
    total = 0.0
    for d in range(len(a)):
        step = np.float64(a[d] - b[d])
        total += step * step
    return total
