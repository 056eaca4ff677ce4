"""Neighbours of rows that are mostly zeros, on a CPU, in numba: the pairs are all that is kept of a row.

`exhaustive.py`   all with all through an inverted index: exact.
`approximate.py`  cells (`cells.py`) are looked through (`probe.py`), neighbours of neighbours join (`join.py`).
`count.py`        exact ranks. `lists.py` and `measure.py`: inverted lists and distances, for all of them.
"""

from dataclasses import replace

import numpy as np

from streamumap.neighbors.protocol import Count, KnnGraph, SearchRequest
from streamumap.neighbors.sparse import approximate, exhaustive
from streamumap.neighbors.sparse.count import count_closer
from streamumap.neighbors.sparse.measure import to_distances
from streamumap.neighbors.zero import join_zero_rows, next_zero_rows

__all__ = ["count_closer", "search"]


def search(request: SearchRequest) -> KnnGraph:
    """Find the graph of `rows.csr`, as `protocol.Backend` has it.

    `batch_rows` 0: all rows with all, exact, `query_rows` at a time. Else by cells, for `batch_rows` together, until enough is
    reached, and all with all where that does not happen.
    """
    rows, unit = request.rows, request.rows.metric.unit
    rows.metric.check("sparse")
    zero_rows = np.flatnonzero(request.is_zero).astype(np.int32)

    def reached(neighbors: np.ndarray, count: Count | None = None) -> bool:
        if unit:
            at = request.is_zero[request.sample]
            neighbors[at] = next_zero_rows(zero_rows, request.sample[at], request.k - 1)
        return request.reached(neighbors, count)

    graph, exact = None, request.checkpoint.of("exact")
    if request.blocks["batch_rows"] and not exact.begun:
        graph = approximate.search(replace(request, reached=reached))
    if graph is None:
        graph = exhaustive.search(replace(request, checkpoint=exact))
    to_distances(graph.distances, rows.metric)
    if unit:
        join_zero_rows(*graph, zero_rows)
    return graph
