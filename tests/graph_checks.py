"""k-NN tables, the graph by each backend, and what it holds."""

import numpy as np
import torch

from streamumap.graph import build, cuda
from streamumap.graph.files import WEIGHT_ONE

HALF_A_STEP = 0.5 / WEIGHT_ONE + 1e-6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = {
    "cpu": lambda *knn, create, block_rows, **more: build.build(*knn, create, block_rows=block_rows, **more),
    "cuda": lambda *knn, create, block_rows, **more: cuda.build(
        *knn, create, block_edges=block_rows * knn[0].shape[1], device=DEVICE, **more
    ),
    "passing": lambda *knn, create, block_rows, **more: cuda.build(
        *knn, create, block_edges=block_rows * knn[0].shape[1], run_edges=50 + block_rows, device=DEVICE, **more
    ),
}


def to_dense(graph):
    """Returns the graph as float64 (N, N). Checks that the targets of each row are ascending and its weights positive."""
    block = graph.block(0, graph.n_rows)
    assert (block.first_row, block.first_edge, block.indptr[0], block.indptr[-1]) == (0, 0, 0, graph.n_edges)
    out = np.zeros((graph.n_rows, graph.n_rows))
    for i in range(graph.n_rows):
        row = slice(block.indptr[i], block.indptr[i + 1])
        assert (np.diff(block.targets[row]) > 0).all() and (block.weights[row] > 0).all()
        out[i, block.targets[row]] = block.weights[row] / WEIGHT_ONE
    return out


def content(graph):
    return tuple(file.read(0, len(file)).tobytes() for file in (graph.indptr, graph.targets, graph.weights))


def as_expected(dense):
    """Raises positive weights to one step, as a graph stores them."""
    return np.where(dense > 0, np.maximum(dense, 1 / WEIGHT_ONE), 0)


def table(indices, distances):
    return np.array(indices, np.int32), np.array(distances, np.float32)


def random_knn(seed, n, k, shared=0.3, missing=0.2):
    """Makes a k-NN table with ties, zeros, hubs (low numbers are preferred) and short rows."""
    rng = np.random.default_rng(seed)
    indices, distances = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    for i in range(n):
        others = np.setdiff1d(np.unique((rng.random(3 * k) ** 2 * n).astype(int)), [i])[: k - 1]
        others = rng.permutation(others)[: len(others) if rng.random() > missing else rng.integers(0, len(others) + 1)]
        d = np.sort(rng.exponential(size=len(others)))
        if rng.random() < shared:
            d = np.floor(2 * d) / 2
        indices[i, 0], distances[i, 0] = i, 0
        indices[i, 1 : len(others) + 1], distances[i, 1 : len(others) + 1] = others, d * 10.0 ** rng.integers(-3, 4)
    return indices, distances
