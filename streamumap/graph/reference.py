"""The definition of the graph in plain NumPy, for small inputs."""

import numpy as np

TOLERANCE = 1e-5  # umap-learn's SMOOTH_K_TOLERANCE
MIN_SCALE = 1e-3  # umap-learn's MIN_K_DIST_SCALE
N_BISECTIONS = 64


def smooth_knn(
    distances: np.ndarray, mean_distance: float, local_connectivity: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rho and sigma, float32 (N,), from distances (N, k), nearest first, the row itself in column 0, inf for no
    neighbour.

    rho is the distance to the `local_connectivity`-th neighbour that is not at distance 0 (interpolated); sigma solves
    sum_j exp(-max(0, d_j - rho) / sigma) = log2(k) over the columns after the first. `mean_distance` is the mean of all
    finite distances.
    """
    n, k = distances.shape
    rho, sigma = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for i in range(n):
        row = distances[i].astype(np.float64)
        finite = row[np.isfinite(row)]
        rho[i] = _rho(finite[finite > 0], local_connectivity)
        sigma[i] = _sigma(row[1:], float(rho[i]), np.log2(k))
        floor = MIN_SCALE * (finite.mean() if rho[i] > 0 else mean_distance)
        sigma[i] = max(sigma[i], floor)
    return rho, sigma


def _rho(positive, local_connectivity):
    if len(positive) < max(local_connectivity, 1e-12):
        return positive.max() if len(positive) else 0.0
    whole = int(np.floor(local_connectivity))
    part = local_connectivity - whole
    if whole == 0:
        return part * positive[0]
    if part <= TOLERANCE:
        return positive[whole - 1]
    return positive[whole - 1] + part * (positive[whole] - positive[whole - 1])


def _sigma(others, rho, target):
    low, high, middle = 0.0, np.inf, 1.0
    for _ in range(N_BISECTIONS):
        total = np.where(others > rho, np.exp(-np.maximum(others - rho, 0.0) / middle), 1.0).sum()
        if abs(total - target) < TOLERANCE:
            break
        if total > target:
            high = middle
        else:
            low = middle
        middle = middle * 2 if high == np.inf else (low + high) / 2
    return middle


def memberships(indices: np.ndarray, distances: np.ndarray, rho: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Returns the weight of the edge of row i to indices[i, j], float32 (N, k); 0 for the row itself and for no neighbour
    (index -1)."""
    excess = np.maximum(distances.astype(np.float64) - rho[:, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(excess > 0, np.exp(-excess / sigma[:, None]), 1.0)
    itself = indices == np.arange(len(indices))[:, None]
    return np.where(itself | (indices < 0), 0.0, weights).astype(np.float32)


def strengths(distances: np.ndarray, local_connectivity: float = 1.0) -> np.ndarray:
    """Returns the weights, float32 (M, k), of the edges of new rows to their nearest rows on a map: distances (M, k), nearest
    first, inf for no neighbour.

    As in umap-learn's `transform`, `local_connectivity` is one less than in the graph: the weight of the nearest row depends on
    its distance, instead of always being 1.
    """
    rho, sigma = smooth_knn(distances, 0.0, max(0.0, local_connectivity - 1.0))
    nowhere = np.where(np.isfinite(distances), len(distances), -1)
    return memberships(nowhere, distances, rho, sigma)


def fuzzy_graph(indices, distances, local_connectivity=1.0, set_op_mix_ratio=1.0) -> np.ndarray:
    """Returns the symmetric weights as a dense float64 (N, N) matrix: mix * (a + b - a*b) + (1 - mix) * a*b."""
    n = len(indices)
    finite = distances[np.isfinite(distances)]
    rho, sigma = smooth_knn(distances, float(finite.mean()), local_connectivity)
    directed = np.zeros((n, n))
    rows, columns = np.repeat(np.arange(n), indices.shape[1]), indices.ravel()
    keep = columns >= 0
    directed[rows[keep], columns[keep]] = memberships(indices, distances, rho, sigma).ravel()[keep]
    both = directed * directed.T
    return set_op_mix_ratio * (directed + directed.T - both) + (1 - set_op_mix_ratio) * both
