"""The definition of a neighbor, in plain NumPy and float64. For small inputs."""

import numpy as np

from streamumap.neighbors.metric import named


def distance_matrix(rows: np.ndarray, others: np.ndarray, metric: str) -> np.ndarray:
    """Measure all rows (n, D) against all others (m, D) under the metric of this name: float64 (n, m)."""
    return named(metric).reference(rows.astype(np.float64), others.astype(np.float64))


def search(rows: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of each row, itself in front, ties by row number: indices int32, distances float32 (n, k).

    Where rows are compared at length 1, the neighbors of a zero row are other zero rows; among rows without negative values, two
    at a right angle share no feature and are no neighbors.
    """
    n = len(rows)
    d = distance_matrix(rows, rows, metric)
    if named(metric).unit:
        zero = ~rows.any(1)
        d[np.ix_(zero, ~zero)] = np.inf
        if (rows >= 0).all():
            d[(rows.astype(np.float64) @ rows.astype(np.float64).T == 0) & (d > 0)] = np.inf
    np.fill_diagonal(d, -1.0)
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(d, order, 1)
    distances[:, 0] = 0.0
    indices = np.where(np.isfinite(distances), order, -1).astype(np.int32)
    assert (indices[:, 0] == np.arange(n)).all()
    return indices, distances.astype(np.float32)


def nearest(
    rows: np.ndarray, others: np.ndarray, k: int, metric: str, non_negative: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest of `others` for each of `rows`, which are none of them: indices int32, distances float32 (n, k), ties by row
    number, -1 and inf where there are no more.

    Where rows are compared at length 1, a zero row and another are no neighbors, nor, with `non_negative`, are rows at a right angle.
    """
    d = distance_matrix(rows, others, metric)
    if named(metric).unit:
        d[np.not_equal.outer(rows.any(1), others.any(1))] = np.inf
        if non_negative:
            d[(rows.astype(np.float64) @ others.astype(np.float64).T <= 0) & (d > 0)] = np.inf
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    indices, distances = np.full((len(rows), k), -1, np.int32), np.full((len(rows), k), np.inf, np.float32)
    width = order.shape[1]
    distances[:, :width] = np.take_along_axis(d, order, 1)
    indices[:, :width] = np.where(np.isfinite(distances[:, :width]), order, -1)
    return indices, distances
