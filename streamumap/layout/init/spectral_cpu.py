"""The loops of `spectral.py` over all vertices, in numba: products with the graph, sums over the vertices of a component, and
rotations of its vectors. The order of all sums is the same for any number of threads."""

import numpy as np
from numba import njit, prange

ROWS_A_TASK = 256
"""Rows for which a thread allocates its buffers once."""


@njit(parallel=True, cache=True)
def product(old, new, part, factors, first_row, indptr, targets, weights):
    """Writes the rows of a block to `new`, float64 (N, M) like `old`: the weighted mean of a vertex's neighbours, the vertex
    itself and what `new` held, times the three factors of its component (float64 (P, 3)). Vertices of part -1 stay."""
    n_rows, width = len(indptr) - 1, old.shape[1]
    for task in prange((n_rows + ROWS_A_TASK - 1) // ROWS_A_TASK):
        along = np.empty(width)
        for row in range(task * ROWS_A_TASK, min(n_rows, (task + 1) * ROWS_A_TASK)):
            i = first_row + row
            if part[i] < 0:
                continue
            along[:] = 0.0
            total = 0.0
            for e in range(indptr[row], indptr[row + 1]):
                j, weight = targets[e], np.float64(weights[e])
                total += weight
                for c in range(width):
                    along[c] += weight * old[j, c]
            mean, itself, before = factors[part[i], 0], factors[part[i], 1], factors[part[i], 2]
            for c in range(width):
                new[i, c] = mean * along[c] / total + itself * old[i, c] + before * new[i, c]


@njit(parallel=True, cache=True)
def moments(vectors, images, degrees, order, tasks):
    """Sums up, over the vertices order[start:stop] of each task, weighted by degree: the products of any two vectors, of any
    vector and any image, and the vectors themselves. Returns float64 (T, M, 2 M + 1)."""
    n_tasks, width = len(tasks), vectors.shape[1]
    sums = np.zeros((n_tasks, width, 2 * width + 1))
    for task in prange(n_tasks):
        for at in range(tasks[task, 0], tasks[task, 1]):
            i = order[at]
            for a in range(width):
                scaled = degrees[i] * vectors[i, a]
                for b in range(width):
                    sums[task, a, b] += scaled * vectors[i, b]
                    sums[task, a, width + b] += scaled * images[i, b]
                sums[task, a, 2 * width] += scaled
    return sums


@njit(parallel=True, cache=True)
def turn(vectors, images, degrees, order, tasks, rotations, shifts, values):
    """Multiplies vectors by the rotation (M, M) of their component and subtracts its shift (M,), in place.

    Returns float64 (T, M): the squared distance between rotated images and vectors times their values, over the vertices of
    each task."""
    n_tasks, width = len(tasks), vectors.shape[1]
    squares = np.zeros((n_tasks, width))
    for task in prange(n_tasks):
        turned, image = np.empty(width), np.empty(width)
        component = tasks[task, 2]
        for at in range(tasks[task, 0], tasks[task, 1]):
            i = order[at]
            for b in range(width):
                turned[b], image[b] = -shifts[component, b], 0.0
            for a in range(width):
                for b in range(width):
                    turned[b] += vectors[i, a] * rotations[component, a, b]
                    image[b] += images[i, a] * rotations[component, a, b]
            for b in range(width):
                vectors[i, b] = turned[b]
                squares[task, b] += degrees[i] * (image[b] - values[component, b] * turned[b]) ** 2
    return squares
