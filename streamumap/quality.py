"""The quality of a k-NN graph and a map, measured on sampled rows, each measure with its standard error.

A backend counts ranks among the rows (`count_closer`), and ranks and distances on the map (`points`). This module turns them
into recall@k, kNN preservation@k, trustworthiness@k and continuity@k (Venna & Kaski 2001) and the share of torn neighbours, row
by row, then averages. The true neighbours of a sampled row are those of its k-NN graph that the exact ranks confirm; neighbours
that the graph missed lower its recall.
"""

from dataclasses import asdict, dataclass

import numpy as np

TORN_RADII = 0.25
"""Share of the radius of the map: neighbours further apart than this count as torn."""


@dataclass(frozen=True)
class Figure:
    """A mean over sampled rows, and its standard error as an estimate of the mean over all rows: 0 if all rows were measured.
    Both are None if no row could be measured."""

    value: float | None
    standard_error: float | None
    k: int
    sample_size: int

    def to_json(self) -> dict:
        return asdict(self)


def figure(shares: np.ndarray, k: int, n_rows: int) -> Figure:
    """Averages float64 (S,), one value for each sampled row of `n_rows`, NaN for a row without neighbours to measure.

    The standard error is that of a sample drawn without repetition from a finite population (Cochran 1977, 2.6)."""
    finite = shares[np.isfinite(shares)]
    size = len(finite)
    if not size:
        return Figure(None, None, k, 0)
    unseen = 1 - len(shares) / n_rows
    error = finite.std(ddof=1) * (unseen / size) ** 0.5 if size > 1 else 0.0
    return Figure(float(finite.mean()), float(error), k, size)


def say(name: str, measured: dict) -> str:
    """Words a figure of run.json: "recall 0.988 ± 0.001". It has no error if all rows were measured or an older version wrote
    it."""
    value, error = measured["value"], measured.get("standard_error")
    if value is None:
        return f"{name} not measured"
    return f"{name} {value:.3f}" + (f" ± {max(error, 0.001):.3f}" if error else "")


SHOWN = {"knn_recall": "recall", "trustworthiness": "trustworthiness", "continuity": "continuity",
         "knn_preservation": "preservation", "torn_share": "torn"}  # fmt: skip
"""Names of figures in run.json, and those that people read."""


def say_all(figures: dict) -> str:
    """Words all figures of a run.json."""
    return ", ".join(say(SHOWN[name], figures[name]) for name in SHOWN if name in figures)


def sample_rows(n_rows: int, size: int, seed: int) -> np.ndarray:
    """Draws `size` row numbers, or all if there are fewer: int64, ascending, without repetition."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5A]))
    return np.sort(random.choice(n_rows, min(size, n_rows), replace=False)).astype(np.int64)


def recall(ranks: np.ndarray, neighbors: np.ndarray) -> float:
    """Averages `recalls`."""
    return float(recalls(ranks, neighbors).mean())


def reaches(ranks: np.ndarray, neighbors: np.ndarray, floor: float) -> bool:
    """Tells whether the recall of a sample, less its standard error, is at least `floor`."""
    shares = recalls(ranks, neighbors)
    return bool(shares.mean() - shares.std() / len(shares) ** 0.5 >= floor)


def recalls(ranks: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Returns the share of each row's true k neighbours that a graph has, float64 (S,). `neighbors` int (S, k): those of the
    graph, -1 for none; `ranks` int64 (S, k): how many rows are closer than each.

    A missing neighbour counts as right if the row has no more true neighbours: all other rows are further than an edge may be.
    """
    k = neighbors.shape[1]
    is_neighbor = neighbors >= 0
    right = (is_neighbor & (ranks < k)).sum(1)
    n_true = np.where(is_neighbor.all(1), k, np.minimum(k, np.where(is_neighbor, 0, ranks).max(1)))
    return (right + np.minimum((~is_neighbor).sum(1), k - n_true)) / k


def preservations(ranks: np.ndarray) -> np.ndarray:
    """Returns the share of each row's k nearest on the map that are among its k nearest rows, float64 (S,). `ranks` int64 (S, k):
    the ranks of the nearest on the map, among the rows."""
    return (ranks < ranks.shape[1]).mean(1)


def trusts(ranks: np.ndarray, n_rows: int) -> np.ndarray:
    """Returns the trustworthiness of each row, float64 (S,): 1 minus the excess ranks of its k nearest on the map, scaled so that
    the worst possible map has 0. `ranks` as in `preservations`."""
    k = ranks.shape[1]
    return 1.0 - np.maximum(ranks + 1 - k, 0).sum(1) / _most_excess(k, n_rows)


def continuities(map_ranks: np.ndarray, is_true: np.ndarray, n_rows: int) -> np.ndarray:
    """Returns the continuity of each row, float64 (S,): 1 minus the excess ranks, on the map, of its k true neighbours, scaled as
    in `trusts`.

    `map_ranks` int64 (S, k): how many rows are closer on the map than each neighbour of the graph; `is_true` bool (S, k): which
    of these are true neighbours. Their mean stands in for missing ones; a row without any has NaN."""
    k, n_true = is_true.shape[1], is_true.sum(1)
    excess = np.where(is_true, np.maximum(map_ranks + 1 - k, 0), 0).sum(1)
    return 1.0 - _mean(excess, n_true) * k / _most_excess(k, n_rows)


def torn_shares(distances: np.ndarray, is_true: np.ndarray, radius: float) -> np.ndarray:
    """Returns the share of each row's true neighbours that are further from it on the map than TORN_RADII of the radius: float64
    (S,), NaN for a row without any. `distances` float64 (S, k) on the map, `is_true` as in `continuities`."""
    return _mean((is_true & (distances > TORN_RADII * radius)).sum(1), is_true.sum(1))


def distances(embedding: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the distances on the map between row rows[i] and row others[i, j]: float64 (B, m), inf for -1 and rows without a
    position."""
    squares = np.zeros(others.shape)
    for axis in embedding.T:
        squares += (axis[others].astype(np.float64) - axis[rows, None]) ** 2
    return np.where((others >= 0) & np.isfinite(squares), np.sqrt(squares), np.inf)


def radius(embedding: np.ndarray) -> float:
    """Returns the root mean square distance of the points of a map from their mean, in float64."""
    return float(sum(axis[np.isfinite(axis)].astype(np.float64).var() for axis in embedding.T) ** 0.5)


def far_share(embedding: np.ndarray) -> float:
    """Returns the share of points further from the median point than 10 times the median distance."""
    axes = np.ascontiguousarray(embedding.T)
    has_position = np.isfinite(axes).all(0)
    axes = axes if has_position.all() else axes[:, has_position]
    squares = sum((axis - np.median(axis)) ** 2 for axis in axes)
    return float((squares > 100 * np.median(squares)).mean())


def _most_excess(k: int, n_rows: int) -> float:
    """Returns the largest possible sum of excess ranks of a row's k neighbours among n_rows - 1 other rows."""
    if 2 * k < n_rows:
        return k * (2 * n_rows - 3 * k - 1) / 2
    return max(1.0, (n_rows - k) * (n_rows - k - 1) / 2)


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Divides sums by counts; NaN for a count of 0."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
