"""Neighbours on a GPU, with torch and Triton.

Rows on the device come in two forms with the same methods (`chunk`, `stream`, `take`): `dense_rows.py`, dense rows that pass
by; `sparse_rows.py`, rows that are mostly zeros, which stay there as pairs and `measure` any two of themselves.

`exhaustive.py`  all with all: exact. `chunk.py`: the nearest in one chunk, whatever products of rows err.
`approximate.py` the way around it: `sketch.py`, `tiles.py`, `probe.py` propose, the rows decide, `join.py` lets neighbours of neighbours in.
`count.py`       exact ranks, by which recall and the map are measured (`closer.py`).
`distances.py`      distances from differences of two rows, which have the last word everywhere.
"""

from collections.abc import Callable

import numpy as np
import torch

from streamumap.events import Advance, no_advance
from streamumap.neighbors.cuda.approximate import approximate
from streamumap.neighbors.cuda.chunk import precision
from streamumap.neighbors.cuda.count import count_closer
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.exhaustive import exhaustive
from streamumap.neighbors.cuda.sizes import FETCHED_ROWS
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.zero import join_zero_rows, next_zero_rows
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

__all__ = ["DenseOnDevice", "SparseOnDevice", "count_closer", "search"]


def search(
    rows,
    k: int,
    *,
    query_rows: int,
    other_rows: int,
    chunk_rows: int,
    non_negative: bool,
    is_zero: np.ndarray,
    seed: int,
    sample: np.ndarray,
    reached: Callable[[np.ndarray], bool],
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of rows on the device: indices int32 (N, k), distances float32 (N, k), nearest first, self in front, -1 and inf where
    none.

    `chunk_rows` 0: all with all, exact. Else by sketches, `chunk_rows` at a time, until `reached(neighbours int32 (S, k - 1) of the
    rows int64 (S,) in `sample`)`, and all with all where that does not happen.
    """
    n = rows.n_rows
    indices, distances = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    cosine = rows.metric == "cosine"
    zero_rows = np.flatnonzero(is_zero & cosine).astype(np.int32)
    sampled_zero = is_zero[sample] & cosine
    with torch.inference_mode(), precision("high"):
        at = torch.from_numpy(sample).to(rows.device)

        def enough(lists) -> bool:
            neighbors = lists[at, : k - 1].cpu().numpy()
            if sampled_zero.any():
                neighbors[sampled_zero] = next_zero_rows(zero_rows, sample[sampled_zero], k - 1)
            return reached(neighbors)

        found, exact = None, checkpoint.of("exact")
        if chunk_rows and not exact.begun:
            blocks = dict(chunk_rows=chunk_rows, query_rows=query_rows, other_rows=other_rows)
            found = approximate(
                rows,
                k,
                is_zero=is_zero & cosine,
                seed=seed,
                reached=enough,
                advance=advance,
                checkpoint=checkpoint,
                **blocks,
            )
        if found is not None:
            _finish(*found, cosine, non_negative, indices, distances)
        else:
            begin = exact.resume({}, {"indices": indices, "distances": distances}).get("row", 0)
            blocks = dict(query_rows=query_rows, other_rows=other_rows, start_row=begin)
            for first, lists, squares in exhaustive(rows, k, non_negative=non_negative, advance=advance, **blocks):
                stop = first + len(lists)
                indices[first:stop, 1:] = lists.cpu().numpy()
                distances[first:stop, 1:] = (squares / 2 if cosine else squares.sqrt()).cpu().numpy()
                done = {"indices": indices[:stop], "distances": distances[:stop]}
                exact.done(lambda: ({}, done), row=stop)  # noqa: B023, it is called at once
    indices[:, 0], distances[:, 0] = np.arange(n), 0.0
    join_zero_rows(indices, distances, zero_rows)
    return indices, distances


def _finish(lists, measured, cosine, non_negative, indices, distances, step=FETCHED_ROWS):
    """Lists on the device -> the graph. Non-negative rows at a right angle share nothing: no edge."""
    k = indices.shape[1]
    for first in range(0, len(lists), step):
        near, far = lists[first : first + step, : k - 1], measured[first : first + step, : k - 1]
        if cosine and non_negative:
            near, far = torch.where(far < 1, near, -1), torch.where(far < 1, far, torch.inf)
        indices[first : first + step, 1:] = near.cpu().numpy()
        distances[first : first + step, 1:] = (far if cosine else far.sqrt()).cpu().numpy()
