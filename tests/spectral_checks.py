"""Graphs, their true eigenvectors, and a check for the product of every backend."""

import numpy as np
from layout_checks import as_blocks, make_graph
from levels_checks import graph_blocks
from scipy import sparse

from streamumap.graph.components import roots_and_degrees
from streamumap.graph.files import Graph
from streamumap.layout import epochs
from streamumap.layout.init import spectral

CPU = epochs.cpu_backend()


def csr(dense):
    """Turns a symmetric matrix of uint16 weights into indptr int64, targets int32, weights uint16."""
    matrix = sparse.csr_matrix(dense)
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.uint16)


def path(n, reach=1):
    """Makes a path: each vertex has edges to the next `reach` ones."""
    return _tied(np.abs(np.subtract.outer(np.arange(n), np.arange(n))), reach)


def ring(n, reach=2):
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return _tied(np.minimum(apart, n - apart), reach)


def _tied(apart, reach):
    return np.where((apart > 0) & (apart <= reach), 65535 // np.maximum(apart, 1), 0)


def blobs(sizes, seed=0, k=6):
    """Makes one component a blob: points with edges to their nearest, heavier to nearer ones."""
    random = np.random.default_rng(seed)
    pieces = []
    for size in sizes:
        points = random.normal(size=(size, 3)) * [4, 2, 1]
        d = np.linalg.norm(points[:, None] - points[None], axis=2)
        nearest = np.argsort(d, axis=1)[:, 1 : k + 1]
        weights = np.zeros((size, size))
        np.put_along_axis(weights, nearest, np.exp(-np.take_along_axis(d, nearest, 1)) * 65534 + 1, 1)
        pieces.append(np.maximum(weights, weights.T).astype(np.uint16))
    return sparse.block_diag([sparse.coo_array(piece) for piece in pieces]).toarray()


def true_eigenvectors(dense, n_components):
    """Solves the symmetric normalised Laplacian of one component by NumPy. Returns eigenvectors, float64 (n, n_components), and all
    eigenvalues."""
    degrees = dense.sum(1, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.eye(len(dense)) - dense / np.sqrt(degrees[:, None] * degrees[None]))
    return vectors[:, 1 : n_components + 1], values


def share(ours, true):
    """Measures how much of the space of the true vectors is in ours: from 0 to the number of vectors."""
    return np.linalg.norm(np.linalg.qr(ours)[0].T @ true) ** 2


def check_product(backend, n=40, width=8):
    """Checks the product against dense matrices, in any blocks; rows of no component stay."""
    indptr, targets, weights = graph = make_graph(n, (1, 2, 5, 31, 33, 65))
    dense = np.zeros((n, n))
    np.add.at(dense, (np.repeat(np.arange(n), np.diff(indptr)), targets), weights)
    random = np.random.default_rng(0)
    old, new, factors = random.normal(size=(n, width)), random.normal(size=(n, width)), random.normal(size=(3, 3))
    part = random.integers(-1, 3, n).astype(np.int32)
    f = factors[part]
    true = f[:, :1] * (dense @ old) / dense.sum(1, keepdims=True) + f[:, 1:2] * old + f[:, 2:] * new
    true[part < 0] = new[part < 0]
    for cuts in ((0, n), (0, 1, n // 2, n // 2, n)):
        out = backend.to_device(new.copy())
        for first_row, *block in graph_blocks(graph, cuts):
            arrays = [backend.to_device(a) for a in (old, part, factors, *block)]
            backend.product(arrays[0], out, *arrays[1:3], first_row, *arrays[3:])
        np.testing.assert_allclose(np.array(backend.to_host(out)), true, atol=1e-12)


class Array:
    """An array with the methods of a BlockFile that `components.py` calls."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def read(self, start, stop):
        return self.values[start:stop]


def solved(graph, n_components=2, seed=42, block_rows=None, backend=CPU, cuts=None):
    """Solves a graph (indptr, targets, weights). Returns Eigenvectors and Parts."""
    files, n = Graph(*map(Array, graph)), len(graph[0]) - 1
    parts = spectral.split(*roots_and_degrees(files, block_rows or n), n_components)
    read_blocks = epochs.block_reader(as_blocks(graph, cuts or (0, n)), backend)
    return spectral.solve(read_blocks, parts, n_components, files.n_edges, seed, backend), parts
