"""The k-NN search on a GPU, with torch and Triton: a `protocol.Backend`.

Rows on the device come in two forms with the same methods (`device_rows.py`): dense rows that pass by (`dense_rows.py`), and rows that are
mostly zeros, which stay there without them and are measured against each other at any time (`sparse_rows.py`).

`exhaustive.py`   compares all rows with all: exact. `chunk.py` finds the nearest in one chunk, whatever the rounding of products.
`approximate.py`  avoids that: sketches propose (`sketch.py`, `tiles.py`, `look.py`), then neighbors of neighbors (`join.py`), and the rows
                  decide (`decide.py`).
`passing.py`      does the same while the device holds only a window of the rows (`arranged.py`, `window.py`, `window_steps.py`).
`count.py`        counts exact ranks, by which recall and maps are measured (`count_kernels.py`). `nearest.py` finds the neighbors of new rows.
`distances.py`    has distances from differences of two rows, which decide everywhere.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.neighbors.cuda.approximate import approximate
from streamumap.neighbors.cuda.chunk import precision
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.device_rows import DeviceRows, StreamedRows, on_device
from streamumap.neighbors.cuda.distances import from_measured
from streamumap.neighbors.cuda.exhaustive import exhaustive
from streamumap.neighbors.cuda.passing import Rows, passing, search_passing
from streamumap.neighbors.cuda.sizes import FETCHED_ROWS
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.protocol import ComparedRows, Count, KnnGraph, SearchRequest
from streamumap.neighbors.zero import join_zero_rows, next_zero_rows

__all__ = ["DenseOnDevice", "SparseOnDevice", "count_closer", "search"]


def search(request: SearchRequest) -> KnnGraph:
    """Find the graph. With `chunk_rows` 0 all rows are compared with all: exact. Else sketches propose, `chunk_rows` rows at a time; where the
    graph is never good enough, all rows are compared with all. With `window_rows` the device holds so many rows at a time, else all without
    their zeros, or the sketches of all."""
    other_rows = request.blocks["other_rows"]
    with torch.inference_mode(), precision("high"):
        if request.blocks["window_rows"]:
            with passing(request.rows, other_rows) as passing_rows:
                return _search(passing_rows, request, partial(_find_passing, passing_rows, request))
        with on_device(request.rows, other_rows) as rows:
            return _search(rows, request, partial(_find, rows, request))


def count_closer(
    rows: ComparedRows, sample: np.ndarray, others: np.ndarray, block_rows: int, advance: Advance = no_advance
) -> np.ndarray:
    """Count exact ranks."""
    with on_device(rows, block_rows) as brought:
        return brought.count_closer(sample, others, block_rows, advance)


Find = Callable[[np.ndarray, KnnGraph], bool]
"""find(rows of zeros int32, which have the other ones as neighbors; graph) fills the graph, except column 0, without comparing all rows, and
returns whether it is good enough."""


def _search(rows: StreamedRows, request: SearchRequest, find: Find) -> KnnGraph:
    n, k, unit = rows.n_rows, request.k, rows.metric.unit
    graph = KnnGraph(np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32))
    zero_rows = np.flatnonzero(request.is_zero & unit).astype(np.int32)
    approximate = request.blocks["chunk_rows"] > 0 and not request.checkpoint.of("exact").begun
    if not (approximate and find(zero_rows, graph)):
        _compare_all(rows, request, graph)
    graph.indices[:, 0], graph.distances[:, 0] = np.arange(n), 0.0
    join_zero_rows(*graph, zero_rows)
    return graph


def _find_passing(rows: Rows, request: SearchRequest, zero_rows: np.ndarray, graph: KnnGraph) -> bool:
    return search_passing(rows, request, lambda found: _reached(request, zero_rows, found), graph)


def _find(rows: DeviceRows, request: SearchRequest, zero_rows: np.ndarray, graph: KnnGraph) -> bool:
    n_others, block_rows = request.k - 1, request.blocks["other_rows"]

    def count(sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        return rows.count_closer(sample, others, block_rows, no_advance)

    def reached(lists: Tensor) -> bool:
        sampled = torch.from_numpy(request.sample).to(rows.device)
        return _reached(request, zero_rows, lists[sampled, :n_others].cpu().numpy(), count)

    lists = approximate(rows, request, reached)
    if lists is None:
        return False
    _fetch(*lists, rows, request.rows.non_negative, graph)
    return True


def _reached(request: SearchRequest, zero_rows: np.ndarray, neighbors: np.ndarray, count: Count | None = None) -> bool:
    """Ask whether the graph is good enough, with the neighbors that zero rows have in the end; `zero_rows` int32: none where zero rows are
    like others. `neighbors` int32 (S, k - 1): those of the sampled rows."""
    zero = np.isin(request.sample, zero_rows)
    if zero.any():
        neighbors[zero] = next_zero_rows(zero_rows, request.sample[zero], neighbors.shape[1])
    return request.reached(neighbors, count)


def _compare_all(rows: StreamedRows, request: SearchRequest, graph: KnnGraph) -> None:
    """Fill the graph by comparing all rows with all, except column 0."""
    indices, distances = graph
    exact = request.checkpoint.of("exact")
    begin = exact.resume({}, {"indices": indices, "distances": distances}).get("row", 0)
    blocks = {name: request.blocks[name] for name in ("query_rows", "other_rows")}
    chunks = exhaustive(
        rows, request.k, **blocks, non_negative=request.rows.non_negative, advance=request.advance, start_row=begin
    )
    for first, lists, squares in chunks:
        stop = first + len(lists)
        indices[first:stop, 1:] = lists.cpu().numpy()
        distances[first:stop, 1:] = rows.metric.from_squares(squares, torch).cpu().numpy()
        done = {"indices": indices[:stop], "distances": distances[:stop]}
        exact.done(lambda: ({}, done), row=stop)  # noqa: B023, it is called at once


def _fetch(lists: Tensor, measured: Tensor, rows: DeviceRows, non_negative: bool, graph: KnnGraph) -> None:
    """Copy lists on the device into the graph, except column 0, without edges between non-negative rows at a right angle."""
    k = graph.indices.shape[1]
    for first in range(0, len(lists), FETCHED_ROWS):
        part = slice(first, first + FETCHED_ROWS)
        numbers, near = lists[part, : k - 1], measured[part, : k - 1]
        if rows.metric.unit and non_negative:
            numbers, near = torch.where(near < 1, numbers, -1), torch.where(near < 1, near, torch.inf)
        graph.indices[part, 1:] = numbers.cpu().numpy()
        graph.distances[part, 1:] = from_measured(near, rows.metric).cpu().numpy()
