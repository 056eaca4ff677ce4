"""Clusters of a map and their names, for people to find their way: places on the layout, not claims about the data."""

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
"""Evenly spread rows that HDBSCAN sees: its time grows with their square; every row then joins its nearest one's."""
SHARES = (1 / 100, 1 / 400)
"""The smallest cluster of each level, as a share of the rows."""
SMALLEST = 10  # rows of the sample
NEAR = 5
"""A row farther from the nearest sampled row than that one's NEARth neighbour is in no cluster."""
WORDS = 2  # in a name
NAMED_ROWS = 1000  # of a cluster, and 20 times as many of all, decide its name
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Level:
    """codes: (N,) int32, the row's cluster, the largest first, or -1."""

    codes: np.ndarray
    n_clusters: int


@dataclass(frozen=True)
class Cluster:
    """A cluster with its name; (x, y) is the middle of its rows."""

    level: int
    number: int
    text: str
    x: float
    y: float
    n_rows: int


def find(embedding: np.ndarray) -> list[Level]:
    """Clusters of the first two axes, coarse ones, then fine ones (Campello, Moulavi, Sander 2013; scikit-learn)."""
    from scipy.spatial import KDTree

    points = np.ascontiguousarray(embedding[:, :2], np.float64)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    n_sampled = min(SAMPLE_ROWS, len(finite))
    if n_sampled < 2 * SMALLEST:
        return [Level(np.full(len(points), -1, np.int32), 0) for _ in SHARES]
    sampled = points[finite[np.linspace(0, len(finite) - 1, n_sampled).astype(np.int64)]]
    tree = KDTree(sampled)
    reach = tree.query(sampled, NEAR + 1)[0][:, -1]
    away, nearest = tree.query(points[finite], workers=-1)
    levels = []
    for share in SHARES:
        of_sample = _hdbscan(sampled, max(SMALLEST, int(share * n_sampled)))
        codes = np.full(len(points), -1, np.int32)
        codes[finite] = np.where(away <= reach[nearest], of_sample[nearest], -1)
        levels.append(_by_size(codes))
    return levels


def _hdbscan(points: np.ndarray, smallest: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=smallest, min_samples=NEAR, copy=True).fit_predict(points)


def _by_size(codes: np.ndarray) -> Level:
    counts = np.bincount(codes[codes >= 0])
    ranked = np.argsort(-counts, kind="stable")
    place = np.full(len(counts) + 1, -1, np.int32)
    place[ranked] = np.arange(len(counts), dtype=np.int32)
    return Level(place[codes], len(counts))


def name(embedding: np.ndarray, levels: Sequence[Level], words: "Words") -> list[Cluster]:
    """Every cluster by what is more frequent in it than elsewhere, the coarse ones and the large ones first; those that
    nothing tells apart, from all rows or from a coarser one, are left out."""
    everywhere = _shares(words, _spread(np.arange(len(embedding)), 20 * NAMED_ROWS))
    found: list[Cluster] = []
    for number, level in enumerate(levels):
        coarser = {cluster.text for cluster in found}
        order = np.argsort(level.codes, kind="stable")
        starts = np.searchsorted(level.codes[order], np.arange(level.n_clusters + 1))
        for cluster in range(level.n_clusters):
            rows = order[starts[cluster] : starts[cluster + 1]]
            text = _distinctive(_shares(words, _spread(rows, NAMED_ROWS)), everywhere)
            if text and text not in coarser:
                x, y = (float(v) for v in np.median(embedding[rows, :2], axis=0))
                found.append(Cluster(number, cluster, text, x, y, len(rows)))
    return found


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
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64)]


def _shares(words: Words, rows: np.ndarray) -> dict[str, float]:
    """The share of the rows that have a word."""
    counts = Counter(word for row in rows.tolist() for word in words.of(row))
    return {word: count / len(rows) for word, count in counts.items()}


def _distinctive(here: dict[str, float], everywhere: dict[str, float]) -> str:
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
    """labels.parquet: x, y, text, level, priority (the larger first), cluster, n_rows. Raises OutputError."""
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
