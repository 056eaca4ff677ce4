"""Tables of the nearest rows known so far, one list a row, nearest first: what keeps them so, in numba.

A list is sorted by (squared distance or another key, row number) and holds no row twice, so it does not depend on the order in which
rows come. Free places hold -1 and inf.
"""

import numpy as np
from numba import njit


@njit(inline="always")
def insert(indices, squares, square, number):
    """Puts (square, number) into one row's lists, sorted by both, unless it is there or beyond their end: where it
    went, or -1.
    """
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
    """`insert`, with a mark for what has come since a join; whether it went in."""
    at = insert(indices, squares, square, number)
    if at < 0:
        return False
    for c in range(len(squares) - 1, at, -1):
        fresh[c] = fresh[c - 1]
    fresh[at] = 1
    return True


@njit(cache=True)
def members_of(indices, squares, fresh, forward, reverse):
    """int32 (N, forward + reverse): nearest neighbours and the nearest rows that name this one; -1: none, -2 - j: row
    j, not fresh.
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
    """Places that `meet` needs: in `visited`, a power of two, and in `met`."""
    n_met = members.shape[1] ** 2
    n_visited = 1
    while n_visited <= n_met + indices.shape[1] + 1:
        n_visited *= 2
    return n_visited, n_met


@njit(nogil=True, cache=True)
def meet(i, known, members, visited, met):
    """Writes the neighbours of row i's neighbours, itself and those in `known` apart, to `met`, and says how many: none
    by two steps that are both old. `members` int32 (N, m) as of `members_of`."""
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
    """Whether `number` was not in the open-addressing set; it is now."""
    at = (number * np.int64(2654435761) >> np.int64(8)) & (len(visited) - 1)
    while visited[at] != -1:
        if visited[at] == number:
            return False
        at = (at + 1) & (len(visited) - 1)
    visited[at] = number
    return True


@njit(inline="always", fastmath={"reassoc", "contract"})
def difference(a, b):
    """Squared distance, float64."""
    total = 0.0
    for d in range(len(a)):
        step = np.float64(a[d] - b[d])
        total += step * step
    return total
