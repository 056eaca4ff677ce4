"""New rows on a map of others: their neighbors among the rows of the map, the weights of these, and the positions that follow."""

from dataclasses import dataclass

import numpy as np

from streamumap.events import Advance
from streamumap.layout.schedule import LAYOUT_PARAMS, out_of_sample_settings
from streamumap.neighbors.metric import compared, named
from streamumap.neighbors.protocol import ComparedRows, NearestRequest
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.run.dispatch import nearest_backend
from streamumap.source import RowSource, widen
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import ComparedView, original_rows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

ROUNDING = 1e-4
"""Relative distance up to which two reduced rows are the same row. They are sums of float32 products over all features, in blocks of other
sizes, and ICA scales components of little variance up."""


@dataclass(frozen=True)
class Mapped:
    """The rows of a map, as they were searched and as `view` has them, and their `positions` float32 (N, C). `csr`: without their zeros, None
    where these are few. `non_negative`: no value is below 0. `reduced`: they are reduced, so equal rows may differ by rounding."""

    rows: RowSource
    csr: CsrRows | None
    positions: np.ndarray
    non_negative: bool
    view: ComparedView
    reduced: bool = False

    @property
    def rounding(self) -> float:
        """Relative distance up to which two rows are the same row."""
        return ROUNDING if self.reduced else 0.0


def place(
    there: Mapped, new: RowSource, plan: Plan, p: Params, advance: Advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> np.ndarray:
    """Compute the positions float32 (M, C) of the rows of `new` on the map, NaN for a row without neighbors there. A position depends on the row
    and the map alone. Advances by M rows."""
    from streamumap.graph import cpu as graph
    from streamumap.layout import out_of_sample

    settings = out_of_sample_settings(len(there.positions), **{name: getattr(p, name) for name in LAYOUT_PARAMS})
    out = np.full((new.n_rows, there.positions.shape[1]), np.nan, np.float32)
    begin = checkpoint.resume({}, {"positions": out}).get("row", 0)
    request, metric = _request(there, new, plan, p, advance), named(p.metric)
    with nearest_backend(plan["place"].backend).open_search(request) as nearest:
        for start in range(begin, new.n_rows, request.query_rows):
            stop = min(start + request.query_rows, new.n_rows)
            indices, distances = nearest(start, stop)
            apart = np.zeros(indices.shape, bool) if there.reduced else None
            there.view.to_asked_metric(indices, distances, lambda squares: metric.from_squares(squares, np), apart)
            if metric.unit:
                put_itself_first(original_rows(there.rows), original_rows(new), start, indices, distances)
            weights = graph.strengths(distances, p.local_connectivity)
            out[start:stop] = out_of_sample.embed_rows(there.positions, indices, distances, weights, settings)
            checkpoint.done(lambda: ({}, {"positions": out[:stop]}), row=stop)  # noqa: B023, it is called at once
    return out


def _request(there: Mapped, new: RowSource, plan: Plan, p: Params, advance: Advance) -> NearestRequest:
    rows = ComparedRows(there.rows, there.csr, compared(named(p.metric), there.view), there.non_negative, plan.device)
    blocks, k = plan["place"].blocks, min(p.n_neighbors, there.rows.n_rows)
    return NearestRequest(
        rows, new, k, **blocks, rounding=there.rounding, n_threads=plan.machine.n_cores, advance=advance
    )


def put_itself_first(rows: RowSource, new: RowSource, start: int, indices: np.ndarray, distances: np.ndarray) -> None:
    """Bring, of several rows of the map with the direction of a new row, the one of the same length to the front, in place: a copy of a row of
    the map gets the position of that row, not of one of its multiples. `indices` int32, `distances` float32 (Q, k): the neighbors of the rows
    of `new` from row `start` on."""
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
