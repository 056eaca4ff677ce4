"""Positions of new rows on a finished map, in numba, held to `reference.py` by tests.

A new row starts at the position of one of its neighbours. Epochs then pull it along its edges and push it away from random
rows of the map, as in the layout; the rows of the map do not move. Its random numbers come from the seed, the epoch and the
numbers of its neighbours, so its position depends on the row and the map alone, not on its own number or on other new rows.

umap-learn starts at the weighted mean of the neighbours, which lies between clusters when the neighbours are of several.
Measured on 1,920 packages of the demo, on the map of the other 7,680, after 30, 100 and 166 epochs (trustworthiness /
preservation / labels; 0.939 / 0.403 / 0.507 for the rows of the map):

    mean        0.919 / 0.340 / 0.518    0.935 / 0.371 / 0.529    0.941 / 0.379 / 0.535
    likeliest   0.945 / 0.376 / 0.539    0.946 / 0.386 / 0.537    0.946 / 0.389 / 0.538
"""

import numpy as np
from numba import njit, prange

from streamumap.layout.cpu import (
    FAST,
    ROWS_A_TASK,
    difference_to,
    fires,
    limited_step,
    mix,
    pull_along,
    pull_factor,
    push_along,
    push_factor,
    random_vertex,
)
from streamumap.layout.schedule import LayoutSettings, rates_of


def embed_rows(
    mapped: np.ndarray, indices: np.ndarray, distances: np.ndarray, weights: np.ndarray, s: LayoutSettings
) -> np.ndarray:
    """`reference.embed_rows`, fast."""
    out = np.full((len(indices), mapped.shape[1]), np.nan, np.float32)
    is_copy = (indices[:, 0] >= 0) & (distances[:, 0] == 0)
    out[is_copy] = mapped[indices[is_copy, 0]]
    rows = np.flatnonzero((indices[:, 0] >= 0) & ~is_copy)
    positions, neighbors, weights = out[rows], indices[rows], weights[rows]
    _begin(mapped, neighbors, weights, s.a, s.b, positions)
    steps = np.array([s.step_size(epoch) for epoch in range(s.n_epochs)], np.float32)
    keys = np.array([s.epoch_key(epoch) for epoch in range(s.n_epochs)], np.uint32)
    _move(
        mapped, neighbors, rates_of(weights), steps, keys, np.uint32(s.phase_key()), np.uint32(s.rate_scale), s.least_weight,
        s.negative_sample_rate, np.float32(s.a), np.float32(s.b), np.float32(-2 * s.a * s.b),
        np.float32(2 * s.b * s.repulsion_strength), positions,
    )  # fmt: skip
    out[rows] = positions
    return out


@njit(parallel=True, cache=True)
def _begin(mapped, indices, weights, a, b, out):
    """Fills `out` with the position of `reference.likeliest` for each row."""
    for row in prange(len(indices)):
        highest = -1.0
        for i in indices[row]:
            if i < 0:
                continue
            fit = 0.0
            for j in range(indices.shape[1]):
                if indices[row, j] >= 0:
                    d2 = 0.0
                    for c in range(mapped.shape[1]):
                        d2 += (np.float64(mapped[i, c]) - np.float64(mapped[indices[row, j], c])) ** 2
                    fit += weights[row, j] / (1.0 + a * d2**b)
            if fit > highest:
                highest = fit
                out[row] = mapped[i]


@njit(parallel=True, fastmath=FAST, cache=True)
def _move(mapped, indices, rates, steps, keys, phase, scale, least, n_negative, a, b, pull, push, out):
    n_rows, k, n_components, n_mapped = len(indices), indices.shape[1], mapped.shape[1], np.uint64(len(mapped))
    for task in prange((n_rows + ROWS_A_TASK - 1) // ROWS_A_TASK):
        difference, move = np.empty(n_components, np.float32), np.empty(n_components, np.float32)
        for row in range(task * ROWS_A_TASK, min(n_rows, (task + 1) * ROWS_A_TASK)):
            position = out[row]
            row_key = np.uint32(0)
            for j in range(k):
                row_key = mix(row_key ^ np.uint32(indices[row, j]))
            for epoch in range(len(steps)):
                move[:] = np.float32(0)
                n_fired = 0
                for j in range(k):
                    rate = np.uint32(rates[row, j])
                    if rate < least or not fires(row_key + np.uint32(j), rate, np.uint32(epoch), phase, scale):
                        continue
                    n_fired += 1
                    d2 = difference_to(position, mapped, indices[row, j], difference)
                    factor = pull_factor(d2, a, b, pull)
                    for c in range(n_components):
                        move[c] += pull_along(factor, difference[c])
                key = mix(row_key ^ keys[epoch])
                for s in range(n_fired * n_negative):
                    i = random_vertex(key, s, n_mapped)
                    d2 = difference_to(position, mapped, i, difference)
                    factor = push_factor(d2, a, b, push)
                    for c in range(n_components):
                        move[c] += push_along(factor, difference[c])
                length = np.float32(0)
                for c in range(n_components):
                    length += move[c] * move[c]
                scaled = limited_step(steps[epoch], length)
                for c in range(n_components):
                    position[c] += scaled * move[c]
