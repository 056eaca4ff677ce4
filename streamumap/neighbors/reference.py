"""What a neighbour is, in plain NumPy and float64. Small inputs only."""

import numpy as np


def distance_matrix(rows: np.ndarray, others: np.ndarray, metric: str) -> np.ndarray:
    """float64 (n, m). cosine: 1 - cos; a zero row is at 0 from a zero row and at 1 from any other. euclidean: from
    differences, not products."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    if metric == "euclidean":
        return np.stack([np.sqrt(((others - row) ** 2).sum(1)) for row in rows])
    norm, other_norm = np.sqrt((rows**2).sum(1)), np.sqrt((others**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = rows @ others.T / (norm[:, None] * other_norm[None, :])
    cosine[norm == 0, :] = 0.0
    cosine[:, other_norm == 0] = 0.0
    cosine[np.ix_(norm == 0, other_norm == 0)] = 1.0
    return np.maximum(1.0 - cosine, 0.0)


def search(rows: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbours, ties by row number.

    For cosine, a zero row has zero rows as neighbours only, and among rows without negative values a row at distance 1
    (no common feature) is none.
    """
    n = len(rows)
    d = distance_matrix(rows, rows, metric)
    if metric == "cosine":
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
    """For each of `rows` the k nearest of `others`, which it is none of: indices int32, distances float32 (M, k), ties by
    number, -1 and inf where there are no more.

    For cosine, a row without a direction (all zeros) and one with a direction are no neighbours of each other, nor, with
    `non_negative`, are rows at distance 1 or more.
    """
    d = distance_matrix(rows, others, metric)
    if metric == "cosine":
        d[np.not_equal.outer(rows.any(1), others.any(1))] = np.inf
        if non_negative:
            d[(rows.astype(np.float64) @ others.astype(np.float64).T <= 0) & (d > 0)] = np.inf
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    indices, distances = np.full((len(rows), k), -1, np.int32), np.full((len(rows), k), np.inf, np.float32)
    width = order.shape[1]
    distances[:, :width] = np.take_along_axis(d, order, 1)
    indices[:, :width] = np.where(np.isfinite(distances[:, :width]), order, -1)
    return indices, distances
