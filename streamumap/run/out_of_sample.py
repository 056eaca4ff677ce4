"""Rows on the map of others, by the backend that the plan names: their nearest rows of the map, how strongly they are tied
to these, and where that puts them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.events import Advance
from streamumap.layout.schedule import SETTINGS, placing_settings
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.source import RowSource, widen
from streamumap.source.base import CsrBlock, SparseSource
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import ComparedView, original_rows
from streamumap.source.views.normalized import DenseRows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

READ_BYTES = 8 << 20
"""Of rows that ask, read at a time while they are packed."""

ROUNDING = 1e-4
"""Of reduced rows: sums of float32 products over all features, by blocks of other sizes; ICA brings components of little variance
to the size of the others."""

Nearest = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Mapped:
    """The rows of a map, as their neighbours were searched, seen as `view` has them, and where they lie: float32 (N, C). `csr`
    None: not mostly zeros. `non_negative`: no value is below 0. `reduced`: the same row may be reduced to another one by
    roundings."""

    rows: RowSource
    csr: CsrRows | None
    positions: np.ndarray
    non_negative: bool
    view: ComparedView
    reduced: bool = False

    @property
    def rounding(self) -> float:
        """What rows may be apart and be the same, as a part of their length."""
        return ROUNDING if self.reduced else 0.0


def place(
    there: Mapped, new: RowSource, plan: Plan, p: Params, advance: Advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> np.ndarray:
    """float32 (M, C): where the rows of `new` lie on the map of the others, NaN where they have no neighbour there. Each
    depends on itself and the map alone. Ticks M rows."""
    from streamumap.graph import cpu as graph
    from streamumap.layout import out_of_sample

    settings = placing_settings(len(there.positions), **{name: getattr(p, name) for name in SETTINGS})
    out = np.full((new.n_rows, there.positions.shape[1]), np.nan, np.float32)
    begin = checkpoint.resume({}, {"positions": out}).get("row", 0)
    query_rows = plan["place"].blocks["query_rows"]
    with _searching(there, new, plan, p, advance) as nearest:
        for start in range(begin, new.n_rows, query_rows):
            stop = min(start + query_rows, new.n_rows)
            indices, distances = nearest(start, stop)
            there.view.to_asked_metric(indices, distances, np.zeros(indices.shape, bool) if there.reduced else None)
            if p.metric == "cosine":
                put_itself_first(original_rows(there.rows), original_rows(new), start, indices, distances)
            weights = graph.strengths(distances, p.local_connectivity)
            out[start:stop] = out_of_sample.place(there.positions, indices, distances, weights, settings)
            checkpoint.done(lambda: ({}, {"positions": out[:stop]}), row=stop)  # noqa: B023, it is called at once
    return out


def put_itself_first(rows: RowSource, new: RowSource, start: int, indices: np.ndarray, distances: np.ndarray) -> None:
    """Where several rows of the map have the direction of a new one, brings the one with its length to the front, in place:
    a copy of a row of the map lies where that one lies, not where its multiples do. `indices` int32, `distances` float32
    (Q, k): the neighbours of the rows of `new` from row `start`."""
    for query in np.flatnonzero((distances[:, 1:2] == 0).any(1)).tolist():
        row, best, least = _one(new, start + query), 0, np.inf
        for column in np.flatnonzero(distances[query] == 0).tolist():
            apart = float(((_one(rows, indices[query, column]) - row) ** 2).sum())
            if apart < least:
                best, least = column, apart
            if not apart:
                break
        indices[query, [0, best]] = indices[query, [best, 0]]


def _one(rows: RowSource, number: int) -> np.ndarray:
    return widen(rows.take(np.array([number], np.int64)), rows.dtype)[0].astype(np.float64)


@contextmanager
def _searching(there: Mapped, new: RowSource, plan: Plan, p: Params, advance: Advance) -> Iterator[Nearest]:
    """A function that finds the nearest rows of the map for rows start..stop of `new`."""
    k = min(p.n_neighbors, there.rows.n_rows)
    ways = {"cuda": _on_device, "packed": _by_lists, "dense": _by_products}
    with ways[plan["place"].backend](there, new, plan, there.view.metric(p.metric), k, advance) as nearest:
        yield nearest


@contextmanager
def _by_products(there: Mapped, new: RowSource, plan: Plan, metric: str, k: int, advance: Advance) -> Iterator[Nearest]:
    from streamumap.neighbors.dense import nearest

    blocks, others, asking = plan["place"].blocks, DenseRows(there.rows, metric), DenseRows(new, metric)
    query_rows, other_rows = blocks["query_rows"], blocks["other_rows"]
    queries = np.empty((min(query_rows, new.n_rows), new.n_features), np.float32)
    with ThreadPoolExecutor(plan.machine.n_cores) as pool:

        def search(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            for first in range(start, stop, other_rows):
                last = min(first + other_rows, stop)
                queries[first - start : last - start] = asking.block(first, last)
            return nearest.nearest(
                queries[: stop - start], others, k, other_rows=other_rows, non_negative=there.non_negative,
                each=lambda work, items: list(pool.map(work, items)), rounding=there.rounding, advance=advance,
            )  # fmt: skip

        yield search


@contextmanager
def _by_lists(there: Mapped, new: RowSource, plan: Plan, metric: str, k: int, advance: Advance) -> Iterator[Nearest]:
    from streamumap.neighbors.sparse.nearest import nearest

    assert there.csr is not None
    csr, other_rows = there.csr, plan["place"].blocks["other_rows"]

    def search(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        options: dict = dict(other_rows=other_rows, non_negative=there.non_negative, advance=advance)
        return nearest(_without_zeros(new, start, stop), csr, k, metric, **options)

    yield search


@contextmanager
def _on_device(there: Mapped, new: RowSource, plan: Plan, metric: str, k: int, advance: Advance) -> Iterator[Nearest]:
    from streamumap.neighbors.cuda import search as cuda
    from streamumap.neighbors.cuda.nearest import nearest

    assert plan.device
    other_rows = plan["place"].blocks["other_rows"]
    if there.csr is not None:
        others: Any = cuda.SparseOnDevice(there.csr, metric, plan.device)
    else:
        others = cuda.DenseOnDevice(there.rows, metric, other_rows, plan.device)
    asking = cuda.DenseOnDevice(new, metric, other_rows, plan.device)
    options: dict = dict(
        other_rows=other_rows, non_negative=there.non_negative, rounding=there.rounding, advance=advance
    )
    with closing(others), closing(asking):
        yield lambda start, stop: nearest(*asking.chunk(start, stop), others, k, **options)


def _without_zeros(source: RowSource, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows start..stop: indptr int64 from 0, features, values float32."""
    if isinstance(source, SparseSource):
        parts = [source.pairs(start, stop)]
    else:
        step = max(1, READ_BYTES // source.row_bytes)
        parts = [_pairs(source, first, min(first + step, stop)) for first in range(start, stop, step)]
    counts = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    values = np.concatenate([widen(part.values, source.dtype) for part in parts])
    return np.cumsum(counts), np.concatenate([part.indices for part in parts]), values


def _pairs(source: RowSource, start: int, stop: int) -> CsrBlock:
    rows = source.read(start, stop)
    return pairs_of(rows, nonzero_mask(rows, source.dtype))
