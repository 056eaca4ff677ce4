"""The epoch of the layout in numba, on all cores, held to `reference.py` by tests.

Each vertex has two loops: pulls along the edges that fire, then pushes from random vertices. The compiler turns the second
into vector code, for which pow is a short polynomial. Sums are re-associated, but one thread makes all sums of a vertex: any
number of threads gives the same bytes.
"""

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads

from streamumap.layout.schedule import ATTRACTION, CLIP, PUSH_SOFTENING, STEP_LIMIT, LayoutSettings

FAST = {"reassoc", "contract", "nsz", "nnan", "ninf"}
GOLDEN = np.uint32(0x9E3779B9)
FEW_ROWS = 2048
"""Most rows of a block that one thread does alone; 800 take it 0.1 ms. Two threads would halve that on an idle machine, but on
a busy one an epoch waits for the slower: the thousands of epochs of a start took half a minute."""

ROWS_A_TASK = 256
"""Rows for which a thread allocates its buffers once."""

_ONE, _ATTRACTION, _CLIP, _LIMIT, _SOFT, _TINY = (
    np.float32(x) for x in (1.0, ATTRACTION, CLIP, STEP_LIMIT, PUSH_SOFTENING, 1e-12)
)


def epoch(
    old: np.ndarray,
    new: np.ndarray,
    first_row: int,
    indptr,
    targets,
    weights,
    first_edge: int,
    number: int,
    s: LayoutSettings,
) -> None:
    """Writes rows first_row.. of `new` from `old`, both float32 (N, C), along a block of the graph.

    indptr int64 (rows + 1,) counts from the first edge of the block, which is edge `first_edge` of the whole graph; targets
    int32, weights uint16.
    """
    step = s.step_size(number)
    kernel = _epoch_2d if old.shape[1] == 2 else _epoch_nd
    threads = get_num_threads()
    set_num_threads(1 if len(indptr) <= FEW_ROWS else threads)
    try:
        kernel(
            old, new, first_row, indptr, targets, weights, np.uint32(first_edge & 0xFFFFFFFF), np.uint32(number), np.uint32(s.epoch_key(number)),
            np.uint32(s.phase_key()), np.uint32(s.rate_scale), s.least_weight, s.n_pushes(number), np.float32(step), np.float32(s.a),
            np.float32(s.b), np.float32(-2 * s.a * s.b), np.float32(2 * s.b * s.push_strength(number)),
        )  # fmt: skip
    finally:
        set_num_threads(threads)


# The force law and the random numbers: `reference.py` in numba, inlined into the kernels below and into that of
# `out_of_sample.py`, whose numba cache does not notice a change here. They take the fastmath flags of the kernel.


@njit(inline="always")
def mix(x):
    x = np.uint32(x)
    x ^= x >> np.uint32(16)
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x ^= x >> np.uint32(15)
    x = np.uint32(x * np.uint32(0x846CA68B))
    return x ^ (x >> np.uint32(16))


@njit(inline="always")
def power(x, b):
    """Returns x^b for x > 0 to a relative error under 1e-4 max(1, b): log2 and exp2 are minimax polynomials over one octave."""
    bits = np.float32(x).view(np.int32)
    t = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - _ONE
    log = t * (
        np.float32(1.44179)
        + t
        * (
            np.float32(-0.708476)
            + t * (np.float32(0.4150233) + t * (np.float32(-0.1928345) + t * np.float32(0.0445102)))
        )
    )
    y = b * (np.float32((bits >> 23) - 127) + log)
    y = max(np.float32(-126), min(np.float32(126), y))
    whole = np.floor(y)
    f = y - whole
    part = _ONE + f * (
        np.float32(0.6931472)
        + f
        * (np.float32(0.2402265) + f * (np.float32(0.0554953) + f * (np.float32(0.0096844) + f * np.float32(0.00144))))
    )
    return part * np.int32((np.int32(whole) + 127) << 23).view(np.float32)


@njit(inline="always")
def fires(edge, weight, epoch, phase, scale):
    """Tells whether an edge fires in an epoch: `reference.fires`."""
    rate = np.uint32(weight * scale)
    before = np.uint32(np.uint32(edge * GOLDEN) + phase + np.uint32(epoch * rate))
    return np.uint32(before + rate) < before


@njit(inline="always")
def random_vertex(key, number, n_vertices):
    """Draws one vertex of `reference.pushers`."""
    return np.int64((np.uint64(mix(key + np.uint32(number) * GOLDEN)) * n_vertices) >> np.uint64(32))


@njit(inline="always")
def pull_factor(d2, a, b, pull):
    """Returns the factor on the difference to a neighbour at squared distance `d2`; `pull` is -2ab."""
    d2 = max(d2, _TINY)
    p = power(d2, b)
    return pull * p / (d2 * (_ONE + a * p))


@njit(inline="always")
def push_factor(d2, a, b, push):
    """Returns the factor on the difference to a random vertex; `push` is 2b times the strength of a push."""
    d2 = max(d2, _TINY)
    return push / ((_SOFT + d2) * (_ONE + a * power(d2, b)))


@njit(inline="always")
def pull_along(factor, difference):
    """Returns the move along one axis towards a neighbour."""
    return _ATTRACTION * max(-_CLIP, min(_CLIP, factor * difference))


@njit(inline="always")
def push_along(factor, difference):
    """Returns the move along one axis away from a random vertex."""
    return max(-_CLIP, min(_CLIP, factor * difference))


@njit(inline="always")
def limited_step(step, squares):
    """Returns the step size, reduced where the step would exceed STEP_LIMIT. `squares`: the squared length of the move."""
    return step * min(_ONE, _LIMIT / max(step * np.sqrt(squares), _TINY))


@njit(inline="always")
def difference_to(position, others, j, difference):
    """Fills `difference` with position - others[j] and returns its squared length."""
    d2 = np.float32(0)
    for c in range(len(position)):
        difference[c] = position[c] - others[j, c]
        d2 += difference[c] * difference[c]
    return d2


@njit(parallel=True, fastmath=FAST, cache=True)
def _epoch_2d(
    old, new, first_row, indptr, targets, weights, first_edge, number, key, phase, scale, least, n_negative, step, a, b, pull, push
):  # fmt: skip
    n_vertices = np.uint64(len(old))
    for row in prange(len(indptr) - 1):
        i = first_row + row
        x, y = old[i, 0], old[i, 1]
        move_x, move_y, n_fired = np.float32(0), np.float32(0), 0
        for e in range(indptr[row], indptr[row + 1]):
            if weights[e] < least or not fires(first_edge + np.uint32(e), np.uint32(weights[e]), number, phase, scale):
                continue
            n_fired += 1
            dx, dy = x - old[targets[e], 0], y - old[targets[e], 1]
            factor = pull_factor(dx * dx + dy * dy, a, b, pull)
            move_x += pull_along(factor, dx)
            move_y += pull_along(factor, dy)
        vertex_key = mix(np.uint32(i) ^ key)
        for s in range(n_fired * n_negative):
            j = random_vertex(vertex_key, s, n_vertices)
            dx, dy = x - old[j, 0], y - old[j, 1]
            factor = push_factor(dx * dx + dy * dy, a, b, push)
            move_x += push_along(factor, dx)
            move_y += push_along(factor, dy)
        scaled = limited_step(step, move_x * move_x + move_y * move_y)
        new[i, 0] = x + scaled * move_x
        new[i, 1] = y + scaled * move_y


@njit(parallel=True, fastmath=FAST, cache=True)
def _epoch_nd(
    old, new, first_row, indptr, targets, weights, first_edge, number, key, phase, scale, least, n_negative, step, a, b, pull, push
):  # fmt: skip
    n_rows, n_components, n_vertices = len(indptr) - 1, old.shape[1], np.uint64(len(old))
    for task in prange((n_rows + ROWS_A_TASK - 1) // ROWS_A_TASK):
        difference, move = np.empty(n_components, np.float32), np.empty(n_components, np.float32)
        for row in range(task * ROWS_A_TASK, min(n_rows, (task + 1) * ROWS_A_TASK)):
            i = first_row + row
            move[:] = np.float32(0)
            n_fired = 0
            for e in range(indptr[row], indptr[row + 1]):
                if weights[e] < least or not fires(
                    first_edge + np.uint32(e), np.uint32(weights[e]), number, phase, scale
                ):
                    continue
                n_fired += 1
                d2 = difference_to(old[i], old, targets[e], difference)
                factor = pull_factor(d2, a, b, pull)
                for c in range(n_components):
                    move[c] += pull_along(factor, difference[c])
            vertex_key = mix(np.uint32(i) ^ key)
            for s in range(n_fired * n_negative):
                j = random_vertex(vertex_key, s, n_vertices)
                d2 = difference_to(old[i], old, j, difference)
                factor = push_factor(d2, a, b, push)
                for c in range(n_components):
                    move[c] += push_along(factor, difference[c])
            length = np.float32(0)
            for c in range(n_components):
                length += move[c] * move[c]
            scaled = limited_step(step, length)
            for c in range(n_components):
                new[i, c] = old[i, c] + scaled * move[c]
