"""A start along eigenvectors, where it goes through all vertices, in numba: products with the graph, sums over the vertices of a
component, and turning its vectors. Sums are made in an order that does not depend on the number of threads."""

import numpy as np
from numba import njit, prange

ROWS_A_TASK = 256


@njit(parallel=True, cache=True)
def product(old, new, part, factors, first_row, indptr, targets, weights):
    """float64 (N, M) -> the block's rows of `new`: with the three factors of a vertex's component, float64 (P, 3), the
    sum of the weighted mean of its neighbours, itself, and what `new` held. Vertices of no component (part -1) stay."""
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
    """float64 (T, M, 2 M + 1): over the vertices order[start:stop] of each task, with their degrees for weights, the sums
    of the products of any two vectors, of a vector and an image, and of the vectors themselves."""
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
    """Vectors times their component's rotation (M, M), less a shift (M,), in place. float64 (T, M): over the vertices of
    each task, the squares of how far the turned image is from the vector times its value."""
    n_tasks, width = len(tasks), vectors.shape[1]
    squares = np.zeros((n_tasks, width))
    for task in prange(n_tasks):
        turned, image = np.empty(width), np.empty(width)
        mine = tasks[task, 2]
        for at in range(tasks[task, 0], tasks[task, 1]):
            i = order[at]
            for b in range(width):
                turned[b], image[b] = -shifts[mine, b], 0.0
            for a in range(width):
                for b in range(width):
                    turned[b] += vectors[i, a] * rotations[mine, a, b]
                    image[b] += images[i, a] * rotations[mine, a, b]
            for b in range(width):
                vectors[i, b] = turned[b]
                squares[task, b] += degrees[i] * (image[b] - values[mine, b] * turned[b]) ** 2
    return squares
