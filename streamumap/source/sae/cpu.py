"""Encodes rows on the CPU. The size of a block, and so the bytes of the codes, do not depend on the number of threads."""

from collections.abc import Iterable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from streamumap.source.pieces import in_order
from streamumap.source.pieces import pool as make_pool
from streamumap.source.sae.encoder import Encoder, activate, centred, top_k

GROUPS = 4
"""Groups of latents per latent that TopK keeps. Measured."""

LEAST_GROUP = 4
"""Fewest latents of a group; smaller groups cost more than they save."""


def codes(blocks: Iterable[np.ndarray], encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Encodes blocks of float32 rows (R, n_features). Yields for each, in order: (pairs of each row int64 (R,), indices
    int64, values float32). ReLU gives no zeros, TopK gives k pairs a row."""

    def work(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):  # the scan reports rows that are not finite
            pre = centred(rows, encoder) @ encoder.weights
            pre += encoder.bias
            return _pairs(activate(pre, encoder), encoder)

    with threadpool_limits(1, "blas"), make_pool() as pool:
        yield from in_order(pool.submit(work, rows) for rows in blocks)


def _pairs(activations: np.ndarray, encoder: Encoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_rows, n_latents = activations.shape
    if encoder.kind == "topk":
        indices, values = fast_top_k(activations, encoder.k)
        indices, counts = indices.reshape(-1), np.full(n_rows, encoder.k)
    else:
        at = np.flatnonzero(activations)
        counts = np.bincount(at // n_latents, minlength=n_rows)
        indices, values = at % n_latents, activations.reshape(-1)[at]
    return counts, indices, values.reshape(-1)


def fast_top_k(activations: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes `top_k` of non-negative values (R, n_latents) without zeros: (R, k), rows with fewer than k others padded with
    pairs (0, 0.0).

    The k-th largest of the maxima of groups is at most the k-th largest value: only values from it on are sorted.
    """
    n_rows, n_groups = len(activations), GROUPS * k
    size = activations.shape[1] // n_groups
    if size < LEAST_GROUP or not np.isfinite(activations.max(initial=0)):
        return top_k(activations, k)
    highest = activations[:, : n_groups * size].reshape(n_rows, n_groups, size).max(axis=2)
    bound = np.partition(highest, -k, axis=1)[:, -k]
    at = np.flatnonzero(activations >= np.maximum(bound, np.finfo(np.float32).smallest_subnormal)[:, None])
    row = at // activations.shape[1]
    counts = np.bincount(row, minlength=n_rows)
    position = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(k, int(counts.max(initial=0)))
    indices, values = np.zeros((n_rows, width), np.int64), np.zeros((n_rows, width), np.float32)
    indices[row, position], values[row, position] = at - row * activations.shape[1], activations.reshape(-1)[at]
    best = np.sort(np.argpartition(values, -k, axis=1)[:, -k:], axis=1)
    return np.take_along_axis(indices, best, axis=1), np.take_along_axis(values, best, axis=1)
