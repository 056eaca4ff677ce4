"""Rows through an encoder on the CPU. Blocks are of one size whatever the number of threads, so are the bytes."""

from collections.abc import Iterable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap.source.pieces import in_order
from streamumap.source.pieces import pool as make_pool
from streamumap.source.sae.encoder import Encoder, activate, centred, top_k

GROUPS = 4
"""Groups of latents for each that TopK keeps. Measured."""

LEAST_GROUP = 4
"""Of fewer latents a group is not worth making."""


def codes(blocks: Iterable[np.ndarray], encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of rows float32 (R, n_features) -> for each, in order: (how many pairs each row has int64 (R,), indices
    int64, values float32), none of them zero for ReLU, k a row for TopK."""

    def work(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):  # rows that are not finite are for the scan to find
            pre = centred(rows, encoder) @ encoder.weights
            pre += encoder.bias
            return _pairs(activate(pre, encoder), encoder)

    with threadpool_limits(1, "blas"), make_pool() as pool:
        yield from in_order(pool.submit(work, rows) for rows in blocks)


def _pairs(found: np.ndarray, encoder: Encoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_rows, n_latents = found.shape
    if encoder.kind == "topk":
        indices, values = fast_top_k(found, encoder.k)
        indices, counts = indices.reshape(-1), np.full(n_rows, encoder.k)
    else:
        at = np.flatnonzero(found)
        counts = np.bincount(at // n_latents, minlength=n_rows)
        indices, values = at % n_latents, found.reshape(-1)[at]
    values = values.reshape(-1)
    return counts, indices, values if encoder.out_scale is None else values * encoder.out_scale[indices]


def fast_top_k(found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`top_k` of values that are not negative, zeros left out: (R, k) with pairs (0, 0.0) at the end of rows that have
    fewer than k others.

    The k-th largest of the largest of groups is no larger than the k-th largest of all: only what reaches it is sorted.
    """
    n_rows, n_groups = len(found), GROUPS * k
    size = found.shape[1] // n_groups
    if size < LEAST_GROUP or not np.isfinite(found.max(initial=0)):
        return top_k(found, k)
    highest = found[:, : n_groups * size].reshape(n_rows, n_groups, size).max(axis=2)
    bound = np.partition(highest, -k, axis=1)[:, -k]
    at = np.flatnonzero(found >= np.maximum(bound, np.finfo(np.float32).smallest_subnormal)[:, None])
    row = at // found.shape[1]
    counts = np.bincount(row, minlength=n_rows)
    place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(k, int(counts.max(initial=0)))
    indices, values = np.zeros((n_rows, width), np.int64), np.zeros((n_rows, width), np.float32)
    indices[row, place], values[row, place] = at - row * found.shape[1], found.reshape(-1)[at]
    best = np.sort(np.argpartition(values, -k, axis=1)[:, -k:], axis=1)
    return np.take_along_axis(indices, best, axis=1), np.take_along_axis(values, best, axis=1)
