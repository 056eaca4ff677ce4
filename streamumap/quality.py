"""How good a graph and a map are, measured on sampled rows, each measure with its standard error.

Ranks in the rows come from a backend's `count_closer`, ranks and distances on the map from its `points`; here they become
recall@k, kNN preservation@k, trustworthiness@k and continuity@k (Venna & Kaski 2001) and the share of torn neighbours, each
first row by row. The true neighbours of a sampled row are those of its k-NN graph that the exact ranks confirm; what the
graph missed shows in its recall.
"""

from dataclasses import asdict, dataclass

import numpy as np

TORN_RADII = 0.25
"""Two neighbours are torn apart where they lie further from each other than this share of the map's radius."""


@dataclass(frozen=True)
class Figure:
    """A mean over sampled rows and its standard error as an estimate of the mean over all rows: 0 where all were
    measured. Both None where no row could be."""

    value: float | None
    standard_error: float | None
    k: int
    sample_size: int

    def to_json(self) -> dict:
        return asdict(self)


def figure(shares: np.ndarray, k: int, n_rows: int) -> Figure:
    """The mean of float64 (S,), one for each sampled row of `n_rows`; NaN where a row has no neighbours to measure.

    The standard error is that of a sample drawn without repetition from a finite population (Cochran 1977, 2.6)."""
    there = shares[np.isfinite(shares)]
    size = len(there)
    if not size:
        return Figure(None, None, k, 0)
    unseen = 1 - len(shares) / n_rows
    error = there.std(ddof=1) * (unseen / size) ** 0.5 if size > 1 else 0.0
    return Figure(float(there.mean()), float(error), k, size)


def say(name: str, measured: dict) -> str:
    """A figure of run.json in a few words: "recall 0.988 ± 0.001"; without an error where all rows were measured, or where
    an older version wrote it."""
    value, error = measured["value"], measured.get("standard_error")
    if value is None:
        return f"{name} not measured"
    return f"{name} {value:.3f}" + (f" ± {max(error, 0.001):.3f}" if error else "")


SHOWN = {"knn_recall": "recall", "trustworthiness": "trustworthiness", "continuity": "continuity",
         "knn_preservation": "preservation", "torn_share": "torn"}  # fmt: skip
"""Names of figures in run.json, and as people read them."""


def say_all(figures: dict) -> str:
    """The figures of run.json that are there, as people read them."""
    return ", ".join(say(SHOWN[name], figures[name]) for name in SHOWN if name in figures)


def sample_rows(n_rows: int, size: int, seed: int) -> np.ndarray:
    """`size` row numbers (all of them where there are fewer), int64, ascending, without repetition."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5A]))
    return np.sort(random.choice(n_rows, min(size, n_rows), replace=False)).astype(np.int64)


def recall(ranks: np.ndarray, found: np.ndarray) -> float:
    """The mean of `recalls`."""
    return float(recalls(ranks, found).mean())


def reaches(ranks: np.ndarray, found: np.ndarray, floor: float) -> bool:
    """Whether the recall of all rows is `floor`, as far as a sample can say: its own, less the standard error, is."""
    shares = recalls(ranks, found)
    return bool(shares.mean() - shares.std() / len(shares) ** 0.5 >= floor)


def recalls(ranks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Share of each row's true k neighbours that a graph has, float64 (S,). `ranks` int64 (S, k): rows closer than each of
    `found` (S, k); -1 in `found`: none.

    A missing neighbour counts as right where the row has no more than that many (all others are further than an edge
    may be).
    """
    k = found.shape[1]
    there = found >= 0
    right = (there & (ranks < k)).sum(1)
    n_true = np.where(there.all(1), k, np.minimum(k, np.where(there, 0, ranks).max(1)))
    return (right + np.minimum((~there).sum(1), k - n_true)) / k


def preservations(ranks: np.ndarray) -> np.ndarray:
    """Share of the k nearest on the map that are among the k nearest rows, float64 (S,). `ranks` int64 (S, k): among the
    rows, of the nearest on the map."""
    return (ranks < ranks.shape[1]).mean(1)


def trusts(ranks: np.ndarray, n_rows: int) -> np.ndarray:
    """1 less the excess ranks of each row's k nearest on the map, scaled so that the worst possible map has 0: float64
    (S,). `ranks` as of `preservations`."""
    k = ranks.shape[1]
    return 1.0 - np.maximum(ranks + 1 - k, 0).sum(1) / _most_excess(k, n_rows)


def continuities(map_ranks: np.ndarray, is_true: np.ndarray, n_rows: int) -> np.ndarray:
    """1 less the excess ranks on the map of each row's k true neighbours, scaled as `trusts`: float64 (S,).

    `map_ranks` int64 (S, k): how many rows are closer on the map; `is_true` bool (S, k): which of them are neighbours.
    Those of a row stand for the ones that are missing; NaN where it has none."""
    k, n_true = is_true.shape[1], is_true.sum(1)
    excess = np.where(is_true, np.maximum(map_ranks + 1 - k, 0), 0).sum(1)
    return 1.0 - _mean(excess, n_true) * k / _most_excess(k, n_rows)


def torn_shares(distances: np.ndarray, is_true: np.ndarray, radius: float) -> np.ndarray:
    """Share of each row's true neighbours that lie further from it on the map than TORN_RADII of its radius: float64 (S,),
    NaN where it has none. `distances` float64 (S, k) on the map, `is_true` as of `continuities`."""
    return _mean((is_true & (distances > TORN_RADII * radius)).sum(1), is_true.sum(1))


def distances(embedding: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances on the map between row rows[i] and row others[i, j]: float64 (B, m), inf for -1 and rows without a place."""
    squares = np.zeros(others.shape)
    for axis in embedding.T:
        squares += (axis[others].astype(np.float64) - axis[rows, None]) ** 2
    return np.where((others >= 0) & np.isfinite(squares), np.sqrt(squares), np.inf)


def radius(embedding: np.ndarray) -> float:
    """The root mean square distance of a map's points from their mean, in float64."""
    return float(sum(axis[np.isfinite(axis)].astype(np.float64).var() for axis in embedding.T) ** 0.5)


def far_share(embedding: np.ndarray) -> float:
    """Share of points further from the median point than 10 times the median distance."""
    axes = np.ascontiguousarray(embedding.T)
    placed = np.isfinite(axes).all(0)
    axes = axes if placed.all() else axes[:, placed]
    squares = sum((axis - np.median(axis)) ** 2 for axis in axes)
    return float((squares > 100 * np.median(squares)).mean())


def _most_excess(k: int, n_rows: int) -> float:
    """The most that excess ranks of a row's k neighbours can add up to, with n_rows - 1 others to choose from."""
    if 2 * k < n_rows:
        return k * (2 * n_rows - 3 * k - 1) / 2
    return max(1.0, (n_rows - k) * (n_rows - k - 1) / 2)


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to add up."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
