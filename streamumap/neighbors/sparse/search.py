"""The k-NN search in rows that are mostly zeros, on a CPU, in numba: a `protocol.Backend`. Only the non-zeros of a row are kept.

`exhaustive.py`   compares all rows with all through inverted lists (`lists.py`): exact. `settle.py` completes what float32 sums leave open.
`approximate.py`  compares each row with rows of its nearest cells (`cells.py`, `probe.py`, `heads.py`), then with neighbors of neighbors
                  (`join.py`).
`count.py`        counts exact ranks. `nearest.py` finds the neighbors of new rows. `measure.py` has the distances.
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
    """Find the graph. With `batch_rows` 0 all rows are compared with all, `query_rows` at a time: exact. Else cells find candidates, for
    `batch_rows` rows together; where the graph is never good enough, all rows are compared with all."""
    rows, unit = request.rows, request.rows.metric.unit
    rows.metric.check("packed")
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
