"""Clusters of a map and their names, a guide for people: they describe the layout and claim nothing about the data."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap.show.columns import TopFeatures
from streamumap.store.atomic import publish

SAMPLE_ROWS = 20_000
"""Evenly spread rows given to HDBSCAN, whose time grows with their square. Other rows join the cluster of the nearest."""
SHARES = (1 / 100, 1 / 400)
"""The smallest cluster of each level, as a share of the rows."""
SMALLEST = 10
"""The smallest cluster, in rows of the sample."""
NEAR = 5
"""A row is in no cluster if it is farther from the nearest sampled row than the NEARth neighbour of that row is."""
WORDS = 2
"""Words in the name of a cluster."""
NAMED_ROWS = 1000
"""Rows of a cluster that decide its name, compared with 20 times as many of all rows."""
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Level:
    """A clustering. codes: (N,) int32, the number of each row's cluster, the largest is 0, or -1."""

    codes: np.ndarray
    n_clusters: int


@dataclass(frozen=True)
class Cluster:
    """A cluster with its name; (x, y) is the median of its rows."""

    level: int
    number: int
    text: str
    x: float
    y: float
    n_rows: int


def find(embedding: np.ndarray) -> list[Level]:
    """Finds coarse, then fine clusters of the first two axes by HDBSCAN (Campello, Moulavi, Sander 2013; scikit-learn)."""
    from scipy.spatial import KDTree

    points = np.ascontiguousarray(embedding[:, :2], np.float64)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    n_sampled = min(SAMPLE_ROWS, len(finite))
    if n_sampled < 2 * SMALLEST:
        return [Level(np.full(len(points), -1, np.int32), 0) for _ in SHARES]
    sampled = points[finite[np.linspace(0, len(finite) - 1, n_sampled).astype(np.int64)]]
    tree = KDTree(sampled)
    reach = tree.query(sampled, NEAR + 1)[0][:, -1]
    distances, nearest = tree.query(points[finite], workers=-1)
    levels = []
    for share in SHARES:
        of_sample = _hdbscan(sampled, max(SMALLEST, int(share * n_sampled)))
        codes = np.full(len(points), -1, np.int32)
        codes[finite] = np.where(distances <= reach[nearest], of_sample[nearest], -1)
        levels.append(_by_size(codes))
    return levels


def _hdbscan(points: np.ndarray, smallest: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=smallest, min_samples=NEAR, copy=True).fit_predict(points)


def _by_size(codes: np.ndarray) -> Level:
    """Numbers the clusters by size, the largest first."""
    counts = np.bincount(codes[codes >= 0])
    rank = np.full(len(counts) + 1, -1, np.int32)  # the last entry is for -1
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    return Level(rank[codes], len(counts))


def name(embedding: np.ndarray, levels: Sequence[Level], words: "Words") -> list[Cluster]:
    """Names clusters by words that are more frequent in them than elsewhere: coarse ones first, then large ones first.

    A cluster is left out where no word tells it from all rows, or where a coarser cluster has the same name.
    """
    everywhere = _shares(words, _spread(np.arange(len(embedding)), 20 * NAMED_ROWS))
    clusters: list[Cluster] = []
    for number, level in enumerate(levels):
        coarser = {cluster.text for cluster in clusters}
        order = np.argsort(level.codes, kind="stable")
        starts = np.searchsorted(level.codes[order], np.arange(level.n_clusters + 1))
        for cluster in range(level.n_clusters):
            rows = order[starts[cluster] : starts[cluster + 1]]
            text = _distinctive(_shares(words, _spread(rows, NAMED_ROWS)), everywhere)
            if text and text not in coarser:
                x, y = (float(v) for v in np.median(embedding[rows, :2], axis=0))
                clusters.append(Cluster(number, cluster, text, x, y, len(rows)))
    return clusters


class Words:
    """The words of rows: those of their names, or the numbers of their strongest features."""

    def __init__(self, names: Any = None, features: TopFeatures | None = None):
        self.names, self.features = names, features

    def of(self, row: int) -> Iterable[str]:
        if self.names is not None:
            return {word.lower() for word in WORD.findall(self.names[row].as_py() or "")}
        assert self.features is not None
        ids, values = self.features.ids[row], self.features.values[row]
        return {f"#{feature}" for feature in ids[values > 0].tolist()}


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    """At most `n` of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64)]


def _shares(words: Words, rows: np.ndarray) -> dict[str, float]:
    """The share of the rows that have each word."""
    counts = Counter(word for row in rows.tolist() for word in words.of(row))
    return {word: count / len(rows) for word, count in counts.items()}


def _distinctive(here: dict[str, float], everywhere: dict[str, float]) -> str:
    """The words whose share here is high and far above their share everywhere; empty where there are none."""

    def score(word: str) -> float:
        return here[word] * np.log(here[word] / (everywhere.get(word, 0) + 1e-4))

    chosen: list[str] = []
    for word in sorted(here, key=lambda word: (-score(word), word)):
        if len(chosen) == WORDS or score(word) < 0.1 or (chosen and score(word) < score(chosen[0]) / 4):
            break
        repeats = any(word.startswith(other[:4]) or word in other or other in word for other in chosen)
        if not repeats or word[0] == "#":
            chosen.append(word)
    return " ".join(chosen)


def write(path: Path, clusters: Sequence[Cluster]) -> None:
    """Writes labels.parquet: x, y, text, level, priority (larger ones are shown first), cluster, n_rows.

    Raises OutputError.
    """
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(
        {
            "x": pa.array([c.x for c in clusters], pa.float32()),
            "y": pa.array([c.y for c in clusters], pa.float32()),
            "text": pa.array([c.text for c in clusters], pa.string()),
            "level": pa.array([c.level for c in clusters], pa.int32()),
            "priority": pa.array([c.n_rows for c in clusters], pa.int64()),
            "cluster": pa.array([c.number for c in clusters], pa.int32()),
            "n_rows": pa.array([c.n_rows for c in clusters], pa.int64()),
        }
    )

    def save(file: BinaryIO) -> None:
        pyarrow.parquet.write_table(table, file)

    publish(path, save)
