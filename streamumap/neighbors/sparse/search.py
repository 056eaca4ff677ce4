"""Neighbours of rows that are mostly zeros, on a CPU, in numba: the pairs are all that is kept of a row.

`exhaustive.py`   all with all through an inverted index: exact.
`approximate.py`  cells (`cells.py`) are looked through (`probe.py`), neighbours of neighbours join (`join.py`).
`count.py`        exact ranks. `lists.py` and `measure.py`: inverted lists and distances, for all of them.
"""

from collections.abc import Callable

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.neighbors.sparse import approximate, exhaustive
from streamumap.neighbors.sparse.count import count_closer
from streamumap.neighbors.zero import join_zero_rows, next_zero_rows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

__all__ = ["count_closer", "search"]


def search(
    rows,
    k: int,
    metric: str,
    *,
    non_negative: bool,
    is_zero: np.ndarray,
    query_rows: int,
    batch_rows: int,
    seed: int,
    sample: np.ndarray,
    reached: Callable[[np.ndarray], bool],
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of `rows`, a PackedRows: indices int32 (N, k), distances float32 (N, k), nearest first, self in front, -1 and
    inf where none.

    `batch_rows` 0: all with all, exact, `query_rows` at a time. Else by cells, for `batch_rows` together, until
    `reached(neighbours int32 (S, k - 1) of the rows int64 (S,) in `sample`)`, and all with all where that does not
    happen. `is_zero`: bool (N,).
    """
    zero_rows = np.flatnonzero(is_zero).astype(np.int32)

    def enough(neighbors: np.ndarray) -> bool:
        if metric == "cosine":
            at = is_zero[sample]
            neighbors[at] = next_zero_rows(zero_rows, sample[at], k - 1)
        return reached(neighbors)

    found, exact = None, checkpoint.of("exact")
    if batch_rows and not exact.begun:
        wanted: dict = dict(seed=seed, batch_rows=batch_rows, sample=sample, reached=enough)
        found = approximate.search(
            rows, k, metric, non_negative=non_negative, advance=advance, checkpoint=checkpoint, **wanted
        )
    if found is None:
        wanted = dict(non_negative=non_negative, query_rows=query_rows)
        found = exhaustive.search(rows, k, metric, advance=advance, checkpoint=exact, **wanted)
    if metric == "cosine":
        join_zero_rows(*found, zero_rows)
    return found
