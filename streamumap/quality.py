"""How good a graph and a map are, measured on sampled rows against exact ranks among all rows.

The ranks come from a backend's `count_closer`; here they become recall@k, kNN preservation@k and trustworthiness@k
(Venna & Kaski 2001).
"""

import numpy as np


def sample_rows(n_rows: int, size: int, seed: int) -> np.ndarray:
    """`size` row numbers (all of them where there are fewer), int64, ascending, without repetition."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5A]))
    return np.sort(random.choice(n_rows, min(size, n_rows), replace=False)).astype(np.int64)


def recall(ranks: np.ndarray, found: np.ndarray) -> float:
    """Share of the true k neighbours that a graph has. `ranks` int64 (S, k): rows closer than each of `found` (S, k);
    -1 in `found`: none.

    A missing neighbour counts as right where the row has no more than that many (all others are further than an edge
    may be).
    """
    return float(_recalls(ranks, found).mean())


def reaches(ranks: np.ndarray, found: np.ndarray, floor: float) -> bool:
    """Whether the recall of all rows is `floor`, as far as a sample can say: its own, less the standard error, is."""
    shares = _recalls(ranks, found)
    return bool(shares.mean() - shares.std() / len(shares) ** 0.5 >= floor)


def _recalls(ranks, found):
    """Of each row, float64 (S,)."""
    k = found.shape[1]
    there = found >= 0
    right = (there & (ranks < k)).sum(1)
    n_true = np.where(there.all(1), k, np.minimum(k, np.where(there, 0, ranks).max(1)))
    return (right + np.minimum((~there).sum(1), k - n_true)) / k


def preservation(ranks: np.ndarray) -> float:
    """Share of the k nearest on the map that are among the k nearest rows. `ranks` int64 (S, k), of the nearest on the
    map."""
    return float((ranks < ranks.shape[1]).mean())


def trustworthiness(ranks: np.ndarray, n_rows: int) -> float:
    """1 less the mean excess rank of the k nearest on the map, scaled so that the worst possible map has 0."""
    size, k = ranks.shape
    excess = np.maximum(ranks + 1 - k, 0).sum()
    return float(1.0 - 2.0 * excess / (size * k * max(2 * n_rows - 3 * k - 1, 1)))


def nearest_on_map(embedding: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """int64 (S, k): for each sampled row the k rows nearest on the map, itself apart. Rows without a place (NaN) are
    nobody's neighbours."""
    from scipy.spatial import cKDTree

    placed = np.flatnonzero(np.isfinite(embedding).all(1))
    _, found = cKDTree(embedding[placed]).query(embedding[sample], k=k + 1)
    found = placed[found]
    is_self = found == sample[:, None]
    is_self[~is_self.any(1), -1] = True  # as many at distance 0 as to crowd it out
    return found[~is_self].reshape(len(sample), k)


def far_share(embedding: np.ndarray) -> float:
    """Share of points further from the median point than 10 times the median distance."""
    axes = np.ascontiguousarray(embedding.T)
    placed = np.isfinite(axes).all(0)
    axes = axes if placed.all() else axes[:, placed]
    squares = sum((axis - np.median(axis)) ** 2 for axis in axes)
    return float((squares > 100 * np.median(squares)).mean())
