"""The seam between a run and the backends of the k-NN search: what a backend is given, what it gives back, what it can do.

A backend is a module: `dense/search.py`, `sparse/search.py`, `cuda/search.py` and `cuvs.py` are `Backend`s; `nearest.py` of the
first three are `NearestBackend`s. A graph that the user gives (`given.py`) is copied, not searched for, and is no backend.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.neighbors.metric import Metric
from streamumap.source.base import RowSource
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

Count = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""count(sample int64 (S,) ascending, others (S, m)) -> int64 (S, m): `Backend.count_closer` of certain rows."""


class KnnGraph(NamedTuple):
    """The neighbors of n rows, nearest first; -1 and inf where a row has fewer than k."""

    indices: np.ndarray  # int32 (n, k)
    distances: np.ndarray  # float32 (n, k)


@dataclass(frozen=True, eq=False)
class ComparedRows:
    """Rows, the metric under which they are compared, and where: `device` is "cuda:N", or None for a CPU."""

    source: RowSource
    csr: CsrRows | None  # the same rows in CSR form; None where they have few zeros
    metric: Metric
    non_negative: bool  # no value is below 0
    device: str | None = None


class Reached(Protocol):
    """Says whether a graph is good enough."""

    def __call__(self, neighbors: np.ndarray, count: Count | None = None) -> bool:
        """`neighbors` int32 (S, k - 1): those of the sampled rows, without the rows themselves. `count`: the
        backend's own counter, if it holds the rows already; without it ranks are counted by reading the rows again."""


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A search for the `k` nearest rows of each row, itself included.

    `blocks`: the sizes that the plan gives the backend, by name. An approximate search stops once `reached` accepts the neighbors of the
    rows `sample` int64 (S,), ascending. If that never happens, or with `exhaustive`, all rows are compared with all.
    """

    rows: ComparedRows
    k: int
    blocks: Mapping[str, int]
    is_zero: np.ndarray  # bool (N,): rows of zeros
    sample: np.ndarray
    reached: Reached
    seed: int
    exhaustive: bool = False
    n_threads: int = 1
    advance: Advance = no_advance
    checkpoint: Checkpoint = NO_CHECKPOINT


class Backend(Protocol):
    """A k-NN search. Both functions raise InputError where the backend does not have the metric."""

    def search(self, request: SearchRequest) -> KnnGraph:
        """Find the graph of all N rows, each row itself in column 0."""

    def count_closer(
        self, rows: ComparedRows, sample: np.ndarray, others: np.ndarray, block_rows: int, advance: Advance = no_advance
    ) -> np.ndarray:
        """Count how many rows are closer to row sample[i] than row others[i, j] is, itself apart: int64 (S, m), exact.

        `sample` int64 (S,) ascending. `others` (S, m): row numbers; -1 for none: counted are then all rows that are near enough for an
        edge. Reads `block_rows` rows at a time. Advances by N rows."""


@dataclass(frozen=True, eq=False)
class NearestRequest:
    """A search among the rows of a map, `other_rows` at a time, for the `k` nearest of each of the rows of `new`, of which at most
    `query_rows` are asked for together. Advances by all new rows. `pass_rows`: rows without their zeros that are on a GPU at a time, 0
    for all."""

    rows: ComparedRows
    new: RowSource
    k: int
    query_rows: int
    other_rows: int
    pass_rows: int = 0
    rounding: float = 0.0  # rows whose difference is at most this share of their length count as equal
    n_threads: int = 1
    advance: Advance = no_advance


Nearest = Callable[[int, int], KnnGraph]
"""nearest(start, stop): the neighbors of new rows start..stop among the rows of the map, as `reference.nearest` defines them."""


class NearestBackend(Protocol):
    """A search for the neighbors of new rows."""

    def open_search(self, request: NearestRequest) -> AbstractContextManager[Nearest]:
        """Get ready to search. Raises InputError where the backend does not have the metric."""
