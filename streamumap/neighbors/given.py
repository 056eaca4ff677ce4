"""A k-NN graph that the user brings: checked, and turned into the form of a searched one, block by block.

It is two matrices with one row for each row of the input: the numbers of its neighbors, and their distances. The row itself may be
among them; -1 or a distance of inf means no neighbor.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamumap.neighbors.metric import Metric
from streamumap.source import RowSource, widen
from streamumap.source.checks import wrong
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.npy import open_npy
from streamumap.source.views.normalized import DenseRows

LOOKED_AT_ROWS = 1024
"""First rows that decide whether the graph has the rows themselves in its first column."""

ROUNDING = 1e-6
"""Distances may be this far below 0 and are then set to 0: 1 - cos in float32 can be."""

CHECKED_ROWS = 64
"""Rows whose given distances are compared with measured ones."""

VALUE_BYTES = 96
"""Host bytes of one neighbor while its block is checked and sorted."""

ALIKE = 0.02
"""Relative difference up to which a given distance counts as right: it may be in half precision, or summed in another order."""


@dataclass
class GivenGraph:
    """Indices and distances, both (N, c), as open sources. While `blocks` goes on, `unsorted` counts rows whose distances were not
    ascending, and `repeated` rows that named a neighbor twice."""

    indices: RowSource
    distances: RowSource
    has_self: bool | None = None
    unsorted: int = field(default=0, init=False)
    repeated: int = field(default=0, init=False)

    @property
    def n_columns(self) -> int:
        return self.indices.n_features

    @property
    def fingerprint(self) -> list[dict]:
        return [self.indices.fingerprint, self.distances.fingerprint]

    def check_width(self, k: int) -> None:
        """Find out whether column 0 is the rows themselves. Raises InputError where there are fewer than k - 1 other columns."""
        n = min(self.indices.n_rows, LOOKED_AT_ROWS)
        first = self.indices.read(0, n)[:, 0]
        self.has_self = int((first == np.arange(n)).sum()) * 2 > n
        n_others = self.n_columns - self.has_self
        if n_others < k - 1:
            expected = f"{k - 1} neighbours of a row beside itself, for --n-neighbors {k}"
            remedy = "give a graph of more neighbours"
            if n_others >= 1:
                remedy += f" or --n-neighbors {n_others + 1}"
            raise wrong(f"--knn: {self.indices.name}", "shape", expected, n_others, remedy)

    def blocks(
        self, k: int, block_rows: int, left_out: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (start, indices int32 (n, k), distances float32 (n, k)) over all rows: nearest first, the row itself in column 0, -1 and
        inf where there is no neighbor.

        `left_out` bool (N,): rows that are nobody's neighbors. Raises InputError where a number is wrong.
        """
        n = self.indices.n_rows
        for start in range(0, n, block_rows):
            stop = min(start + block_rows, n)
            neighbors = self.indices.read(start, stop).astype(np.int64)
            distances = widen(self.distances.read(start, stop), self.distances.dtype)
            self._check_numbers(neighbors, distances, start)
            none = (neighbors < 0) | np.isinf(distances)
            if left_out is not None:
                none |= left_out[neighbors]
            neighbors[none], distances[none] = -1, np.inf
            self.unsorted += _sort(neighbors, distances, start)
            self.repeated += _drop_repeated(neighbors, distances)
            yield start, *_first(neighbors, distances, start, k)

    def facts(self) -> dict:
        """Describe the graph for run.json."""
        return {
            "indices": self.indices.name,
            "distances": self.distances.name,
            "columns": self.n_columns,
            "self_column": self.has_self,
            "fingerprint": self.fingerprint,
        }

    def notes(self, k: int) -> list[str]:
        """Say what was done with the graph, as sentences without a full stop."""
        out = [] if self.has_self else ["--knn: its first column is not the rows themselves; they are put in front"]
        n_others = self.n_columns - bool(self.has_self)
        if n_others > k - 1:
            out.append(f"--knn: it has {n_others} neighbours a row beside itself; the nearest {k - 1} are used")
        return out

    def warnings(self) -> list[str]:
        """Say what was wrong with the graph and mended, once `blocks` is through."""
        found = {
            "its neighbours were not in the order of their distances; they are sorted": self.unsorted,
            "it named a neighbour more than once; the nearest is kept": self.repeated,
        }
        return [f"--knn: in {count:,} rows {text}." for text, count in found.items() if count]

    def check_unchanged(self) -> None:
        self.indices.check_unchanged()
        self.distances.check_unchanged()

    def close(self) -> None:
        self.indices.close()
        self.distances.close()

    def _check_numbers(self, neighbors, distances, start):
        n = self.indices.n_rows
        for source, wrong_ones, expected, values in (
            (
                self.indices,
                (neighbors < -1) | (neighbors >= n),
                f"numbers of rows, 0 to {n - 1}, or -1 for none",
                neighbors,
            ),
            (self.distances, ~(distances >= -ROUNDING) & (neighbors >= 0), "distances from 0", distances),
        ):
            if wrong_ones.any():
                row, column = np.argwhere(wrong_ones)[0]
                found = f"{values[row, column]} in column {column}"
                raise wrong(f"--knn: {source.name}", f"row {start + row}", expected, found, "make the graph again")
        np.maximum(distances, 0, out=distances)


def host_bytes(n_columns: int, n_features: int, k: int, block_rows: int) -> int:
    """Predict the host bytes of a given graph: a block of it, and a few rows."""
    return block_rows * (n_columns * VALUE_BYTES + k * 24) + 2 * CHECKED_ROWS * n_features * 20


def open_graph(graph: Any, n_rows: int) -> GivenGraph:
    """Open (indices, distances), each the path of a .npy file, an array or a memory map; a third member, as umap-learn's
    `precomputed_knn` has it, is ignored. Raises InputError unless both fit `n_rows` rows and each other."""
    if not isinstance(graph, (tuple, list)) or len(graph) not in (2, 3):
        found = f"{len(graph)} of them" if isinstance(graph, (tuple, list)) else f"a {type(graph).__name__}"
        raise wrong("--knn", "graph", "indices and distances", found, "give both, the indices first")
    opened: list[RowSource] = []
    try:
        for part, name in zip(graph, ("the indices", "the distances"), strict=False):
            opened.append(_matrix(part, name))
        indices, distances = opened
        _check_kinds(indices, distances)
        _check_shapes(indices, distances, n_rows)
    except BaseException:
        for source in opened:
            source.close()
        raise
    return GivenGraph(indices, distances)


def look_at_distances(
    rows: DenseRows, numbers: np.ndarray, others: np.ndarray, distances: np.ndarray, metric: Metric
) -> str | None:
    """Say what is wrong with the given `distances` float32 (S, m) of the rows `numbers` int64 (S,), ascending, to `others` (S, m), -1
    for none; or None where they are distances of `metric`. The farthest neighbor of each of a few rows is measured in `rows`, which
    are as the metric compares them (a view may have brought them to length 1 before)."""
    distances = np.where(others >= 0, distances, -np.inf)
    column = distances.argmax(1)[:, None]
    given, other = (np.take_along_axis(a, column, 1)[:, 0] for a in (distances, others))
    some = np.flatnonzero(other >= 0)
    some = some[np.linspace(0, len(some) - 1, min(len(some), CHECKED_ROWS)).astype(int)]
    given, own, other = given[some].astype(np.float64), numbers[some], other[some].astype(np.int64)
    needed = np.unique(np.concatenate([own, other]))
    taken = rows.take(needed)
    squares = ((taken[np.searchsorted(needed, own)] - taken[np.searchsorted(needed, other)]) ** 2).sum(1, np.float64)
    right = metric.from_squares(squares, np)
    given, own, right = (a[right > 0] for a in (given, own, right))
    if not len(right) or np.median(np.abs(given / right - 1)) <= ALIKE:
        return None
    if np.median(np.abs(given / right**2 - 1)) <= ALIKE:
        return f"they are squares of {metric.name} distances; give the square roots"
    found = f"in row {own[0]} {given[0]:.4g} where {right[0]:.4g} is right"
    return f"they are not {metric.name} distances of these rows, {found}; give those, or the --metric that they are of"


def _matrix(part: Any, name: str) -> RowSource:
    if isinstance(part, (str, bytes, os.PathLike)):
        return open_npy(part)
    source = ArraySource(part)
    source.name = name
    return source


def _check_kinds(indices: RowSource, distances: RowSource) -> None:
    whole = ["int" in source.dtype for source in (indices, distances)]
    if not whole[0]:
        remedy = "give the indices first, then the distances" if whole[1] else "save it with .astype('int32')"
        raise wrong(f"--knn: {indices.name}", "dtype", "integers, the numbers of rows", indices.dtype, remedy)
    if whole[1] or distances.dtype == "bool":
        raise wrong(
            f"--knn: {distances.name}", "dtype", "floats, the distances", distances.dtype, "check which is which"
        )


def _check_shapes(indices: RowSource, distances: RowSource, n_rows: int) -> None:
    if indices.n_rows != n_rows:
        expected, remedy = f"{n_rows} rows, as the input has", "give the graph of these rows"
        raise wrong(f"--knn: {indices.name}", "shape", expected, indices.n_rows, remedy)
    if (distances.n_rows, distances.n_features) != (n_rows, indices.n_features):
        expected = f"{n_rows} x {indices.n_features}, as the indices are"
        found = f"{distances.n_rows} x {distances.n_features}"
        raise wrong(f"--knn: {distances.name}", "shape", expected, found, "give the distances of these indices")


def _sort(neighbors: np.ndarray, distances: np.ndarray, start: int) -> int:
    """Put the row itself first, then neighbors by distance, in place; return how many rows were in another order."""
    is_self = neighbors == np.arange(start, start + len(neighbors))[:, None]
    distances[is_self] = 0.0
    kind = np.where(is_self, 0, np.where(neighbors < 0, 2, 1)).astype(np.int8)
    _reorder(neighbors, distances, np.argsort(kind, axis=1, kind="stable"), slice(None))
    rows = np.flatnonzero((distances[:, 1:] < distances[:, :-1]).any(1))
    if len(rows):
        key = np.where(neighbors[rows] == (start + rows)[:, None], -1.0, distances[rows])
        _reorder(neighbors, distances, np.argsort(key, axis=1, kind="stable"), rows)
    return len(rows)


def _drop_repeated(neighbors: np.ndarray, distances: np.ndarray) -> int:
    """Keep only the nearest of several entries of one neighbor, in place; return how many rows had such."""
    ordered = np.sort(neighbors, axis=1)
    rows = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1))
    if len(rows):
        part = neighbors[rows]
        order = np.argsort(part, axis=1, kind="stable")
        by_number = np.take_along_axis(part, order, 1)
        again = np.zeros(part.shape, bool)
        np.put_along_axis(again, order[:, 1:], by_number[:, 1:] == by_number[:, :-1], 1)
        neighbors[rows], distances[rows] = np.where(again, -1, part), np.where(again, np.inf, distances[rows])
        _reorder(neighbors, distances, np.argsort(neighbors[rows] < 0, axis=1, kind="stable"), rows)
    return len(rows)


def _reorder(neighbors: np.ndarray, distances: np.ndarray, order: np.ndarray, rows: Any) -> None:
    neighbors[rows], distances[rows] = (
        np.take_along_axis(neighbors[rows], order, 1),
        np.take_along_axis(distances[rows], order, 1),
    )


def _first(neighbors: np.ndarray, distances: np.ndarray, start: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each row itself and its k - 1 nearest others."""
    n, width = neighbors.shape
    numbers = np.arange(start, start + n)
    column = np.arange(k - 1) + (neighbors[:, :1] == numbers[:, None])
    there, column = column < width, np.minimum(column, width - 1)
    first_neighbors, first_distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    first_neighbors[:, 0], first_distances[:, 0] = numbers, 0.0
    first_neighbors[:, 1:] = np.where(there, np.take_along_axis(neighbors, column, 1), -1)
    first_distances[:, 1:] = np.where(there, np.take_along_axis(distances, column, 1), np.inf)
    return first_neighbors, first_distances
